"""Rows to comparison tables: what may stand side by side, which cells are marked, and what is said below."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from zoo.conditions import MUCH_BUSY, MUCH_STEAL
from zoo.errors import BadRecords
from zoo.metrics import BETWEEN, CONVENTIONS, CONVERTIBLE, LATE, METRICS, follows, is_timed
from zoo.pareto import front, higher_is_better
from zoo.record import MachineRecord, Value
from zoo.rows import (
    AXES,
    MISSING,
    Entry,
    Row,
    axes_of,
    check_column,
    check_machines,
    constant_axes,
    distinguishing,
    fits,
    listed,
    meaningless,
    select,
    sort_rows,
)
from zoo.seeds import over_seeds, seed_lines
from zoo.spec import Scalar, Size
from zoo.units import SCALES, Scale, clean, common_scale, number_text, scales_of, value_text

if TYPE_CHECKING:
    from zoo.schema import TableSpec

STALE = "†"
Marks = tuple[str, str]
# What makes two environments two set-ups of one machine.
SOFTWARE = ("torch", "torchvision", "timm", "python")


# -- the table -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """An axis or metric. ``unit`` is the SI unit of the raw values; ``head`` names the unit of the texts.

    ``number`` says that the texts are numbers all the same.
    """

    name: str
    head: str
    metric: bool
    unit: str = ""
    number: bool = False

    @property
    def right(self) -> bool:
        """Whether its cells stand at the right, as numbers do."""
        return self.metric or self.number


@dataclass(frozen=True)
class Cell:
    """A text to print, and what it was made from: an axis value, or an entry. ``notes`` are numbers of footnotes.

    ``quoted`` is what others published, ``best`` the best of its column.
    """

    text: str
    axis: Scalar = None
    entry: Entry | None = None
    notes: tuple[int, ...] = ()
    quoted: bool = False
    best: bool = False

    @property
    def full(self) -> str:
        """The text with its marks."""
        return self.marked("{}".format)

    def marked(self, show: Callable[[str], str], quote: Marks = ("", ""), best: Marks = ("", "")) -> str:
        """Return the text as a format shows it, between marks where it is quoted or best, and its footnotes."""
        text = show(self.text + (STALE if self.entry and self.entry.stale else ""))
        for marks, yes in ((quote, self.quoted), (best, self.best)):
            text = f"{marks[0]}{text}{marks[1]}" if yes else text
        return " ".join(filter(None, [text, *(show(f"[{n}]") for n in self.notes)]))


@dataclass(frozen=True)
class Table:
    """A table ready to print. ``notes[0]`` is footnote 1; ``footer`` says what holds for all rows, and what made it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    footer: tuple[str, ...]


def make_table(
    spec: TableSpec, found: Sequence[Row], name: str = "", known: Callable[[str], bool] = lambda model: True
) -> Table:
    """Return the table that a suite asks for, from ``rows``; ``name`` is what ``zoo table`` was given.

    Axes that vary and are not among the columns become columns. A model that is not ``known`` any more is noted.
    BadRecords when no row fits, or when a column would mix conventions, units, or two machines of one name.
    """
    axes = [c for c in (*spec.columns, *filter(None, [spec.pivot])) if is_axis(c, found)]
    metrics = [c for c in spec.columns if c not in axes]
    what = f"the table {spec.title!r}"
    if spec.pivot and spec.pivot not in axes:
        raise BadRecords(f"{what}: pivot: {spec.pivot!r} is no axis of these records: {', '.join(axes_of(found))}")
    chosen = select(found, spec.where, metrics, axes, what)
    chosen = [in_convention(row, spec.convention) for row in chosen]
    chosen = over_seeds(chosen) if spec.over else chosen
    for metric in metrics:
        check_column(metric, chosen)
    used = [row.values[m] for row in chosen for m in metrics if m in row.values]
    check_machines(used)
    if spec.best or spec.front or spec.ratios:
        check_comparable(spec, chosen, what)
    added = distinguishing(chosen, axes)
    order = with_added(spec.columns, [a for a in axes if a != spec.pivot], added)
    ordered = sort_rows(chosen, [c for c in (*order, *filter(None, [spec.pivot])) if c not in metrics])
    body = Body(spec, metrics, order, sorted_by(ordered, spec.sort), Notes(used), known)
    footer = [
        *([f"{spec.note}."] if spec.note else []),
        *footer_lines(chosen, [*axes, *added], metrics, used),
        *body.sayings(),
        *closing_lines(chosen, metrics, used, body.widened, name),
    ]
    return Table(clean(spec.title), body.columns, body.lines, tuple(body.notes.texts), tuple(map(clean, footer)))


