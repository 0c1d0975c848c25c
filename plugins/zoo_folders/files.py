"""What is in a folder of images by class, without reading an image. No torch."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

from zoo import ZooError

SPLITS = {"train": ("train",), "test": ("test", "val", "valid", "validation")}
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})")


def describe(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return the options that the images set in a model, and no settings: a class is a folder of the first split."""
    for split in SPLITS:
        if found := place(path, split):
            return {"num_classes": len(classes_in(found))}, {}
    raise ZooError(f"{path} has no folder train or test; expected {path}/train/CLASS/IMAGE.jpg")


def place(path: Path, split: str) -> Path | None:
    """Return the folder of a split, None where there is none. ZooError for a split of another name."""
    if split not in SPLITS:
        raise ZooError(f"folders of images have no split {split!r}; their splits: {', '.join(SPLITS)}")
    return next((path / name for name in SPLITS[split] if (path / name).is_dir()), None)


def classes_in(folder: Path) -> list[str]:
    """Return the names of the classes in a split, in order. ZooError where there is none."""
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not found:
        raise ZooError(f"{folder} has no folders; expected one a class, such as {folder}/cat/1.jpg")
    return found


@functools.cache
def listed(path: Path, split: str) -> tuple[tuple[Path, int], ...]:
    """Return the image files of a split with their labels. ZooError for a class that has none, or is not trained on."""
    folder = place(path, split)
    if folder is None:
        expected = " or ".join(str(path / name) for name in SPLITS[split])
        raise ZooError(f"{path} has no images for the split {split}; expected a folder {expected}")
    trained = place(path, "train")
    known = classes_in(trained or folder)
    found: list[tuple[Path, int]] = []
    for name in classes_in(folder):
        if name not in known:
            raise ZooError(f"{folder / name} is a class that {trained} does not have; it has {len(known)} classes")
        files = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in IMAGES)
        if not files:
            raise ZooError(f"{folder / name} has no images; expected files that end in {', '.join(IMAGES)}")
        found += [(file, known.index(name)) for file in files]
    return tuple(found)


def real_labels(path: Path) -> list[list[int]]:
    """Return the labels of ImageNet-ReaL, of the validation images in the order of their numbers."""
    file = path / "real.json"
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ZooError(
            f"{file} cannot be read ({type(error).__name__}); expected the labels of ImageNet-ReaL"
        ) from None
    if not isinstance(found, list) or not all(isinstance(labels, list) for labels in found):
        raise ZooError(f"{file} is no list of lists of labels, as ImageNet-ReaL is")
    return found


def number_of(file: Path, labels: int) -> int:
    """Return the place of a validation image among ``labels``. ZooError when its name does not tell one of them."""
    match = VALIDATION.search(file.name)
    number = int(match[1]) - 1 if match else -1
    if not 0 <= number < labels:
        raise ZooError(f"{file} is no image that has ReaL labels: expected ILSVRC2012_val_ and a number up to {labels}")
    return number
