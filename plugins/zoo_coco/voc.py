"""PASCAL VOC's annotation files, one XML file an image, as pictures.

VOC counts pixels from 1 and names the last one of a box: pixels 1 to 10 are left 0, right 10 here. Objects that are
marked difficult count as COCO's crowds: they need not be found, and finding them is no mistake. Categories are numbered
from 1 in alphabetical order of their names, over all files of the folder, so that they are the same in every split.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

from zoo import ZooError
from zoo_coco.records import Box, Listing, Picture, check_area, inside, number

IMAGES = (".jpg", ".jpeg", ".png")
SIDES = ("xmin", "ymin", "xmax", "ymax")
LISTS = "ImageSets/Main"


def is_voc(path: Path) -> bool:
    """Tell whether a folder is laid out as VOC's."""
    return (path / LISTS).is_dir() and (path / "Annotations").is_dir()


def read_voc(split: str, path: Path) -> Listing:
    """Return the pictures of a split: ``test.txt`` to test on, ``trainval.txt`` to train on.

    Where there is no ``test.txt``, as in the published VOC 2012, they are ``val.txt`` and ``train.txt``.
    """
    roots = _roots(path)
    names = {name: label for label, name in enumerate(_names(roots, path), 1)}
    numbers = {stem: at for at, stem in enumerate(sorted(roots), 1)}
    pictures = []
    for stem in _stems(split, path):
        if stem not in roots:
            raise ZooError(f"{path / LISTS} lists {stem!r} to {split} on, and there is no Annotations/{stem}.xml")
        pictures.append(_picture(numbers[stem], stem, roots[stem], names, path))
    by_label = {label: name for name, label in names.items()}
    return Listing(tuple(pictures), by_label, dict.fromkeys(by_label, True))


def names_in(path: Path) -> dict[int, str]:
    """Return the names of the categories by id."""
    return dict(enumerate(_names(_roots(path), path), 1))


def _roots(path: Path) -> dict[str, ET.Element]:
    """Return the content of every annotation file, by the name that lists have for it."""
    found = {}
    for file in sorted((path / "Annotations").glob("*.xml")):
        try:
            found[file.stem] = ET.parse(file).getroot()
        except (OSError, ET.ParseError) as error:
            raise ZooError(f"{file} cannot be read ({error}); expected an XML file in VOC's format") from error
    return found


def _names(roots: dict[str, ET.Element], path: Path) -> list[str]:
    found = {
        _text(thing, "name", f"{path / 'Annotations' / stem}.xml: object {at}")
        for stem, root in roots.items()
        for at, thing in enumerate(root.findall("object"), 1)
    }
    return sorted(found)


def _stems(split: str, path: Path) -> list[str]:
    """Return the names of a split's images. ZooError when it has no list, or none is in it, or one is in both."""
    lists = {name: path / LISTS / f"{name}.txt" for name in ("train", "val", "trainval", "test")}
    testing = lists["test"] if lists["test"].is_file() else lists["val"]
    training = lists["trainval"] if testing == lists["test"] and lists["trainval"].is_file() else lists["train"]
    files = {"train": training, "test": testing}
    if split not in files:
        raise ZooError(f"the data in {path} has no split {split!r}; its splits: {', '.join(files)}")
    stems = {name: _listed(file) for name, file in files.items()}
    if not stems[split]:
        raise ZooError(f"{files[split]} lists no image to {split} on; expected one name a line")
    both = set(stems["train"]) & set(stems["test"])
    if both:
        raise ZooError(f"{min(both)!r} is in {training} and in {testing}: what is tested on may not be trained on")
    return stems[split]


def _listed(file: Path) -> list[str]:
    try:
        return [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    except (OSError, ValueError):
        return []


def _picture(image_id: int, stem: str, root: ET.Element, names: dict[str, int], path: Path) -> Picture:
    file = f"{path / 'Annotations' / stem}.xml"
    images = [path / "JPEGImages" / f"{stem}{suffix}" for suffix in IMAGES]
    image = next((found for found in images if found.is_file()), None)
    if image is None:
        raise ZooError(f"{file} has no image; looked for {', '.join(map(str, images))}")
    height, width = (int(_number(root, f"size/{side}", file)) for side in ("height", "width"))
    boxes = _boxes(root, names, (height, width), file)
    return Picture(image_id, image, height, width, tuple(boxes))


def _boxes(root: ET.Element, names: dict[str, int], size: tuple[int, int], file: str) -> Iterable[Box]:
    for at, thing in enumerate(root.findall("object"), 1):
        where = f"{file}: object {at}"
        left, top, right, bottom = (_number(thing, f"bndbox/{side}", where) for side in SIDES)
        corners = inside((left - 1, top - 1, right, bottom), *size, where)
        check_area(corners, where)
        area = (corners[2] - corners[0]) * (corners[3] - corners[1])
        difficult = thing.findtext("difficult", "0").strip() == "1"
        yield Box(corners, names[_text(thing, "name", where)], area, difficult)


def _text(root: ET.Element, key: str, where: str) -> str:
    value = (root.findtext(key) or "").strip()
    if not value:
        raise ZooError(f"{where} has no {key}")
    return value


def _number(root: ET.Element, key: str, where: str) -> float:
    value = _text(root, key, where)
    try:
        return number(float(value), key, where)
    except ValueError as error:
        raise ZooError(f"{where} has {key} {value!r}; expected a number") from error
