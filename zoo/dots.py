"""Points on two axes with their intervals, and names beside them: what every scatter plot is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo import labels
from zoo.labels import Align, Box, Label
from zoo.record import Value
from zoo.rows import listed
from zoo.style import (
    HEIGHT,
    INK,
    PALE_INK,
    WIDTH,
    Axis,
    Look,
    even_ticks,
    log_ticks,
    padded,
    padded_evenly,
    styled,
)
from zoo.tables import STALE
from zoo.units import Scale, value_text

if TYPE_CHECKING:
    import altair as alt

MOST_NAMES = 60  # beside points; a picture of more could not be read
FONT_SIZE = 11
FRAME = Box(2, 2, WIDTH + 150, HEIGHT - 2)  # where names may stand: the right is free
SMALL = 3  # half of the width of a point of a crowd, in pixels
THIN = 2  # what a name keeps from a line, in pixels
EDGE_GAP = 15  # pixels between two names at the right edge
PAD = 16  # pixels between an axis's ends and the outermost points


@dataclass(frozen=True)
class Span:
    """A value in the unit of its axis, with its interval if there is one, and as text."""

    value: float
    low: float | None = None
    high: float | None = None
    text: str = ""

    @property
    def ends(self) -> tuple[float, ...]:
        """All of its numbers."""
        return tuple(end for end in (self.value, self.low, self.high) if end is not None)


def span_of(value: Value, scale: Scale) -> Span:
    """Return a value and its interval in a unit."""
    assert value.value is not None
    low, high = (end / scale.factor for end in value.interval) if value.interval else (None, None)
    text = " ".join(filter(None, [value_text(value, scale, (scale,))[0], scale.label]))
    return Span(value.value / scale.factor, low, high, text)


@dataclass(frozen=True)
class Dot:
    """One row. ``marked`` ones are filled, and named first."""

    name: str
    look: Look
    x: Span
    y: Span
    marked: bool = True
    stale: bool = False

    @property
    def text(self) -> str:
        """What stands beside the point."""
        return self.name + STALE * self.stale


@dataclass(frozen=True)
class Plane:
    """Two axes with their titles."""

    x: Axis
    y: Axis
    x_title: str
    y_title: str

    def pixels(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point lies, from the left and from the top."""
        return self.x.pixel(x), self.y.length - self.y.pixel(y)

    def values(self, left: float, top: float) -> dict[str, float]:
        """Return the point at so many pixels from the left and the top, as data."""
        return {"x": self.x.value(left), "y": self.y.value(self.y.length - top)}

    def across(self, field: str = "x") -> Any:
        """Return the encoding of a field along x."""
        import altair as alt

        axis = alt.Axis(values=list(self.x.ticks), format="~f", grid=False, labelFlush=False)
        return alt.X(f"{field}:Q", scale=self.x.scale, title=self.x_title, axis=axis)

    def up(self, field: str = "y") -> Any:
        """Return the encoding of a field along y."""
        import altair as alt

        axis = alt.Axis(values=list(self.y.ticks), format="~f")
        return alt.Y(f"{field}:Q", scale=self.y.scale, title=self.y_title, axis=axis)


def axis_for(values: Sequence[float], length: int, log: bool = True, most: float = math.inf) -> Axis:
    """Return an axis with room for all values, those that a log axis cannot show left out; no tick above ``most``."""
    shown = [value for value in values if value > 0 or not log]
    low, high = (padded if log else padded_evenly)(min(shown), max(shown), length, PAD)
    ticks = (log_ticks if log else even_ticks)(low, high)
    return Axis(low, high, tuple(tick for tick in ticks if tick <= most), length, log)


# -- names ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EdgeName:
    """A name at the right edge, with the mark of its line; hollow for a line that has no points."""

    name: str
    colour: str
    shape: str
    filled: bool = True


