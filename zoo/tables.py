"""Records to comparison tables: one row a case and machine, each number with its interval, status and source.

``rows`` merges records, ``make_table`` decides what may stand side by side, ``render`` prints.
"""

from __future__ import annotations

import csv
import fnmatch
import html
import io
import math
import re
import shutil
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.case import MODES, Case
from zoo.conditions import MUCH_BUSY, MUCH_STEAL
from zoo.errors import BadRecords
from zoo.metrics import BETWEEN, CONVENTIONS, CONVERTIBLE, METRICS, follows, is_timed
from zoo.record import CaseRecord, MachineRecord, Value, gravest
from zoo.spec import Scalar, Size

if TYPE_CHECKING:
    import pandas as pd

    from zoo.store import Results
    from zoo.suite import TableSpec

Format = Literal["terminal", "markdown", "latex", "csv", "html"]

CASE_AXES = tuple(f.name for f in fields(Case) if f.name != "options")
AXES = (*CASE_AXES, "machine")
# Axes that None takes the meaning from (a count of MACs has no device); elsewhere None is a choice (no weights loaded).
MEANINGLESS_WHEN_NONE = ("device", "mode", "threads", "task", "recipe", "seed", "machine")
MISSING = "–"
STALE = "†"
STATUS_WORDS = {"oom": "OOM", "timeout": "time-out"}
# What makes two environments two machines, and what makes them two set-ups of one machine.
HARDWARE = ("cpu", "cores", "gpu")
SOFTWARE = ("torch", "torchvision", "timm", "python")


# -- rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One value with the record that it came from. ``order`` counts records as they were written.

    ``stale`` says that the newest value of the same model was taken with another source of its plugin, or protocol.
    """

    value: Value
    case: Case
    time: str
    fingerprint: dict[str, str]
    environment: str
    machine: MachineRecord | None
    order: int
    conditions: Mapping[str, Any] = field(default_factory=dict)
    stale: bool = False


@dataclass(frozen=True)
class Row:
    """The newest values of one case on one machine (a slug, empty for what needs no machine), by metric."""

    case: Case
    machine: str
    values: dict[str, Entry]

    def axis(self, name: str) -> Scalar:
        """Return the value of an axis or option; None where it has no meaning, or the option has its default."""
        if name == "machine":
            return self.machine or None
        if name in CASE_AXES:
            found: Scalar = getattr(self.case, name)
            return found
        return self.case.options.get(name)

    @property
    def name(self) -> str:
        """Model, size and machine: what an error message calls the row."""
        return " ".join(filter(None, [self.case.model, self.case.size, self.machine]))


def rows(results: Results) -> list[Row]:
    """Return one row per case and machine, in the order written.

    A case that another one reduces to (``for_phase``: the counts of a timed case, the cost of a trained one) is no row
    of its own: its values join every row of the larger case.
    """
    found: dict[str, dict[str, tuple[Case, dict[str, Entry]]]] = {}
    for order, record in enumerate(results.records):
        slug = slug_of(record, results.machines)
        _, values = found.setdefault(slug, {}).setdefault(record.case.id, (record.case, {}))
        values.update(entries(record, results.machines, order))
    shared = found.get("", {})
    reduced = {slug: {r for case, _ in cases.values() for r in reductions(case)} for slug, cases in found.items()}
    anywhere = set().union(*reduced.values())
    leaves = []
    for slug, cases in found.items():
        for key, (case, own) in cases.items():
            if key in (reduced[slug] if slug else anywhere):
                continue
            parts = [own, *(g[r][1] for r in reductions(case) for g in (cases, shared) if r in g)]
            leaves.append(Row(case, slug, merged(parts)))
    return mark_stale(sorted(leaves, key=lambda row: min((e.order for e in row.values.values()), default=0)))


def slug_of(record: CaseRecord, machines: Mapping[str, MachineRecord]) -> str:
    """Return the machine's slug; the bare id when its record is missing, empty for what needs no machine."""
    return machines[record.environment].slug if record.environment in machines else record.environment


def entries(record: CaseRecord, machines: Mapping[str, MachineRecord], order: int) -> dict[str, Entry]:
    """Return the values of a record, each with where it came from."""
    machine = machines.get(record.environment)
    return {
        name: Entry(
            value, record.case, record.time, record.fingerprint, record.environment, machine, order, record.conditions
        )
        for name, value in record.metrics.items()
    }


