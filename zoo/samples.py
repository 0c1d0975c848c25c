"""Made-up samples of each kind of task, as tasks give them and adapters take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from zoo.adapters import Sample
from zoo.spec import Scalar, Size

SIDE = 48  # of an image, in pixels


def image(index: int, size: Size, options: Mapping[str, Scalar]) -> Sample:
    """Return an image in [-1, 1] and its label."""
    classes = int(options.get("num_classes") or 2)
    return torch.rand(3, SIDE, SIDE) * 2 - 1, index % classes


def sequence(index: int, size: Size, options: Mapping[str, Scalar]) -> Sample:
    """Return token ids, fewer than there is room for, and their label."""
    vocabulary, classes = int(options.get("vocab_size") or 2), int(options.get("num_classes") or 2)
    ids = torch.randint(1, vocabulary, (max(1, size.values[0] - index),))
    return ids, index % classes


def translation(index: int, size: Size, options: Mapping[str, Scalar]) -> Sample:
    """Return a text and its translation."""
    return "1" * (index + 1), "one"


def detection(index: int, size: Size, options: Mapping[str, Scalar]) -> Sample:
    """Return an image of bytes and the boxes in it; every other image has none."""
    boxes = torch.tensor([[4.0, 4, 24, 20], [10, 8, 40, 44]])[: 2 * (1 - index % 2)]
    labels = torch.ones(len(boxes), dtype=torch.int64)
    return torch.randint(256, (3, SIDE, SIDE), dtype=torch.uint8), {
        "image_id": index,
        "size": (SIDE, SIDE),
        "boxes": boxes,
        "labels": labels,
        "area": torch.full((len(boxes),), 100.0),
        "crowd": torch.zeros(len(boxes), dtype=torch.bool),
    }


def panoptic(index: int, size: Size, options: Mapping[str, Scalar]) -> Sample:
    """Return an image of bytes and a map of two segments."""
    pixels, target = detection(index, size, options)
    owners = torch.ones(SIDE, SIDE, dtype=torch.int32)
    owners[: SIDE // 2] = 2
    segments = [
        {"id": label, "label": label, "thing": label == 1, "crowd": False, "area": SIDE * SIDE // 2} for label in (1, 2)
    ]
    return pixels, {**target, "map": owners, "segments": segments}


MADE: dict[str, Callable[[int, Size, Mapping[str, Scalar]], Sample]] = {
    "classification": image,
    "sequence_classification": sequence,
    "translation": translation,
    "detection": detection,
    "panoptic": panoptic,
}


def made_up(kind: str, n: int, size: Size, options: Mapping[str, Scalar]) -> list[Sample]:
    """Return ``n`` samples for a model with these options at a size. KeyError for a kind that is not known."""
    return [MADE[kind](index, size, options) for index in range(n)]
