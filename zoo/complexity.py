"""The lectures' table of layer types with every cell measured: complexity, depth, and how time and memory grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from zoo import growth, published
from zoo.cost import Term, parse
from zoo.errors import BadRecords, UnknownName
from zoo.laws import Curve, Point, terms_of_time, with_count_law, with_law
from zoo.record import Value
from zoo.registry import Registry
from zoo.rows import MISSING, Entry, Row, check_machines, distinguishing
from zoo.scaling import Broken
from zoo.spec import LayerSpec, Size
from zoo.tables import Cell, Column, Notes, Table, closing_lines, machine_lines
from zoo.units import clean, interval_text

if TYPE_CHECKING:
    from zoo.schema import ComplexityTable, LayerRow

DIFFERS = "≠"
# What a layer is timed and measured in, beside which axes must be the same.
TIMED = {"latency": "time", "peak_memory": "memory"}
COUNTED = ("macs", "flops_fft", "sequential_operations", "path_length")
Points = list[tuple[dict[str, int], Entry]]
SYMBOLS = {
    "n": "tokens",
    "d": "width",
    "k": "kernel size",
    "r": "window",
    "m": "random features, hidden width, or side of a window",
    "h": "heads",
}


@dataclass(frozen=True)
class Measured:
    """What was found of one layer: its records, and what they say."""

    row: LayerRow
    spec: LayerSpec
    width: int
    rows: Sequence[Row]

    def points(self, metric: str) -> Points:
        """Return the values of a metric that are there, each with the letters' values that it was taken at."""
        found = []
        for row in self.rows:
            entry = row.values.get(metric)
            if entry is None or entry.value.value is None:
                continue
            options = {k: v for k, v in row.case.options.items() if k != "width"}
            width = int(row.case.options.get("width") or self.width)
            tokens = Size.parse(row.case.size).values[0]
            found.append((self.spec.values(tokens, width, self.spec.with_options(options)), entry))
        return found

    def counts(self, metric: str) -> tuple[list[dict[str, int]], list[int]]:
        """Return points and the counts there, as whole numbers."""
        found = self.points(metric)
        return [values for values, _ in found], [round(entry.value.value or 0) for _, entry in found]

    @cached_property
    def macs(self) -> tuple[Term, ...] | None:
        """The polynomial of the counted MACs; None where none gives them exactly."""
        points, counts = self.counts("macs")
        return growth.polynomial(points, counts) if points else None

    @cached_property
    def transforms(self) -> tuple[Term, ...] | None:
        """The law of the FLOPs of Fourier transforms; none where none were counted."""
        points, counts = self.counts("flops_fft")
        return growth.logarithmic(points, counts) if any(counts) else ()

    @property
    def mixing(self) -> str:
        """The O() of what mixes tokens: what was counted, less the declared projections."""
        if self.macs is None or self.transforms is None:
            return ""
        return growth.leading((*growth.less(self.macs, parse(self.spec.cost.projection)), *self.transforms))

    def depth(self, metric: str) -> str:
        """Return the O() of a depth; empty where the sizes do not tell."""
        found = self.points(metric)
        varied = [values for values, _ in found]
        return (growth.depth(varied, [float(e.value.value or 0) for _, e in found]) or "") if found else ""


# -- the table -----------------------------------------------------------------------------------------------


def complexity_table(spec: ComplexityTable, found: Sequence[Row], registry: Registry, name: str = "") -> Table:
    """Return the table: a row a layer and machine, each declared cell beside the measured one.

    BadRecords where no row of these layers is there, or where times of several batch sizes, dtypes or threads would
    stand in one column. A layer that is registered no longer is a row that says so.
    """
    used = [row for row in found if row.case.model in {r.layer for r in spec.layers}]
    if not used:
        raise BadRecords(f"the table {spec.title!r}: no record is of one of its layers: {names(spec.layers)}")
    timed = [row for row in used if any(metric in row.values for metric in TIMED)]
    check_alike(spec, timed)
    check_machines([e for row in timed for e in row.values.values()])
    machines = sorted({row.machine for row in timed if row.machine}) or [""]
    notes, largest = Notes([]), largest_of(timed)
    lines = []
    for layer in spec.layers:
        lines += [tuple(cells_of(layer, used, machine, registry, largest, notes)) for machine in machines]
    columns = [*COLUMNS, *time_columns(largest)]
    if len(machines) > 1:
        columns.append(Column("machine", "Machine", False))
        lines = [
            (*line, Cell(m or MISSING, axis=m)) for line, m in zip(lines, machines * len(spec.layers), strict=True)
        ]
    footer = [*([f"{spec.note}."] if spec.note else []), *footer_lines(spec, used, timed, registry, name)]
    return Table(clean(spec.title), tuple(columns), tuple(lines), tuple(notes.texts), tuple(map(clean, footer)))


