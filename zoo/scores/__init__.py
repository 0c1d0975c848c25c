"""What predictions are worth: metrics of tasks, with their intervals. Predictions and targets in, numbers out.

Here are the metrics of those scores that several tasks have, by the names that ``zoo.scores.*`` give them.
"""

from __future__ import annotations

from collections.abc import Iterable

from zoo.spec import Metric


def shares(names: Iterable[str]) -> tuple[Metric, ...]:
    """Return metrics from 0 to 1, of which more is better, with the interval of images drawn again."""
    return tuple(Metric(name, higher_is_better=True, interval="bootstrap") for name in names)


COCO_BOXES = shares(("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"))
PANOPTIC_QUALITY = shares(f"{name}{part}" for part in ("", "_things", "_stuff") for name in ("PQ", "SQ", "RQ"))
