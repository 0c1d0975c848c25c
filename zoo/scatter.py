"""Two metrics against each other, a point a row, with the front of the rows that no other one dominates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zoo import dots
from zoo.dots import THIN, Dot, Plane
from zoo.errors import BadRecords
from zoo.labels import Box
from zoo.metrics import METRICS
from zoo.pareto import front, higher_is_better
from zoo.rows import Row, check_column, check_machines, distinguishing, select, sort_rows
from zoo.style import (
    HEIGHT,
    PALE_INK,
    WIDTH,
    axis_title,
    check_known,
    convention_texts,
    heading,
    in_sentence,
    label_of,
    looks,
    omission_texts,
    shared_text,
    with_all,
    without_text,
)
from zoo.tables import STALE
from zoo.units import PERCENT, Scale, clean, fitting_scale, scales_of

if TYPE_CHECKING:
    import altair as alt

    from zoo.schema import ParetoSpec


def pareto(spec: ParetoSpec, found: Sequence[Row]) -> alt.LayerChart:
    """Return a chart of one metric against another, a point a row, and a line along the Pareto front.

    Rows that lack one of the two are named above the picture. BadRecords when none has both, for conventions or
    machines that may not stand on one axis, and for what a log axis cannot show.
    """
    what, metrics = f"the plot {spec.name!r}", (spec.x, spec.y)
    check_known(metrics, found, what)
    drawn, missing = with_all(select(found, spec.where, metrics, ["model", "size"], what), metrics)
    if not drawn:
        raise BadRecords(f"{what}: no row has both {spec.x} and {spec.y}; {without_text(missing)}")
    for metric in metrics:
        check_column(metric, drawn)
    check_machines(row.values[m] for row in drawn for m in metrics)
    higher = (higher_is_better(spec.x), higher_is_better(spec.y))
    axes = distinguishing(drawn, ["model"])
    scales = [scale_of(m, drawn, what) for m in metrics]
    points = front_first(dots_of(sort_rows(drawn, ["model", *axes]), axes, metrics, scales, found), higher)
    plane = plane_of(points, metrics, scales, [is_log(m, drawn) for m in metrics])
    line = sorted((dot for dot in points if dot.marked), key=lambda dot: dot.x.value)
    places = dots.name_places(points, plane, [*corners(line, plane, higher[0])])
    texts = [shared_text(drawn, ["model"]), *convention_texts(drawn, metrics)]
    texts += omission_texts((label_of(row, axes), row.values[m].value) for row in drawn for m in metrics)
    texts += [without_text(missing), legend(metrics, higher, points), dots.nameless(points, places)]
    under = front_layers(line, plane, higher[0])
    return dots.chart(under, points, places, plane, heading(spec.title, texts))


# -- rows to points ------------------------------------------------------------------------------------------


def dots_of(
    drawn: Sequence[Row], axes: Sequence[str], metrics: Sequence[str], scales: Sequence[Scale], found: Sequence[Row]
) -> list[Dot]:
    """Return a point for each row; a model has one look in all of its rows."""
    own = looks(sorted({clean(row.case.model) for row in drawn}), (row.case.model for row in found))
    made = []
    for row in drawn:
        entries = [row.values[m] for m in metrics]
        x, y = (dots.span_of(entry.value, scale) for entry, scale in zip(entries, scales, strict=True))
        stale = any(entry.stale for entry in entries)
        made.append(Dot(label_of(row, axes), own[clean(row.case.model)], x, y, stale=stale))
    return made


def front_first(points: Sequence[Dot], higher: tuple[bool, bool]) -> list[Dot]:
    """Mark the points on the front, and put them before the others; within both the order stays."""
    on_front = front(((dot.x.value, dot.y.value) for dot in points), higher)
    marked = [replace(dot, marked=on) for dot, on in zip(points, on_front, strict=True)]
    return sorted(marked, key=lambda dot: not dot.marked)


# -- axes ----------------------------------------------------------------------------------------------------


def is_log(metric: str, drawn: Sequence[Row]) -> bool:
    """Tell whether a metric is drawn on a log axis: costs and rates are, percentages and the scores of tasks not."""
    return metric in METRICS and all(row.values[metric].value.unit != "%" for row in drawn)


def scale_of(metric: str, drawn: Sequence[Row], what: str) -> Scale:
    """Return the unit that suits the middle of the values. BadRecords for what a log axis cannot show."""
    values = [row.values[metric].value for row in drawn]
    numbers = sorted(value.value for value in values if value.value is not None)
    if not is_log(metric, drawn):
        return fitting_scale(scales_of(metric, values), max(map(abs, numbers)))
    for row in drawn:
        number = row.values[metric].value.value
        if number is not None and number <= 0:
            raise BadRecords(f"{what}: {metric} of {row.name} is {number}, which a log axis cannot show")
    return fitting_scale(scales_of(metric, values), math.sqrt(numbers[0]) * math.sqrt(numbers[-1]))


def plane_of(points: Sequence[Dot], metrics: Sequence[str], scales: Sequence[Scale], logs: Sequence[bool]) -> Plane:
    """Return axes with room for all points and intervals; no tick above 100 % where no value can be."""
    ends = [[end for dot in points for end in dot.x.ends], [end for dot in points for end in dot.y.ends]]
    most = [100 if scale == PERCENT else math.inf for scale in scales]
    x, y = map(dots.axis_for, ends, (WIDTH, HEIGHT), logs, most)
    x_title, y_title = map(axis_title, metrics, scales)
    return Plane(x, y, x_title, y_title)


# -- the front -----------------------------------------------------------------------------------------------


def front_layers(line: Sequence[Dot], plane: Plane, higher: bool) -> list[Any]:
    """Return the line along the front: at each cost the best that may be had for it."""
    import altair as alt

    data = alt.Data(values=[{"x": dot.x.value, "y": dot.y.value} for dot in line])
    step = alt.Chart(data).mark_line(interpolate="step-before" if higher else "step-after", color=PALE_INK)
    return [step.encode(plane.across(), plane.up(), strokeWidth=alt.value(1.3))]


def corners(line: Sequence[Dot], plane: Plane, higher: bool) -> Iterator[Box]:
    """Yield the pieces of the step line as thin boxes in pixels."""
    ends = [plane.pixels(dot.x.value, dot.y.value) for dot in line]
    for (left, start), (right, end) in itertools.pairwise(ends):
        level, upright = (end, left) if higher else (start, right)
        yield Box(left, level - THIN, right, level + THIN)
        yield Box(upright - THIN, min(start, end), upright + THIN, max(start, end))


def legend(metrics: Sequence[str], higher: tuple[bool, bool], points: Sequence[Dot]) -> str:
    """Say what the marks mean, and which way is better."""
    ways = " and ".join(f"{'more' if up else 'less'} {in_sentence(m)}" for m, up in zip(metrics, higher, strict=True))
    marks = [f"filled: on the Pareto front ({ways})"]
    marks += ["hollow: dominated"] if not all(dot.marked for dot in points) else []
    marks += ["bars: 95 % intervals"] if any(len(s.ends) > 1 for dot in points for s in (dot.x, dot.y)) else []
    marks += [f"{STALE} earlier source of the plugin"] if any(dot.stale for dot in points) else []
    return " · ".join(marks)
