"""Several trainings as one row: the mean over seeds, and how far seeds differ."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace

from zoo.record import Value
from zoo.rows import Entry, Row


def over_seeds(found: Sequence[Row]) -> list[Row]:
    """Join the rows that differ in nothing but the seed."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        groups.setdefault((replace(row.case, seed=None).id, row.machine), []).append(row)
    return [joined(rows) if rows[0].case.seed is not None else rows[0] for rows in groups.values()]


def joined(rows: Sequence[Row]) -> Row:
    """Return one row for all seeds: what no seed had a say in is the newest."""
    names = dict.fromkeys(name for row in rows for name in row.values)
    values = {name: mean_of([row.values[name] for row in rows if name in row.values]) for name in names}
    return replace(rows[0], case=replace(rows[0].case, seed=None), values=values)


def mean_of(entries: Sequence[Entry]) -> Entry:
    """Return the mean of what seeds reached, or the newest of what is the same for all.

    Its interval is the mean of theirs: how sure it is of the samples that it was tested on. One seed that failed makes
    the mean fail.
    """
    newest = max(entries, key=lambda entry: entry.order)
    seeds = [entry.case.seed for entry in entries]
    failed = next((entry for entry in entries if entry.value.status != "ok"), None)
    if failed or len(set(seeds)) < 2:
        return failed or newest
    values = [float(entry.value.value or 0) for entry in entries]
    intervals = [entry.value.interval or (v, v) for entry, v in zip(entries, values, strict=True)]
    low, high = (statistics.fmean(ends) for ends in zip(*intervals, strict=True))
    detail = {**newest.value.detail, "seeds": seeds, "by_seed": values}
    value = replace(newest.value, value=statistics.fmean(values), interval=(low, high), detail=detail)
    return replace(newest, value=value, case=replace(newest.case, seed=None))


def seed_lines(name: str, values: Sequence[Value]) -> Iterator[str]:
    """Yield how many seeds the means of a metric are of, and how far they differ."""
    several = [value.detail["by_seed"] for value in values if "by_seed" in value.detail]
    if several:
        counts = sorted({len(found) for found in several})
        most = max(max(found) - min(found) for found in several)
        scale, unit = (100, " points") if max(map(max, several)) <= 1 else (1, "")
        said = f"{counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
        differ = f"which differ by up to {scale * most:.1f}{unit}"
        yield f"{name}: mean of {said} seeds, {differ}; its interval is the mean of theirs."
