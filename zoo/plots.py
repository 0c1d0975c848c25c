"""Records to pictures: a suite's plots by their kind; the first, scaling, is a metric against the size, log-log."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo import bars, dots, learning, roof, scatter
from zoo.errors import BadRecords
from zoo.metrics import CONVENTIONS, METRICS
from zoo.record import Value
from zoo.rows import Row, check_column, check_machines, distinguishing, listed, select, sort_rows
from zoo.schema import BreakdownSpec, LearningSpec, ParetoSpec, Picture, PlotSpec, RooflineSpec
from zoo.spec import Size
from zoo.style import (
    HEIGHT,
    INK,
    WIDTH,
    Axis,
    axis_title,
    check_known,
    heading,
    label_of,
    log_ticks,
    looks,
    omission_texts,
    padded,
    save,
    shared_text,
    status_text,
    styled,
)
from zoo.tables import STALE
from zoo.units import Scale, clean, fitting_scale, scales_of, value_text

if TYPE_CHECKING:
    import altair as alt

__all__ = ["plot", "save", "scaling"]

AXIS_TITLES = {"px": "Resolution (pixels)", "tok": "Sequence length (tokens)"}
TICK_GAP, FAILED_GAP = 34, 13


def plot(spec: Picture, found: Sequence[Row]) -> alt.LayerChart:
    """Return the chart that a suite asks for, from all of its rows. BadRecords when they cannot be drawn so."""
    if isinstance(spec, ParetoSpec):
        return scatter.pareto(spec, found)
    if isinstance(spec, BreakdownSpec):
        return bars.breakdown(spec, found)
    if isinstance(spec, RooflineSpec):
        return roof.roofline(spec, found)
    if isinstance(spec, LearningSpec):
        return learning.learning(spec, found)
    assert isinstance(spec, PlotSpec)
    return scaling(spec, found)


# -- scaling -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One row: a size as a number, and a value (None where there is none) with its interval in the plot's unit."""

    x: int
    y: float | None
    low: float | None
    high: float | None
    value: Value
    stale: bool


@dataclass(frozen=True)
class Series:
    """One line: its points in order of size, and its looks, which depend on its place among the sorted names."""

    name: str
    points: tuple[Point, ...]
    colour: str
    shape: str
    dash: list[int]


def scaling(spec: PlotSpec, found: Sequence[Row]) -> alt.LayerChart:
    """Return a log-log chart of the metric ``spec.y`` over the size, with a line for each model.

    Where other axes vary too, each combination has a line of its own that its label names. A size that failed is a
    hollow triangle at the top; one that the model cannot take (``unsupported``) has no mark. BadRecords when nothing
    can be drawn, or when one axis would mix pixels and tokens, conventions, or machines of one name.
    """
    what = f"the plot {spec.name!r}"
    if spec.x != "size":
        raise BadRecords(f"{what}: x is {spec.x!r}; only 'size' can be drawn along x")
    check_known([spec.y], found, what)
    chosen = select(found, spec.where, [spec.y], ["model", "size"], what)
    unit = size_unit(chosen, what)
    check_column(spec.y, chosen)
    check_machines(row.values[spec.y] for row in chosen)
    scale = plot_scale(spec.y, chosen, what)
    lines = series_of(spec.y, chosen, scale, found)
    title = heading(spec.title, said(spec.y, chosen, lines))
    return draw(lines, title, AXIS_TITLES[unit], axis_title(spec.y, scale))


# -- records to lines ----------------------------------------------------------------------------------------


def size_unit(chosen: Sequence[Row], what: str) -> str:
    """Return ``px`` or ``tok``. BadRecords when both occur, or when a size is not one number."""
    names: dict[str, list[str]] = {}
    for row in chosen:
        size = Size.parse(row.case.size)
        if len(size.values) > 1:
            raise BadRecords(f"{what}: {row.name} has the size {size}, which is not one number along x")
        names.setdefault(size.unit, []).append(row.case.model)
    if len(names) > 1:
        sides = " and ".join(f"{unit} ({listed(sorted(set(models)))})" for unit, models in names.items())
        raise BadRecords(f"{what}: sizes in {sides} have no x axis in common; choose the models of one with where")
    return next(iter(names))


