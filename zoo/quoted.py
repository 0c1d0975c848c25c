"""Tables of numbers that others published, each with its source, and what is measured here beside them.

A published number is printed as its source prints it. What differs from it by more than its rounding says why.
"""

from __future__ import annotations

import fnmatch
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

from zoo import published
from zoo.errors import BadRecords, BadSize, UnknownName
from zoo.metrics import METRICS
from zoo.pareto import task_metrics
from zoo.published import Published
from zoo.record import Value
from zoo.registry import Registry
from zoo.rows import MISSING, Entry, Row, check_machines, constant_axes, listed
from zoo.schema import Ours
from zoo.spec import Size
from zoo.tables import Cell, Column, Notes, Table, closing_lines, interval_lines, machine_lines, metric_title
from zoo.units import Scale, clean, common_scale, interval_text, number_text, scales_of, value_text

if TYPE_CHECKING:
    from zoo.schema import Images, PublishedColumn, PublishedTable

# What published numbers are told in, by the SI unit of the metric that is set beside them.
UNITS = {
    "1": {"": 1.0, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "GMACs": 1e9, "%": 0.01, "tokens": 1.0, "pairs": 1.0},
    "B": {"MB": 1e6, "GB": 1e9, "MiB": 2.0**20, "GiB": 2.0**30},
    "s": {"s": 1.0, "ms": 1e-3},
    "1/s": {"images/s": 1.0, "images/s, batch 1, GPU": 1.0, "img/s": 1.0},
    "%": {"%": 1.0},
}
SHORT = ("M", "G", "B", "T", "%", "MB", "GB", "MiB", "GiB", "s", "ms")  # units that stand in a head
# What depends on the size of an image, so that a mean over images is told.
OF_SIZE = ("macs", "flops", "flops_fft", "activations")
HEADS = {"resolution_or_seqlen": "Resolution"}
DEFAULT_SIZE = "224px"  # of which names in a picture do not speak
# A difference that needs no reason, where none is known.
ENOUGH = 0.01
TWO = "FLOPs = 2"  # how a convention begins that counts two for each multiply-accumulate


@dataclass(frozen=True)
class Line:
    """A row of a table: what tells it apart, and its published numbers."""

    key: tuple[str, ...]
    numbers: tuple[Published, ...]

    @property
    def name(self) -> str:
        """The row's system and variant."""
        return " ".join(filter(None, (self.numbers[0].system, self.numbers[0].variant)))


@dataclass(frozen=True)
class Found:
    """What is measured beside a published number: one value, and the rows behind it; or why there is none."""

    value: Value | None = None
    rows: tuple[tuple[Row, Entry], ...] = ()
    why: str = ""

    @property
    def entry(self) -> Entry | None:
        """The value with where it comes from, stale where a part of it is."""
        if self.value is None:
            return None
        entries = [entry for _, entry in self.rows]
        return replace(entries[0], value=self.value, stale=any(e.stale for e in entries))


