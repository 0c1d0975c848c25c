"""Learning curves: the mean loss over each stretch of a training against its steps, a line a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from zoo import dots
from zoo.dots import Plane
from zoo.errors import BadRecords
from zoo.metrics import METRICS
from zoo.rows import Entry, Row, distinguishing, select, sort_rows
from zoo.style import (
    HEIGHT,
    WIDTH,
    Look,
    heading,
    label_of,
    looks,
    shared_text,
    short_name,
    status_text,
    styled,
    without_text,
)
from zoo.tables import STALE
from zoo.units import clean

if TYPE_CHECKING:
    import altair as alt

    from zoo.schema import LearningSpec

CURVE = "curve"  # of a trained value's detail: steps, and the mean loss since the point before
OF_COST = ("batch_size", "mode")  # axes of the cost that stands in the same row
SAID = "each point: the mean over a twentieth of the training, of the loss that the model learns by"


@dataclass(frozen=True)
class Line:
    """One training: its points as steps and losses."""

    name: str
    look: Look
    points: tuple[tuple[int, float], ...]
    stale: bool = False


def learning(spec: LearningSpec, found: Sequence[Row]) -> alt.LayerChart:
    """Return a chart of the training's loss against its steps, log along y, a line a training.

    A training that was tested several times is one line; rows without a curve are named above the picture.
    BadRecords when none has one, for trainings of two tasks, and for a loss that a log axis cannot show.
    """
    what = f"the plot {spec.name!r}"
    chosen = [row for row in select(found, spec.where, (), ["model", "size"], what) if row.case.task]
    drawn, missing = trainings(chosen)
    if not drawn:
        raise BadRecords(f"{what}: no row has a learning curve; {without_text(missing) or 'none has a task'}")
    if len(tasks := sorted({str(row.case.task) for row in drawn})) > 1:
        raise BadRecords(f"{what}: the losses of {' and '.join(tasks)} have no axis in common; choose one with where")
    axes = distinguishing(drawn, ["model"])
    lines = lines_of(sort_rows(drawn, ["model", *axes]), axes, found, what)
    every = [point for line in lines for point in line.points]
    plane = Plane(
        dots.axis_for([0, *(step for step, _ in every)], WIDTH, log=False),
        dots.axis_for([loss for _, loss in every], HEIGHT),
        "Training steps",
        "Training loss",
    )
    stale = f"{STALE} earlier source of the plugin" if any(line.stale for line in lines) else ""
    title = heading(spec.title, [shared_text(drawn, ["model", *OF_COST]), SAID, stale, without_text(missing)])
    return draw(lines, plane, title)


# -- rows to lines -------------------------------------------------------------------------------------------


def trainings(chosen: Sequence[Row]) -> tuple[list[Row], dict[str, list[str]]]:
    """Return the first row of each training, and the names of those that kept no curve by the reason."""
    first: dict[tuple[Any, ...], Row] = {}
    missing: dict[str, list[str]] = {}
    for row in chosen:
        if entry := source(row):
            points = tuple(map(tuple, entry.value.detail[CURVE]))
            trained = replace(row, case=replace(row.case, test_size=None))
            first.setdefault((row.case.model, row.case.task, row.machine, points), trained)
    drawn = {replace(row.case, test_size=None).id for row in first.values()}
    for row in chosen:
        if not source(row) and replace(row.case, test_size=None).id not in drawn:
            scores = [e.value for name, e in row.values.items() if name not in METRICS]
            failed = next((status_text(value) for value in scores if value.status != "ok"), "kept without a curve")
            missing.setdefault(failed, []).append(short_name(row))
    return list(first.values()), missing


def source(row: Row) -> Entry | None:
    """Return the first value of a row that keeps the curve of its training."""
    return next((entry for entry in row.values.values() if entry.value.detail.get(CURVE)), None)


def lines_of(drawn: Sequence[Row], axes: Sequence[str], found: Sequence[Row], what: str) -> list[Line]:
    """Return the lines of the rows, sorted by name. BadRecords for a loss that has no logarithm."""
    lines = {}
    for row in drawn:
        entry = source(row)
        assert entry is not None
        points = tuple((int(step), float(loss)) for step, loss in entry.value.detail[CURVE])
        for step, loss in points:
            if loss <= 0:
                raise BadRecords(f"{what}: the loss of {row.name} is {loss} at step {step}, which has no logarithm")
        lines[label_of(row, axes)] = points, entry.stale
    own = looks(sorted(lines), (row.case.model for row in found))
    return [Line(name, own[name], *lines[name]) for name in sorted(lines)]


# -- drawing -------------------------------------------------------------------------------------------------


def draw(lines: Sequence[Line], plane: Plane, title: Any) -> alt.LayerChart:
    """Return the chart: a line each, with its name at the right at the height where it ends."""
    import altair as alt

    layers = []
    for line in lines:
        data = alt.Data(values=[{"x": step, "y": loss, "model": clean(line.name)} for step, loss in line.points])
        mark = alt.Chart(data).mark_line(
            color=line.look.colour, strokeDash=list(line.look.dash), strokeWidth=1.8, strokeJoin="round"
        )
        layers.append(mark.encode(plane.across(), plane.up()))
    ends = [plane.pixels(*line.points[-1])[1] for line in lines]
    names = [dots.EdgeName(line.name + STALE * line.stale, line.look.colour, line.look.shape) for line in lines]
    layers += dots.edge_layers(names, ends)
    return styled(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))