COLUMNS = (
    Column("layer", "Layer", False),
    Column("complexity", "Complexity per layer", False),
    Column("complexity_measured", "mixing, as counted", False),
    Column("macs", "MACs as counted", False),
    Column("sequential", "Sequential operations", False),
    Column("sequential_measured", "as traced", False),
    Column("path", "Maximum path length", False),
    Column("path_measured", "as measured", False),
)


def names(layers: Sequence[LayerRow]) -> str:
    return ", ".join(row.layer for row in layers)


def check_alike(spec: ComplexityTable, timed: Sequence[Row]) -> None:
    """Raise BadRecords when what is timed differs in more than layer, size, options and machine."""
    options = {name for row in timed for name in row.case.options}
    apart = [a for a in distinguishing(timed, ["model", "size", "machine", *options]) if a not in options]
    if apart:
        said = "; ".join(f"{a}: {', '.join(sorted({str(row.axis(a)) for row in timed}))}" for a in apart)
        raise BadRecords(f"the table {spec.title!r} would mix {said}; keep such records in folders of their own")


def largest_of(timed: Sequence[Row]) -> int:
    """Return the largest number of tokens that anything was timed at."""
    return max((Size.parse(row.case.size).values[0] for row in timed), default=0)


def time_columns(largest: int) -> list[Column]:
    """Return the columns of exponents, with the size that they are told at."""
    at = f" at n = {largest}" if largest else ""
    return [Column(f"{metric}_exponent", f"Exponent of {title}{at}", True, "1") for metric, title in TIMED.items()]


def cells_of(
    layer: LayerRow, used: Sequence[Row], machine: str, registry: Registry, largest: int, notes: Notes
) -> Iterator[Cell]:
    """Yield the cells of a layer's row; ``largest`` is the n that exponents are told at."""
    title = layer.title or layer.layer
    yield Cell(clean(title), axis=title)
    own = [row for row in used if row.case.model == layer.layer and row.machine in ("", machine)]
    try:
        spec, model = registry.layer(layer.layer), registry.model(layer.layer)
    except UnknownName:
        why = notes.number(f"{layer.layer}: no plugin that is loaded has a layer of this name")
        yield from [Cell(MISSING, notes=(why,)), *[Cell(MISSING)] * (len(COLUMNS) - 2 + len(TIMED))]
        return
    found = Measured(layer, spec, int(model.knobs["width"] or 0), own)
    quoted = quoted_cells(layer)
    declared = growth.leading((*parse(spec.cost.mixing), *parse(spec.cost.fft)))
    yield from pair("complexity per layer", quoted, declared, found.mixing, notes)
    yield macs_cell(found, notes)
    for what, text, metric in (
        ("sequential operations", spec.sequential, "sequential_operations"),
        ("maximum path length", spec.path_length, "path_length"),
    ):
        yield from pair(what, quoted, growth.read_big_o(text), found.depth(metric), notes)
    for metric in TIMED:
        yield exponent_cell(found, metric, largest, notes)


def quoted_cells(layer: LayerRow) -> Mapping[str, published.Published]:
    """Return what the published table says of a layer, by column. BadRecords for a name that it does not have."""
    if not layer.published:
        return {}
    found = {p.metric: p for p in published.of("Layer types", layer.published)}
    if not found:
        raise BadRecords(f"no published layer type is called {layer.published!r}")
    return found


def pair(
    what: str, quoted: Mapping[str, published.Published], declared: str, measured: str, notes: Notes
) -> Iterator[Cell]:
    """Yield the declared cell, quoted where it was published, and the measured one, marked where they disagree."""
    cited = quoted.get(what)
    known = growth.read_big_o(cited.value) if cited else declared
    why: list[int] = []
    if known != declared:
        why.append(notes.number(f"{what}: the plugin declares {declared}"))
    yield Cell(known, axis=cited.value if cited else declared, quoted=cited is not None, notes=tuple(why))
    if not measured:
        yield Cell(MISSING)
        return
    differs = measured != known
    said = "published" if cited else "declared"
    marks = (notes.number(f"{what}: measured {measured}, {said} {known}"),) if differs else ()
    yield Cell(f"{measured} {DIFFERS}" if differs else measured, axis=measured, notes=marks)


def macs_cell(found: Measured, notes: Notes) -> Cell:
    """Return the cell of recovered coefficients, marked where they are not those that the layer declares."""
    if found.macs is None or found.transforms is None:
        if not found.points("macs"):
            return Cell(MISSING)
        return Cell(MISSING, notes=(notes.number("no polynomial of these letters gives all the counts exactly"),))
    declared = {(t.powers, t.logs): t.coefficient for t in (*found.spec.cost.mac_terms, *found.spec.cost.fft_terms)}
    counted = {(t.powers, t.logs): t.coefficient for t in (*found.macs, *found.transforms)}
    text = growth.sum_text(found.macs)
    if found.transforms:
        text = f"{text}; in FLOPs {growth.sum_text(found.transforms)}"
    if counted == declared:
        return Cell(text, axis=text)
    said = growth.sum_text((*found.spec.cost.mac_terms, *found.spec.cost.fft_terms))
    return Cell(f"{text} {DIFFERS}", axis=text, notes=(notes.number(f"declared: {said}"),))


