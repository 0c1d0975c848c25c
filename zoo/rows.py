"""Records to rows: one a case and machine, with the newest values; which rows a table or plot is of."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.case import MODES, Case
from zoo.errors import BadRecords
from zoo.record import CaseRecord, MachineRecord, Value, gravest
from zoo.spec import Scalar, Size

if TYPE_CHECKING:
    import pandas as pd

    from zoo.plan import Known
    from zoo.store import Results

CASE_AXES = tuple(f.name for f in fields(Case) if f.name != "options")
AXES = (*CASE_AXES, "machine")
# Axes that None takes the meaning from (a count of MACs has no device); elsewhere None is a choice (no weights loaded).
MEANINGLESS_WHEN_NONE = ("device", "mode", "threads", "task", "recipe", "seed", "machine")
MISSING = "–"
MODEL_PARTS = 2  # of a plugin's print: the source and the spec of a model; prints of layers follow
# What makes two environments two machines.
HARDWARE = ("cpu", "cores", "gpu")


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


def unknown(model: str) -> Known | None:
    """Return what is known of a model's options where no model is known: None."""
    return None


@dataclass(frozen=True)
class Row:
    """The newest values of one case on one machine (a slug, empty for what needs no machine), by metric.

    ``known(model)`` returns a model's options with their defaults, or None: cases keep only what differs from these.
    They are those of values that were taken with the same spec, and of no older ones.
    """

    case: Case
    machine: str
    values: dict[str, Entry]
    known: Callable[[str], Known | None] = field(default=unknown, compare=False, repr=False)

    def axis(self, name: str) -> Scalar:
        """Return the value of an axis or option; None where it has no meaning, or the option's default is not known."""
        if name == "machine":
            return self.machine or None
        if name in CASE_AXES:
            found: Scalar = getattr(self.case, name)
            return found
        return self.case.options[name] if name in self.case.options else (self.defaults or {}).get(name)

    @property
    def defaults(self) -> Mapping[str, Scalar] | None:
        """The model's options with their defaults; None where these are not known, or may have been others."""
        found = self.known(self.case.model)
        same = found and any(found.mark in entry.fingerprint.get("plugin", "") for entry in self.values.values())
        return found.defaults if found and same else None

    def has_default(self, name: str) -> bool:
        """Tell whether an axis is an option that the case leaves alone, or that its model does not have."""
        return name not in AXES and name not in self.case.options

    def text(self, name: str) -> str:
        """Return the value of an axis as a cell."""
        lacking = self.has_default(name) and self.defaults is not None and name not in self.defaults
        return MISSING if lacking else axis_text(name, self.axis(name))

    @property
    def name(self) -> str:
        """Model, size and machine: what an error message calls the row."""
        return " ".join(filter(None, [self.case.model, self.case.size, self.machine]))


def rows_of(results: Results, known: Callable[[str], Known | None] = unknown) -> list[Row]:
    """Return one row per case and machine, in the order written; ``known`` tells the defaults of a model's options.

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
            leaves.append(Row(case, slug, merged(parts), known))
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
    """Mark the values that were taken with another source or protocol than the newest value of their model.

    The layers that options name have sources of their own, which are told from the newest with the same options.
    """
    newest: dict[tuple[Any, ...], Entry] = {}
    for row in found:
        for alike in (of_model(row), of_options(row)):
            for entry in row.values.values():
                best = newest.setdefault(alike, entry)
                if (entry.time, entry.order) > (best.time, best.order):
                    newest[alike] = entry

    def outdated(row: Row, entry: Entry) -> bool:
        of_any, of_same = (newest[alike].fingerprint for alike in (of_model(row), of_options(row)))
        return differ(own(entry.fingerprint), own(of_any)) or differ(entry.fingerprint, of_same)

    return [
        replace(row, values={m: replace(e, stale=outdated(row, e)) for m, e in row.values.items()}) for row in found
    ]


def of_model(row: Row) -> tuple[Any, ...]:
    return (row.case.model,)


def of_options(row: Row) -> tuple[Any, ...]:
    return row.case.model, "options", *sorted(row.case.options.items())


def own(prints: Mapping[str, str]) -> dict[str, str]:
    """Return prints with that of the plugin cut to the model's own, without those of its layers."""
    return {key: "-".join(said.split("-")[:MODEL_PARTS]) if key == "plugin" else said for key, said in prints.items()}


def differ(old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Tell whether two values are of another source or protocol, as far as both say it."""
    return any(key in old and key in new and old[key] != new[key] for key in ("plugin", "protocol"))


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
    actual, default = row.axis(name), row.has_default(name) and row.text(name) != MISSING
    choices = wanted if isinstance(wanted, list) else [wanted]
    return any((default and choice in (None, "default")) or same(name, actual, choice) for choice in choices)


def same(name: str, actual: Scalar, wanted: Scalar) -> bool:
    if name == "model":
        return fnmatch.fnmatchcase(str(actual), str(wanted))
    if name == "size":
        return str(actual) in {str(wanted), f"{wanted}px", f"{wanted}tok"}
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
        values = merged([old.values, values]) if old else values
        joined[case.id, slug] = replace(row, case=case, machine=slug, values=values)
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
        values = {row.text(name) for row in found if not meaningless(name, row.axis(name))}
        if len(values) > 1:
            added.append(name)
    for name in others:
        looks = [tuple(row.text(a) for a in (*shown, *added)) for row in found]
        if len(set(looks)) == len(found):
            break
        finer = {(look, row.text(name)) for look, row in zip(looks, found, strict=True)}
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
        # An option that some models lack is not the same in all rows; an axis without a meaning in some is.
        values = {row.text(name) for row in found if name not in AXES or row.axis(name) is not None}
        if name not in shown and name != "machine" and len(values) == 1:
            texts.append(f"{name} {values.pop()}")
    return texts


def sort_rows(found: Sequence[Row], axes: Sequence[str]) -> list[Row]:
    """Sort by the axis columns, left to right: models as they came, sizes and numbers by value, names from A on.

    An option that is a name has its default first.
    """
    models = {name: n for n, name in enumerate(dict.fromkeys(row.case.model for row in found))}

    def key(row: Row, name: str) -> tuple[int, tuple[float, ...], str]:
        value = row.axis(name)
        if name == "model":
            return 0, (models[str(value)],), ""
        if name == "size":
            size = Size.parse(str(value))
            return 0, tuple(map(float, size.values)), size.unit
        if name == "mode" and value in MODES:
            return 0, (float(MODES.index(str(value))),), ""
        if isinstance(value, int | float):
            return 0, (float(value),), ""
        return (-1, (), "") if value is None or row.has_default(name) else (1, (), str(value))

    return sorted(found, key=lambda row: [key(row, name) for name in axes])


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


# -- as a data frame -----------------------------------------------------------------------------------------


def load_records(folder: str | Path) -> pd.DataFrame:
    """Return all records below a folder: one row a case and machine, its axes, and of every metric the newest value.

    A metric ``m`` has the columns ``m`` (SI units, fractions for rates), ``m_low``, ``m_high`` (95 % interval) and
    ``m_status``. ``status`` is the gravest of a row, ``stale`` names the metrics taken with an earlier source of the
    plugin, ``time`` is the newest. BadRecords when there are none.
    """
    import pandas as pd

    from zoo.plan import known_options
    from zoo.registry import installed
    from zoo.store import load

    found = rows_of(load(Path(folder)), known_options(installed()))
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
