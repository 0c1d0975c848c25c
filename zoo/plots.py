"""Records to scaling plots: a metric against the input size on two log axes, one line a model, ready for print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import BadRecords
from zoo.metrics import CONVENTIONS, METRICS
from zoo.record import Value
from zoo.spec import Size
from zoo.tables import (
    STALE,
    Row,
    Scale,
    axis_text,
    check_column,
    check_machines,
    clean,
    constant_axes,
    distinguishing,
    fitting_scale,
    listed,
    metric_title,
    scales_of,
    select,
    sort_rows,
    value_text,
)

if TYPE_CHECKING:
    import altair as alt

    from zoo.suite import PlotSpec

WIDTH, HEIGHT = 420, 300
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
INK, GREY = "#222222", "#dddddd"
# Okabe and Ito's palette without yellow, which is lost on white paper; it is told apart by colour-blind readers.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = ("circle", "square", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right")
DASHES = ([1, 0], [6, 3], [2, 2])
AXIS_TITLES = {"px": "Resolution (pixels)", "tok": "Sequence length (tokens)"}
LABEL_GAP, TICK_GAP, FAILED_GAP = 15, 34, 13


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


@dataclass(frozen=True)
class Axis:
    """A log axis: its domain, the ticks that carry a label, and its length in pixels."""

    low: float
    high: float
    ticks: tuple[float, ...]
    length: int

    def pixel(self, value: float) -> float:
        """Return how far from the low end a value lies, in pixels."""
        return self.length * math.log(value / self.low) / math.log(self.high / self.low)


def plot(spec: PlotSpec, found: Sequence[Row]) -> alt.LayerChart:
    """Return a log-log chart of the metric ``spec.y`` over the size, with a line for each model.

    Where other axes vary too, each combination has a line of its own that its label names. A size that failed is a
    hollow triangle at the top; one that the model cannot take (``unsupported``) has no mark. BadRecords when nothing
    can be drawn, or when one axis would mix pixels and tokens, conventions, or machines of one name.
    """
    what = f"the plot {spec.name!r}"
    if spec.x != "size":
        raise BadRecords(f"{what}: x is {spec.x!r}; only 'size' can be drawn along x")
    chosen = select(found, spec.where, [spec.y], ["model", "size"], what)
    unit = size_unit(chosen, what)
    check_column(spec.y, chosen)
    check_machines(row.values[spec.y] for row in chosen)
    scale = plot_scale(spec.y, chosen, what)
    lines = series_of(spec.y, chosen, scale, found)
    return draw(lines, heading(spec.title, spec.y, chosen, lines), AXIS_TITLES[unit], y_title(spec.y, scale))


def save(chart: alt.LayerChart, stem: Path) -> list[Path]:
    """Write a chart as ``<stem>.svg`` and ``<stem>.png`` (two pixels a point), and return the two paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png")]
    for file in files:
        chart.save(str(file), scale_factor=2 if file.suffix == ".png" else 1)
    return files


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
    axes = ["model", *distinguishing(chosen, ["model", "size"])]
    grouped: dict[str, list[Point]] = {}
    for row in sort_rows(chosen, [*axes, "size"]):
        label = ", ".join([row.case.model, *(f"{a} {axis_text(a, row.axis(a))}" for a in axes[1:])])
        grouped.setdefault(clean(label), []).append(point_of(row, name, scale))
    places = places_of(sorted(grouped), sorted({clean(row.case.model) for row in found}))
    lines = []
    for label, n in places.items():
        points = tuple(sorted(grouped[label], key=lambda p: p.x))
        around, colour = divmod(n, len(OKABE_ITO))
        shape, dash = SHAPES[(n + around) % len(SHAPES)], DASHES[around % len(DASHES)]
        lines.append(Series(label, points, OKABE_ITO[colour], shape, list(dash)))
    return lines


def places_of(labels: Sequence[str], models: Sequence[str]) -> dict[str, int]:
    """Return the place of each line in the palette: its model's among all models, so that plots of one suite agree.

    Where that gives two lines one colour, or a model has several lines, the place among the lines of this plot.
    """
    places = {label: models.index(label) for label in labels if label in models}
    if len({n % len(OKABE_ITO) for n in places.values()}) == len(labels):
        return places
    return {label: n for n, label in enumerate(labels)}


def point_of(row: Row, name: str, scale: Scale) -> Point:
    """Return a row as a point in the unit of the plot."""
    value = row.values[name].value
    y = None if value.value is None else value.value / scale.factor
    low, high = (v / scale.factor for v in value.interval) if value.interval else (None, None)
    low = None if low is not None and low <= 0 else low
    return Point(Size.parse(row.case.size).values[0], y, low, high, value, row.values[name].stale)


def y_title(name: str, scale: Scale) -> str:
    """Return a metric's title with the unit."""
    return f"{metric_title(name)} ({scale.label})" if scale.label else metric_title(name)