class Body:
    """The columns and lines of a table: what each row's cells are, and which of them are marked."""

    def __init__(
        self,
        spec: TableSpec,
        metrics: Sequence[str],
        order: Sequence[str],
        rows: Sequence[Row],
        notes: Notes,
        known: Callable[[str], bool],
    ) -> None:
        """Build the columns, then the lines, so that footnotes are numbered as they are read."""
        self.spec, self.metrics, self.order, self.notes, self.known = spec, metrics, order, notes, known
        self.widened = False
        self.scales = {m: metric_column(m, rows) for m in metrics}
        axes = [c for c in order if c not in metrics]
        by_pivot = sort_rows(rows, [spec.pivot]) if spec.pivot else []
        self.parts = list(dict.fromkeys(row.text(spec.pivot) for row in by_pivot)) or [""]
        groups: dict[tuple[str, ...], dict[str, Row]] = {}
        for row in rows:
            part = row.text(spec.pivot) if spec.pivot else ""
            groups.setdefault(tuple(row.text(a) for a in axes), {})[part] = row
        self.groups = list(groups.values()) if spec.pivot else [{"": row} for row in rows]
        self.fronted = self.on_front(rows)
        self.baselines = {id(row): baseline_of(row, rows, spec.baseline) for row in rows}
        self.metric_of: dict[str, str] = {}  # the metric that a column is of
        self.columns = tuple(self.make_columns())
        self.lines = self.with_best([tuple(self.make_cells(group)) for group in self.groups])

    def make_columns(self) -> Iterator[Column]:
        """Yield the columns: axes, each metric for every value of the pivot, with its ratio, and the front."""
        for name in self.order:
            if name not in self.metrics:
                yield Column(name, axis_head(name), False)
                continue
            column = self.scales[name][0]
            for part in self.parts:
                said = f", {part}" if part else ""
                own = f"{name}_{part}" if part else name
                self.metric_of[own] = name
                yield replace(column, name=own, head=f"{column.head}{said}")
                if name in self.spec.ratios:
                    head = f"{metric_title(name, column_convention(name, self.groups))} ratio{said}"
                    yield Column(f"{name}_ratio{f'_{part}' if part else ''}", head, False, number=True)
        if self.spec.front:
            yield Column("front", "Front", False)

    def make_cells(self, group: Mapping[str, Row]) -> Iterator[Cell]:
        """Yield the cells of one line."""
        first = next(iter(group.values()))
        for name in self.order:
            if name not in self.metrics:
                text = clean(first.text(name))
                gone = name == "model" and not self.known(first.case.model)
                yield Cell(text, axis=first.axis(name), notes=(self.notes.number(GONE),) if gone else ())
                continue
            for part in self.parts:
                row = group.get(part)
                entry = row.values.get(name) if row else None
                cell, wide = metric_cell(entry, self.scales[name][1], self.scales[name][2], self.notes)
                self.widened = self.widened or wide
                yield cell
                if name in self.spec.ratios:
                    base = self.baselines[id(row)] if row else None
                    yield ratio_cell(entry, base.values.get(name) if base else None)
        if self.spec.front:
            yield Cell(FRONT if id(first) in self.fronted else "", axis=id(first) in self.fronted)

    def on_front(self, rows: Sequence[Row]) -> set[int]:
        """Return which rows are on the Pareto front."""
        if not self.spec.front:
            return set()
        pairs = [(value_of(row, self.spec.front[0]), value_of(row, self.spec.front[1])) for row in rows]
        higher = higher_is_better(self.spec.front[0]), higher_is_better(self.spec.front[1])
        return {id(row) for row, on in zip(rows, front(pairs, higher), strict=True) if on}

    def with_best(self, lines: Sequence[tuple[Cell, ...]]) -> tuple[tuple[Cell, ...], ...]:
        """Return the lines with the best cells marked, and those that their intervals do not tell from these."""
        columns = [list(cells) for cells in zip(*lines, strict=True)]
        for column, cells in zip(self.columns, columns, strict=True):
            metric = self.metric_of.get(column.name, "")
            if metric in self.spec.best:
                for n in best_of([cell.entry for cell in cells], higher_is_better(metric)):
                    cells[n] = replace(cells[n], best=True)
        return tuple(zip(*columns, strict=True))

    def sayings(self) -> Iterator[str]:
        """Yield what the marks and ratios mean."""
        if self.spec.best:
            yield "Bold, or with *: the best of its column, and what its interval does not tell from it."
        if self.spec.front:
            x, y = (metric_title(name) for name in self.spec.front)
            yield f"{FRONT} on the Pareto front of {x} and {y}: no other row is as good in both and better in one."
        if self.spec.ratios:
            yield f"Ratios are to {', '.join(f'{k} {v}' for k, v in self.spec.baseline.items())}, all else the same."


