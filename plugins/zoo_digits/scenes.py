"""Digit-scenes: 1 to 5 real digits of 16 to 112 pixels among lines, blobs and fragments, 128x128. No download.

A scene depends on its split and number only. Scenes to train on hold digits of the training split of ``digits``, scenes
to test on those of the test split. A box is that of the pixels that can be seen, as COCO draws them; at least half of
every digit's ink can be. ``area`` is that of the box, so that COCO's small, medium and large all occur: the ink of no
digit is as much as COCO calls large.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo import Samples, ZooError
from zoo_digits import data
from zoo_digits.painting import (
    LARGEST,
    SIDE,
    SMALLEST,
    TRIES,
    Canvas,
    Floats,
    blob_shape,
    colour,
    digit_shape,
    extent,
    fragment_shape,
    ground,
    line_shape,
    log_uniform,
    roomy,
    somewhere,
)

SCENES = {"train": 16_000, "test": 200}
MOST, MOST_CLUTTER = 5, 4  # digits a scene; pieces of clutter behind them, before up to two lines
VISIBLE = 0.5  # of a digit's ink: what must be seen of it
BACKGROUND, CLUTTER = 11, 12
CATEGORIES = {label: label < BACKGROUND for label in range(1, 13)}  # label: is it a thing? a digit's is digit + 1
NAMES = {**{digit + 1: str(digit) for digit in range(10)}, BACKGROUND: "background", CLUTTER: "clutter"}
# Numbers of layers: the ground, clutter, and the first digit.
GROUND, OTHER, FIRST = 0, 1, 2
SEED = 2017


def load(split: str, scenes: int | None = None) -> Scenes:
    """Return the scenes of ``"train"`` (16,000) or ``"test"`` (200), or ``scenes`` of them, composed when asked for."""
    if split not in SCENES:
        raise ZooError(f"the data of digit-scenes has no split {split!r}; its splits: {', '.join(SCENES)}")
    return Scenes(split, SCENES[split] if scenes is None else scenes)


class Scenes(Samples):
    """Scenes as ``(image, target)``: uint8 (3, 128, 128), and boxes with a map of segments.

    A target has ``image_id``, ``size``, ``boxes`` (T, 4) left, top, right, bottom in pixels, ``labels`` (T,), ``area``
    (T,), ``crowd`` (T,), ``categories``, ``map`` uint8 (H, W) of segment ids, and ``segments``.
    """

    def __init__(self, split: str, scenes: int) -> None:
        """Load the digits to paint with."""
        self.split, self.scenes = split, scenes
        samples = data.load(split)
        self.digits = [roomy(((image[0] + 1) / 2).numpy()) for image, _ in samples]  # (14, 14), 0..1
        self.labels = [digit + 1 for _, digit in samples]

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.scenes

    def sample(self, number: int) -> tuple[Tensor, dict[str, Any]]:
        """Compose a scene."""
        canvas, labels = self.compose(number)
        image = np.ascontiguousarray(canvas.colours.round().astype(np.uint8).transpose(2, 0, 1))
        return torch.from_numpy(image), _target(number, canvas, labels)

    def compose(self, number: int) -> tuple[Canvas, list[int]]:
        """Return a scene's canvas, and the labels of its digits, which are layers from 2 on."""
        key = np.random.SeedSequence(SEED, spawn_key=(list(SCENES).index(self.split), number))
        draw = np.random.default_rng(key)
        canvas = ground(draw)
        labels: list[int] = []
        for _ in range(draw.integers(MOST_CLUTTER + 1)):
            self._add_clutter(draw, canvas)
        # The largest first: what is painted later hides what was painted before.
        sizes = [log_uniform(draw, SMALLEST, LARGEST) for _ in range(draw.integers(1, MOST + 1))]
        for size in sorted(sizes, reverse=True):
            chosen = int(draw.integers(len(self.digits)))
            if _place(draw, canvas, digit_shape(draw, self.digits[chosen], size), FIRST + len(labels)):
                labels.append(self.labels[chosen])
        for _ in range(draw.integers(0, 3)):
            _place(draw, canvas, line_shape(draw), OTHER)
        return canvas, labels

    def _add_clutter(self, draw: np.random.Generator, canvas: Canvas) -> None:
        kind = draw.integers(3)
        if kind == 0:
            shape = line_shape(draw)
        elif kind == 1:
            shape = blob_shape(draw)
        else:
            shape = fragment_shape(draw, self.digits[draw.integers(len(self.digits))], log_uniform(draw, SMALLEST, 60))
        _place(draw, canvas, shape, OTHER)


def _place(draw: np.random.Generator, canvas: Canvas, shape: Floats, layer: int) -> bool:
    """Paint a shape where enough stays visible of all digits; False where no such place was found."""
    mask = shape > 0.5
    for _ in range(TRIES):
        place = somewhere(draw, shape)
        if mask.any() and not canvas.hides(mask, place):
            share = VISIBLE if layer >= FIRST else -np.inf
            canvas.paint(shape, place, colour(draw), layer, share)
            return True
    return False


# -- targets -------------------------------------------------------------------------------------------------


def _target(number: int, canvas: Canvas, labels: list[int]) -> dict[str, Any]:
    boxes = [extent(canvas.owner == layer) for layer in range(FIRST, FIRST + len(labels))]
    return {
        "image_id": number,
        "size": (SIDE, SIDE),
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "area": torch.tensor(
            [(right - left) * (bottom - top) for left, top, right, bottom in boxes], dtype=torch.float32
        ),
        "crowd": torch.zeros(len(labels), dtype=torch.bool),
        "categories": CATEGORIES,
        "map": torch.from_numpy((canvas.owner + 1).astype(np.uint8)),  # 0 would be void: every pixel is something
        "segments": _segments(canvas, [BACKGROUND, CLUTTER, *labels]),
    }


def _segments(canvas: Canvas, labels: list[int]) -> list[dict[str, Any]]:
    areas = np.bincount(canvas.owner.ravel(), minlength=len(labels)).tolist()
    return [
        {"id": layer + 1, "label": label, "thing": CATEGORIES[label], "crowd": False, "area": area}
        for layer, (label, area) in enumerate(zip(labels, areas, strict=True))
        if area
    ]