def edge_layers(names: Sequence[EdgeName], ends: Sequence[float]) -> list[Any]:
    """Return names at the right edge, as near to the wanted pixels from the top as leaves room for each."""
    import altair as alt

    layers = []
    for one, height in zip(names, labels.spread(ends, EDGE_GAP), strict=True):
        base = alt.Chart(alt.Data(values=[{"name": one.name}]))
        mark = base.mark_point(color=one.colour, shape=one.shape, filled=one.filled, size=48, opacity=1)
        text = base.mark_text(align="left", baseline="middle", color=INK, fontSize=12).encode(text="name:N")
        layers.append(mark.encode(x=alt.value(WIDTH + 12), y=alt.value(height)))
        layers.append(text.encode(x=alt.value(WIDTH + 21), y=alt.value(height)))
    return layers


def is_crowd(dots: Sequence[Dot]) -> bool:
    """Tell whether there are too many points to name them all: then they are smaller, and marked ones have names."""
    return len(dots) > MOST_NAMES


def name_places(
    dots: Sequence[Dot], plane: Plane, lines: Sequence[Box], kept: Sequence[Box] = ()
) -> list[Label | None]:
    """Return where the names stand; bars, ``lines`` and nameless points are avoided where they can be."""
    named = [n for n, dot in enumerate(dots) if dot.marked or not is_crowd(dots)][:MOST_NAMES]
    at = [plane.pixels(dot.x.value, dot.y.value) for dot in dots]
    nameless = [labels.around(*at[n], SMALL) for n in set(range(len(dots))) - set(named)]
    obstacles = [*lines, *nameless, *(box for dot in dots for box in bars_of(dot, plane))]
    places = labels.place([at[n] for n in named], [dots[n].text for n in named], FRAME, obstacles, kept, FONT_SIZE)
    found = dict(zip(named, places, strict=True))
    return [found.get(n) for n in range(len(dots))]


def nameless(dots: Sequence[Dot], places: Sequence[Label | None]) -> str:
    """Say whose names have no room; of a crowd, that filled points alone have names."""
    crowd = is_crowd(dots)
    names = [
        d.name.replace(",", "") for d, p in zip(dots, places, strict=True) if p is None and (d.marked or not crowd)
    ]
    texts = ["only filled points have names"] if crowd and not all(dot.marked for dot in dots) else []
    return " · ".join([*texts, f"no room for the names of {listed(names)}"] if names else texts)


def bars_of(dot: Dot, plane: Plane) -> Iterator[Box]:
    """Yield the bars of a point's intervals as thin boxes in pixels."""
    left, top = plane.pixels(dot.x.value, dot.y.value)
    if ends := drawn_ends(dot.x, plane.x):
        yield Box(plane.x.pixel(ends[0]), top - THIN, plane.x.pixel(ends[1]), top + THIN)
    if ends := drawn_ends(dot.y, plane.y):
        high, low = (plane.y.length - plane.y.pixel(end) for end in reversed(ends))
        yield Box(left - THIN, high, left + THIN, low)


def drawn_ends(span: Span, axis: Axis) -> tuple[float, float] | None:
    """Return the ends of an interval; None where there is none, or a log axis cannot show it."""
    if span.low is None or span.high is None or (axis.log and span.low <= 0):
        return None
    return span.low, span.high


# -- drawing -------------------------------------------------------------------------------------------------


def dot_layers(dots: Sequence[Dot], plane: Plane) -> list[Any]:
    """Return bars and points, the marked ones filled and above the others."""
    import altair as alt

    base = alt.Chart(alt.Data(values=[datum(dot, plane) for dot in reversed(dots)]))
    colour, shape = alt.Color("colour:N", scale=None), alt.Shape("shape:N", scale=None)
    across = base.transform_filter("isValid(datum.left)").mark_rule(strokeWidth=1.2)
    up = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.2)
    bars = [
        across.encode(plane.across("left"), plane.up(), colour, x2="right:Q"),
        up.encode(plane.across(), plane.up("low"), colour, y2="high:Q"),
    ]
    tips = [
        alt.Tooltip("name:N", title="model"),
        alt.Tooltip("across:N", title=plane.x_title),
        alt.Tooltip("up:N", title=plane.y_title),
    ]
    size, width = (20, 0.9) if is_crowd(dots) else (52, 1.6)
    hollow = base.transform_filter("!datum.marked").mark_point(
        filled=False, fill="white", size=size, strokeWidth=width, opacity=1
    )
    filled = base.transform_filter("datum.marked").mark_point(filled=True, size=64, opacity=1)
    return [*bars, *(m.encode(plane.across(), plane.up(), colour, shape, tooltip=tips) for m in (hollow, filled))]