def reductions(case: Case) -> list[str]:
    """Return the ids of the smaller cases under which some of a case's metrics are kept."""
    ids = [case.for_phase(phase).id for phase in ("speed", "static")]
    return [i for i in dict.fromkeys(ids) if i != case.id]


def merged(parts: Iterable[Mapping[str, Entry]]) -> dict[str, Entry]:
    """Return the newest entry of every metric."""
    newest: dict[str, Entry] = {}
    for part in parts:
        for name, entry in part.items():
            if name not in newest or entry.order > newest[name].order:
                newest[name] = entry
    return newest


def mark_stale(found: list[Row]) -> list[Row]:
    """Mark the values that were taken with another source or protocol than the newest value of their model."""
    newest: dict[str, Entry] = {}
    for row in found:
        for entry in row.values.values():
            best = newest.setdefault(row.case.model, entry)
            if (entry.time, entry.order) > (best.time, best.order):
                newest[row.case.model] = entry

    def outdated(entry: Entry, model: str) -> bool:
        old, new = entry.fingerprint, newest[model].fingerprint
        return any(key in old and key in new and old[key] != new[key] for key in ("plugin", "protocol"))

    return [
        replace(row, values={m: replace(e, stale=outdated(e, row.case.model)) for m, e in row.values.items()})
        for row in found
    ]


# -- which rows ----------------------------------------------------------------------------------------------


def select(
    found: Sequence[Row],
    where: Mapping[str, Scalar | list[Scalar]],
    metrics: Sequence[str],
    shown: Sequence[str],
    what: str,
) -> list[Row]:
    """Return the rows of a table or plot: those that fit ``where`` and have one of ``metrics``, each once.

    Axes that none of these metrics depends on are emptied, unless they are ``shown``, so that three seeds of one
    training do not print the same latency three times. BadRecords when nothing is left, or for an unknown axis.
    """
    known = axes_of(found)
    for name in where:
        if name not in known:
            raise BadRecords(f"{what}: where: {name!r} is no axis of these records; their axes: {', '.join(known)}")
    fitting = [row for row in found if all(fits(row, name, wanted) for name, wanted in where.items())]
    if not fitting:
        condition = ", ".join(f"{k}={v}" for k, v in where.items()) or "no condition"
        raise BadRecords(f"{what}: none of the {len(found)} rows of these records fits where: {condition}")
    having = [row for row in fitting if not metrics or any(m in row.values for m in metrics)]
    if not having:
        raise BadRecords(f"{what}: no record has any of {', '.join(metrics)}")
    return collapse(having, metrics, shown) if metrics else having


def axes_of(found: Sequence[Row]) -> list[str]:
    """Return the names of all axes: the fixed ones, and every option that a row sets."""
    return [*AXES, *sorted({name for row in found for name in row.case.options})]


def fits(row: Row, name: str, wanted: Scalar | list[Scalar]) -> bool:
    """Tell whether an axis has the wanted value, or one of them. ``default`` stands for an option left alone."""
    actual = row.axis(name)
    return any(same(name, actual, w) for w in (wanted if isinstance(wanted, list) else [wanted]))


def same(name: str, actual: Scalar, wanted: Scalar) -> bool:
    if name == "model":
        return fnmatch.fnmatchcase(str(actual), str(wanted))
    if name == "size":
        return str(actual) in {str(wanted), f"{wanted}px", f"{wanted}tok"}
    if name not in AXES and actual is None:
        return wanted in (None, "default")
    return actual == wanted or str(actual) == str(wanted)


def collapse(found: Sequence[Row], metrics: Sequence[str], shown: Sequence[str]) -> list[Row]:
    """Empty the axes that no value of ``metrics`` depends on, and join the rows that become the same."""
    phases = {phase_of(row, entry) for row in found for m, entry in row.values.items() if m in metrics}
    phase = max(phases, key=PHASE_ORDER.index)
    joined: dict[tuple[str, str], Row] = {}
    for row in found:
        kept: dict[str, Any] = {name: getattr(row.case, name) for name in shown if name in CASE_AXES}
        case = replace(row.case.for_phase(phase), **kept)
        slug = "" if phase == "static" and "machine" not in shown else row.machine
        values = {m: e for m, e in row.values.items() if m in metrics}
        old = joined.get((case.id, slug))
        joined[case.id, slug] = Row(case, slug, merged([old.values, values]) if old else values)
    return list(joined.values())


