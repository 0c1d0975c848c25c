"""Names beside lines and points, so that none lies on another. Pixels in, pixels out; the same in, the same out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Align = Literal["left", "center", "right"]

# Widths of Liberation Sans (and Arial), in thousandths of the font's size; other characters have that of a digit.
NARROW, WIDE = "ijl.,:;'|![]()ft rI/-", "mwMW%@"
WIDTHS = {**dict.fromkeys(NARROW, 300), **dict.fromkeys(WIDE, 850)}
DIGIT, CAPITAL = 556, 680
LINE = 13  # the height of a line of text
RANK = 2  # square pixels of a line that may be covered before the next best place is taken
NEAR = 12  # half of the width of the square around a point in which a text looks like its name
LEADING = 16  # boxes along a line from a point to its text


def text_width(text: str, size: float = 12) -> float:
    """Return about how many pixels a text is wide."""
    return sum(WIDTHS.get(c, CAPITAL if c.isupper() else DIGIT) for c in text) * size / 1000


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return positions as near to the wanted ones as a ``gap`` between neighbours allows, in the same order."""
    order = sorted(range(len(wanted)), key=lambda n: wanted[n])
    blocks: list[tuple[float, list[int]]] = []
    for n in order:
        blocks.append((wanted[n], [n]))
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < gap * (len(blocks[-1][1]) + len(blocks[-2][1])) / 2:
            (a, left), (b, right) = blocks[-2:]
            blocks[-2:] = [((a * len(left) + b * len(right)) / (len(left) + len(right)), left + right)]
    placed = [0.0] * len(wanted)
    for centre, members in blocks:
        for place, n in enumerate(members):
            placed[n] = centre + gap * (place - (len(members) - 1) / 2)
    return placed


# -- beside points -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downward."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Return the area that two boxes share, in square pixels."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return wide * high if wide > 0 and high > 0 else 0.0

    def outside(self, frame: Box) -> float:
        """Return the area that lies outside a frame."""
        return (self.right - self.left) * (self.bottom - self.top) - self.overlap(frame)


@dataclass(frozen=True)
class Label:
    """Where a text stands: the middle of its height, and the end or centre that ``align`` names."""

    x: float
    y: float
    align: Align
    box: Box
    far: bool  # so far from its point that a line must lead there

    def near(self, x: float, y: float) -> tuple[float, float]:
        """Return where a line from a point ends: at the nearest place of the text."""
        return min(max(x, self.box.left), self.box.right), min(max(y, self.box.top + 2), self.box.bottom - 2)


def around(x: float, y: float, radius: float = 6) -> Box:
    """Return the box of a mark."""
    return Box(x - radius, y - radius, x + radius, y + radius)


def place(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    frame: Box,
    lines: Sequence[Box] = (),
    kept: Sequence[Box] = (),
    size: float = 12,
) -> list[Label | None]:
    """Return a place beside each point for its text, first come first served; None where there is no room, or no text.

    Texts, and what leads to those that stand far off, stay within the frame and cover neither marks nor texts nor what
    is ``kept`` free; thin ``lines``, and places that look like another point's, they avoid where they can.
    """
    marks = [around(x, y) for x, y in points]
    taken = [*kept]
    placed: list[Label | None] = []
    for n, ((x, y), text) in enumerate(zip(points, texts, strict=True)):
        others = [*marks[:n], *marks[n + 1 :]]
        avoided = [*lines, *(around(*at, NEAR) for at in (*points[:n], *points[n + 1 :]))]
        best = best_of(x, y, text_width(text, size), frame, [*others, *taken], avoided) if text else None
        placed.append(best)
        taken += [best.box, *lead_boxes(x, y, best)] if best else []
    return placed


def best_of(x: float, y: float, width: float, frame: Box, taken: Sequence[Box], lines: Sequence[Box]) -> Label | None:
    """Return the best place around a point that is free: the first, or a later one on fewer lines."""
    best, least = None, math.inf
    for rank, label in enumerate(candidates(x, y, width)):
        cost = RANK * rank + sum(label.box.overlap(line) for line in lines)
        if cost < least and not label.box.outside(frame):
            needed = (label.box, *lead_boxes(x, y, label))
            if not any(one.overlap(box) for one in needed for box in taken):
                best, least = label, cost
    return best


def lead_boxes(x: float, y: float, label: Label) -> Iterator[Box]:
    """Yield small boxes along the line from a point to a label that stands far from it."""
    end = label.near(x, y)
    for n in range(1, LEADING + 1) if label.far else ():
        yield around(x + (end[0] - x) * n / (LEADING + 1), y + (end[1] - y) * n / (LEADING + 1), 1.5)


def candidates(x: float, y: float, width: float) -> Iterator[Label]:
    """Yield the places around a point, the best first: right, left, above, below, between these, and farther away."""
    for far, gap in enumerate((9, 20, 32, 48)):
        slant = gap * 0.75 + 3
        for dx, dy, align in SIDES:
            at, level = x + dx * (gap if dy == 0 else slant), y + dy * (gap + 4 if dx == 0 else slant)
            left = at - width * {"left": 0.0, "center": 0.5, "right": 1.0}[align]
            yield Label(at, level, align, Box(left, level - LINE / 2, left + width, level + LINE / 2), far > 0)


SIDES: tuple[tuple[int, int, Align], ...] = (
    (1, 0, "left"),
    (-1, 0, "right"),
    (0, -1, "center"),
    (0, 1, "center"),
    (1, -1, "left"),
    (-1, -1, "right"),
    (1, 1, "left"),
    (-1, 1, "right"),
)
