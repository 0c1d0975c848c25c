"""The samples of digits, split once and for all."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from zoo import ZooError


def load(split: str) -> list[tuple[Tensor, int]]:
    """Return the samples of ``"train"`` (1,437) or ``"test"`` (360): float32 images (3, 8, 8) in [-1, 1], and labels.

    Grey is repeated in three channels. Of the samples sorted by label every fifth is for testing, so each label is
    split alike, and no random generator nor its version has a say. ZooError when there is no such split.
    """
    if split not in ("train", "test"):
        raise ZooError(f"the data of digits has no split {split!r}; its splits: train, test")
    digits = load_digits()
    order = np.argsort(digits.target, kind="stable")  # (1797,)
    testing = np.arange(len(order)) % 5 == 0
    chosen = np.sort(order[testing if split == "test" else ~testing])
    grey = torch.from_numpy(digits.images[chosen]).float() / 8 - 1  # (n, 8, 8), 0..16 -> -1..1
    images = grey.unsqueeze(1).repeat(1, 3, 1, 1)  # (n, 3, 8, 8)
    return list(zip(images, digits.target[chosen].tolist(), strict=True))