PHASE_ORDER = ("static", "speed", "task")


def phase_of(row: Row, entry: Entry) -> str:
    """Return the phase whose reduction of the row's case the entry is kept under."""
    return next((p for p in PHASE_ORDER[:2] if row.case.for_phase(p).id == entry.case.id), "task")


def distinguishing(found: Sequence[Row], shown: Sequence[str]) -> list[str]:
    """Return the axes, beyond those shown, that vary among the rows: with them no two rows look the same."""
    others = [name for name in axes_of(found) if name not in shown]
    added = []
    for name in others:
        values = {axis_text(name, row.axis(name)) for row in found if not meaningless(name, row.axis(name))}
        if len(values) > 1:
            added.append(name)
    for name in others:
        looks = [tuple(axis_text(a, row.axis(a)) for a in (*shown, *added)) for row in found]
        if len(set(looks)) == len(found):
            break
        finer = {(look, axis_text(name, row.axis(name))) for look, row in zip(looks, found, strict=True)}
        if name not in added and len(finer) > len(set(looks)):
            added.append(name)
    return added


def meaningless(name: str, value: Scalar) -> bool:
    return value is None and name in MEANINGLESS_WHEN_NONE


def axis_text(name: str, value: Scalar) -> str:
    """Return an axis value as a cell."""
    if value is not None:
        return str(value)
    if name in MEANINGLESS_WHEN_NONE:
        return MISSING
    return {"weights": "none", "compile": "eager", "attention_backend": "auto"}.get(name, "default")


def constant_axes(found: Sequence[Row], shown: Sequence[str]) -> list[str]:
    """Return the axes that are the same in all rows, as ``batch_size 1``."""
    texts = []
    for name in axes_of(found):
        values = {axis_text(name, row.axis(name)) for row in found if row.axis(name) is not None}
        if name not in shown and name != "machine" and len(values) == 1:
            texts.append(f"{name} {values.pop()}")
    return texts


def sort_rows(found: Sequence[Row], axes: Sequence[str]) -> list[Row]:
    """Sort by the axis columns, left to right: models as they came, sizes and numbers by value."""
    models = {name: n for n, name in enumerate(dict.fromkeys(row.case.model for row in found))}

    def key(name: str, value: Scalar) -> tuple[int, tuple[float, ...], str]:
        if name == "model":
            return 0, (models[str(value)],), ""
        if name == "size":
            size = Size.parse(str(value))
            return 0, tuple(map(float, size.values)), size.unit
        if name == "mode" and value in MODES:
            return 0, (float(MODES.index(str(value))),), ""
        if isinstance(value, int | float):
            return 0, (float(value),), ""
        return (-1, (), "") if value is None else (1, (), str(value))

    return sorted(found, key=lambda row: [key(name, row.axis(name)) for name in axes])


# -- what may not stand in one column ------------------------------------------------------------------------


def check_column(name: str, found: Sequence[Row]) -> None:
    """Raise BadRecords when the values of a metric differ in convention or unit."""
    for what, attribute in (("conventions", "convention"), ("units", "unit")):
        seen: dict[str, list[str]] = {}
        for row in found:
            if name in row.values and row.values[name].value.status == "ok":
                seen.setdefault(getattr(row.values[name].value, attribute) or "not stated", []).append(row.name)
        if len(seen) > 1:
            sides = " and ".join(f"{text!r} ({listed(cells)})" for text, cells in seen.items())
            raise BadRecords(f"{name} would mix {what}: {sides}; choose one with where, or run the others again")


