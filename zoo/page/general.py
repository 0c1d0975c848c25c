"""One table of all records, whatever suite they are from, with nothing mixed in a column that may not be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zoo import rows, tables, units
from zoo.metrics import CONVENTIONS, METRICS
from zoo.page.folders import Folder
from zoo.record import Value
from zoo.rows import MISSING, Row
from zoo.spec import Scalar
from zoo.tables import Cell, Column, Table
from zoo.units import Scale


@dataclass(frozen=True)
class Variant:
    """A column of a metric in one convention and unit. The first of a metric holds what failed, too."""

    metric: str
    convention: str
    unit: str
    head: str
    scale: Scale | None
    scales: tuple[Scale, ...]
    first: bool

    def cell(self, row: Row) -> Cell:
        """Return a row's cell, empty where its value belongs to another variant."""
        entry = row.values.get(self.metric)
        if entry is None or not (self.first if entry.value.status != "ok" else self.holds(entry.value)):
            return Cell(MISSING)
        return Cell(units.value_text(entry.value, self.scale, self.scales)[0], entry=entry)

    def holds(self, value: Value) -> bool:
        """Tell whether a value is in this convention and unit."""
        return (value.convention, value.unit) == (self.convention, self.unit)


def all_records(folders: Sequence[Folder]) -> tuple[Table, list[Folder]]:
    """Return one table of every row, and the folder of each. A metric in two conventions or units has two columns."""
    owners = [folder for folder in folders for _ in folder.rows]
    found = [row for folder in folders for row in folder.rows]
    axes, variants = shown_axes(found), metric_variants(found)
    heads = [Column(name, tables.axis_head(name), False) for name in axes]
    suite = [Column("suite", "Suite", False)] if len(folders) > 1 else []
    columns = (*heads[:1], *suite, *heads[1:], *(Column(v.metric, v.head, True, v.unit) for v in variants))
    lines = []
    for folder, row in zip(owners, found, strict=True):
        line = [Cell(units.clean(row.text(name)), axis=row.axis(name)) for name in axes]
        line[1:1] = [Cell(units.clean(folder.label), axis=folder.label)] if suite else []
        lines.append((*line, *(variant.cell(row) for variant in variants)))
    return Table("All records", columns, tuple(lines), (), all_footer(found, axes, variants)), owners


def all_footer(found: Sequence[Row], axes: Sequence[str], variants: Sequence[Variant]) -> tuple[str, ...]:
    """Say how the columns were counted or measured, what all rows have in common, and what the machines are."""
    named = dict.fromkeys((tables.metric_title(v.metric, v.convention), v.convention) for v in variants if v.convention)
    constant = rows.constant_axes(found, axes)
    used = [entry for row in found for entry in row.values.values()]
    lines = [f"{title}: {CONVENTIONS.get(convention, convention)}." for title, convention in named]
    lines += [f"All rows: {', '.join(constant)}."] if constant else []
    return tuple(map(units.clean, [*lines, *tables.machine_lines(used)]))


def shown_axes(found: Sequence[Row]) -> list[str]:
    """Return model and size, and every axis that varies."""
    varying = []
    for name in rows.axes_of(found):
        values: set[Scalar] = {row.text(name) for row in found}
        if len(values - {MISSING}) > 1 and name not in ("model", "size"):
            varying.append(name)
    return ["model", "size", *varying]


def metric_variants(found: Iterable[Row]) -> list[Variant]:
    """Return the columns of all metrics, in the harness's order."""
    values: dict[str, dict[tuple[str, str], list[Value]]] = {}
    for row in found:
        for name, entry in row.values.items():
            held = values.setdefault(name, {})
            if entry.value.status == "ok":
                held.setdefault((entry.value.convention, entry.value.unit), []).append(entry.value)
    order = [*(name for name in METRICS if name in values), *(name for name in values if name not in METRICS)]
    variants = []
    for name in order:
        for n, ((convention, unit), these) in enumerate((values[name] or {("", "1"): []}).items()):
            head, scale = variant_head(name, convention, these, len(values[name]) > 1)
            variants.append(Variant(name, convention, unit, head, scale, units.scales_of(name, these), n == 0))
    return variants


def variant_head(name: str, convention: str, values: Sequence[Value], several: bool) -> tuple[str, Scale | None]:
    """Return the head of a column and its unit, where it has one that suits all values."""
    scale = units.common_scale(name, values)
    title = tables.metric_title(name, convention) + (f", {convention}" if several and convention else "")
    return (f"{title} ({scale.label})" if values and scale and scale.label else title), scale
