"""Append-only JSON Lines: a case is on disk before the next one is measured; reading merges per metric, newest first.

``<folder>/static.jsonl`` holds what needs no machine, ``<folder>/<machine>/records.jsonl`` the rest.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo import jsonio
from zoo.errors import BadRecords
from zoo.record import SCHEMA, CaseRecord, ComparisonRecord, MachineRecord

STATIC = "static.jsonl"
RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Results:
    """All records of a folder, in the order written, and the machines they refer to."""

    records: tuple[CaseRecord, ...] = ()
    machines: dict[str, MachineRecord] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    comparisons: tuple[ComparisonRecord, ...] = ()


def load(folder: Path) -> Results:
    """Read every record below a folder. BadRecords when there is none; what cannot be read is a warning."""
    files = sorted(folder.rglob("*.jsonl"), key=lambda f: (f.name != STATIC, str(f)))
    if not files:
        raise BadRecords(f"there are no records in {folder}; zoo run SUITE writes them")
    return read_files(files)


def read_files(files: list[Path]) -> Results:
    """Read record files. A torn last line is the trace of a run that was killed, and is passed over."""
    records: list[CaseRecord] = []
    comparisons: list[ComparisonRecord] = []
    machines: dict[str, MachineRecord] = {}
    warnings: list[str] = []
    for file in files:
        for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                record = parse(json.loads(line))
            except ValueError as error:
                first = " ".join(str(error).split())[:120]
                warnings.append(f"{file}:{number}: not a record, passed over: {first}")
                continue
            if isinstance(record, MachineRecord):
                machines[record.id] = record
            elif isinstance(record, ComparisonRecord):
                comparisons.append(record)
            else:
                records.append(record)
    return Results(tuple(records), machines, tuple(warnings), tuple(comparisons))


Record = CaseRecord | ComparisonRecord | MachineRecord


def parse(data: Any) -> Record:
    """Return one line's data as a record. ValueError when it is none that this version knows."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"expected a record of schema {SCHEMA}")
    if data.get("kind") == "machine":
        return jsonio.from_json(MachineRecord, without(data, "id"))
    if data.get("kind") == "comparison":
        return jsonio.from_json(ComparisonRecord, without(data, "id"))
    return jsonio.from_json(CaseRecord, without(data, "id", "key", "status"))


def without(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return a mapping less some keys."""
    return {k: v for k, v in data.items() if k not in names}


def line_of(record: Record) -> bytes:
    """Return a record as one line of JSON, ``schema`` first, empty fields left out, derived ones written along."""
    data = jsonio.to_json(record)
    head: dict[str, Any] = {"schema": data.pop("schema"), "kind": data.pop("kind")}
    if isinstance(record, CaseRecord):
        head |= {"id": record.case.id, "key": record.key, "status": record.status}
        data["case"] = compact_case(data["case"])
        data["metrics"] = {name: compact(value) for name, value in data["metrics"].items()}
    else:
        head |= {"id": record.id}
    if isinstance(record, ComparisonRecord):
        data |= {"a": compact_case(data["a"]), "b": compact_case(data["b"])}
    return json.dumps(head | data, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def compact_case(case: dict[str, Any]) -> dict[str, Any]:
    """Leave out the axes of a case that have no meaning there."""
    return {k: v for k, v in case.items() if v not in (None, {}) or k in ("device", "mode")}


def compact(value: dict[str, Any]) -> dict[str, Any]:
    """Leave out the fields of a value that say nothing."""
    return {name: content for name, content in value.items() if content not in (None, "", [], {})}


@dataclass
class Store:
    """The records of one suite on one machine, open for appending. Use it as a context: it holds a lock."""

    folder: Path
    machine: str
    newest: dict[tuple[str, str], CaseRecord] = field(default_factory=dict)
    machines: set[str] = field(default_factory=set)
    warnings: tuple[str, ...] = ()
    _lock: int | None = None

    @property
    def files(self) -> tuple[Path, Path]:
        """The two files: what needs no machine, and the rest."""
        return self.folder / STATIC, self.folder / self.machine / RECORDS

    @property
    def checkpoints(self) -> Path:
        """Where trainings are kept, for all suites: their names tell all that they depend on."""
        return self.folder.parent / "checkpoints"

    def __enter__(self) -> Store:
        """Lock the folder against a second run, cut off a torn last line, and read what is there."""
        self.files[1].parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise BadRecords(f"another run is writing to {self.folder}; wait for it, or give --out") from None
        for file in self.files:
            cut_torn_line(file)
        self.read()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read(self) -> Store:
        """Fill the index from the files that exist."""
        results = read_files([file for file in self.files if file.exists()])
        self.warnings = results.warnings
        self.machines = set(results.machines)
        for record in results.records:
            self._index(record)
        return self

    def append(self, record: Record) -> None:
        """Write one record to disk, and wait until it is there; a machine that is known is not written again."""
        if isinstance(record, MachineRecord) and record.id in self.machines:
            return
        static = isinstance(record, CaseRecord) and record.case == record.case.for_phase("static")
        with self.files[0 if static else 1].open("ab") as file:
            file.write(line_of(record))
            file.flush()
            os.fsync(file.fileno())
        if isinstance(record, MachineRecord):
            self.machines.add(record.id)
        elif isinstance(record, CaseRecord):
            self._index(record)

    def _index(self, record: CaseRecord) -> None:
        for name in record.metrics:
            self.newest[record.case.id, name] = record


def cut_torn_line(file: Path) -> None:
    """Cut off what follows the last line end: a line that a killed run did not finish."""
    if not file.exists():
        return
    content = file.read_bytes()
    if content and not content.endswith(b"\n"):
        with file.open("r+b") as handle:
            handle.truncate(content.rfind(b"\n") + 1)