def listed(names: Sequence[str], most: int = 4) -> str:
    """Join names, the first few of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def check_machines(used: Iterable[Entry]) -> None:
    """Raise BadRecords when two different machines go by one slug."""
    first: dict[str, MachineRecord] = {}
    for machine in (e.machine for e in used if e.machine):
        other = first.setdefault(machine.slug, machine).environment
        for key in HARDWARE:
            if other.get(key) != machine.environment.get(key):
                raise BadRecords(
                    f"two machines go by the name {machine.slug}: {key} is {other.get(key)!r} in some records and "
                    f"{machine.environment.get(key)!r} in others; keep their results in folders of their own"
                )


# -- numbers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """A unit for reading: ``factor`` SI units."""

    factor: float
    label: str


SCALES: dict[str, tuple[Scale, ...]] = {
    "B": tuple(Scale(2.0**power, label) for power, label in ((20, "MiB"), (30, "GiB"), (40, "TiB"))),
    "s": (Scale(1e-6, "µs"), Scale(1e-3, "ms"), Scale(1.0, "s")),
    "J": (Scale(1e-3, "mJ"), Scale(1.0, "J"), Scale(1e3, "kJ")),
    "1/s": (Scale(1.0, "samples/s"),),
    "1": tuple(Scale(10.0 ** (3 * n), label) for n, label in enumerate(("", "k", "M", "G", "T", "P"))),
}
PERCENT = Scale(0.01, "%")


def scales_of(name: str, values: Sequence[Value]) -> tuple[Scale, ...]:
    """Return the units that a metric may be read in. A fraction that is no count of the harness reads in percent."""
    unit = values[0].unit if values else "1"
    numbers = [v.value for v in values if v.value is not None]
    if unit == "1" and name not in METRICS and numbers and all(0 <= n <= 1 for n in numbers):
        return (PERCENT,)
    return SCALES.get(unit, (Scale(1.0, unit),))


def common_scale(name: str, values: Sequence[Value]) -> Scale | None:
    """Return the one unit that a column reads best in; None when its values lie too far apart for one."""
    scales = scales_of(name, values)
    sizes = sorted(abs(v.value) for v in values if v.value)
    if not sizes or (len(scales) > 1 and scales[0].factor == 1 and sizes[-1] < 10_000):
        return scales[0]
    chosen = fitting_scale(scales, statistics.median_low(sizes))
    near = sizes[0] >= chosen.factor * 1e-3 and sizes[-1] < chosen.factor * 1e6
    return chosen if near or len(scales) == 1 else None


def fitting_scale(scales: Sequence[Scale], size: float) -> Scale:
    """Return the largest unit that is not larger than ``size``, else the smallest."""
    return max((s for s in scales if s.factor <= size), key=lambda s: s.factor, default=scales[0])


def leading(x: float) -> tuple[int, int]:
    """Return the first digit of a number and its power of ten: 0.0199999999 is (2, -2)."""
    mantissa, exponent = f"{abs(x):.6e}".split("e")
    return int(mantissa[0]), int(exponent)


def decimals(x: float, significant: int) -> int:
    """Return the decimals that leave so many significant digits; negative left of the point."""
    return significant - 1 - leading(x)[1]


def number_text(x: float) -> str:
    """Return 3 significant digits, 4 where the first is a 1 (17.56, 86.6); whole numbers are not cut."""
    return f"{x:.{max(0, decimals(x, 4 if leading(x)[0] == 1 else 3))}f}" if x else "0"


def interval_text(x: float, low: float, high: float) -> tuple[str, bool]:
    """Return ``12.3 ± 0.2``, or ``12.3 [12.1, 12.9]`` where the sides differ; 3 to 4 digits, as the interval decides.

    The flag says that the interval is narrower than the last digit, and was widened to one unit of it.
    """
    half = (high - low) / 2
    base = x or high or 1.0
    wanted = decimals(half, 2 if leading(half)[0] == 1 else 1) if half > 0 else decimals(base, 4)
    places = min(max(wanted, decimals(base, 3)), decimals(base, 4))
    up, down = round(high - x, places), round(x - low, places)
    if up == down:
        narrow = up == 0
        return f"{fixed(x, places)} ± {fixed(up or 10.0**-places, places)}", narrow
    return f"{fixed(x, places)} [{fixed(low, places)}, {fixed(high, places)}]", False


def fixed(x: float, places: int) -> str:
    """Round to so many decimals (negative: tens, hundreds) and print without an exponent."""
    return f"{round(x, places) + 0.0:.{max(0, places)}f}"


def value_text(value: Value, scale: Scale | None, scales: Sequence[Scale]) -> tuple[str, bool]:
    """Return the text of a value in ``scale``, or in a unit of its own; and whether its interval was widened."""
    if value.value is None:
        word = STATUS_WORDS.get(value.status, value.status)
        return (f"{word} (predicted)" if value.detail.get("predicted") else word), False
    unit = scale or fitting_scale(scales, abs(value.value))
    x = value.value / unit.factor
    if value.interval is None:
        exact = isinstance(value.value, int) and unit.factor == 1 and not unit.label
        text, widened = (str(value.value) if exact else number_text(x)), False
    else:
        text, widened = interval_text(x, value.interval[0] / unit.factor, value.interval[1] / unit.factor)
    text = text if scale or not unit.label else f"{text} {unit.label}"
    return " ".join(filter(None, [text, value.detail.get("verdict", "")])), widened


def clean(text: str) -> str:
    """Return text on one line, without control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "", re.sub(r"\s+", " ", text)).strip()


