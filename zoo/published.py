"""Published numbers: quoted with their source, never mixed with what was measured here."""

from __future__ import annotations

import csv
import fnmatch
import functools
from dataclasses import dataclass

from zoo.resources import folder


@dataclass(frozen=True)
class Published:
    """One number as its source prints it, with the convention it was counted or measured in."""

    system: str
    variant: str
    task: str
    metric: str
    value: str
    unit: str
    resolution_or_seqlen: str
    convention: str
    source: str
    confidence: str


@functools.cache
def read() -> tuple[Published, ...]:
    """Return every published number that ships with the zoo."""
    found = []
    for file in sorted(folder("published").glob("*.csv")):
        with file.open(newline="", encoding="utf-8") as lines:
            found += [Published(**row) for row in csv.DictReader(lines)]
    return tuple(found)


def of(system: str, *variants: str) -> list[Published]:
    """Return the published numbers of a system's variants, given by name or glob."""
    return [p for p in read() if p.system == system and any(fnmatch.fnmatchcase(p.variant, v) for v in variants)]