FRONT = "●"
GONE = "no plugin that is loaded has a model of this name"


def column_convention(name: str, groups: Sequence[Mapping[str, Row]]) -> str:
    """Return the convention that a column is counted in."""
    rows = [row for group in groups for row in group.values() if name in row.values]
    return next((row.values[name].value.convention for row in rows if row.values[name].value.convention), "")


def value_of(row: Row, metric: str) -> float | None:
    """Return a row's value of a metric; None where there is none."""
    return row.values[metric].value.value if metric in row.values else None


def sorted_by(rows: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """Sort rows by columns, the first above all; what has no value comes last."""
    found = list(rows)
    for key in reversed(keys):
        name, down = key.removeprefix("-"), key.startswith("-")
        known = [row for row in found if sort_value(row, name) is not None]
        numbers = all(isinstance(sort_value(row, name), int | float) for row in known)
        known.sort(key=lambda row: sort_value(row, name) if numbers else str(sort_value(row, name)), reverse=down)
        found = known + [row for row in found if sort_value(row, name) is None]
    return found


def sort_value(row: Row, name: str) -> Any:
    """Return what a row is sorted by: the value of a metric, or an axis."""
    if name in row.values:
        return row.values[name].value.value
    if name == "size":
        return math.prod(Size.parse(row.case.size).values)
    return row.axis(name)


def check_comparable(spec: TableSpec, chosen: Sequence[Row], what: str) -> None:
    """Raise BadRecords where rows would be set against each other that differ in machine, dtype, batch size or mode."""
    for axis in COMPARED:
        seen = sorted({row.text(axis) for row in chosen if not meaningless(axis, row.axis(axis))})
        told = axis == spec.pivot or (axis in spec.baseline and not spec.best and not spec.front)
        if len(seen) > 1 and not told:
            raise BadRecords(f"{what} would compare rows of different {axis}: {listed(seen)}; choose one with where")
    for key in spec.baseline:
        if key not in axes_of(chosen):
            raise BadRecords(f"{what}: baseline: {key!r} is no axis of these records: {', '.join(axes_of(chosen))}")
    for metric in (*spec.best, *spec.front, *spec.ratios):
        if is_axis(metric, chosen):
            raise BadRecords(f"{what}: {metric!r} is an axis; best, front and ratios are of metrics")
    for metric in spec.ratios:
        if metric in METRICS and METRICS[metric].phase == "speed":
            ratio = next((m.name for m in METRICS.values() if m.ratio_of == metric), "latency_ratio")
            raise BadRecords(
                f"{what}: {metric} is timed, and two runs give no ratio; {ratio} with a baseline in the group does"
            )


LARGE = 500e6  # bytes from which on a predicted peak is held to the measured one
COMPARED = ("machine", "dtype", "batch_size", "device", "mode", "threads")


def baseline_of(row: Row, rows: Sequence[Row], baseline: Mapping[str, Scalar]) -> Row | None:
    """Return the row that a row is told as a multiple of: the one that fits, and has all other axes the same.

    An option is an axis of both rows where both models have it. BadRecords where several rows fit.
    """
    if not baseline:
        return None
    axes = [a for a in AXES if a not in baseline]
    found = []
    for other in rows:
        shared = (set(row.case.options) | set(other.case.options)) - set(baseline)
        if "model" in baseline and row.case.model != other.case.model:
            shared = set(row.case.options) & set(other.case.options)
        alike = all(row.axis(a) == other.axis(a) for a in (*axes, *shared))
        if alike and all(fits(other, k, v) for k, v in baseline.items()):
            found.append(other)
    if len(found) > 1:
        named = listed([" ".join([r.name, *(f"{k}={v}" for k, v in r.case.options.items())]) for r in found])
        raise BadRecords(f"the baseline {baseline} of {row.name} is several rows: {named}; name one by its options")
    return found[0] if found else None


def ratio_cell(entry: Entry | None, base: Entry | None) -> Cell:
    """Return a value as a multiple of another one."""
    if entry is None or base is None or entry.value.value is None or not base.value.value:
        return Cell(MISSING)
    ratio = entry.value.value / base.value.value
    return Cell(f"{number_text(ratio)}×", axis=ratio)


def best_of(entries: Sequence[Entry | None], higher: bool) -> list[int]:
    """Return the places of the best values: the best one, and those whose intervals overlap with its interval."""
    known = {n: e.value for n, e in enumerate(entries) if e is not None and e.value.value is not None}
    if len(known) < 2:
        return []
    best = (max if higher else min)(known.values(), key=lambda v: v.value or 0.0)
    low, high = best.interval or (best.value, best.value)
    ends = {n: v.interval or (v.value, v.value) for n, v in known.items()}
    return [n for n, (a, b) in ends.items() if (a or 0.0) <= (high or 0.0) and (b or 0.0) >= (low or 0.0)]


def in_convention(row: Row, convention: str) -> Row:
    """Return a row with its MACs in a named convention. BadRecords when the record does not have it."""
    entry = row.values.get("macs")
    if convention == "mac" or entry is None or entry.value.status != "ok":
        return row
    known = entry.value.detail.get("conventions", {})
    if convention not in known:
        raise BadRecords(f"macs of {row.name} were kept without the convention {convention}; run it again with --fresh")
    value = replace(entry.value, value=known[convention], convention=convention)
    return replace(row, values={**row.values, "macs": replace(entry, value=value)})


def is_axis(name: str, found: Sequence[Row]) -> bool:
    """Tell an axis (or an option that some row sets) from a metric; a name that no record has is taken for a metric."""
    measured = name in METRICS or any(name in row.values for row in found)
    return name in AXES or (not measured and any(name in row.case.options for row in found))


def with_added(columns: Sequence[str], axes: Sequence[str], added: Sequence[str]) -> list[str]:
    """Return the columns with the added axes after the last axis; a model stands first."""
    at = max((columns.index(a) + 1 for a in axes), default=0)
    front = [a for a in added if a == "model"]
    return [*front, *columns[:at], *(a for a in added if a not in front), *columns[at:]]


def axis_head(name: str) -> str:
    """Return the head of an axis column; an option keeps its own spelling."""
    return name.replace("_", " ").capitalize() if name in AXES else name


def metric_title(name: str, convention: str = "") -> str:
    """Return what a metric is called in a head."""
    if name == "macs" and convention in CONVERTIBLE[1:]:
        return "FLOPs" if convention == "flop" else f"FLOPs, {convention}"
    return METRICS[name].title if name in METRICS and METRICS[name].title else name


def metric_column(name: str, found: Sequence[Row]) -> tuple[Column, Scale | None, tuple[Scale, ...]]:
    """Return a metric's column, its one unit if it has one, and the units its values may take."""
    values = [row.values[name].value for row in found if name in row.values and row.values[name].value.status == "ok"]
    scale = common_scale(name, values)
    title = metric_title(name, values[0].convention if values else "")
    unit = values[0].unit if values else METRICS[name].unit if name in METRICS else "1"
    head = f"{title} ({scale.label})" if values and scale and scale.label else title
    return Column(name, head, True, unit), scale, scales_of(name, values)


class Notes:
    """Footnotes in reading order, each text once."""

    def __init__(self, used: Sequence[Entry]) -> None:
        """Find the newest environment of each machine: a value from another one is noted."""
        self.texts: list[str] = []
        self.newest: dict[str, MachineRecord] = {}
        for entry in sorted(used, key=lambda e: (e.time, e.order)):
            if entry.machine:
                self.newest[entry.machine.slug] = entry.machine

    def number(self, text: str) -> int:
        """Return the number of a footnote, adding it when it is new."""
        text = clean(text)
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1

    def of(self, entry: Entry) -> tuple[int, ...]:
        """Return the numbers of what must be said about a value."""
        reason = entry.value.reason if entry.value.status != "ok" else ""
        said = [str(entry.value.detail.get(key, "")) for key in ("size", "end", "apart")]
        texts = [reason, uncounted(entry.value), *said, self.other_software(entry)]
        texts += [launch_bound(entry), company(entry.value)]
        return tuple(self.number(text) for text in texts if text)

    def other_software(self, entry: Entry) -> str:
        """Say where a value was measured with other versions than the newest value of its machine."""
        if entry.machine is None:
            return ""
        mine, newest = entry.machine.environment, self.newest[entry.machine.slug].environment
        other = [f"{k} {mine.get(k)} (newest value: {newest.get(k)})" for k in SOFTWARE if mine.get(k) != newest.get(k)]
        return f"measured with {', '.join(other)}" if other else ""


def uncounted(value: Value) -> str:
    """Say which operations a count leaves out, where they may be more than a hundredth of it."""
    at_most = value.detail.get("uncounted_at_most")
    if at_most is not None and at_most <= 0.01:
        return ""
    ops = [op for op in value.detail.get("uncounted") or [] if op.get("material")]
    texts = [f"{op['name']} ({op['calls']} calls, {count_text(op['elements'])} elements)" for op in ops]
    return f"not counted: {', '.join(texts)}" if texts else ""


def launch_bound(entry: Entry) -> str:
    """Say that the host, not the device, sets the pace."""
    if not entry.value.detail.get("launch_bound"):
        return ""
    if entry.case.device == "cuda":
        return "launch-bound: the host takes as long to queue a call as the call takes, so the GPU waits for it"
    return "launch-bound: a call with a batch of none takes half of the time or more"


def company(value: Value) -> str:
    """Say how many others computed on the GPU meanwhile."""
    foreign = (value.detail.get("conditions") or {}).get("foreign") or 0
    who = "another process" if foreign == 1 else f"{foreign} other processes"
    return f"{who} computed on the GPU meanwhile" if foreign else ""


def count_text(count: int) -> str:
    """Return a count with its prefix: 1 200 000 is ``1.200 M``."""
    return value_text(Value(value=count), None, SCALES["1"])[0]


def metric_cell(entry: Entry | None, scale: Scale | None, scales: Sequence[Scale], notes: Notes) -> tuple[Cell, bool]:
    """Return a metric's cell, and whether its interval was widened to the last digit."""
    if entry is None:
        return Cell(MISSING), False
    text, widened = value_text(entry.value, scale, scales)
    return Cell(text, entry=entry, notes=notes.of(entry)), widened


# -- the footer ----------------------------------------------------------------------------------------------


def footer_lines(
    found: Sequence[Row], axes: Sequence[str], metrics: Sequence[str], used: Sequence[Entry]
) -> Iterator[str]:
    """Yield conventions, what all rows share, and the machines."""
    for name in metrics:
        values = [row.values[name].value for row in found if name in row.values]
        convention = next((v.convention for v in values if v.convention), "")
        if convention:
            yield f"{metric_title(name)}: {CONVENTIONS.get(convention, convention)}."
        elif not values:
            yield f"{name}: no record here has it."
    constant = constant_axes(found, axes)
    if constant:
        yield f"All rows: {', '.join(constant)}."
    yield from machine_lines(used)


def machine_lines(used: Sequence[Entry]) -> Iterator[str]:
    """Yield one line a machine with its newest versions, and the versions that counted what needs no machine."""
    newest: dict[str, Entry] = {}
    for entry in sorted(used, key=lambda e: (e.time, e.order)):
        if entry.environment:
            newest[entry.machine.slug if entry.machine else entry.environment] = entry
    for slug, entry in newest.items():
        yield f"Machine {slug}: {machine_text(entry.machine.environment) if entry.machine else 'not described'}."
    counted = [e.fingerprint for e in used if not e.environment]
    versions = {k: sorted({f[k] for f in counted if k in f}) for k in SOFTWARE}
    texts = [f"{k} {' and '.join(found)}" for k, found in versions.items() if found]
    if texts:
        yield f"Counts need no machine; taken with {', '.join(texts)}."


def machine_text(environment: Mapping[str, Any]) -> str:
    """Describe a machine and its software on one line."""
    parts = [str(environment[k]) for k in ("gpu", "cpu") if environment.get(k)]
    if environment.get("cores"):
        parts.append(f"{environment['cores']} core{'s' if environment['cores'] != 1 else ''}")
    if environment.get("memory"):
        parts.append(f"{number_text(environment['memory'] / 2**30)} GiB memory")
    software = [f"{k} {environment[k]}" for k in SOFTWARE if environment.get(k)]
    return "; ".join(filter(None, [", ".join(parts), ", ".join(software)])) or "not described"


def closing_lines(
    found: Sequence[Row], metrics: Sequence[str], used: Sequence[Entry], widened: bool, name: str
) -> Iterator[str]:
    """Yield what the intervals are, the marks, the date, and the command."""
    for metric in metrics:
        values = [row.values[metric].value for row in found if metric in row.values]
        yield from interval_lines(metric, values)
        yield from seed_lines(metric, values)
    yield from condition_lines(found, metrics)
    if widened:
        yield "An interval narrower than the last digit is printed as one unit of that digit."
    if any(e.stale for e in used):
        yield f"{STALE} taken with an earlier source of the plugin than the newest value of this model; run it again."
    times = [e.time for e in used if e.time]
    if times:
        yield f"Newest record: {max(times)[:10]}."
    if name:
        yield f"Made by: zoo table {name}"


def interval_lines(name: str, values: Sequence[Value]) -> Iterator[str]:
    """Yield what the intervals of a metric are and how many samples are behind them, if it has any."""
    counts = sorted({v.n for v in values if v.n is not None and v.status == "ok"})
    parts = [interval_words(name, values)] if any(v.interval for v in values) else []
    if counts:
        parts.append(f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else ""))
    if parts:
        yield f"{metric_title(name)}: {', '.join(parts)}."