def plot_scale(name: str, chosen: Sequence[Row], what: str) -> Scale:
    """Return the unit of the y axis, which suits the middle of the range. BadRecords for what has no logarithm."""
    values = [row.values[name].value for row in chosen if row.values[name].value.status == "ok"]
    if not values:
        statuses = sorted({row.values[name].value.status for row in chosen})
        raise BadRecords(f"{what}: no {name} was measured (status: {', '.join(statuses)})")
    for row in chosen:
        number = row.values[name].value.value
        if number is not None and number <= 0:
            raise BadRecords(f"{what}: {name} of {row.name} is {number}, which a log axis cannot show")
    sizes = sorted(v.value for v in values if v.value is not None)
    return fitting_scale(scales_of(name, values), math.sqrt(sizes[0]) * math.sqrt(sizes[-1]))


def series_of(name: str, chosen: Sequence[Row], scale: Scale, found: Sequence[Row]) -> list[Series]:
    """Return the lines of the chosen rows, sorted by name; ``found`` are all rows, which colours are given out over."""
    axes = distinguishing(chosen, ["model", "size"])
    grouped: dict[str, list[Point]] = {}
    for row in sort_rows(chosen, ["model", *axes, "size"]):
        grouped.setdefault(label_of(row, axes), []).append(point_of(row, name, scale))
    lines = []
    for label, own in looks(sorted(grouped), (row.case.model for row in found)).items():
        points = tuple(sorted(grouped[label], key=lambda p: p.x))
        lines.append(Series(label, points, own.colour, own.shape, list(own.dash)))
    return lines


def point_of(row: Row, name: str, scale: Scale) -> Point:
    """Return a row as a point in the unit of the plot."""
    value = row.values[name].value
    y = None if value.value is None else value.value / scale.factor
    low, high = (v / scale.factor for v in value.interval) if value.interval else (None, None)
    low = None if low is not None and low <= 0 else low
    return Point(Size.parse(row.case.size).values[0], y, low, high, value, row.values[name].stale)


def said(name: str, chosen: Sequence[Row], lines: Sequence[Series]) -> list[str]:
    """Return what holds for all lines and what the marks mean, to be said below the title."""
    points = [(line.name, point) for line in lines for point in line.points]
    convention = next((p.value.convention for _, p in points if p.value.convention), "")
    failed = sorted({p.value.status for _, p in points if is_failed(p)})
    marks = [f"hollow triangle: no value ({', '.join(status_words(lines, s) for s in failed)})"] if failed else []
    what = METRICS[name].interval if name in METRICS else ""
    if any(p.low for _, p in points):
        marks.append("bars: 95 % interval" + (f" of the {what}" if what else ""))
    marks += [f"{STALE} earlier source of the plugin"] if any(p.stale for _, p in points) else []
    omitted = omission_texts((name, p.value) for name, p in points)
    shared = shared_text(chosen, ["model", "size"])
    return [shared, CONVENTIONS.get(convention, convention), *omitted, " · ".join(marks)]


def status_words(lines: Sequence[Series], status: str) -> str:
    """Return the words of a status, as the tables have them."""
    values = [p.value for line in lines for p in line.points if p.value.status == status]
    return " or ".join(sorted({status_text(v) for v in values}))


def is_failed(point: Point) -> bool:
    """Tell whether a size was tried and gave no value."""
    return point.y is None and point.value.status != "unsupported"


# -- axes ----------------------------------------------------------------------------------------------------


def x_axis(sizes: Iterable[int]) -> Axis:
    """Return the x axis with a label at every size that has room for one."""
    present = sorted(set(sizes))
    low, high = padded(present[0], present[-1], WIDTH, 16)
    bare = Axis(low, high, (), WIDTH)
    ticks = [present[-1]]
    for size in [present[0], *present[1:-1]]:
        if all(abs(bare.pixel(size) - bare.pixel(tick)) >= TICK_GAP for tick in ticks):
            ticks.append(size)
    return Axis(low, high, tuple(sorted(ticks)), WIDTH)


def y_axis(values: Iterable[float], reserved: int) -> Axis:
    """Return the y axis, with so many pixels left free at its top."""
    present = list(values)
    low, high = padded(min(present), max(present), HEIGHT - reserved, 14)
    high *= (high / low) ** (reserved / (HEIGHT - reserved))
    return Axis(low, high, log_ticks(low, high), HEIGHT)