def heading(title: str, name: str, chosen: Sequence[Row], lines: Sequence[Series]) -> Any:
    """Return the title, and below it what holds for all lines and what the marks mean."""
    import altair as alt

    machines = sorted({row.machine for row in chosen if row.machine})
    shared = [*constant_axes(chosen, ["model", "size"]), *(machines if len(machines) == 1 else [])]
    convention = next((p.value.convention for line in lines for p in line.points if p.value.convention), "")
    failed = sorted({p.value.status for line in lines for p in line.points if is_failed(p)})
    intervals = any(p.low for line in lines for p in line.points)
    marks = [f"hollow triangle: no value ({', '.join(status_words(lines, s) for s in failed)})"] if failed else []
    what = METRICS[name].interval if name in METRICS else ""
    marks += ["bars: 95 % interval" + (f" of the {what}" if what else "")] if intervals else []
    marks += [f"{STALE} earlier source of the plugin"] if any(p.stale for line in lines for p in line.points) else []
    texts = [
        clean(text)
        for text in (" · ".join(shared), CONVENTIONS.get(convention, convention), *omissions(lines), " · ".join(marks))
        if text
    ]
    return alt.TitleParams(clean(title), subtitle=[part for text in texts for part in folded(text, 90)])


def omissions(lines: Sequence[Series]) -> list[str]:
    """Say which operations the counts of a line leave out, where they matter."""
    texts = []
    for line in lines:
        ops = [op for point in line.points for op in point.value.detail.get("uncounted") or [] if op.get("material")]
        if ops:
            texts.append(f"not counted for {line.name}: {', '.join(dict.fromkeys(op['name'] for op in ops))}")
    return texts


def status_words(lines: Sequence[Series], status: str) -> str:
    """Return the words of a status, as the tables have them."""
    values = [p.value for line in lines for p in line.points if p.value.status == status]
    return " or ".join(sorted({value_text(v, None, ())[0] for v in values}))


def folded(text: str, width: int) -> list[str]:
    """Break text at spaces into lines of at most ``width`` characters."""
    import textwrap

    return textwrap.wrap(text, width)


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


def padded(low: float, high: float, length: int, pad: int) -> tuple[float, float]:
    """Widen a range by ``pad`` pixels at both ends; a range of one value becomes one of a factor of four."""
    if high / low < 1.02:
        return low / 2, high * 2
    more = (high / low) ** (pad / (length - 2 * pad))
    return low / more, high * more


# From fine to coarse: the first digits of the ticks, and at which powers of ten they stand.
TICKS = (((1, 1.5, 2, 3, 4, 5, 6, 8), 1), ((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3))


def log_ticks(low: float, high: float, most: int = 8) -> tuple[float, ...]:
    """Return round values within a range: as many as fit, coarser the wider the range."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for digits, stride in TICKS:
        powers = [n for n in range(first, last + 1) if n % stride == 0]
        ticks = tuple(t for n in powers for d in digits if low <= (t := float(f"{d}e{n}")) <= high)
        if len(ticks) <= most:
            break
    return ticks if len(ticks) >= 3 else even_ticks(low, high)


def even_ticks(low: float, high: float) -> tuple[float, ...]:
    """Return four to eight round values at even steps, for a range within one power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(m * power for m in (1, 2, 5, 10) if (high - low) / (m * power) < 8)
    return tuple(round(n * step, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1))


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

    across = alt.X("x:Q", scale=x_scale(x), title=x_title, axis=alt.Axis(values=list(x.ticks), format="d", grid=False))
    up = alt.Y(
        "y:Q",
        scale=alt.Scale(type="log", domain=[y.low, y.high], nice=False),
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


def x_scale(axis: Axis) -> Any:
    import altair as alt

    return alt.Scale(type="log", domain=[axis.low, axis.high], nice=False)


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
                .encode(x=alt.X("x:Q", scale=x_scale(x)), y=alt.value(9 + FAILED_GAP * row), tooltip=TOOLTIP)
            )
    return layers


def name_layers(lines: Sequence[Series], y: Axis) -> list[Any]:
    """Return the names at the right edge, each with its mark, at the height where its line ends."""
    import altair as alt

    ends = []
    for line in lines:
        values = [p.y for p in line.points if p.y is not None]
        ends.append(y.length - y.pixel(values[-1]) if values else 0.0)
    layers = []
    for line, height in zip(lines, spread(ends, LABEL_GAP), strict=True):
        drawn = any(p.y is not None for p in line.points)
        base = alt.Chart(alt.Data(values=[{"name": line.name}]))
        mark = base.mark_point(
            color=line.colour, shape=line.shape if drawn else "triangle-up", filled=drawn, size=48, opacity=1
        )
        text = base.mark_text(align="left", baseline="middle", color=INK, fontSize=12).encode(text="name:N")
        layers.append(mark.encode(x=alt.value(WIDTH + 12), y=alt.value(height)))
        layers.append(text.encode(x=alt.value(WIDTH + 21), y=alt.value(height)))
    return layers


def styled(chart: alt.LayerChart) -> alt.LayerChart:
    """Return a chart with the fonts, inks and margins of a printed figure."""
    axis: dict[str, Any] = {
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
        "titlePadding": 10,
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": GREY,
        "labelOverlap": False,
    }
    heading: dict[str, Any] = {
        "anchor": "start",
        "frame": "group",
        "fontSize": 15,
        "subtitleFontSize": 11,
        "subtitleColor": "#555555",
        "color": INK,
        "offset": 12,
        "subtitlePadding": 5,
    }
    return (
        chart.configure(font=FONT, background="white", padding=10)
        .configure_axis(**axis)
        .configure_title(**heading)
        .configure_view(stroke=None)
    )
