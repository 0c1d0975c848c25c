"""Ours against what was published: how far apart they are, a point a row of a table of published numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo import dots
from zoo.dots import Dot, Plane, Span
from zoo.errors import BadRecords
from zoo.labels import Box
from zoo.metrics import CONVENTIONS
from zoo.quoted import ENOUGH, Maker
from zoo.style import HEIGHT, PALE_INK, WIDTH, heading, look

if TYPE_CHECKING:
    import altair as alt

    from zoo.schema import PublishedPlot

OURS = look(0)


def beside(spec: PublishedPlot, maker: Maker) -> alt.LayerChart:
    """Return a chart of how far ours is from each published number, over that number, log-linear.

    Points within a hundredth are filled. BadRecords where no row has both numbers.
    """
    found = list(maker.pairs(spec.column))
    if not found:
        raise BadRecords(f"the plot {spec.name!r}: no row of {maker.spec.title!r} has a published number and ours")
    points = [dot(*pair) for pair in sorted(found, key=lambda pair: -abs(pair[2] / pair[1] - 1))]
    column = next(c for c in maker.spec.columns if c.title == spec.column)
    plane = Plane(
        dots.axis_for([p.x.value for p in points], WIDTH),
        dots.axis_for([*(p.y.value for p in points), -100 * ENOUGH, 100 * ENOUGH], HEIGHT, log=False),
        f"{spec.column}, published",
        "Ours less published (%)",
    )
    level = plane.pixels(points[0].x.value, 0.0)[1]
    places = dots.name_places(points, plane, [Box(0, level - dots.THIN, WIDTH, level + dots.THIN)])
    counted = "FLOPs, two a multiply-accumulate" if column.title in maker.doubled else CONVENTIONS["mac"]
    said = counted if column.measured == "macs" else ""
    far = sum(not point.marked for point in points)
    texts = [
        f"{len(points)} published numbers{f', ours are {said}' if said else ''}",
        f"filled: within 1 % · hollow: {far} further apart" if far else "all within 1 %",
        dots.nameless(points, places),
    ]
    return dots.chart(lines(plane), points, places, plane, heading(spec.title, texts))


def dot(name: str, theirs: float, ours: float) -> Dot:
    """Return a row as a point."""
    apart = 100 * (ours / theirs - 1)
    text = f"{apart:+.2f} % ({ours:.4g} for {theirs:g})"
    return Dot(name, OURS, Span(theirs, text=f"{theirs:g}"), Span(apart, text=text), abs(apart) <= 100 * ENOUGH)


def lines(plane: Plane) -> list[Any]:
    """Return a line where both are the same, and thin ones a hundredth above and below."""
    import altair as alt

    layers = []
    for level, width, dash in ((0.0, 1.2, [1, 0]), (100 * ENOUGH, 0.7, [3, 3]), (-100 * ENOUGH, 0.7, [3, 3])):
        data = alt.Data(values=[{"x": plane.x.low, "y": level, "x2": plane.x.high}])
        rule = alt.Chart(data).mark_rule(color=PALE_INK, strokeWidth=width, strokeDash=dash)
        layers.append(rule.encode(plane.across(), plane.up(), x2="x2:Q"))
    return layers
