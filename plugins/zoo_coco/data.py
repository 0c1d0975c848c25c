"""Images and their targets, read from the files when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zoo import Samples, ZooError
from zoo_coco import files
from zoo_coco.records import Listing, Picture

Sample = tuple[Tensor, dict[str, Any]]
VOID = 0


def load_detection(split: str, path: str | Path) -> Samples:
    """Return the samples of ``"train"`` or ``"test"`` of a folder in COCO's or VOC's format, with boxes.

    A sample is an image, uint8 (3, H, W), and its target: ``image_id``, ``size`` (H, W), ``boxes`` (T, 4) left, top,
    right, bottom in pixels, ``labels`` (T,), ``area`` (T,), ``crowd`` (T,), ``categories`` {id: is it a thing}.
    ZooError, with file and record, for every fault; annotations are read now, images when they are asked for.
    """
    return Pictures(files.boxes(split, path))


def load_panoptic(split: str, path: str | Path) -> Samples:
    """Return the samples of a folder in COCO's panoptic format, whose targets also have ``map`` and ``segments``.

    ``map`` is int32 (H, W), segment ids with 0 where nobody said what there is; a segment has ``id``, ``label``,
    ``thing``, ``crowd`` and ``area``, in pixels of the map. Boxes are those of the things.
    """
    return Pictures(files.maps(split, path))


class Pictures(Samples):
    """Samples of a listing."""

    def __init__(self, listing: Listing) -> None:
        """Keep what the annotation files say."""
        self.listing = listing

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.listing.pictures)

    def sample(self, number: int) -> Sample:
        """Read an image, and its map where it has one. ZooError when a file is damaged or of another size."""
        picture = self.listing.pictures[number]
        image = torch.from_numpy(_pixels(picture.file, picture)).permute(2, 0, 1).contiguous()
        target = _target(picture) | {"categories": self.listing.things}
        if picture.map_file is not None:
            target |= _panoptic(picture, picture.map_file, self.listing.things)
        return image, target


def _target(picture: Picture) -> dict[str, Any]:
    boxes = picture.boxes
    return {
        "image_id": picture.image_id,
        "size": (picture.height, picture.width),
        "boxes": torch.tensor([box.corners for box in boxes], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([box.label for box in boxes], dtype=torch.int64),
        "area": torch.tensor([box.area for box in boxes], dtype=torch.float32),
        "crowd": torch.tensor([box.crowd for box in boxes], dtype=torch.bool),
    }


def _panoptic(picture: Picture, file: Path, things: Mapping[int, bool]) -> dict[str, Any]:
    """Return the map and segments of a picture. ZooError when they do not name the same segments."""
    red, green, blue = _pixels(file, picture).astype(np.int32).transpose(2, 0, 1)
    ids = red + 256 * green + 65536 * blue  # (H, W)
    counted = dict(zip(*(a.tolist() for a in np.unique(ids[ids != VOID], return_counts=True)), strict=True))
    known = {segment.id for segment in picture.segments}
    if counted.keys() != known:
        told = min(counted.keys() ^ known)
        fault = "is in the map and has no segments_info" if told in counted else "has segments_info and no pixel"
        raise ZooError(f"{file}: segment {told} of image {picture.image_id} {fault}")
    segments = [
        {"id": s.id, "label": s.label, "thing": things[s.label], "crowd": s.crowd, "area": counted[s.id]}
        for s in picture.segments
    ]
    return {"map": torch.from_numpy(ids), "segments": segments}


def _pixels(file: Path, picture: Picture) -> NDArray[np.uint8]:
    """Return the colours (H, W, 3) of an image file. ZooError when it cannot be read, or is of another size."""
    try:
        with Image.open(file) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ZooError(f"{file} of image {picture.image_id} cannot be read as an image: {error}") from error
    if pixels.shape[:2] != (picture.height, picture.width):
        raise ZooError(
            f"{file} has {pixels.shape[1]}x{pixels.shape[0]} pixels, and image {picture.image_id} is annotated "
            f"for {picture.width}x{picture.height}"
        )
    return pixels