# -- the table -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """An axis or metric. ``unit`` is the SI unit of the raw values; ``head`` names the unit of the texts."""

    name: str
    head: str
    metric: bool
    unit: str = ""


@dataclass(frozen=True)
class Cell:
    """A text to print, and what it was made from: an axis value, or an entry. ``notes`` are numbers of footnotes."""

    text: str
    axis: Scalar = None
    entry: Entry | None = None
    notes: tuple[int, ...] = ()

    @property
    def full(self) -> str:
        """The text with its marks."""
        dagger = STALE if self.entry and self.entry.stale else ""
        return " ".join([self.text + dagger, *(f"[{n}]" for n in self.notes)])


@dataclass(frozen=True)
class Table:
    """A table ready to print. ``notes[0]`` is footnote 1; ``footer`` says what holds for all rows, and what made it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    footer: tuple[str, ...]


def make_table(spec: TableSpec, found: Sequence[Row], name: str = "") -> Table:
    """Return the table that a suite asks for, from ``rows``; ``name`` is what ``zoo table`` was given.

    Axes that vary and are not among the columns become columns. BadRecords when no row fits, or when a column would
    mix conventions, units, or two machines of one name.
    """
    axes = [c for c in spec.columns if is_axis(c, found)]
    metrics = [c for c in spec.columns if c not in axes]
    chosen = select(found, spec.where, metrics, axes, f"the table {spec.title!r}")
    chosen = [in_convention(row, spec.convention) for row in chosen]
    for metric in metrics:
        check_column(metric, chosen)
    used = [row.values[m] for row in chosen for m in metrics if m in row.values]
    check_machines(used)
    order = with_added(spec.columns, axes, distinguishing(chosen, axes))
    axes = [c for c in order if c not in metrics]
    notes = Notes(used)
    built = {m: metric_column(m, chosen) for m in metrics}
    widened = False
    lines = []
    for row in sort_rows(chosen, axes):
        line = []
        for column in order:
            if column in built:
                cell, wide = metric_cell(row.values.get(column), built[column][1], built[column][2], notes)
                widened = widened or wide
            else:
                cell = Cell(clean(axis_text(column, row.axis(column))), axis=row.axis(column))
            line.append(cell)
        lines.append(tuple(line))
    columns = tuple(built[c][0] if c in built else Column(c, axis_head(c), False) for c in order)
    footer = [
        *([f"{spec.note}."] if spec.note else []),
        *footer_lines(chosen, axes, metrics, used),
        *closing_lines(chosen, metrics, used, widened, name),
    ]
    return Table(clean(spec.title), columns, tuple(lines), tuple(notes.texts), tuple(map(clean, footer)))


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
        yield from interval_lines(metric, [row.values[metric].value for row in found if metric in row.values])
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


# -- printing ------------------------------------------------------------------------------------------------


def render(table: Table, format: Format = "terminal", width: int | None = None) -> str:
    """Return a table as text. ``width`` is the terminal's, in characters; when piped, lines are as long as need be.

    CSV holds raw SI numbers and no formatted text: value, low, high, status and n of each metric. LaTeX needs the
    package booktabs.
    """
    if format == "terminal":
        return render_terminal(table, width)
    others = {"markdown": render_markdown, "latex": render_latex, "csv": render_csv, "html": render_html}
    return others[format](table)


def document(parts: Sequence[str], format: Format) -> str:
    """Return rendered tables as one text: with LaTeX a document that compiles as it is, with HTML a page."""
    if format == "latex":
        return LATEX_DOCUMENT.format(body="\n".join(parts))
    if format == "html":
        return HTML_PAGE.format(body="\n".join(parts))
    return "\n".join(parts)


def render_terminal(table: Table, width: int | None) -> str:
    """Return a table in box-drawing characters; where it is too wide, cells are folded at spaces, never cut."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    columns = [[clean(c.head), *(row[n].full for row in table.rows)] for n, c in enumerate(table.columns)]
    gaps = 3 * (len(columns) - 1)
    widths = fitted_widths(columns, width - gaps if width else None)
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column, texts, size in zip(table.columns, columns, widths, strict=True):
        grid.add_column(Text(texts[0]), justify="right" if column.metric else "left", overflow="fold", width=size)
    for row in table.rows:
        grid.add_row(*(Text(cell.full) for cell in row))
    out = io.StringIO()
    whole = max(sum(widths) + gaps, width or 100)
    console = Console(file=out, width=whole, color_system=None, force_terminal=False)
    console.print(Text(table.title), grid, "", sep="\n")
    for line in (*numbered(table.notes), *table.footer):
        console.print(Text(line, overflow="fold"))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def fitted_widths(columns: Sequence[Sequence[str]], available: int | None) -> list[int]:
    """Return the widths of columns of texts: their longest text, less to fit, never below their longest word."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, texts)) for texts in columns]
    words = [max(cell_len(word) for text in texts for word in text.split() or [""]) for texts in columns]
    while available is not None and sum(widths) > available:
        slack = [width - word for width, word in zip(widths, words, strict=True)]
        if max(slack) <= 0:
            break
        widths[slack.index(max(slack))] -= 1
    return widths


def numbered(notes: Sequence[str]) -> list[str]:
    """Return footnotes with their numbers."""
    return [f"[{n}] {text}" for n, text in enumerate(notes, 1)]


def render_markdown(table: Table) -> str:
    """Return a table in GitHub's Markdown."""
    heads = [[escaped(clean(c.head)) for c in table.columns], ["---:" if c.metric else ":---" for c in table.columns]]
    body = [[escaped(cell.full) for cell in row] for row in table.rows]
    lines = [f"**{escaped(table.title)}**", "", *(f"| {' | '.join(cells)} |" for cells in (*heads, *body)), ""]
    lines += [f"- {escaped(line)}" for line in (*numbered(table.notes), *table.footer)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return text that Markdown prints as it stands."""
    return re.sub(r"([\\|*`<])", r"\\\1", text)


def render_csv(table: Table) -> str:
    """Return the raw numbers of a table, units in the heads; ``notes`` holds what a reader of the numbers must know."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*(head for c in table.columns for head in csv_heads(c)), "notes"])
    for row in table.rows:
        cells = [text for column, cell in zip(table.columns, row, strict=True) for text in csv_cells(column, cell)]
        writer.writerow([*cells, csv_notes(table, row)])
    return out.getvalue()


# What LaTeX reads as a command, and the characters of ours that its fonts call by a name.
LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "…": r"\ldots{}",
    "–": "--",
    "−": "$-$",
    "²": "$^2$",
    "µ": r"$\mu$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "×": r"$\times$",
}
LATEX_DOCUMENT = r"""\documentclass{{article}}
\usepackage{{booktabs,graphicx}}
\usepackage[margin=2cm]{{geometry}}
\begin{{document}}
{body}\end{{document}}
"""


