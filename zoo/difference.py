"""Two result folders, of two commits or two machines: what changed of what both have measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from zoo import store
from zoo.metrics import METRICS
from zoo.record import CaseRecord, Value

# What two runs of the same code may differ by that neither of them saw: each is one process, at one time.
BETWEEN_RUNS = 0.05


@dataclass(frozen=True)
class Change:
    """One metric of one case in both folders: ``ratio`` is b's value over a's, and ``verdict`` is told of b.

    ``same``, ``better`` or ``worse``; ``ambiguous`` where the interval does not tell; empty where no verdict may be
    given, and ``note`` says why.
    """

    case: str
    metric: str
    a: float | None
    b: float | None
    ratio: float | None
    interval: tuple[float, float] | None
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class Agreement:
    """How far the cases of one metric are apart: their number, how many are near enough, and B / A at both ends."""

    metric: str
    cases: int
    within: int
    lowest: float
    highest: float


def changes(a: Path, b: Path, margin: float = BETWEEN_RUNS) -> Iterator[Change]:
    """Yield every metric of every case that both folders have, in a's order. BadRecords when one has no records.

    Medians that are less than ``margin`` apart, a share of A's, are no difference.
    """
    before, after = newest(store.load(a)), newest(store.load(b))
    for key, first in before.items():
        if key in after:
            yield change(key, first, after[key], margin)


def agreements(found: Iterable[Change], margin: float = BETWEEN_RUNS) -> Iterator[Agreement]:
    """Yield how far two runs agree in each metric that is measured on a machine, whatever the verdicts."""
    ratios: dict[str, list[float]] = {}
    for one in found:
        if one.ratio is not None and one.metric in METRICS and METRICS[one.metric].phase != "static":
            ratios.setdefault(one.metric, []).append(one.ratio)
    for metric, apart in ratios.items():
        near = sum(1 - margin <= ratio <= 1 + margin for ratio in apart)
        yield Agreement(metric, len(apart), near, min(apart), max(apart))


def newest(results: store.Results) -> dict[tuple[str, str], tuple[CaseRecord, str]]:
    """Return the newest record of each case and metric, with the machine that it comes from."""
    slugs = {machine.id: machine.slug for machine in results.machines.values()}
    return {
        (record.case.id, metric): (record, slugs.get(record.environment, ""))
        for record in results.records
        for metric in record.metrics
    }


def change(
    key: tuple[str, str], before: tuple[CaseRecord, str], after: tuple[CaseRecord, str], margin: float
) -> Change:
    """Compare one metric."""
    case, metric = key
    (first, machine_a), (second, machine_b) = before, after
    a, b = first.metrics[metric], second.metrics[metric]
    if a.status != "ok" or b.status != "ok":
        verdict = "same" if a.status == b.status else "worse" if a.status == "ok" else "better"
        return Change(case, metric, a.value, b.value, None, None, verdict, f"{a.status} -> {b.status}")
    assert a.value is not None
    assert b.value is not None
    ratio = b.value / a.value if a.value else math.inf if b.value else 1.0
    interval = of_medians(a, b) if a.samples and b.samples else None
    if machine_a != machine_b:
        note = f"two machines, {machine_a} and {machine_b}: no verdict"
        return Change(case, metric, a.value, b.value, ratio, interval, "", note)
    better_if_more = METRICS[metric].higher_is_better if metric in METRICS else True
    verdict = judged(ratio, interval, (a, b), better_if_more, margin)
    return Change(case, metric, a.value, b.value, ratio, interval, verdict)


def judged(
    ratio: float, interval: tuple[float, float] | None, values: tuple[Value, Value], better_if_more: bool, margin: float
) -> str:
    """Tell what may be said of b."""
    a, b = values
    verdict = "better" if (ratio > 1) == better_if_more else "worse"
    if interval is None:
        if a.interval and b.interval and a.interval[0] <= b.interval[1] and b.interval[0] <= a.interval[1]:
            return "same" if a.value == b.value else "ambiguous"
        return "same" if ratio == 1 else verdict
    low, high = interval
    if low >= 1 - margin and high <= 1 + margin:
        return "same"
    return verdict if abs(math.log(ratio)) > math.log1p(margin) and not low <= 1 <= high else "ambiguous"


def of_medians(a: Value, b: Value) -> tuple[float, float] | None:
    """Return the interval of the ratio of two medians, from the two intervals; None where there is none."""
    if a.interval is None or b.interval is None or not a.value or not b.value:
        return None
    spread = math.hypot(*(math.log(v.interval[1] / v.interval[0]) / 2 for v in (a, b) if v.interval))
    middle = b.value / a.value
    return middle * math.exp(-spread), middle * math.exp(spread)
