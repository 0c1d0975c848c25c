"""What the page holds, as plain data: tables, charts, and where every number comes from, each shared text once."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from zoo import tables, units
from zoo.errors import BadSize, ZooError
from zoo.metrics import CONVENTIONS
from zoo.page.folders import Folder, Tell
from zoo.page.general import all_records
from zoo.record import CaseRecord, MachineRecord, Value
from zoo.registry import Registry
from zoo.report import chart_of, table_of
from zoo.rows import MISSING, Entry
from zoo.schema import AnyPlot, AnyTable
from zoo.spec import Size
from zoo.suite import SuiteFile
from zoo.tables import Cell, Column, Table

EXPONENT = "local exponent"
SCALE, SCALE_TITLE = "scale", "Cost against size"  # the folder of zoo scale, which has no suite
STOPS = {
    "tight": "the interval was tight enough",
    "samples": "there were samples enough",
    "budget": "the time for it was spent",
}
# Which optional attributes of a cell are shown, by a number that the page knows: 1 quoted, 2 best.
QUOTED, BEST = 1, 2
# The largest whole number up to which JavaScript knows all.
LONGEST = 2**53


# -- what is kept once ---------------------------------------------------------------------------------------


@dataclass
class Shared:
    """Things that are kept once and referred to by their place."""

    items: list[Any] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def place(self, item: Any) -> int:
        """Return the place of a thing, adding it when it is new."""
        key = item if isinstance(item, str) else json.dumps(item, sort_keys=True, default=str)
        if key not in self.places:
            self.places[key] = len(self.items)
            self.items.append(item)
        return self.places[key]


@dataclass
class Content:
    """Collects what the page holds; ``data`` is all of it."""

    registry: Registry
    plugins: Mapping[str, str] = field(default_factory=dict)
    texts: Shared = field(default_factory=Shared)
    kinds: Shared = field(default_factory=Shared)
    machines: Shared = field(default_factory=Shared)
    fingerprints: Shared = field(default_factory=Shared)
    sources: list[Any] = field(default_factory=list)
    entries: list[Any] = field(default_factory=list)
    sections: list[dict[str, Any]] = field(default_factory=list)
    _sources: dict[tuple[Path, int], int] = field(default_factory=dict)
    _entries: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        return {
            "texts": self.texts.items,
            "kinds": self.kinds.items,
            "machines": self.machines.items,
            "fingerprints": self.fingerprints.items,
            "sources": self.sources,
            "entries": self.entries,
            "sections": self.sections,
        }

    # -- sections --------------------------------------------------------------------------------------------

    def add_folder(self, folder: Folder, tell: Tell, title: str = "") -> None:
        """Add the tables and charts that a folder's suite declares; one that cannot be made is a sentence."""
        parts: list[dict[str, Any]] = [{"problem": folder.problem}] if folder.problem else []
        if file := folder.file:
            for table in file.suite.tables:
                tell(f"{folder.name}: {table.title}")
                parts.append(self.attempt(table.title, partial(self.declared, table, file, folder)))
            for plot in file.suite.plots:
                tell(f"{folder.name}: {plot.title}")
                parts.append(self.attempt(plot.title, partial(self.chart, plot, file, folder)))
        if folder.name == SCALE:
            parts += self.curves(folder)
        if parts:
            shown = title or (SCALE_TITLE if folder.name == SCALE else folder.title)
            self.sections.append({"name": folder.label, "title": units.clean(shown), "parts": parts})

    def attempt(self, title: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a part of the page, or the sentence that stands in its place."""
        try:
            return {"title": units.clean(title), **make()}
        except ZooError as error:
            return {"title": units.clean(title), "problem": units.clean(str(error))}

    def declared(self, spec: AnyTable, file: SuiteFile, folder: Folder) -> dict[str, Any]:
        """Return a table that a suite declares."""
        return {"table": self.table(table_of(spec, file, folder.rows, self.registry), lambda _: folder)}

    def chart(self, plot: AnyPlot, file: SuiteFile, folder: Folder) -> dict[str, Any]:
        """Return a plot as vega-lite's JSON, the same that is saved as SVG."""
        return drawn(chart_of, plot, file, folder.rows, self.registry)

    def curves(self, folder: Folder) -> Iterator[dict[str, Any]]:
        """Yield a chart of each metric that zoo scale measured, with the laws that it follows."""
        from zoo import curves, scale

        found = scale.kept(folder.results, self.registry)
        for metric in dict.fromkeys(curve.metric for curve in found.curves if any(p.cost for p in curve.points)):
            title = f"{tables.metric_title(metric)} against size"
            yield self.attempt(title, partial(drawn, curves.draw, found, metric))

    def add_all(self, folders: Sequence[Folder]) -> None:
        """Add the table of all records."""
        table, owners = all_records(folders)
        part = {"title": table.title, "table": {**self.table(table, lambda n: owners[n]), "all": True}}
        self.sections.append({"name": "all", "title": table.title, "parts": [part]})

    # -- tables ----------------------------------------------------------------------------------------------

    def table(self, table: Table, owner: Callable[[int], Folder]) -> dict[str, Any]:
        """Return a table as data; ``owner`` tells which folder a row is from."""
        columns = [self.column(n, column, table) for n, column in enumerate(table.columns)]
        rows = []
        for n, row in enumerate(table.rows):
            folder = owner(n)
            pairs = zip(table.columns, columns, row, strict=True)
            rows.append([self.cell(column, made, cell, folder) for column, made, cell in pairs])
        for column in columns:
            column.pop("_places", None)
        return {"columns": columns, "rows": rows, "notes": list(table.notes), "footer": list(table.footer)}

    def column(self, n: int, column: Column, table: Table) -> dict[str, Any]:
        """Return a column; one of an axis lists its values, and the place of each in order."""
        head = {"head": units.clean(column.head), "name": column.name}
        if column.right or any(row[n].entry for row in table.rows):
            return {**head, "metric": True}
        keys = {row[n].text: sort_key(row[n]) for row in table.rows}
        order = {key: n for n, key in enumerate(sorted({key for key in keys.values() if key is not None}))}
        ranks = [order[key] if key is not None else None for key in keys.values()]
        return {**head, "values": list(keys), "ranks": ranks, "_places": {text: i for i, text in enumerate(keys)}}

    def cell(self, column: Column, made: Mapping[str, Any], cell: Cell, folder: Folder) -> Any:
        """Return a cell: the place of an axis value, or [entry, text, marks, flags]; None where there is nothing."""
        marks = cell.full[len(cell.text) :].strip() if cell.full.startswith(cell.text) else ""
        flags = QUOTED * cell.quoted + BEST * cell.best
        if cell.entry is not None:
            return trimmed([self.entry(cell.entry, column, folder, cell.text), cell.text, marks, flags or None])
        if "metric" not in made:
            place = made["_places"][cell.text]
            return trimmed([place, marks, flags or None]) if marks or flags else place
        if cell.text in ("", MISSING) and not marks:
            return None
        order = cell.axis if isinstance(cell.axis, float) else leading_number(cell.text)
        return [-1, cell.text, marks, flags, order]

    # -- provenance ------------------------------------------------------------------------------------------

    def entry(self, entry: Entry, column: Column, folder: Folder, shown: str) -> int:
        """Return the place of a number with where it comes from; what was made of records is told as ``shown``."""
        value = entry.value
        metric, made = metric_of(entry, column.name, folder), made_of(value)
        key = (folder.path, entry.order, metric, value.convention, value.value, entry.stale)
        if key not in self._entries:
            self._entries[key] = len(self.entries)
            text = shown if made else units.value_text(value, None, units.scales_of(metric, [value]))[0]
            numbers = map(number, (value.value, *(value.interval or (None, None)), value.n))
            kind = kind_of(entry, metric) | ({"title": units.clean(column.head)} if made else {})
            head = [self.kinds.place(kind), self.source(entry, folder), text]
            self.entries.append(trimmed([*head, *numbers, 1 if entry.stale else None]))
        return self._entries[key]

    def source(self, entry: Entry, folder: Folder) -> int:
        """Return the place of the record that a number comes from."""
        key = (folder.path, entry.order)
        if key not in self._sources:
            record = folder.results.records[entry.order] if entry.order < len(folder.results.records) else None
            plugin = record.plugin if record else ""
            self._sources[key] = len(self.sources)
            self.sources.append(
                [
                    units.clean(entry.case.id),
                    self.texts.place(plugin_text(plugin, entry.case.model, self.registry)),
                    self.machine(entry),
                    entry.time,
                    self.fingerprints.place(entry.fingerprint),
                    self.texts.place(condition_text(entry.conditions)),
                    self.texts.place(self.command(entry, plugin, folder)),
                ]
            )
        return self._sources[key]

    def machine(self, entry: Entry) -> int:
        """Return the place of a machine; -1 for what needs none."""
        if entry.machine is None and not entry.environment:
            return -1
        return self.machines.place(machine_data(entry.machine, entry.environment))

    def command(self, entry: Entry, plugin: str, folder: Folder) -> str:
        """Return the command that takes a number again; empty where no suite of the folder's name is known."""
        if folder.file is None:
            return ""
        case = entry.case
        words = ["zoo", "run", folder.name, "--models", case.model, "--set", f"size={case.size}"]
        words += ["--device", case.device] if case.device not in (None, "cpu") else []
        words += ["--plugin", self.plugins[plugin]] if plugin in self.plugins else []
        return shlex.join([*words, "--fresh"])


def trimmed(items: list[Any]) -> list[Any]:
    """Return a list without the empty things at its end; a zero is not empty."""
    while items and items[-1] in (None, ""):
        items.pop()
    return items


def number(x: int | float | None) -> float | str | None:
    """Return a number as JavaScript can hold it: text where it is too long, None where it is no number."""
    if isinstance(x, int):
        return x if abs(x) <= LONGEST else str(x)
    return x if x is not None and math.isfinite(x) else None


def leading_number(text: str) -> float | None:
    """Return the number that a text begins with."""
    match = re.match(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", text.replace(",", ""))
    return float(match[0]) if match else None


def sort_key(cell: Cell) -> tuple[int, tuple[float, ...], str] | None:
    """Return what an axis value sorts by: numbers, then sizes by value, then text; None for what is missing."""
    value = cell.axis
    if cell.text in ("", MISSING):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, (float(value),), ""
    try:
        size = Size.parse(cell.text)
    except BadSize:
        return 2, (), re.sub(r"\d+", lambda m: m[0].zfill(9), cell.text.casefold())
    return 1, tuple(map(float, size.values)), size.unit


def metric_of(entry: Entry, column: str, folder: Folder) -> str:
    """Return the name of an entry's metric; a column is not always called by it."""
    records = folder.results.records
    metrics: Mapping[str, Value] = records[entry.order].metrics if entry.order < len(records) else {}
    if column in metrics:
        return column
    return next((name for name, value in metrics.items() if value.detail is entry.value.detail), column)


def made_of(value: Value) -> str:
    """Say what a value was made of that is no record's own; empty for one that is."""
    if over := value.detail.get("over"):
        return f"a mean over {over}, {value.detail['images']} images; the case below is one of their sizes"
    return "of the law fitted to all sizes; the case below is the largest" if value.convention == EXPONENT else ""


def kind_of(entry: Entry, metric: str) -> dict[str, Any]:
    """Return what many numbers have in common: metric, unit, convention, how it is known, what must be said."""
    value = entry.value
    notes = tables.Notes([entry])
    notes.of(entry)
    reason = units.clean(value.reason)
    kind = {
        "metric": metric,
        "title": tables.metric_title(metric, value.convention),
        "unit": "" if value.unit == "1" else value.unit,
        "status": value.status,
        "reason": reason,
        "convention": value.convention,
        "words": CONVENTIONS.get(value.convention, ""),
        "interval": tables.interval_words(metric, [value]) if value.interval else "",
        "stop": STOPS.get(value.stop, value.stop),
        "notes": [text for text in (*notes.texts, made_of(value)) if text not in ("", reason)],
    }
    return {name: said for name, said in kind.items() if said}


def plugin_text(plugin: str, model: str, registry: Registry) -> str:
    """Name the plugin, and say where the model is not registered here."""
    known = model in registry.models or model in registry.layers or registry.namespace(model)
    missing = "" if known else "; its model is not registered here: install the plugin, or give it with --plugin"
    return (plugin or "not stated") + missing


def condition_text(conditions: Mapping[str, Any]) -> str:
    """Say what went on beside a measurement."""
    words = {
        "cores": lambda v: f"on core{'s' if len(v) != 1 else ''} {', '.join(map(str, v))}",
        "others": lambda v: f"other processes kept {v:.2f} cores busy",
        "steal": lambda v: f"the host took {v:.1%} of the cores' time",
        "load": lambda v: f"load {v if isinstance(v, list) else f'{v:.2f}'}",
        "noise": lambda v: f"a case differed from itself by at most {v:.1%} in that run",
    }
    parts = []
    for name, value in conditions.items():
        try:
            parts.append(words[name](value))
        except (KeyError, TypeError, ValueError):
            parts.append(f"{name} {value}")
    return units.clean("; ".join(parts))


def machine_data(machine: MachineRecord | None, identity: str) -> dict[str, Any]:
    """Return a machine's name, its description on one line, and all that was recorded of it."""
    if machine is None:
        return {"name": identity, "text": "its record is missing, so hardware and versions are not known", "all": []}
    pairs = [(k, v) for k, v in flat(machine.environment) if v not in (None, "")]
    return {"name": machine.slug, "text": tables.machine_text(machine.environment), "all": pairs}


def flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested data as pairs of texts."""
    pairs = []
    for name, value in data.items():
        if isinstance(value, Mapping):
            pairs += flat(value, f"{prefix}{name} ")
        elif prefix + name == "memory" and isinstance(value, int):
            pairs.append((name, f"{value / 2**30:.1f} GiB"))
        else:
            pairs.append((prefix + name, str(value)))
    return pairs


# -- charts --------------------------------------------------------------------------------------------------


def drawn(draw: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """Return a chart as vega-lite's JSON."""
    return {"chart": draw(*args).to_dict()}


def zoo_versions(records: Iterable[CaseRecord], machines: Mapping[str, MachineRecord]) -> list[str]:
    """Return the versions of the zoo that measured."""
    used = {r.environment for r in records}
    return sorted({str(m.environment["zoo"]) for i, m in machines.items() if i in used and "zoo" in m.environment})
