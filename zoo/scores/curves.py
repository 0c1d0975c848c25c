"""Average precision and recall as COCO takes them, for many redrawings of the images at once.

An image that was drawn twice weighs twice. That equals COCOeval's own accumulation over a list of images that holds it
twice: precision is read off its upper envelope, which only right detections raise, and a right detection that is
repeated leaves the envelope where its last copy puts it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.scores.bootstrap import Counts, Values

RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Ranking:
    """The detections of one category and range of areas, in all images, best first.

    ``image`` (D,) is the image of a detection and ``place`` (D,) its rank there, from 0; ``right`` and ``wrong``
    (T, D) tell what it is at each threshold of IoU: one, the other, or neither where COCO ignores it. ``objects`` (I,)
    is how many objects an image has to be found.
    """

    image: NDArray[np.int64]
    place: NDArray[np.int64]
    right: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    objects: NDArray[np.int64]

    @classmethod
    def of(cls, evaluated: Sequence[Mapping[str, Any] | None], thresholds: int) -> Ranking:
        """Join what COCOeval found in each image, None where it found nothing to evaluate."""
        found = [(i, e) for i, e in enumerate(evaluated) if e is not None]
        scores = np.concatenate([np.empty(0), *(e["dtScores"] for _, e in found)])
        order = np.argsort(-scores, kind="stable")
        nothing = np.empty((thresholds, 0), dtype=bool)
        matched = np.concatenate([nothing, *(e["dtMatches"] > 0 for _, e in found)], axis=1)[:, order]
        ignored = np.concatenate([nothing, *(e["dtIgnore"] for _, e in found)], axis=1)[:, order]
        objects = np.zeros(len(evaluated), dtype=np.int64)
        objects[[i for i, _ in found]] = [np.count_nonzero(e["gtIgnore"] == 0) for _, e in found]
        empty = np.empty(0, dtype=np.int64)
        image = np.concatenate([empty, *(np.full(len(e["dtScores"]), i) for i, e in found)])[order]
        place = np.concatenate([empty, *(np.arange(len(e["dtScores"])) for _, e in found)])[order]
        return cls(image, place, matched & ~ignored, ~matched & ~ignored, objects)

    def recall(self, draws: Counts, most: int) -> Values:
        """Return the recall (B, T) of the best ``most`` detections an image; NaN in draws (B, I) without objects."""
        weights = (draws[:, self.image] * (self.place < most)).astype(np.float64)  # (B, D)
        return self._per_object(weights @ self.right.T.astype(np.float64), draws)

    def precision(self, draws: Counts) -> Values:
        """Return the average precision (B, T) over the levels of recall; NaN in draws (B, I) without objects."""
        totals = draws @ self.objects  # (B,)
        needed = np.stack([_needed(int(total)) for total in totals])  # (B, R)
        weights = draws[:, self.image]  # (B, D)
        found = [_envelope(weights, right, wrong, needed) for right, wrong in zip(self.right, self.wrong, strict=True)]
        return np.where(totals[:, None] > 0, np.stack(found, axis=1), np.nan)

    def _per_object(self, found: Values, draws: Counts) -> Values:
        totals = (draws @ self.objects)[:, None]
        return np.where(totals > 0, found / np.maximum(totals, 1), np.nan)


def _needed(total: int) -> Counts:
    """Return how many of ``total`` objects must be found (R,) to reach each level of recall."""
    return np.searchsorted(np.arange(total + 1) / max(total, 1), RECALLS, side="left")


def _envelope(weights: Counts, right: NDArray[np.bool_], wrong: NDArray[np.bool_], needed: Counts) -> Values:
    """Return the mean (B,) over the levels of recall of the best precision at that recall or a higher one."""
    hits = np.flatnonzero(right)
    draws = len(weights)
    if not len(hits):
        return np.zeros(draws)
    found = np.cumsum(weights[:, hits], axis=1)  # (B, n): right ones so far
    false = np.cumsum(weights * wrong, axis=1)[:, hits]  # (B, n): wrong ones so far
    precision = found / (found + false + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    best = np.concatenate([best, np.zeros((draws, 1))], axis=1)  # beyond the last: recall that is never reached
    # One search for all draws: each has a range of whole numbers of its own, as wide as the longest.
    step = np.arange(draws)[:, None] * (max(int(found.max()), int(needed.max())) + 1)
    at = np.searchsorted((found + step).ravel(), (needed + step).ravel(), side="left").reshape(needed.shape)
    at = np.clip(at - np.arange(draws)[:, None] * len(hits), 0, len(hits))
    mean: Values = np.take_along_axis(best, at, axis=1).mean(axis=1)
    return mean