class Maker:
    """Makes one table. ``images`` are the suite's, for what is measured over them."""

    def __init__(
        self,
        spec: PublishedTable,
        found: Sequence[Row],
        registry: Registry,
        images: Images | None = None,
        name: str = "",
    ) -> None:
        """Check what the table asks for. BadRecords for what there is not."""
        self.spec, self.found, self.registry, self.images, self.name = spec, found, registry, images, name
        self.what = f"the table {spec.title!r}"
        self.check()

    def check(self) -> None:
        """Raise BadRecords for fields, metrics, models and columns that there are not."""
        known = [f.name for f in fields(Published)]
        for key in (*self.spec.rows, *self.spec.where):
            if key not in known:
                raise BadRecords(f"{self.what}: {key!r} is no field of published numbers; they have {', '.join(known)}")
        metrics = {*METRICS, *task_metrics(), *(name for row in self.found for name in row.values)}
        for column in self.spec.columns:
            if column.measured and column.measured not in metrics:
                raise BadRecords(f"{self.what}: measured: {UnknownName('metric', column.measured, metrics)}")
        titles = [column.title for column in self.spec.columns]
        for reason in self.spec.reasons:
            if reason.column not in titles:
                raise BadRecords(f"{self.what}: reasons: {reason.column!r} is no column; those are {', '.join(titles)}")
        for ours in self.spec.models.values():
            model = ours if isinstance(ours, str) else ours.name
            if not self.registry.has(model):
                raise BadRecords(f"{self.what}: models: {UnknownName('model', model, self.registry.models)}")
        if self.spec.over == "images" and self.images is None:
            raise BadRecords(f"{self.what}: over: the suite has no images; expected a key images beside groups")

    # -- published -------------------------------------------------------------------------------------------

    @cached_property
    def lines(self) -> list[Line]:
        """The rows, in the order of the published numbers. BadRecords where nothing fits."""
        chosen = [p for p in published.read() if all(fits(p, k, globs) for k, globs in self.spec.where.items())]
        chosen = [p for p in chosen if any(takes(column, p) for column in self.spec.columns)]
        if not chosen:
            raise BadRecords(f"{self.what}: no published number fits where: {self.spec.where}")
        return [Line(key, numbers) for key, numbers in by_row(chosen, self.spec.rows).items()]

    def number(self, line: Line, column: PublishedColumn, metric: str) -> Published | None:
        """Return the one number of a cell, None where there is none. BadRecords where there are several."""
        numbers = [p for p in line.numbers if metric and takes(column, p, metric)]
        if len({(p.value, p.unit) for p in numbers}) > 1:
            several = ", ".join(f"{p.value} ({p.metric}, {p.task}, {p.source})" for p in numbers[:3])
            raise BadRecords(f"{self.what}: {line.name} has several numbers for {column.title!r}: {several}")
        return numbers[0] if numbers else None

    def cited(self, line: Line, column: PublishedColumn) -> tuple[Cell, Published | None]:
        """Return the quoted cell, and the number in it."""
        found = self.number(line, column, column.metric)
        if found is None or not found.value:
            return Cell(MISSING), None
        text = found.value
        if column.spread and (spread := self.number(line, column, column.spread)):
            text = f"{text} ± {spread.value}"
        if column.also and (also := self.number(line, column, column.also)):
            text = f"{text} / {also.value}"
        return Cell(clean(text), axis=text, quoted=True), found

    def numbers_of(self, column: PublishedColumn) -> list[Published]:
        """Return the published numbers of a column that are not blank."""
        shown = [p for line in self.lines for p in line.numbers]
        return [p for p in shown if column.metric and takes(column, p, column.metric) and p.value]

    # -- measured --------------------------------------------------------------------------------------------

    @cached_property
    def measured(self) -> dict[tuple[int, int], Found]:
        """What is measured, by the places of line and column. BadRecords where a column would mix machines."""
        found: dict[tuple[int, int], Found] = {}
        for c, column in enumerate(self.spec.columns):
            if not column.measured:
                continue
            for n, line in enumerate(self.lines):
                found[n, c] = self.find(line, column, self.cited(line, column)[1])
            rows = [pair for (_, k), one in found.items() if k == c for pair in one.rows]
            machines = sorted({row.machine for row, entry in rows if entry.environment})
            if len(machines) > 1:
                raise BadRecords(f"{self.what}: {column.measured} is of {listed(machines)}; name one as machine")
        return found

    def find(self, line: Line, column: PublishedColumn, cited: Published | None) -> Found:
        """Return what is kept of the row's model: at the published size, or as a mean over all sizes of the images."""
        size = resolution(cited) or next(filter(None, map(resolution, line.numbers)), "")
        ours = self.model(line, size)
        if ours is None:
            return Found()
        kept = self.kept(ours, column.measured)
        found = self.mean(kept, column.measured) if self.averaged(column.measured) else self.at(kept, ours, size)
        if found.value is None or found.value.value is None or column.title not in self.doubled:
            return found
        twice = replace(found.value, value=2 * found.value.value, convention="flop")
        return replace(found, value=twice)

    def model(self, line: Line, size: str) -> Ours | None:
        """Return the model of a row, None where there is none here.

        Of several that claim the row it is the one with that default size.
        """
        first = line.numbers[0]
        for glob, entry in self.spec.models.items():
            if matches(line.name, glob):
                return Ours(name=entry) if isinstance(entry, str) else entry
        claimed = []
        for name, spec in self.registry.models.items():
            system, *variants = spec.published or ("",)
            if system == first.system and any(fnmatch.fnmatchcase(first.variant, glob) for glob in variants):
                claimed.append(name)
        claimed.sort(key=lambda name: self.registry.model(name).sizes.default != size)
        return Ours(name=claimed[0]) if claimed else None

    def kept(self, ours: Ours, metric: str) -> dict[str, tuple[Row, Entry]]:
        """Return the one entry of a model's metric at each size. BadRecords where several cases have one."""
        kept: dict[str, dict[str, tuple[Row, Entry]]] = {}
        for row in self.found:
            entry = row.values.get(metric)
            if entry is None or row.case.model != ours.name or row.case.options != ours.options:
                continue
            if self.spec.machine and entry.environment and row.machine != self.spec.machine:
                continue
            where = row.machine if entry.environment else ""
            kept.setdefault(row.case.size, {})[" ".join(filter(None, [entry.case.id, where]))] = (row, entry)
        for size, several in kept.items():
            if len(several) > 1:
                what = f"{metric} of {ours.name} at {size}"
                cases = listed(sorted(several))
                raise BadRecords(f"{self.what}: {what} is of several cases: {cases}; keep one, or name its machine")
        return {size: next(iter(several.values())) for size, several in kept.items()}

    def at(self, kept: dict[str, tuple[Row, Entry]], ours: Ours, size: str) -> Found:
        """Return the value at a size; parameters that no size changes are those of any."""
        wanted = ours.size or size or self.default_size(ours.name)
        one = kept.get(wanted)
        counts = {entry.value.value for _, entry in kept.values()}
        if one is None and not (ours.size or size) and len(counts) == 1:
            one = next(iter(kept.values()))
        return Found(one[1].value, (one,)) if one else Found()

    def default_size(self, model: str) -> str:
        """Return a model's default size; empty where it is registered no longer."""
        try:
            return self.registry.model(model).sizes.default
        except UnknownName:
            return ""

    @cached_property
    def times(self) -> dict[str, int]:
        """How many images have each size."""
        return self.images.scaled() if self.images else {}

    def averaged(self, metric: str) -> bool:
        """Tell whether a metric is a mean over the images."""
        return self.spec.over == "images" and metric in OF_SIZE

    def mean(self, kept: dict[str, tuple[Row, Entry]], metric: str) -> Found:
        """Return the mean over the images; why there is none where a size is missing, or the model has no count."""
        failed = next((pair for pair in kept.values() if pair[1].value.value is None), None)
        if failed:
            return Found(failed[1].value, (failed,))
        here = {size: kept[size] for size in self.times if size in kept}
        if missing := len(self.times) - len(here):
            why = f"{metric}: {missing} of the {len(self.times)} sizes of the images are not counted"
            return Found(why=why if kept else "")
        assert self.images
        counts = [here[size][1].value.value or 0 for size, times in self.times.items() for _ in range(times)]
        first = next(iter(here.values()))[1].value
        detail = {**first.detail, "over": self.images.name, "images": len(counts)}
        detail |= {"sd": statistics.stdev(counts)} if len(counts) > 1 else {}
        value = replace(first, value=statistics.fmean(counts), n=None, interval=None, detail=detail)
        return Found(value, tuple(here.values()))

    # -- units -----------------------------------------------------------------------------------------------

    @cached_property
    def doubled(self) -> frozenset[str]:
        """The columns that are told in FLOPs, two a multiply-accumulate. BadRecords where only some numbers are."""
        found = set()
        for column in (c for c in self.spec.columns if c.measured == "macs"):
            twice = {p.convention.startswith(TWO) for p in self.numbers_of(column)}
            if len(twice) > 1:
                raise BadRecords(f"{self.what}: {column.title!r} would mix conventions, MACs and FLOPs")
            if twice == {True}:
                found.add(column.title)
        return frozenset(found)

    @cached_property
    def scales(self) -> dict[str, Scale]:
        """The units that ours are told in, by column."""
        return {c.title: self.scale(n, c) for n, c in enumerate(self.spec.columns) if c.measured}

    def scale(self, at: int, column: PublishedColumn) -> Scale:
        """Return the unit that ours are told in: the published one, or one that reads well where there is none.

        BadRecords where the published numbers have several units, or one that says nothing of the metric.
        """
        values = [one.value for (_, c), one in self.measured.items() if c == at and one.value is not None]
        own = METRICS[column.measured].unit if column.measured in METRICS else next((v.unit for v in values), "1")
        if not column.metric:
            known = [value for value in values if value.value is not None]
            return common_scale(column.measured, known) or scales_of(column.measured, known)[0]
        found = {p.unit for p in self.numbers_of(column)}
        if len(found) > 1:
            raise BadRecords(f"{self.what}: {column.title!r} would mix units: {', '.join(sorted(found))}")
        unit = next(iter(found), "")
        if found and unit not in UNITS.get(own, {}):
            kinds = ", ".join(repr(u) for u in UNITS.get(own, {}))
            raise BadRecords(f"{self.what}: {column.measured} cannot be told in {unit!r}; expected one of {kinds}")
        return Scale(UNITS.get(own, {}).get(unit, 1.0), unit if unit in SHORT else "samples/s" if own == "1/s" else "")

    def pairs(self, title: str) -> Iterator[tuple[str, float, float]]:
        """Yield model, published number and ours of each row that has both, in the published unit, each once.

        BadRecords where the table has no such column, or nothing is measured beside it.
        """
        known = [column for column in self.spec.columns if column.metric and column.measured]
        column = next((c for c in known if c.title == title), None)
        if column is None:
            names = ", ".join(c.title for c in known) or "none"
            raise BadRecords(f"{self.what}: {title!r} is no column with ours beside it; those are {names}")
        at, seen = self.spec.columns.index(column), set()
        for n, line in enumerate(self.lines):
            theirs, one = as_number(self.cited(line, column)[1]), self.measured[n, at]
            if not theirs or one.value is None or one.value.value is None:
                continue
            case = one.rows[0][1].case
            sized = [] if case.size == DEFAULT_SIZE or len(one.rows) > 1 else [case.size]
            found = (
                " ".join([case.model.rpartition("/")[2], *sized]),
                theirs,
                one.value.value / self.scales[column.title].factor,
            )
            if found not in seen:
                seen.add(found)
                yield found

    # -- the table -------------------------------------------------------------------------------------------

    @cached_property
    def used(self) -> list[tuple[Row, Entry]]:
        """The rows and entries behind all that is measured."""
        return [pair for one in self.measured.values() for pair in one.rows]

    def cells(self, n: int, line: Line, c: int, column: PublishedColumn, notes: Notes) -> Iterator[Cell]:
        """Yield a published number, and beside it ours in its unit, and how far the two are apart."""
        cell, cited = self.cited(line, column)
        if column.metric:
            yield cell
        if not column.measured:
            return
        one, compared = self.measured[n, c], self.compared(column)
        entry = one.entry
        if entry is None or one.value is None:
            yield Cell(MISSING, notes=(notes.number(one.why),) if one.why else ())
            yield from [Cell(MISSING)] * compared
            return
        if one.value.value is None:
            yield Cell(value_text(one.value, None, ())[0], entry=entry, notes=notes.of(entry))
            yield from [Cell(MISSING)] * compared
            return
        factor = self.scales[column.title].factor
        ours = one.value.value / factor
        ends = [end / factor for end in one.value.interval or ()]
        yield Cell(interval_text(ours, *ends)[0] if ends else number_text(ours), entry=entry, notes=notes.of(entry))
        if compared:
            yield self.difference(line, column, cited, ours, notes)

    def compared(self, column: PublishedColumn) -> bool:
        """Tell whether ours is set against what was published: of what a machine took, others are told alone."""
        timed = column.measured in METRICS and METRICS[column.measured].phase in ("speed", "memory")
        return bool(column.metric and column.measured) and not timed

    def difference(
        self, line: Line, column: PublishedColumn, cited: Published | None, ours: float, notes: Notes
    ) -> Cell:
        """Return how far ours is from what was published, with the reason where rounding does not hide it."""
        theirs = as_number(cited)
        if not theirs or cited is None:
            return Cell(MISSING)
        apart = ours / theirs - 1
        shown = round(100 * apart, 1)
        text = f"{shown:+.1f} %" if shown else "0.0 %"
        if abs(ours - theirs) <= rounding(cited.value):
            return Cell(text, axis=apart)
        why = next((r.why for r in self.spec.reasons if r.column == column.title and matches(line.name, r.rows)), "")
        if not why and abs(apart) <= ENOUGH:
            return Cell(text, axis=apart)
        return Cell(text, axis=apart, notes=(notes.number(why or "no reason is known"),))

    def columns(self) -> Iterator[Column]:
        """Yield the columns: what tells rows apart, and for each published one those beside it."""
        for key in self.spec.rows:
            yield Column(key, HEADS.get(key, key.replace("_", " ").capitalize()), False)
        for column in self.spec.columns:
            if column.metric:
                yield Column(column.title, column.title, False, number=True)
            if column.measured:
                metric = "flops" if column.title in self.doubled else column.measured
                label = self.scales[column.title].label
                shown = f"{metric_title(metric)} ({label})" if label else metric_title(metric)
                of = METRICS[metric].unit if metric in METRICS else "1"
                again = sum(c.measured == column.measured for c in self.spec.columns) > 1
                name = f"{column.title}_{metric}" if again else metric
                yield Column(name, f"{shown}, measured" if column.metric else shown, True, of)
                if self.compared(column):
                    yield Column(f"{name}_difference", "Difference", False, number=True)

    def table(self) -> Table:
        """Return the table."""
        check_machines(entry for _, entry in self.used)
        columns, notes = tuple(self.columns()), Notes([entry for _, entry in self.used])
        rows = []
        for n, line in enumerate(self.lines):
            cells = [Cell(clean(text) or MISSING, axis=text) for text in line.key]
            for c, column in enumerate(self.spec.columns):
                cells += self.cells(n, line, c, column, notes)
            rows.append(tuple(cells))
        footer = tuple(map(clean, self.footer()))
        return Table(clean(self.spec.title), columns, tuple(rows), tuple(notes.texts), footer)

    def footer(self) -> Iterator[str]:
        """Yield the sources, how they counted, what is measured over, what all of ours share, and the machines."""
        if self.spec.note:
            yield f"{self.spec.note}."
        shown = [p for line in self.lines for p in line.numbers]
        yield f"Published numbers are quoted as they are printed: {'; '.join(unique(p.source for p in shown))}."
        if said := unique(p.convention for p in shown if p.convention not in ("", "n/a")):
            yield f"Counted there as: {'; '.join(said)}."
        if self.images and any(self.averaged(c.measured) for c in self.spec.columns):
            yield (
                f"Measured MACs: mean over {self.images.name}, {sum(self.images.sizes.values())} images of "
                f"{len(self.times)} sizes, short side {self.images.short}, long side at most "
                f"{self.images.long} pixels."
            )
        if any(c.measured for c in self.spec.columns) and not self.used:
            yield f"Nothing is measured here yet: zoo run {self.name} does."
        for c, column in enumerate(self.spec.columns):
            yield from self.taken(c, column)
        entries = [entry for _, entry in self.used]
        yield from machine_lines(entries)
        yield from closing_lines([], [], entries, False, self.name)

    def taken(self, c: int, column: PublishedColumn) -> Iterator[str]:
        """Yield how what is timed or measured in a column was taken."""
        found = [one for (_, k), one in self.measured.items() if k == c and one.value is not None]
        rows = [row for one in found for row, entry in one.rows if entry.environment]
        if rows:
            sizes = sorted({row.case.size for row in rows})
            axes = [*([f"size {sizes[0]}"] if len(sizes) == 1 else []), *constant_axes(rows, ["model", "size"])]
            yield f"{metric_title(column.measured)}: {', '.join(axes)}."
            yield from interval_lines(column.measured, [one.value for one in found if one.value is not None])