def condition_lines(found: Sequence[Row], metrics: Sequence[str]) -> Iterator[str]:
    """Yield what a case differed from itself while these were timed, and which of them others disturbed."""
    timed = [
        (row.name, e.conditions)
        for row in found
        for m, e in row.values.items()
        if m in metrics and e.conditions and (is_timed(m) or follows(m))
    ]
    noise = sorted({round(c["noise"], 3) for _, c in timed if "noise" in c})
    if noise:
        several = f"{noise[0]:.1%} to " if noise[0] != noise[-1] else ""
        yield f"A case that is called in turn with itself differs by at most {several}{noise[-1]:.1%}."
    disturbed = [(name, c["others"]) for name, c in timed if c.get("others", 0) > MUCH_BUSY]
    if disturbed:
        most = max(share for _, share in disturbed)
        yield f"Timed while other processes kept up to {most:.1f} cores busy: {names_of(disturbed)}."
    stolen = [(name, c["steal"]) for name, c in timed if c.get("steal", 0) > MUCH_STEAL]
    if stolen:
        most = max(share for _, share in stolen)
        yield f"Timed while the host took up to {most:.0%} of the cores' time: {names_of(stolen)}."
    if any(may_be_low(e.value) for row in found for m, e in row.values.items() if m in metrics):
        most = LATE / 2**20
        yield f"Peaks by the process's mark may be up to {most:.2g} MiB higher: the kernel counts pages late."
    machines = sorted({row.machine for row in found})
    for machine in machines:
        mine = [row for row in found if row.machine == machine]
        where = f" of {machine}" if len(machines) > 1 else ""
        yield from gpu_lines([(r.name, e.value) for r in mine for m, e in r.values.items() if m in metrics], where)


