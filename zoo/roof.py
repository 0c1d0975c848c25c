"""The roofline of a machine (Williams et al. 2009): how fast each row computes, below what the machine did at most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo import dots
from zoo.dots import THIN, Dot, Plane, Span
from zoo.errors import BadRecords
from zoo.labels import LINE, Align, Box, around, spread, text_width
from zoo.record import Value
from zoo.rows import Entry, Row, check_machines, distinguishing, select, sort_rows
from zoo.style import (
    HEIGHT,
    INK,
    WIDTH,
    heading,
    label_of,
    looks,
    shared_text,
    short_name,
    with_all,
    without_text,
)
from zoo.tables import STALE
from zoo.units import clean, number_text

if TYPE_CHECKING:
    import altair as alt

    from zoo.schema import RooflineSpec

# Either says how fast a row was, and beside which ceilings.
SOURCES = ("percent_of_bound", "mfu")
# What a ceiling depends on.
CEILING_AXES = ("machine", "device", "dtype", "threads")
GIGA = 1e9
SAMPLED = 40  # boxes along a roof, which names keep from


@dataclass(frozen=True)
class Roof:
    """Two ceilings in GFLOP/s and GB/s, and of which rows they are."""

    name: str
    flops: float
    bandwidth: float

    def at(self, intensity: float) -> float:
        """Return the most GFLOP/s that so many FLOPs a byte allow."""
        return min(self.flops, self.bandwidth * intensity)

    @property
    def ridge(self) -> float:
        """FLOPs a byte from which on arithmetic is what limits."""
        return self.flops / self.bandwidth


def roofline(spec: RooflineSpec, found: Sequence[Row]) -> alt.LayerChart:
    """Return a chart of FLOP/s against FLOPs a byte, a point a row, below the roofs of their machines.

    Rows that were kept without FLOPs and bytes are named above the picture. BadRecords when none is left.
    """
    what = f"the plot {spec.name!r}"
    chosen = select(found, spec.where, SOURCES, ["model", "size"], what)
    drawn, missing = split(chosen)
    if not drawn:
        raise BadRecords(f"{what}: no row has FLOPs, bytes and a time; {without_text(missing)}")
    check_machines(source(row) for row in drawn)
    axes = distinguishing(drawn, ["model"])
    points = dots_of(sort_rows(drawn, ["model", *axes]), axes, found)
    roofs = roofs_of(drawn)
    plane = plane_of(points, roofs)
    labels = [*roof_labels(roofs, plane)]
    lines = [box for roof in roofs for box in boxes_along(roof, plane)]
    places = dots.name_places(points, plane, lines, [box for _, boxes in labels for box in boxes])
    texts = [shared_text(drawn, ["model"]), *notes(points), without_text(missing), dots.nameless(points, places)]
    under = [*roof_layers(roofs, plane), *(one for text, _ in labels for one in text)]
    return dots.chart(under, points, places, plane, heading(spec.title, texts))


# -- rows to points ------------------------------------------------------------------------------------------


def split(chosen: Sequence[Row]) -> tuple[list[Row], dict[str, list[str]]]:
    """Return the rows that can be drawn, and the names of the others by the reason."""
    drawn, missing = [], dict[str, list[str]]()
    for row in chosen:
        _, failed = with_all([row], [next(m for m in SOURCES if m in row.values)])
        lacking = [key for key in ("flops", "bytes", "seconds", "ceilings") if not source(row).value.detail.get(key)]
        reason = next(iter(failed), f"kept without {' and '.join(lacking)}" if lacking else "")
        if reason:
            missing.setdefault(reason, []).append(short_name(row))
        else:
            drawn.append(row)
    return drawn, missing


def source(row: Row) -> Entry:
    """Return the value that says how fast a row was."""
    return next(row.values[m] for m in SOURCES if m in row.values)


def dots_of(drawn: Sequence[Row], axes: Sequence[str], found: Sequence[Row]) -> list[Dot]:
    """Return a point for each row; a model has one look in all of its rows."""
    own = looks(sorted({clean(row.case.model) for row in drawn}), (row.case.model for row in found))
    made = []
    for row in drawn:
        entry = source(row)
        x, y = intensity(entry.value), rate(entry.value)
        made.append(Dot(label_of(row, axes), own[clean(row.case.model)], x, y, stale=entry.stale))
    return made


def intensity(value: Value) -> Span:
    """Return the FLOPs for each byte that a row at least moves."""
    number = value.detail["flops"] / value.detail["bytes"]
    return Span(number, text=number_text(number))


def rate(value: Value) -> Span:
    """Return the GFLOP/s of a row; its interval is that of the percentage, which is as many times as wide."""
    number = value.detail["flops"] / value.detail["seconds"] / GIGA
    low, high = (
        (number * end / value.value for end in value.interval) if value.interval and value.value else (None,) * 2
    )
    return Span(number, low, high, f"{number_text(number)} ({number_text(float(value.value or 0))} % of the bound)")


def roofs_of(drawn: Sequence[Row]) -> list[Roof]:
    """Return the roof of each machine, device, dtype and number of threads: the most that any run reached."""
    varying = [a for a in CEILING_AXES if len({row.axis(a) for row in drawn}) > 1]
    most: dict[str, tuple[float, float]] = {}
    for row in drawn:
        name = clean(", ".join(row.text(a) + (" threads" if a == "threads" else "") for a in varying))
        ceilings, old = source(row).value.detail["ceilings"], most.get(name, (0.0, 0.0))
        most[name] = max(ceilings["flops"], old[0]), max(ceilings["bandwidth"], old[1])
    return [Roof(name, flops / GIGA, bandwidth / GIGA) for name, (flops, bandwidth) in sorted(most.items())]


def notes(points: Sequence[Dot]) -> list[str]:
    """Say what is drawn against what."""
    marks = ["bars: 95 % intervals"] if any(dot.y.low for dot in points) else []
    marks += [f"{STALE} earlier source of the plugin"] if any(dot.stale for dot in points) else []
    return [
        "FLOPs of products and transforms; bytes as if each product, transform, norm and reduction read and wrote once",
        " · ".join(["lines: what the machine did at most in a matrix product and a copy", *marks]),
    ]


# -- drawing -------------------------------------------------------------------------------------------------


def plane_of(points: Sequence[Dot], roofs: Sequence[Roof]) -> Plane:
    """Return axes that hold all points and intervals, the ridges, and some of the roofs beside them."""
    across = [dot.x.value for dot in points] + [roof.ridge * factor for roof in roofs for factor in (0.4, 4)]
    up = [end for dot in points for end in dot.y.ends] + [1.25 * roof.flops for roof in roofs]
    up += [roof.at(min(across)) for roof in roofs]
    return Plane(dots.axis_for(across, WIDTH), dots.axis_for(up, HEIGHT), "FLOPs a byte", "GFLOP/s")


def vertices(roof: Roof, plane: Plane) -> list[tuple[float, float]]:
    """Return a roof's corners within the axes."""
    first = max(plane.x.low, plane.y.low / roof.bandwidth)
    return [(x, roof.at(x)) for x in (first, roof.ridge, plane.x.high)]