def published_table(
    spec: PublishedTable, found: Sequence[Row], registry: Registry, images: Images | None = None, name: str = ""
) -> Table:
    """Return a table of published numbers with ours beside them; without records it has theirs alone.

    BadRecords where no number fits, or where a cell would have several.
    """
    return Maker(spec, found, registry, images, name).table()


def by_row(numbers: Sequence[Published], keys: Sequence[str]) -> dict[tuple[str, ...], tuple[Published, ...]]:
    """Return numbers by what tells rows apart; one that states no resolution belongs to its system's row of each."""
    rows: dict[tuple[str, ...], list[Published]] = {}
    for p in numbers:
        rows.setdefault(tuple(getattr(p, key) for key in keys), []).append(p)
    if "resolution_or_seqlen" not in keys:
        return {key: tuple(found) for key, found in rows.items()}
    at = list(keys).index("resolution_or_seqlen")
    for key in [key for key in rows if not key[at]]:
        same = [other for other in rows if other[at] and other[:at] + other[at + 1 :] == key[:at] + key[at + 1 :]]
        if same:
            general = rows.pop(key)
            for other in same:
                rows[other] += general
    return {key: tuple(found) for key, found in rows.items()}


def takes(column: PublishedColumn, number: Published, metric: str = "") -> bool:
    """Tell whether a number belongs into a column, as its number or as what is printed beside it."""
    wanted = [metric] if metric else [m for m in (column.metric, column.spread, column.also) if m]
    others = {name: getattr(column, name) for name in ("task", "unit", "source", "resolution_or_seqlen")}
    return any(matches(number.metric, m) for m in wanted) and all(fits(number, k, glob) for k, glob in others.items())