def render_latex(table: Table) -> str:
    """Return a table as a float with booktabs' rules, as wide as the page at most; its notes stand below."""
    columns = "".join("r" if c.metric else "l" for c in table.columns)
    heads = " & ".join(latex(clean(c.head)) for c in table.columns)
    body = [" & ".join(latex(cell.full) for cell in row) + r" \\" for row in table.rows]
    notes = [f"{latex(line)}\\par" for line in (*numbered(table.notes), *table.footer)]
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        f"\\caption{{{latex(table.title)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        f"\\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        heads + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par\medskip\begin{minipage}{\linewidth}\footnotesize\raggedright",
        *notes,
        r"\end{minipage}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    """Return text that LaTeX prints as it stands."""
    return "".join(LATEX.get(c, c) for c in text)


HTML_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>attention-zoo</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.45 system-ui, sans-serif }}
body {{ margin: 2rem auto; max-width: 72rem; padding: 0 1rem }}
figure {{ margin: 0 0 3rem; overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }}
caption {{ font-weight: 600; padding-bottom: .5rem; text-align: left }}
th, td {{ padding: .25rem .75rem; text-align: left }}
thead {{ border-bottom: 1px solid; border-top: 2px solid }}
tbody {{ border-bottom: 2px solid }}
.number {{ text-align: right }}
figcaption {{ font-size: .85rem; max-width: 60rem; padding-top: .5rem }}
figcaption p {{ margin: .1rem 0 }}
</style>
{body}</html>
"""


