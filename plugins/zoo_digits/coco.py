"""Digit-scenes as files in COCO's formats of detection and of panoptic segmentation, for tools that read these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from zoo_digits.scenes import CATEGORIES, NAMES, load

FOLDERS = {"train": "train2017", "test": "val2017"}


def write_coco(folder: Path, split: str, scenes: int | None = None) -> None:
    """Write the scenes of a split below ``folder``, named as COCO 2017 names its own; images are PNG, without loss.

    Detection: ``annotations/instances_train2017.json`` (``val2017`` to test), images in ``train2017/``. Panoptic:
    ``annotations/panoptic_train2017.json``, maps in ``annotations/panoptic_train2017/``. ZooError when there is no such
    split.
    """
    samples = load(split, scenes)
    name = FOLDERS[split]
    annotations = Path(folder) / "annotations"
    for made in (Path(folder) / name, annotations / f"panoptic_{name}"):
        made.mkdir(parents=True, exist_ok=True)
    targets = []
    for image, target in samples:
        _write_image(image, Path(folder) / name / _file(target))
        _write_map(target["map"], annotations / f"panoptic_{name}" / _file(target))
        targets.append(target)
    (annotations / f"instances_{name}.json").write_text(json.dumps(_detection(targets)))
    (annotations / f"panoptic_{name}.json").write_text(json.dumps(_panoptic(targets)))


def _file(target: dict[str, Any]) -> str:
    return f"{target['image_id']:012}.png"


def _write_image(image: Tensor, file: Path) -> None:
    Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(file)


def _write_map(ids: Tensor, file: Path) -> None:
    """Write a map of segment ids as colours: id = red + 256 green + 65536 blue."""
    numbers = ids.numpy()
    Image.fromarray(np.stack([numbers >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)).save(file)


def _detection(targets: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [row for target in targets for row in _boxes(target)]
    return {
        "images": [_image(target) for target in targets],
        "categories": [{"id": label, "name": NAMES[label]} for label, thing in CATEGORIES.items() if thing],
        "annotations": [{"id": number, **row} for number, row in enumerate(rows, 1)],
    }


def _boxes(target: dict[str, Any]) -> list[dict[str, Any]]:
    columns = (target[key].tolist() for key in ("boxes", "labels", "area"))
    return [
        {"image_id": target["image_id"], "category_id": label, "bbox": _sides(box), "area": area, "iscrowd": 0}
        for box, label, area in zip(*columns, strict=True)
    ]


def _panoptic(targets: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images": [_image(target) for target in targets],
        "categories": [{"id": c, "name": NAMES[c], "isthing": int(thing)} for c, thing in CATEGORIES.items()],
        "annotations": [
            {"image_id": t["image_id"], "file_name": _file(t), "segments_info": _segments(t)} for t in targets
        ],
    }


def _image(target: dict[str, Any]) -> dict[str, Any]:
    height, width = target["size"]
    return {"id": target["image_id"], "file_name": _file(target), "height": height, "width": width}


def _segments(target: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"id": s["id"], "category_id": s["label"], "bbox": _extent(target["map"] == s["id"]), "area": s["area"]}
        | {"iscrowd": int(s["crowd"])}
        for s in target["segments"]
    ]


def _extent(mask: Tensor) -> list[int]:
    rows, columns = (mask.any(dim).nonzero()[:, 0].tolist() for dim in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]


def _sides(box: list[float]) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]