def fits(number: Published, name: str, globs: str | list[str]) -> bool:
    """Tell whether a field of a published number is one of some globs."""
    return any(matches(getattr(number, name), glob) for glob in ([globs] if isinstance(globs, str) else globs))


def matches(text: str, glob: str) -> bool:
    """Tell whether a text is a glob's, in which brackets stand for themselves."""
    return fnmatch.fnmatchcase(text, glob.replace("[", "[[]"))


def resolution(number: Published | None) -> str:
    """Return the size of a published number in pixels; empty where it states none, or a rule."""
    if number is None or not re.fullmatch(r"\d+(x\d+)?", number.resolution_or_seqlen):
        return ""
    try:
        return str(Size.parse(f"{number.resolution_or_seqlen}px"))
    except BadSize:
        return ""


def as_number(number: Published | None) -> float | None:
    """Return a published number; None where it is a word, or nothing that another number may be set against."""
    try:
        found = float(number.value) if number else 0.0
    except ValueError:
        return None
    return found if found > 0 and math.isfinite(found) else None


def rounding(text: str) -> float:
    """Return half of the last digit of a number that is printed."""
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(0.5 * 10 ** (int(exponent or 0) - decimals))


def unique(texts: Iterable[str]) -> list[str]:
    """Return texts, each once."""
    return list(dict.fromkeys(texts))
