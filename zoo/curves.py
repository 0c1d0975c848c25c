"""Scaling for people: text that tells what was found, and a picture of the curves with their laws."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from zoo.breakdown import memory_text, quantity, seconds_text
from zoo.errors import ZooError
from zoo.laws import Curve, Point
from zoo.metrics import METRICS
from zoo.scale import Crossover, Scaling
from zoo.scaling import REACH, Estimate, growth
from zoo.style import DASHES, GREY, HEIGHT, INK, OKABE_ITO, SHAPES, WIDTH, log_ticks, styled
from zoo.tables import metric_title
from zoo.units import scales_of, value_text

if TYPE_CHECKING:
    import altair as alt

Line = tuple[str, ...]
NONE = "–"
DRAWN = 200  # points of a law's line


# -- text ----------------------------------------------------------------------------------------------------


def tables(found: Scaling) -> Iterator[list[Line]]:
    """Yield a table of values for each metric, sizes down and models across, and one of the laws."""
    for metric in dict.fromkeys(curve.metric for curve in found.curves):
        curves = [curve for curve in found.curves if curve.metric == metric]
        at = {curve.model: {point.n: point for point in curve.points} for curve in curves}
        rows: list[Line] = [(f"{metric_title(metric)}, by tokens", *(curve.model for curve in curves))]
        for n in sorted({n for points in at.values() for n in points}):
            rows.append((str(n), *(point_text(at[curve.model].get(n)) for curve in curves)))
        yield rows
    laws: list[Line] = [("law", "metric", "of n tokens", "exponent at the largest size", "largest left out")]
    laws += [law_line(curve) for curve in found.curves]
    yield laws


def point_text(point: Point | None) -> str:
    """Return a value with its interval in a unit that suits it, or its status."""
    if point is None:
        return NONE
    value = point.value
    if value.value is not None and value.unit == "1" and value.interval is None:
        return quantity(value.value)
    return value_text(value, None, scales_of("", [value]))[0]


def law_line(curve: Curve) -> Line:
    """Return the line of a curve's law."""
    if curve.law is None:
        return curve.model, curve.metric, curve.problem, NONE, NONE
    last = curve.law.last
    exponent = f"{estimate_text(last.exponent(last.sizes[-1]))} at {last.sizes[-1]:.0f}"
    beyond = NONE if curve.left_out is None else f"{curve.left_out:+.1%}"
    return curve.model, curve.metric, law_text(curve), exponent, "exact" if curve.exact else beyond


def law_text(curve: Curve) -> str:
    """Return the law of the largest sizes, each coefficient in a unit of its own."""
    assert curve.law
    last, unit = curve.law.last, METRICS[curve.metric].unit
    parts = [
        " ".join(filter(None, [amount_text(coefficient, unit), str(term) if growth(term) != (0, 0) else ""]))
        for term, coefficient in zip(last.terms, last.coefficients, strict=True)
        if coefficient
    ]
    return " + ".join(parts) or "0"


def amount_text(amount: float, unit: str) -> str:
    """Return a coefficient: a time, memory, or a count; of a rate, the time of a sample."""
    if unit in ("s", "1/s"):
        return seconds_text(amount) if amount >= 1e-6 else f"{amount * 1e9:.3g} ns"
    if unit == "B" and amount >= 2**10:
        return memory_text(round(amount))
    return quantity(amount, unit if unit != "1" else "")


def estimate_text(found: Estimate, digits: int = 2) -> str:
    """Return ``1.46 [1.43, 1.48]``; an end that the data leave open is an ellipsis."""
    if found.interval is None:
        return f"{found.value:.{digits}f}"
    low, high = ("…" if end is None else f"{end:.{digits}f}" for end in found.interval)
    return f"{found.value:.{digits}f} [{low}, {high}]"


