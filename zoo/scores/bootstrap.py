"""Intervals of scores that are no mean over images: the images are drawn again, with replacement.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3: percentiles of the redrawn scores.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Score = tuple[float, float, float, int]
Counts = NDArray[np.int64]
Values = NDArray[np.float64]

DRAWS = 100
SEED = 20


def redrawn(images: int, draws: int = DRAWS, seed: int = SEED) -> Counts:
    """Return how often each image occurs in each draw (draws, images); each draw has as many images as there are."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.int64)


def with_intervals(values: Mapping[str, float], drawn: Mapping[str, Values], images: int) -> dict[str, Score]:
    """Return (value, low, high, images) of each score, with its 95 % interval; ``drawn`` holds the redrawn scores.

    A draw in which a score has no meaning is NaN and is left out. One image says nothing of others: its interval is
    everything from 0 to 1.
    """
    return {name: (value, *_interval(value, drawn[name], images), images) for name, value in values.items()}


def _interval(value: float, drawn: Values, images: int) -> tuple[float, float]:
    known = drawn[~np.isnan(drawn)]
    if images < 2 or not len(known):
        return 0.0, 1.0
    low, high = np.percentile(known, [2.5, 97.5])
    return min(float(low), value), max(float(high), value)