# -- drawing -------------------------------------------------------------------------------------------------


def draw(lines: Sequence[Series], title: Any, x_title: str, y_title: str) -> alt.LayerChart:
    """Return the chart: lines, points and intervals, triangles for what failed, and names at the right."""
    import altair as alt

    failures: dict[int, int] = {}
    for line in lines:
        for point in filter(is_failed, line.points):
            failures[point.x] = failures.get(point.x, 0) + 1
    reserved = 6 + FAILED_GAP * max(failures.values()) if failures else 0
    x = x_axis(p.x for line in lines for p in line.points)
    y = y_axis((v for line in lines for p in line.points for v in (p.y, p.low, p.high) if v), reserved)
    layers = [*value_layers(lines, x, y, x_title, y_title), *failed_layers(lines, x), *name_layers(lines, y)]
    return styled(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))


def value_layers(lines: Sequence[Series], x: Axis, y: Axis, x_title: str, y_title: str) -> list[Any]:
    """Return the layers of a line each, its intervals and its points; the first one carries the axes."""
    import altair as alt

    across = alt.X("x:Q", scale=x.scale, title=x_title, axis=alt.Axis(values=list(x.ticks), format="d", grid=False))
    up = alt.Y(
        "y:Q",
        scale=y.scale,
        title=y_title,
        axis=alt.Axis(values=list(y.ticks), format="~f"),
    )
    layers = []
    for line in lines:
        data = alt.Data(values=[datum(line, p) for p in line.points if p.y is not None])
        base = alt.Chart(data).encode(x=across, y=up)
        point = base.mark_point(color=line.colour, shape=line.shape, filled=True, size=48, opacity=1)
        layers += [
            base.mark_line(color=line.colour, strokeDash=line.dash, strokeWidth=1.8),
            base.transform_filter("isValid(datum.low) && isValid(datum.high)")
            .mark_rule(color=line.colour, strokeWidth=1.4)
            .encode(y=alt.Y("low:Q", title=y_title), y2="high:Q"),
            point.encode(tooltip=TOOLTIP),
        ]
        if any(p.stale for p in line.points):
            dagger = base.transform_filter("datum.stale").mark_text(text=STALE, dx=7, dy=-7, color=INK)
            layers.append(dagger)
    return layers


TOOLTIP = ["model:N", "size:Q", "shown:N", "status:N", "reason:N"]


def datum(line: Series, point: Point) -> dict[str, Any]:
    """Return a point as the chart's data."""
    value = point.value
    shown, _ = value_text(value, None, scales_of("", [value]))
    data = {"x": point.x, "y": point.y, "low": point.low, "high": point.high, "stale": point.stale}
    about = {"model": line.name, "size": point.x, "shown": shown, "status": value.status, "reason": clean(value.reason)}
    return data | about


def failed_layers(lines: Sequence[Series], x: Axis) -> list[Any]:
    """Return hollow triangles along the top for the sizes that gave no value, one below the other at one size."""
    import altair as alt

    layers = []
    taken: dict[int, int] = {}
    for line in lines:
        for point in filter(is_failed, line.points):
            row = taken.get(point.x, 0)
            taken[point.x] = row + 1
            layers.append(
                alt.Chart(alt.Data(values=[datum(line, point)]))
                .mark_point(color=line.colour, shape="triangle-up", filled=False, size=70, strokeWidth=1.8, opacity=1)
                .encode(x=alt.X("x:Q", scale=x.scale), y=alt.value(9 + FAILED_GAP * row), tooltip=TOOLTIP)
            )
    return layers


def name_layers(lines: Sequence[Series], y: Axis) -> list[Any]:
    """Return the names at the right edge, each with its mark, at the height where its line ends."""
    names, ends = [], []
    for line in lines:
        values = [p.y for p in line.points if p.y is not None]
        shape = line.shape if values else "triangle-up"
        names.append(dots.EdgeName(line.name, line.colour, shape, filled=bool(values)))
        ends.append(y.length - y.pixel(values[-1]) if values else 0.0)
    return dots.edge_layers(names, ends)