def sentences(found: Scaling) -> Iterator[str]:
    """Yield what else was found, a sentence each."""
    for curve in found.curves:
        for low, high in curve.law.breaks if curve.law else ():
            laws = f"it follows another law up to {low:.0f} tokens than from {high:.0f} on"
            yield f"{curve.model}, {curve.metric}: {laws}; the one above is shown"
        unsure = curve.law.last.leading()[1:] if curve.law and not curve.exact else ()
        if curve.law and unsure:
            surely = curve.law.last.leading()[0]
            more = " and ".join(map(str, unsure))
            yield f"{curve.model}, {curve.metric}: {surely} is surely there; {more} may be, these sizes do not tell"
        yield from (f"{curve.model}, {curve.metric}: {note}" for note in curve.notes)
    for one in found.overtakings:
        place = estimate_text(one.predicted.size, 0)
        yield f"{one.model}, {one.metric}: {one.term} is more than all the rest from {place} tokens on"
    yield from map(crossover_text, found.crossovers)
    for room in found.rooms:
        limit = amount_text(room.limit, METRICS[room.metric].unit)
        if room.size is None:
            yield f"{room.model}: {limit} is not reached at {REACH:g} times the sizes that were measured"
        else:
            largest = f"; the largest legal size is {room.legal}" if room.legal else ""
            beyond = "" if room.size.inside else ", beyond what was measured"
            yield f"{room.model}: {limit} holds {estimate_text(room.size.size, 0)} tokens{beyond}{largest}"
    if any(not curve.exact and curve.law for curve in found.curves):
        yield "intervals of 95 % from what the sizes left over say of the error; times have relative errors"


def crossover_text(one: Crossover) -> str:
    """Say where two models cross, and what a measurement there gave."""
    where = (
        f"{one.metric}: {one.second} costs less than {one.first} from {estimate_text(one.predicted.size, 0)} tokens on"
    )
    if not one.predicted.inside:
        return f"{where}, beyond what was measured"
    if one.measured is None:
        return where
    if one.measured.ratio is None:
        return f"{where}; measured side by side at {one.at}: {one.measured.status}: {one.measured.reason}"
    ratio = estimate_text(Estimate(one.measured.ratio, one.measured.interval), 3)
    said = f"{where}; measured side by side at {one.at}, {one.second} takes {ratio} times as long"
    if one.confirmed is None:
        return said
    return f"{said}, which puts it at {estimate_text(one.confirmed, 0)}"


# -- the picture ---------------------------------------------------------------------------------------------


def draw(found: Scaling, metric: str) -> alt.LayerChart:
    """Return a log-log chart of one metric: points with intervals, laws, crossovers, and what failed.

    ZooError when nothing of it has a value.
    """
    import altair as alt

    known = [curve for curve in found.curves if curve.metric == metric and curve.fitted]
    curves = [curve for curve in known if any(point.cost for point in curve.fitted)]
    if not curves:
        raise ZooError(f"nothing can be drawn: no model has a value of {metric}")
    factor, label = drawn_unit(curves)
    names = [curve.model for curve in curves]
    everyone = list(dict.fromkeys(curve.model for curve in found.curves))

    def scaled(of: Sequence[Any]) -> Any:
        return alt.Scale(domain=names, range=looks(of, names, everyone))

    colour = alt.Color(
        "model:N", sort=names, scale=alt.Scale(domain=names, range=looks(OKABE_ITO, names, everyone)), title=None
    )
    shape = alt.Shape(
        "model:N", sort=names, scale=alt.Scale(domain=names, range=looks(SHAPES, names, everyone)), title=None
    )
    x = alt.X("n:Q", scale=alt.Scale(type="log", nice=False, padding=14), title="Tokens", axis=x_axis(curves))
    title = f"{metric_title(metric)}{f' ({label})' if label else ''}"
    costs = [point.cost / factor for curve in curves for point in curve.fitted if point.cost]
    ticks = alt.Axis(format="~g", values=list(log_ticks(min(costs), max(costs))))
    y = alt.Y("y:Q", scale=alt.Scale(type="log", nice=False, padding=14), title=title, axis=ticks)
    dash = alt.StrokeDash(
        "model:N", sort=names, scale=alt.Scale(domain=names, range=looks(DASHES, names, everyone)), title=None
    )
    points = alt.Chart(alt.Data(values=[datum(c, p, factor) for c in curves for p in c.fitted if p.cost]))
    layers: list[Any] = [
        alt.Chart(alt.Data(values=[d for c in curves for d in law_data(c, factor)]))
        .mark_line(strokeWidth=1.6)
        .encode(x, y, colour, strokeDash=dash, detail="piece:N"),
        points.transform_filter("isValid(datum.low)").mark_rule().encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), colour),
        points.mark_point(filled=True, size=46, opacity=1).encode(
            x, y, colour, shape, tooltip=["model:N", "size:N", "shown:N"]
        ),
    ]
    failed = [datum(c, p, factor) for c in curves for p in c.points if p.cost is None]
    if failed:
        mark = alt.Chart(alt.Data(values=failed)).mark_point(shape="triangle-up", size=70, filled=False)
        layers.append(mark.encode(x, alt.value(8), colour, tooltip=["model:N", "size:N", "shown:N", "reason:N"]))
    crossed = [d for one in found.crossovers if one.metric == metric for d in crossing_data(one, curves, factor)]
    if crossed:
        at = alt.Chart(alt.Data(values=crossed))
        layers.append(at.mark_rule(color=INK, strokeWidth=1.2).encode(alt.X("low:Q"), alt.X2("high:Q"), y))
        layers.append(at.mark_point(color=INK, size=110, strokeWidth=1.2).encode(x, y, tooltip=["said:N"]))
    told = [f"points: measured; lines: fitted laws{'; rings: where two cross' if crossed else ''}"]
    told += ["hollow triangle: no value"] if failed else []
    none = [curve.model for curve in known if curve not in curves]
    told += [f"none of it, so not drawn: {', '.join(none)}"] if none else []
    chart = alt.layer(*layers).properties(
        width=WIDTH, height=HEIGHT, title=alt.TitleParams(f"{metric_title(metric)} against size", subtitle=told)
    )
    return styled(chart).configure_legend(labelColor=INK, labelFontSize=12, symbolSize=60, gradientStrokeColor=GREY)


