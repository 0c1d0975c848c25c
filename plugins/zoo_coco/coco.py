"""COCO's annotation files of detection and of panoptic segmentation, as pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo import ZooError
from zoo_coco.records import (
    Box,
    Listing,
    Picture,
    Segment,
    check_area,
    has_area,
    inside,
    label_of,
    number,
    read_json,
    sides_of,
    text,
    whole,
)

# What a file name of a split begins with.
STEMS = {"train": ("train",), "test": ("val", "test")}
DETECTION = (
    *("annotations/instances_{}*.json", "annotations/{}*.json", "{}*/_annotations.coco.json", "{}*/annotations.json"),
    "{}*.json",
)
PANOPTIC = ("annotations/panoptic_{}*.json", "panoptic_{}*.json")
VOC = "ImageSets/Main/ with Annotations/*.xml"
WHOLE = ("annotations.json", "annotations/annotations.json", "_annotations.coco.json")  # one file for all splits


def read_detection(split: str, path: Path) -> Listing:
    """Return the pictures of a split, with their boxes.

    A box may reach 1 pixel beyond its image, by rounding, and is clipped. Boxes without area are left out of what is
    trained on, as DETR does (COCO's train2017 has two); what is tested on may have none: every box there counts.
    """
    file, common = find(split, path, DETECTION, WHOLE, told=(VOC,))
    content = read_json(file)
    names = names_of(content, file)
    rows = _by_image(content, file)
    pictures = []
    for image, where, found in _files(content["images"], file, split, path, common):
        size = whole(image, "height", where, 1), whole(image, "width", where, 1)
        boxes = _boxes(rows.get(image["id"], ()), names, size, file, split)
        pictures.append(Picture(image["id"], found, *size, tuple(boxes)))
    return Listing(tuple(pictures), names, dict.fromkeys(names, True))


def read_panoptic(split: str, path: Path) -> Listing:
    """Return the pictures of a split, with their maps; boxes are those of the things."""
    file, _ = find(split, path, PANOPTIC)
    content = read_json(file)
    names, things = names_of(content, file), things_of(content, file)
    rows, pictures = _by_image(content, file), []
    for image, where, found in _files(content["images"], file, split, path, common=False):
        if len(rows.get(image["id"], ())) != 1:
            raise ZooError(f"{where} has {len(rows.get(image['id'], ()))} annotations; expected one, with its segments")
        (row,), size = rows[image["id"]], (whole(image, "height", where, 1), whole(image, "width", where, 1))
        map_file = file.with_suffix("") / text(row, "file_name", where)
        segments = tuple(_segments(row, names, where))
        objects = [segment for segment in row["segments_info"] if things[segment["category_id"]]]
        boxes = tuple(_boxes(objects, names, size, file, split))
        pictures.append(Picture(image["id"], found, *size, boxes, map_file, segments))
    return Listing(tuple(pictures), names, things)


def names_of(content: Mapping[str, Any], file: Path) -> dict[int, str]:
    """Return the names of the categories by id. ZooError where an id is there twice."""
    found: dict[int, str] = {}
    for row in content["categories"]:
        label = whole(row, "id", f"{file}: category {row.get('name')!r}")
        if label in found:
            raise ZooError(f"{file}: category id {label} is there twice, as {found[label]!r} and {row.get('name')!r}")
        found[label] = text(row, "name", f"{file}: category {label}")
    return found


def things_of(content: Mapping[str, Any], file: Path) -> dict[int, bool]:
    """Return which categories of a panoptic file are things; the others are stuff."""
    for row in content["categories"]:
        if row.get("isthing") not in (0, 1):
            raise ZooError(f"{file}: category {row.get('id')} has isthing {row.get('isthing')!r}; expected 0 or 1")
    return {row["id"]: bool(row["isthing"]) for row in content["categories"]}


def find(
    split: str, path: Path, patterns: Sequence[str], common: Sequence[str] = (), told: Sequence[str] = ()
) -> tuple[Path, bool]:
    """Return the annotation file of a split, and whether it is one for all splits.

    ZooError when there is none, with what was looked for, and when there are several.
    """
    if split not in STEMS:
        raise ZooError(f"the data in {path} has no split {split!r}; its splits: {', '.join(STEMS)}")
    for stem in STEMS[split]:
        for pattern in patterns:
            found = [f for f in sorted(path.glob(pattern.format(stem))) if "panoptic" in pattern or _boxes_in(f)]
            if len(found) > 1:
                raise ZooError(f"{path} has several annotation files to {split} on: {_listed(found, path)}")
            if found:
                return found[0], False
    for name in common:
        if (path / name).is_file():
            return path / name, True
    looked = [pattern.format(stem) for stem in STEMS[split] for pattern in patterns] + [*common, *told]
    missing = "" if path.is_dir() else ", which is no folder"
    raise ZooError(f"there is no annotation file to {split} on in {path}{missing}; looked for {', '.join(looked)}")


def _boxes_in(file: Path) -> bool:
    """Tell whether a file may hold boxes, by its name: COCO has others beside it."""
    return not file.name.startswith(("panoptic_", "stuff_", "captions_", "person_keypoints_", "image_info_"))


def _listed(files: Iterable[Path], path: Path) -> str:
    return ", ".join(str(f.relative_to(path)) for f in files)


def _by_image(content: Mapping[str, Any], file: Path) -> dict[int, list[dict[str, Any]]]:
    """Return the annotations of each image. ZooError for one of an image that is not there, or is there twice."""
    ids: set[int] = set()
    for image in content["images"]:
        number_of = whole(image, "id", f"{file}: image {image.get('file_name')!r}")
        if number_of in ids:
            raise ZooError(f"{file}: image id {number_of} is there twice")
        ids.add(number_of)
    found = defaultdict(list)
    for row in content["annotations"]:
        image_id = whole(row, "image_id", _named(row, file))
        if image_id not in ids:
            raise ZooError(f"{_named(row, file)} has image_id {image_id}, which is no image of this file")
        found[image_id].append(row)
    return found


def _named(row: Mapping[str, Any], file: Path) -> str:
    return f"{file}: annotation {row.get('id')}"


def _files(
    images: Sequence[dict[str, Any]], file: Path, split: str, path: Path, common: bool
) -> Iterable[tuple[dict[str, Any], str, Path]]:
    """Yield each image with its name in messages and its file; of a common file those in the folders of the split."""
    folders = _folders(file, split, path, common)
    taken = 0
    for image in images:
        where = f"{file}: image {image['id']}"
        name = text(image, "file_name", where)
        found = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if found is None and not common:
            raise ZooError(f"{where} has file_name {name!r}, which is in none of {', '.join(map(str, folders))}")
        if found is not None:
            taken += 1
            yield image, where, found
    if not taken:
        raise ZooError(f"{file} has no image to {split} on in {', '.join(map(str, folders)) or f'a folder {split}'}")


def _folders(file: Path, split: str, path: Path, common: bool) -> list[Path]:
    """Return where images of an annotation file may lie, the likeliest first."""
    of_split = [f for stem in STEMS[split] for top in (path, path / "images") for f in sorted(top.glob(f"{stem}*"))]
    own = [f for f in of_split if f.is_dir()]
    if common:
        return own
    exact = [f for f in own if f.name == file.stem.rpartition("_")[2]]
    found = [*exact, *own, *(f / "images" for f in own), file.parent, path / "images", path]
    return [f for f in dict.fromkeys(found) if f.is_dir()]


def _boxes(
    rows: Iterable[dict[str, Any]], names: Mapping[int, str], size: tuple[int, int], file: Path, split: str
) -> Iterable[Box]:
    for row in rows:
        where = _named(row, file)
        label = label_of(row, names, where)
        corners = inside(sides_of(row, where), *size, where)
        if split == "train" and not has_area(corners):
            continue
        check_area(corners, where)
        left, top, right, bottom = corners
        area = number(row["area"], "area", where) if "area" in row else (right - left) * (bottom - top)
        yield Box(corners, label, area, _crowd(row, where))


def _segments(row: Mapping[str, Any], names: Mapping[int, str], where: str) -> Iterable[Segment]:
    rows = row.get("segments_info")
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise ZooError(f"{where} has segments_info {rows!r}; expected a list of segments")
    seen: set[int] = set()
    for segment in rows:
        number_of = whole(segment, "id", f"{where}, a segment", 1)
        if number_of in seen:
            raise ZooError(f"{where} has segment {number_of} twice")
        seen.add(number_of)
        named = f"{where}, segment {number_of},"
        yield Segment(number_of, label_of(segment, names, named), _crowd(segment, named))


def _crowd(row: Mapping[str, Any], where: str) -> bool:
    value = row.get("iscrowd", 0)
    if value not in (0, 1):
        raise ZooError(f"{where} has iscrowd {value!r}; expected 0 or 1")
    return bool(value)
