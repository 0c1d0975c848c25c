"""Images as sequences of their pixels, row by row: handwritten digits, enlarged to 64 to 4,096 tokens.

Long Range Arena reads CIFAR-10 so, 32 x 32 grey pixels. These are the 8 x 8 digits that ship with scikit-learn, so a
larger side adds length and no detail: what a model loses with length it loses to length alone.
"""

from __future__ import annotations

from math import isqrt

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from zoo import ZooError

LEVELS = 256
VOCABULARY = LEVELS + 1  # 0 is padding, which no image needs; grey levels are 1 (black) to 256 (white)
CLASSES = 10
SMALLEST, LARGEST = 8, 64  # pixels a side


def load(split: str, length: int) -> list[tuple[Tensor, int]]:
    """Return the samples of ``"train"`` (1,437) or ``"test"`` (360): token ids (length,), int64, and labels.

    The length is a square number, the side from 8 to 64 pixels. Of the samples sorted by label every fifth is for
    testing, as in the task digits. ZooError when there is no such split or length.
    """
    if split not in ("train", "test"):
        raise ZooError(f"the pixels of digits have no split {split!r}; their splits: train, test")
    side = side_of(length)
    digits = load_digits()
    order = np.argsort(digits.target, kind="stable")
    testing = np.arange(len(order)) % 5 == 0
    chosen = np.sort(order[testing if split == "test" else ~testing])
    grey = torch.from_numpy(digits.images[chosen]).float() / 16  # (n, 8, 8), 0..1
    return list(zip(tokens_of(enlarged(grey, side)), digits.target[chosen].tolist(), strict=True))


def side_of(length: int) -> int:
    """Return the side of a square of so many pixels. ZooError, with the nearest lengths, when there is none."""
    side = isqrt(max(0, length))
    if side * side != length or not SMALLEST <= side <= LARGEST:
        sides = sorted({min(max(s, SMALLEST), LARGEST) for s in (side, side + 1)})
        near = " or ".join(str(s * s) for s in sides)
        expected = f"a square number from {SMALLEST**2} to {LARGEST**2}"
        raise ZooError(f"{length} pixels are no image of digits; expected {expected}, nearest: {near}")
    return side


def enlarged(images: Tensor, side: int) -> Tensor:
    """Return images (n, 8, 8) as (n, side, side), bilinear."""
    return F.interpolate(images[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]


def tokens_of(images: Tensor) -> Tensor:
    """Return images (n, side, side) of grey from 0 to 1 as token ids (n, side * side) from 1 to 256."""
    return 1 + (images * (LEVELS - 1)).round().long().flatten(1)