def may_be_low(value: Value) -> bool:
    """Tell whether a peak may be too low by more than a fiftieth of it."""
    return value.convention == "VmHWM" and value.value is not None and value.value < 50 * LATE


def gpu_lines(values: Sequence[tuple[str, Value]], where: str) -> Iterator[str]:
    """Yield what one GPU's clock was while these were measured, what held it down, and how memory was predicted."""
    seen = [(name, told) for name, value in values if (told := value.detail.get("conditions"))]
    clocks = [clock for _, told in seen for clock in told.get("sm_clock") or ()]
    if clocks:
        full = max((told["full_clock"] for _, told in seen if told.get("full_clock")), default=None)
        yield f"GPU clock{where}: {min(clocks)} to {max(clocks)} MHz" + (f", of at most {full}." if full else ".")
    for reason in sorted({reason for _, told in seen for reason in told.get("reasons") or ()}):
        names = dict.fromkeys(name for name, told in seen if reason in (told.get("reasons") or ()))
        yield f"GPU clock{where} held down by {reason}: {listed([*names])}."
    discarded = sum(value.detail.get("discarded", {}).get("requests", 0) for _, value in values)
    if discarded:
        yield f"Requests for samples{where} that were thrown away and made again: {discarded}."
    large = [(v.detail["predicted"], v) for _, v in values if v.value and v.value >= LARGE and "predicted" in v.detail]
    if large:
        shares = sorted(predicted / (v.value - v.detail["workspaces"]) for predicted, v in large if v.value)
        between = f"{shares[0]:.3f} to {shares[-1]:.3f}" if len(shares) > 1 else f"{shares[0]:.3f}"
        yield f"Predicted peaks{where}: {between} times the {len(shares)} above 500 MB, less cuBLAS's workspaces."


