"""The Pareto front: which of some rows no other one beats, by two metrics. Numbers in, numbers out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from types import MappingProxyType

from zoo import registry
from zoo.errors import BadRecords
from zoo.metrics import METRICS
from zoo.scores import COCO_BOXES, PANOPTIC_QUALITY

Pair = tuple[float | None, float | None]

# Metrics of tasks whose plugin need not be installed where records are read, and whether more of them is better.
HIGHER = ("top1", "top5", "exact_match", "bleu", *(metric.name for metric in (*COCO_BOXES, *PANOPTIC_QUALITY)))
TASK_METRICS = MappingProxyType({**dict.fromkeys(HIGHER, True), "loss": False, "perplexity": False})


def front(pairs: Iterable[Pair], higher: tuple[bool, bool] = (False, True)) -> list[bool]:
    """Tell of each pair of values whether no other one dominates it; ``higher`` says where more is better.

    One dominates another when it is nowhere worse and somewhere better, so ties stay. A pair that lacks a value is
    not on the front and dominates nothing.
    """
    all_costs = [cost_of(pair, higher) for pair in pairs]
    costs = {n: cost for n, cost in enumerate(all_costs) if cost}
    found = [False] * len(all_costs)
    least = math.inf
    for _, members in itertools.groupby(sorted(costs, key=costs.__getitem__), key=lambda n: costs[n][0]):
        alike = list(members)  # of one first cost, the least second cost first
        best = costs[alike[0]][1]
        if best < least:
            least = best
            for n in alike:
                found[n] = costs[n][1] == best
    return found


def cost_of(pair: Pair, higher: tuple[bool, bool]) -> tuple[float, float] | None:
    """Return two numbers of which less is better; None where one is missing or not finite."""
    x, y = pair
    if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
        return None
    return -x if higher[0] else x, -y if higher[1] else y


def task_metrics() -> dict[str, bool]:
    """Return the metrics of tasks that are known by name or installed, and whether more of them is better."""
    installed = registry.installed().tasks.values()
    return {**TASK_METRICS, **{own.name: own.higher_is_better for task in installed for own in task.metrics}}


def higher_is_better(metric: str) -> bool:
    """Tell whether more of a metric is better: as the harness, an installed task, or else its name says.

    BadRecords where none of them does, for a front in the wrong direction would look right.
    """
    if metric in METRICS:
        return METRICS[metric].higher_is_better
    known = task_metrics()
    if metric not in known:
        raise BadRecords(
            f"whether more or less of {metric} is better is not known: no task that is installed here has this metric"
        )
    return known[metric]