def looks(of: Sequence[Any], names: Sequence[str], everyone: Sequence[str]) -> list[Any]:
    """Return a look for each name, by its place among all, so that it is the same in each picture."""
    return [of[everyone.index(name) % len(of)] for name in names]


def drawn_unit(curves: Sequence[Curve]) -> tuple[float, str]:
    """Return by what costs are divided for the picture, and the unit that they have then."""
    costs = [point.cost for curve in curves for point in curve.fitted if point.cost]
    unit, middle = METRICS[curves[0].metric].unit, math.sqrt(min(costs) * max(costs)) if costs else 1.0
    if unit in ("s", "1/s"):
        factor, label = next(((f, u) for f, u in ((1.0, "s"), (1e-3, "ms")) if middle >= f), (1e-6, "µs"))
        return factor, label if unit == "s" else f"{label} a sample"
    if unit == "B":
        return next(((f, u) for f, u in ((2.0**30, "GiB"), (2.0**20, "MiB")) if middle >= f), (2.0**10, "KiB"))
    return next(((10.0**p, label) for p, label in ((12, "T"), (9, "G"), (6, "M")) if middle >= 10.0**p), (1.0, ""))


def x_axis(curves: Sequence[Curve]) -> Any:
    """Return the axis of tokens, with a label at each size that leaves room for the next."""
    import altair as alt

    ticks: list[int] = []
    for n in sorted({point.n for curve in curves for point in curve.points}):
        if not ticks or n >= 1.6 * ticks[-1]:
            ticks.append(n)
    return alt.Axis(values=ticks, format="d", grid=False)


def datum(curve: Curve, point: Point, factor: float) -> dict[str, Any]:
    """Return a point as the chart's data."""
    data: dict[str, Any] = {
        "model": curve.model,
        "n": point.n,
        "size": point.size,
        "shown": point_text(point),
        "reason": point.value.reason,
    }
    if point.cost is not None:
        data["y"] = point.cost / factor
        if point.value.interval:
            ends = [1 / end if point.value.unit == "1/s" else end for end in point.value.interval]
            data |= {"low": min(ends) / factor, "high": max(ends) / factor}
    return data


def law_data(curve: Curve, factor: float) -> Iterator[dict[str, Any]]:
    """Yield the lines of a curve's laws."""
    for piece, law in enumerate(curve.law.laws if curve.law else ()):
        low, high = min(law.sizes), max(law.sizes)
        for i in range(DRAWN + 1):
            n = low * (high / low) ** (i / DRAWN)
            if law(n) > 0:
                yield {"model": curve.model, "n": n, "y": law(n) / factor, "piece": f"{curve.model} {piece}"}


def crossing_data(one: Crossover, curves: Sequence[Curve], factor: float) -> Iterator[dict[str, Any]]:
    """Yield the mark of a crossover among the sizes that were measured."""
    law = next(curve.law for curve in curves if curve.model == one.first)
    if law and one.predicted.inside:
        n = one.predicted.size.value
        low, high = one.predicted.size.interval or (n, n)
        yield {"n": n, "low": low or n, "high": high or n, "y": law(n) / factor, "said": crossover_text(one)}
