"""What lies in a data set's folder: pictures of a split, and categories. Nothing here loads torch.

A folder is COCO's (``annotations/instances_train2017.json`` and ``train2017/``, or one of the layouts that other tools
write: ``annotations/train.json``, ``train/_annotations.coco.json``, ``train.json``, one ``annotations.json`` for all),
or PASCAL VOC's. Split ``"test"`` is what COCO calls val.
"""

from __future__ import annotations

from pathlib import Path

from zoo_coco.coco import DETECTION, PANOPTIC, VOC, WHOLE, find, names_of, read_detection, read_panoptic, things_of
from zoo_coco.records import Listing, read_json
from zoo_coco.voc import is_voc, names_in, read_voc


def boxes(split: str, path: str | Path) -> Listing:
    """Return the pictures of a split with their boxes, in the order of the file. ZooError for every fault."""
    return read_voc(split, Path(path)) if is_voc(Path(path)) else read_detection(split, Path(path))


def maps(split: str, path: str | Path) -> Listing:
    """Return the pictures of a split with their panoptic maps, in the order of the file. ZooError for every fault."""
    return read_panoptic(split, Path(path))


def categories(path: str | Path) -> dict[int, str]:
    """Return the names of the categories of detection by id, of the file to train on."""
    if is_voc(Path(path)):
        return names_in(Path(path))
    file, _ = find("train", Path(path), DETECTION, WHOLE, told=(VOC,))
    return names_of(read_json(file, ("categories",)), file)


def panoptic_categories(path: str | Path) -> dict[int, str]:
    """Return the names of the categories of panoptic segmentation by id, of the file to train on."""
    file, _ = find("train", Path(path), PANOPTIC)
    return names_of(read_json(file, ("categories",)), file)


def things(path: str | Path) -> dict[int, bool]:
    """Return which categories of panoptic segmentation are things, by id; the others are stuff."""
    file, _ = find("train", Path(path), PANOPTIC)
    return things_of(read_json(file, ("categories",)), file)


def describe(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return the options that boxes set in a model, and no settings: labels are ids, so classes go up to the last."""
    return {"num_classes": max(categories(path)) + 1}, {}


def describe_panoptic(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return the options that maps set in a model, and which label is the last that is a thing."""
    kinds = things(path)
    counted = [label for label, is_thing in kinds.items() if is_thing]
    return {"num_classes": max(kinds) + 1}, {"last_thing": max(counted, default=0)}
