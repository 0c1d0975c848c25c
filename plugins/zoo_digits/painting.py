"""What a digit-scene is painted with: grounds, lines, blobs, digits from 16 to 112 pixels, and who owns each pixel.

Every function draws from the numpy generator that it is given, and from nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 128
SMALLEST, LARGEST = 16, 112  # pixels: the side of a square as large as a digit's box
LONGEST = 124  # pixels: the longest side of a digit's box
INK = 0.4  # of full ink: the outline of a digit
TRIES = 15
LAYERS = 16  # at most: the ground, clutter, digits
ROOM = 3  # empty pixels around a digit (8, 8), so that it can be turned

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Place = tuple[slice, slice]


def roomy(image: Floats) -> Floats:
    """Return a digit (8, 8) with room around it (14, 14)."""
    return np.pad(image, ROOM)


@dataclass
class Canvas:
    """A scene in the making: ``colours`` (H, W, 3) from 0 to 255, and ``owner`` (H, W), the number of a layer.

    ``seen`` is how many pixels of each layer are visible, ``needed`` how many must stay so.
    """

    colours: Floats
    owner: NDArray[np.int32] = field(default_factory=lambda: np.zeros((SIDE, SIDE), dtype=np.int32))
    seen: NDArray[np.int64] = field(default_factory=lambda: np.eye(1, LAYERS, dtype=np.int64)[0] * SIDE * SIDE)
    needed: NDArray[np.float64] = field(default_factory=lambda: np.full(LAYERS, -np.inf))

    def hides(self, mask: Mask, place: Place) -> bool:
        """Tell whether a mask (h, w), painted there, would leave too little visible of what must be."""
        return bool((self.seen - self._covered(mask, place) < self.needed).any())

    def paint(self, alpha: Floats, place: Place, colour: Floats, layer: int, share: float = -np.inf) -> None:
        """Paint a shape (h, w) of opacities from 0 to 1; its pixels of more than half are the layer's.

        ``share`` of them must stay visible.
        """
        mask = alpha > 0.5
        ink = np.count_nonzero(mask)
        self.seen -= self._covered(mask, place)
        self.seen[layer] += ink
        self.needed[layer] = share * ink
        self.owner[place][mask] = layer
        part = self.colours[place]
        part += alpha[..., None] * (colour - part)

    def _covered(self, mask: Mask, place: Place) -> NDArray[np.int64]:
        return np.bincount(self.owner[place][mask], minlength=LAYERS)


def ground(draw: np.random.Generator) -> Canvas:
    """Return a dark canvas of one colour that changes slowly, with noise on it."""
    waves = resized(draw.normal(0, 1, (6, 6)), SIDE, SIDE)
    noise = draw.standard_normal((SIDE, SIDE), dtype=np.float32) * np.float32(draw.uniform(1, 9))
    colours = (waves * draw.uniform(0, 12) + noise)[..., None] + draw.uniform(15, 70, 3)
    return Canvas(colours.astype(np.float32).clip(0, 255))


def colour(draw: np.random.Generator) -> Floats:
    """Return a light colour, near to grey: what is painted is lighter than the ground, digits and clutter alike."""
    return (draw.uniform(150, 255) + draw.normal(0, 12, 3)).clip(0, 255).astype(np.float32)


# -- shapes: opacities (h, w) --------------------------------------------------------------------------------


def digit_shape(draw: np.random.Generator, image: Floats, size: float) -> Floats:
    """Return a digit (14, 14), turned and slanted a little, with a box of ``size`` squared pixels unless it is long."""
    turned = _turned(image, math.radians(draw.uniform(-15, 15)), draw.uniform(-0.2, 0.2))
    turned = turned[_extent(turned > INK)]
    ratio = math.sqrt(turned.shape[0] / turned.shape[1])
    scale = min(size, LONGEST / max(ratio, 1 / ratio))
    height, width = max(round(scale * ratio), 4), max(round(scale / ratio), 4)
    ink = resized(turned, height, width)
    sharpness = max(1.0, size / 10)  # an edge of about two pixels at any size
    return ((ink - INK) * sharpness + 0.5).clip(0, 1).astype(np.float32)


def fragment_shape(draw: np.random.Generator, image: Floats, size: float) -> Floats:
    """Return a third of a digit's shape, a strip from one of its four sides: no digit any more."""
    shape = np.rot90(digit_shape(draw, image, size), int(draw.integers(4)))
    return np.ascontiguousarray(shape[: max(2, len(shape) // 3)])


def line_shape(draw: np.random.Generator) -> Floats:
    """Return a line (h, w), 1 to 4 pixels wide and up to as long as the scene."""
    ends = [tuple(end) for end in draw.integers(0, SIDE, (2, 2)).tolist()]
    sheet = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(sheet).line(ends, fill=255, width=int(draw.integers(1, 5)))
    line: Floats = np.asarray(sheet, dtype=np.float32) / np.float32(255)
    return line[_extent(line > 0)]


def blob_shape(draw: np.random.Generator) -> Floats:
    """Return an ellipse (h, w), 5 to 40 pixels high and wide."""
    height, width = draw.integers(5, 41, 2).tolist()
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    away = np.sqrt(x * x + y * y)
    shape: Floats = ((1 - away) * min(height, width) / 2 + 0.5).clip(0, 1).astype(np.float32)
    return shape


def somewhere(draw: np.random.Generator, shape: Floats) -> Place:
    """Return a place for a shape, inside the scene."""
    top, left = (int(draw.integers(0, SIDE - side + 1)) for side in shape.shape)
    return slice(top, top + shape.shape[0]), slice(left, left + shape.shape[1])


def log_uniform(draw: np.random.Generator, low: float, high: float) -> float:
    """Return a number whose logarithm is uniform."""
    return math.exp(draw.uniform(math.log(low), math.log(high)))


def resized(values: NDArray[np.floating], height: int, width: int) -> Floats:
    """Return values (h, w) at another size, bicubic."""
    sheet = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(sheet.resize((width, height), Image.Resampling.BICUBIC))


def _turned(image: Floats, angle: float, slant: float) -> Floats:
    """Return a digit (14, 14) four times as large in each direction, turned and slanted."""
    cos, sin, middle, large = math.cos(angle) / 4, math.sin(angle) / 4, 7, 28
    across, down = (cos, sin + slant * cos), (-sin, cos - slant * sin)
    shift = [middle - large * (a + b) for a, b in (across, down)]
    matrix = (*across, shift[0], *down, shift[1])
    sheet, size = Image.fromarray(image), (2 * large, 2 * large)
    return np.asarray(sheet.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))


def _extent(mask: Mask) -> Place:
    left, top, right, bottom = extent(mask)
    return slice(top, bottom), slice(left, right)


def extent(mask: Mask) -> tuple[int, int, int, int]:
    """Return the tight box of a mask that is not empty: left, top, right, bottom, the last two beyond its pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
