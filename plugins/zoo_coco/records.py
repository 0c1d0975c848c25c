"""What annotation files say of images, checked: each fault is one sentence with its file and record."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import ZooError

OVERSHOOT = 1.0  # pixels: how far a box may reach beyond its image, by rounding; it is clipped


@dataclass(frozen=True, slots=True)
class Box:
    """One object: corners in pixels, label, area in pixels, and whether it is a crowd, not an object to be found."""

    corners: tuple[float, float, float, float]
    label: int
    area: float
    crowd: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a panoptic map."""

    id: int
    label: int
    crowd: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """One image: its file and size, its boxes, and where there is one, the file of its map with the segments."""

    image_id: int
    file: Path
    height: int
    width: int
    boxes: tuple[Box, ...]
    map_file: Path | None = None
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True)
class Listing:
    """A split of a data set: its pictures, the names of all categories by id, and which of them are things."""

    pictures: tuple[Picture, ...]
    categories: Mapping[int, str]
    things: Mapping[int, bool]


def read_json(file: Path, lists: tuple[str, ...] = ("images", "annotations", "categories")) -> dict[str, Any]:
    """Return what an annotation file of COCO holds. ZooError when it cannot be read, or is of another kind."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ZooError(f"{file} cannot be read ({error}); expected a JSON file in COCO's format") from error
    missing = [key for key in lists if not isinstance(content, dict) or not _rows(content.get(key))]
    if missing:
        raise ZooError(f"{file} is no annotation file of COCO: it has no list of {missing[0]}")
    found: dict[str, Any] = content
    return found


def _rows(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def whole(row: Mapping[str, Any], key: str, where: str, least: int = 0) -> int:
    """Return a whole number of a record. ZooError when it has none."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ZooError(f"{where} has {key} {value!r}; expected a whole number from {least} on")
    return value


def text(row: Mapping[str, Any], key: str, where: str) -> str:
    """Return a text of a record. ZooError when it has none."""
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise ZooError(f"{where} has {key} {value!r}; expected a text")
    return value


def number(value: object, key: str, where: str) -> float:
    """Return a finite number. ZooError when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ZooError(f"{where} has {key} {value!r}; expected a number")
    return float(value)


def label_of(row: Mapping[str, Any], categories: Mapping[int, str], where: str) -> int:
    """Return the category of a record. ZooError when its id is none of the categories."""
    label = whole(row, "category_id", where)
    if label not in categories:
        ids = sorted(categories)
        known = ", ".join(map(str, ids[:12])) + (f", ... {ids[-1]}" if len(ids) > 12 else "")
        raise ZooError(f"{where} has category_id {label}, which is no category; the categories: {known}")
    return label


def sides_of(row: Mapping[str, Any], where: str) -> tuple[float, float, float, float]:
    """Return the box of a record of COCO, left, top, width, height, as left, top, right, bottom."""
    value = row.get("bbox")
    if not isinstance(value, list) or len(value) != 4:
        raise ZooError(f"{where} has bbox {value!r}; expected left, top, width and height")
    left, top, width, height = (number(side, "in its bbox", where) for side in value)
    return left, top, left + width, top + height


def inside(
    corners: tuple[float, float, float, float], height: int, width: int, where: str
) -> tuple[float, float, float, float]:
    """Return a box clipped to its image. ZooError when it ends before it begins, or reaches out by more than 1 px."""
    left, top, right, bottom = corners
    if right < left or bottom < top:
        raise ZooError(f"{where} has a box that ends before it begins: {_shown(corners)}")
    if max(-left, -top, right - width, bottom - height) > OVERSHOOT:
        raise ZooError(f"{where} has a box outside of its image of {width}x{height} pixels: {_shown(corners)}")
    return max(left, 0.0), max(top, 0.0), min(max(right, 0.0), float(width)), min(max(bottom, 0.0), float(height))


def has_area(corners: tuple[float, float, float, float]) -> bool:
    """Tell whether a box has an area."""
    left, top, right, bottom = corners
    return right > left and bottom > top


def check_area(corners: tuple[float, float, float, float], where: str) -> None:
    """Raise ZooError for a box that nothing can be found in."""
    if not has_area(corners):
        raise ZooError(f"{where} has a box without area: {_shown(corners)}; expected a width and a height")


def _shown(corners: tuple[float, float, float, float]) -> str:
    return ", ".join(f"{name} {side:g}" for name, side in zip(("left", "top", "right", "bottom"), corners, strict=True))
