"""Sets of images by their sizes alone: read from a folder or an annotation file, and scaled as detectors scale."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from zoo.errors import ZooError


def image_sizes(images: Path) -> Iterator[tuple[Path | None, int, int]]:
    """Yield (file, height, width) of the images in a folder, by name, or of those in a COCO annotation file.

    ZooError when there are none.
    """
    if images.is_dir():
        from PIL import Image

        files = sorted(file for file in images.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
        for file in files:
            try:
                with Image.open(file) as image:
                    height, width = image.height, image.width
            except OSError as error:
                raise ZooError(f"{file} is no image that can be read: {error.strerror or 'unknown format'}") from error
            yield file, height, width
        if not files:
            raise ZooError(f"there are no images in {images}; expected .jpg or .png files")
        return
    try:
        listed = json.loads(images.read_text())["images"]
        sizes = [(int(image["height"]), int(image["width"])) for image in sorted(listed, key=lambda i: i["id"])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ZooError(
            f"{images} cannot be read ({type(error).__name__}); expected a folder of images, or a COCO annotation file"
        ) from error
    if not sizes:
        raise ZooError(f"there are no images in {images}")
    yield from ((None, height, width) for height, width in sizes)


def scaled(height: int, width: int, short_side: int, longest_side: int) -> tuple[int, int]:
    """Return the size of an image whose short side becomes ``short_side``, its long one at most ``longest_side``.

    Rounded as DETR's and torchvision's transforms round.
    """
    low, high = min(height, width), max(height, width)
    if high / low * short_side > longest_side:
        short_side = round(longest_side * low / high)
    long_side = int(short_side * high / low)
    return (short_side, long_side) if height <= width else (long_side, short_side)