def datum(dot: Dot, plane: Plane) -> dict[str, Any]:
    """Return a point as the chart's data."""
    left, right = drawn_ends(dot.x, plane.x) or (None, None)
    low, high = drawn_ends(dot.y, plane.y) or (None, None)
    return {
        "name": dot.name, "x": dot.x.value, "y": dot.y.value, "left": left, "right": right, "low": low, "high": high,
        "marked": dot.marked, "colour": dot.look.colour, "shape": dot.look.shape, "across": dot.x.text,
        "up": dot.y.text, "stale": dot.stale,
    }  # fmt: skip


def lead_layers(dots: Sequence[Dot], places: Sequence[Label | None], plane: Plane) -> list[Any]:
    """Return a thin line to each name that stands far from its point."""
    import altair as alt

    leads = [lead(dot, place, plane) for dot, place in zip(dots, places, strict=True) if place and place.far]
    line = alt.Chart(alt.Data(values=leads)).mark_rule(color=PALE_INK, strokeWidth=0.6)
    return [line.encode(plane.across(), plane.up(), x2="x2:Q", y2="y2:Q")] if leads else []


def name_layers(dots: Sequence[Dot], places: Sequence[Label | None], plane: Plane) -> list[Any]:
    """Return the names, those of marked points darker."""
    named = [(dot, place) for dot, place in zip(dots, places, strict=True) if place]
    layers = []
    for align in dict.fromkeys(place.align for _, place in named):
        data = [name_datum(dot, place, plane) for dot, place in named if place.align == align]
        layers += text_layers(data, plane, align)
    return layers


def text_layers(data: Sequence[dict[str, Any]], plane: Plane, align: Align, angle: float = 0) -> list[Any]:
    """Return texts in the ink that their data name, on a halo that keeps them readable on lines."""
    import altair as alt

    base = alt.Chart(alt.Data(values=list(data))).encode(plane.across(), plane.up(), text="label:N")
    looks: dict[str, Any] = {"align": align, "baseline": "middle", "fontSize": FONT_SIZE, "angle": angle % 360}
    halo = base.mark_text(**looks, color="white", stroke="white", strokeWidth=3, strokeJoin="round", opacity=0.8)
    return [halo, base.mark_text(**looks).encode(color=alt.Color("ink:N", scale=None))]


def name_datum(dot: Dot, place: Label, plane: Plane) -> dict[str, Any]:
    """Return a name where it stands."""
    return {"label": dot.text, "ink": INK if dot.marked else PALE_INK, **plane.values(place.x, place.y)}


def lead(dot: Dot, place: Label, plane: Plane) -> dict[str, float]:
    """Return a line from a point to the nearest place of its name's box."""
    left, top = plane.pixels(dot.x.value, dot.y.value)
    end = plane.values(*place.near(left, top))
    return {"x": dot.x.value, "y": dot.y.value, "x2": end["x"], "y2": end["y"]}


def chart(
    under: Sequence[Any], dots: Sequence[Dot], places: Sequence[Label | None], plane: Plane, title: Any
) -> alt.LayerChart:
    """Return points and their names above other layers, as one printed figure."""
    import altair as alt

    layers = [*under, *lead_layers(dots, places, plane), *dot_layers(dots, plane), *name_layers(dots, places, plane)]
    return styled(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))