def exponent_cell(found: Measured, metric: str, largest: int, notes: Notes) -> Cell:
    """Return the local exponent of a measured metric at the largest size, with its interval."""
    curve, last = law_of(found, metric)
    if last is None:
        return Cell(MISSING)
    if curve.law is None:
        return Cell(MISSING, notes=(notes.number(curve.problem),))
    law = curve.law.last
    exponent = law.exponent(law.sizes[-1])
    low, high = exponent.interval or (None, None)
    between = (low, high) if low is not None and high is not None else None
    value = Value(value=exponent.value, interval=between, n=len(law.sizes), convention="local exponent")
    entry = Entry(
        value, last.case, last.time, last.fingerprint, last.environment, last.machine, last.order, last.conditions
    )
    text = interval_text(exponent.value, *between)[0] if between else f"{exponent.value:.2f}"
    marks = [notes.number(f"{metric}: {text}") for text in broken_texts(curve.law)] + [
        notes.number(note) for note in curve.notes
    ]
    if law.sizes[-1] != largest:
        marks.append(notes.number(f"at n = {law.sizes[-1]:.0f}, the largest that has a value"))
    return Cell(text, entry=entry, notes=tuple(marks))


def broken_texts(law: Broken) -> Iterator[str]:
    """Say where another law gives way to the one that is told."""
    for low, high in law.breaks:
        yield f"another law holds up to {low:.0f} tokens than from {high:.0f} on, which is told"


def law_of(found: Measured, metric: str) -> tuple[Curve, Entry | None]:
    """Return the law of a measured metric over n, and the entry of the largest size."""
    at: dict[int, tuple[dict[str, int], Entry]] = {}
    for values, entry in found.points(metric):
        other = at.setdefault(values["n"], (values, entry))[1]
        if other.case.options != entry.case.options:
            two = " and ".join(str(case.options or "its defaults") for case in (other.case, entry.case))
            raise BadRecords(f"{metric} of {found.spec.name} at n = {values['n']} is of two options: {two}; keep one")
    points = [Point(f"{n}tok", n, at[n][1].value) for n in sorted(at)]
    curve = Curve(found.spec.name, metric, tuple(points))
    if not points:
        return curve, None
    counted = [count_curve(found, name, at) for name in ("macs", "flops_fft")]
    return with_law(curve, terms_of_time(counted)), at[max(at)][1]


def count_curve(found: Measured, metric: str, at: Mapping[int, tuple[dict[str, int], Entry]]) -> Curve:
    """Return the law of a count over n, at the sizes and options of what is measured."""
    points = [
        Point(f"{values['n']}tok", values["n"], entry.value)
        for values, entry in found.points(metric)
        if values["n"] in at and values == at[values["n"]][0]
    ]
    return with_count_law(Curve(found.spec.name, metric, tuple(sorted(points, key=lambda p: p.n))))


# -- the footer ----------------------------------------------------------------------------------------------


def footer_lines(
    spec: ComplexityTable, used: Sequence[Row], timed: Sequence[Row], registry: Registry, name: str
) -> Iterator[str]:
    """Yield what the letters are, how each column was had, the machine, and the command."""
    letters = {"n", "d"}
    for row in spec.layers:
        if row.layer in registry.layers:
            letters |= set(registry.layers[row.layer].symbols)
    yield f"Letters: {', '.join(f'{x} {meaning}' for x, meaning in SYMBOLS.items() if x in letters)}."
    if cited := [p for row in spec.layers for p in quoted_cells(row).values()]:
        yield f"Quoted cells: {', '.join(dict.fromkeys(p.source for p in cited))}."
    yield (
        "As counted: the leading term of the MACs, or of the FLOPs of transforms, that mix tokens, less the declared "
        "projections; every coefficient recovered in fractions from counts at several values of every letter."
    )
    yield (
        "As traced: the longest chain of operators that wait for each other; as measured: layers until every token "
        "depends on every other, or on every earlier one, by the Jacobian, times that chain; how both grow with n."
    )
    if timed:
        yield "Exponents: of the law fitted to the times or peak memories, at the largest n; 95 % interval."
        yield f"All times: {', '.join(shared_axes(timed))}."
    entries = [e for row in timed for m, e in row.values.items() if m in TIMED]
    counted = [e for row in used for m, e in row.values.items() if m in COUNTED]
    yield from machine_lines([*entries, *counted])
    yield from closing_lines(timed, [], [*entries, *counted], False, name)


def shared_axes(timed: Sequence[Row]) -> list[str]:
    """Return what all timed cases have in common, as ``batch_size 1``."""
    case = timed[0].case
    axes = {"width": case.options.get("width"), **{a: v for a, v in case.axes().items() if a not in case.options}}
    return [f"{a} {v}" for a, v in axes.items() if v is not None and a not in ("model", "size")]