def render_html(table: Table) -> str:
    """Return a table as a figure with its notes below; every text is escaped."""
    kinds = [' class="number"' if c.metric else "" for c in table.columns]
    heads = "".join(f"<th{k}>{html.escape(clean(c.head))}</th>" for c, k in zip(table.columns, kinds, strict=True))
    body = [
        "<tr>" + "".join(f"<td{k}>{html.escape(cell.full)}</td>" for cell, k in zip(row, kinds, strict=True)) + "</tr>"
        for row in table.rows
    ]
    notes = [f"<p>{html.escape(line)}</p>" for line in (*numbered(table.notes), *table.footer)]
    lines = [
        "<figure><table>",
        f"<caption>{html.escape(table.title)}</caption>",
        f"<thead><tr>{heads}</tr></thead>",
        "<tbody>",
        *body,
        "</tbody></table>",
        "<figcaption>",
        *notes,
        "</figcaption></figure>",
    ]
    return "\n".join(lines) + "\n"


CSV_UNITS = {"1": "", "1/s": "_per_s"}


def csv_heads(column: Column) -> list[str]:
    """Return the heads of a column's parts: ``latency_s, latency_low_s, latency_high_s, latency_status, latency_n``."""
    if not column.metric:
        return [column.name]
    unit = CSV_UNITS.get(column.unit, f"_{column.unit}")
    numbers = [f"{column.name}{part}{unit}" for part in ("", "_low", "_high")]
    return [*numbers, f"{column.name}_status", f"{column.name}_n"]


def csv_cells(column: Column, cell: Cell) -> list[Scalar]:
    """Return a cell's parts; empty where there is none."""
    if not column.metric:
        return [cell.axis]
    if cell.entry is None:
        return [None] * 5
    value = cell.entry.value
    return [value.value, *(value.interval or (None, None)), value.status, value.n]


def csv_notes(table: Table, row: Sequence[Cell]) -> str:
    """Return the footnotes of a row as text."""
    texts = []
    for column, cell in zip(table.columns, row, strict=True):
        texts += [f"{column.name}: {table.notes[n - 1]}" for n in cell.notes]
        if cell.entry and cell.entry.stale:
            texts.append(f"{column.name}: stale")
        if cell.entry and "verdict" in cell.entry.value.detail:
            texts.append(f"{column.name}: {cell.entry.value.detail['verdict']}")
    return "; ".join(texts)


# -- as a data frame -----------------------------------------------------------------------------------------


def load_records(folder: str | Path) -> pd.DataFrame:
    """Return all records below a folder: one row a case and machine, its axes, and of every metric the newest value.

    A metric ``m`` has the columns ``m`` (SI units, fractions for rates), ``m_low``, ``m_high`` (95 % interval) and
    ``m_status``. ``status`` is the gravest of a row, ``stale`` names the metrics taken with an earlier source of the
    plugin, ``time`` is the newest. BadRecords when there are none.
    """
    import pandas as pd

    from zoo.store import load

    found = rows(load(Path(folder)))
    names = list(dict.fromkeys(name for row in found for name in row.values))
    return pd.DataFrame([frame_row(row, axes_of(found), names) for row in found])


def frame_row(row: Row, axes: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Return a row as a flat mapping."""
    flat: dict[str, Any] = {axis: row.axis(axis) for axis in axes}
    for name in names:
        value = row.values[name].value if name in row.values else None
        low, high = (value and value.interval) or (None, None)
        flat |= {name: value and value.value, f"{name}_low": low, f"{name}_high": high}
        flat[f"{name}_status"] = value and value.status
    flat["status"] = gravest(e.value.status for e in row.values.values())
    flat["stale"] = ", ".join(m for m, e in row.values.items() if e.stale)
    flat["time"] = max((e.time for e in row.values.values()), default="")
    return flat