def roof_layers(roofs: Sequence[Roof], plane: Plane) -> list[Any]:
    """Return a line for each roof."""
    import altair as alt

    layers = []
    for roof in roofs:
        data = alt.Data(values=[{"x": x, "y": y, "roof": roof.name} for x, y in vertices(roof, plane)])
        layers.append(alt.Chart(data).mark_line(color=INK, strokeWidth=1.6).encode(plane.across(), plane.up()))
    return layers


def boxes_along(roof: Roof, plane: Plane) -> Iterator[Box]:
    """Yield small boxes along a roof, in pixels."""
    first, last = vertices(roof, plane)[0][0], plane.x.high
    for n in range(SAMPLED + 1):
        x = first * (last / first) ** (n / SAMPLED)
        left, top = plane.pixels(x, roof.at(x))
        yield Box(left - 2 * THIN, top - 2 * THIN, left + 2 * THIN, top + 2 * THIN)


def roof_labels(roofs: Sequence[Roof], plane: Plane) -> Iterator[tuple[list[Any], list[Box]]]:
    """Yield what is written of the ceilings: on the one roof, or at the right of several; each with boxes in pixels."""
    if len(roofs) == 1:
        yield flat_label(roofs[0], plane)
        yield slope_label(roofs[0], plane)
        return
    levels = spread([plane.pixels(plane.x.high, roof.flops)[1] for roof in roofs], LINE + 2)
    for roof, level in zip(roofs, levels, strict=True):
        text = f"{roof.name}: {number_text(roof.flops)} GFLOP/s, {number_text(roof.bandwidth)} GB/s"
        yield texts_at(text, plane, WIDTH + 8, level, "left"), [line_box(text, WIDTH + 8, level)]


def flat_label(roof: Roof, plane: Plane) -> tuple[list[Any], list[Box]]:
    """Return the text above a roof's flat part."""
    left, top = plane.pixels(roof.ridge, roof.flops)
    text = f"{number_text(roof.flops)} GFLOP/s"
    return texts_at(text, plane, left, top - 9, "left"), [line_box(text, left, top - 9)]


def slope_label(roof: Roof, plane: Plane) -> tuple[list[Any], list[Box]]:
    """Return the text along a roof's slope."""
    text = f"{number_text(roof.bandwidth)} GB/s"
    (x0, y0), (x1, y1), _ = (plane.pixels(*corner) for corner in vertices(roof, plane))
    slope = math.atan2(y1 - y0, x1 - x0)
    x, y = (x0 + x1) / 2 + 10 * math.sin(slope), (y0 + y1) / 2 - 10 * math.cos(slope)
    half = text_width(text, dots.FONT_SIZE) / 2
    steps = [half * n / 5 for n in range(-5, 6)]
    along = [around(x + step * math.cos(slope), y + step * math.sin(slope)) for step in steps]
    return texts_at(text, plane, x, y, "center", math.degrees(slope)), along


def line_box(text: str, left: float, level: float) -> Box:
    """Return the box of a text that begins at the left."""
    return Box(left, level - LINE / 2, left + text_width(text, dots.FONT_SIZE), level + LINE / 2)


def texts_at(text: str, plane: Plane, left: float, top: float, align: Align, angle: float = 0) -> list[Any]:
    """Return a text at so many pixels from the left and the top."""
    return dots.text_layers([{"label": text, "ink": INK, **plane.values(left, top)}], plane, align, angle)