def names_of(pairs: Iterable[tuple[str, float]]) -> str:
    """List the names of some rows, each once."""
    return listed([*dict.fromkeys(name for name, _ in pairs)])


def interval_words(name: str, values: Sequence[Value]) -> str:
    """Name the intervals of a metric; Wilson's is recognised by its numbers, for a record does not name it."""
    processes = sorted({v.detail.get("processes", 1) for v in values if v.interval})
    if processes and processes[0] > 1:
        several = f"{processes[0]} to " if processes[0] != processes[-1] else ""
        return f"95 % interval of the {BETWEEN} ({several}{processes[-1]})"
    if processes and processes[-1] > 1:
        return f"95 % interval of the {METRICS[name].interval}, or of the {BETWEEN} where there is a baseline"
    if name in METRICS and METRICS[name].interval:
        return f"95 % interval of the {METRICS[name].interval}"
    return "95 % Wilson interval" if all(is_wilson(v) for v in values if v.interval) else "95 % interval"


def is_wilson(value: Value) -> bool:
    """Tell whether an interval is Wilson's for the fraction ``value`` of ``n``."""
    if value.interval is None or value.value is None or not value.n or not 0 <= value.value <= 1:
        return False
    p, n, z = value.value, value.n, 1.959964
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)]
    return all(abs(a - b) < 1e-3 / math.sqrt(n) for a, b in zip(value.interval, expected, strict=True))
