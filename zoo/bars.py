"""Stacked bars: what the MACs of each row are spent on, by group of operators."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.errors import BadRecords
from zoo.labels import text_width
from zoo.rows import Row, check_column, distinguishing, listed, select, sort_rows
from zoo.style import (
    GREY,
    INK,
    WIDTH,
    axis_title,
    convention_texts,
    even_ticks,
    heading,
    label_of,
    omission_texts,
    shared_text,
    short_name,
    styled,
    with_all,
    without_text,
)
from zoo.units import Scale, common_scale, fitting_scale, number_text, scales_of

if TYPE_CHECKING:
    import altair as alt

    from zoo.schema import BreakdownSpec

STEP, FONT_SIZE = 26, 11
MACS, FFT = "macs", "flops_fft"
REST = "rest"  # MACs of no operator, which the records of a third party may have


@dataclass(frozen=True)
class Group:
    """Operators of one kind: those whose name fits, and that no group before has; ``ink`` can be read on ``colour``."""

    title: str
    colour: str
    ink: str
    fits: str


# In the order in which names are tried; DRAWN is that of the bars.
OTHER = Group("Other", "#BBBBBB", INK, "")
GROUPS = (
    Group("Other", OTHER.colour, OTHER.ink, r"encoder_layer|multi_head"),  # projections and attention in one
    Group("Attention, batched products", "#D55E00", INK, r"attention|bmm|mul\+sum|trilinear|cdist|euclidean"),
    Group("Convolutions", "#009E73", INK, r"conv"),
    Group("Recurrent layers", "#CC79A7", INK, r"lstm|gru|rnn"),
    Group("Linear layers", "#0072B2", "white", r"mm|linear|\.mv|addmv"),
    OTHER,
)
DRAWN = (GROUPS[4], GROUPS[1], GROUPS[2], GROUPS[3], OTHER)


@dataclass(frozen=True)
class Bar:
    """One row: its name, all of its MACs, and those of each group of operators that has any."""

    name: str
    macs: float
    parts: dict[str, float]
    others: tuple[str, ...] = ()


def group_of(operator: str) -> str:
    """Return the title of the group that an operator belongs to."""
    return next(group.title for group in GROUPS if re.search(group.fits, operator))


def breakdown(spec: BreakdownSpec, found: Sequence[Row]) -> alt.LayerChart:
    """Return a chart with a stacked bar for each row: its MACs by group of operators.

    Rows without MACs, or kept without their operators, are named above the picture. BadRecords when none is left, or
    for two conventions.
    """
    what = f"the plot {spec.name!r}"
    drawn, missing = with_all(select(found, spec.where, [MACS, FFT], ["model", "size"], what), [MACS])
    for row in [row for row in drawn if reason(row)]:
        drawn.remove(row)
        missing.setdefault(reason(row), []).append(short_name(row))
    if not drawn:
        raise BadRecords(f"{what}: no row has MACs by operator; {without_text(missing)}")
    check_column(MACS, drawn)
    axes = distinguishing(drawn, ["model"])
    drawn = sort_rows(drawn, ["model", *axes])
    bars = [bar_of(row, axes) for row in drawn]
    values = [row.values[MACS].value for row in drawn]
    scale = common_scale(MACS, values) or fitting_scale(scales_of(MACS, values), max(bar.macs for bar in bars))
    texts = [shared_text(drawn, ["model"]), *convention_texts(drawn, [MACS])]
    texts += [*notes(drawn, bars, axes), without_text(missing)]
    return draw(bars, scale, spec.percent, heading(spec.title, texts))


def reason(row: Row) -> str:
    """Return why a row with a count of MACs has no bar, empty where it has one."""
    value = row.values[MACS].value
    if not value.value:
        return "no MACs"
    return "" if value.detail.get("by_op") else "kept without its operators"


def bar_of(row: Row, axes: Sequence[str]) -> Bar:
    """Return the bar of a row; what no operator accounts for is under other ones."""
    value = row.values[MACS].value
    total, by_op = float(value.value or 0), dict(value.detail["by_op"])
    if (rest := total - sum(by_op.values())) > total / 1e6:
        by_op[REST] = rest
    parts = {group.title: sum(n for op, n in by_op.items() if group_of(op) == group.title) for group in DRAWN}
    others = tuple(op for op in by_op if group_of(op) == OTHER.title)
    return Bar(label_of(row, axes), total, {title: n for title, n in parts.items() if n}, others)


def notes(drawn: Sequence[Row], bars: Sequence[Bar], axes: Sequence[str]) -> list[str]:
    """Say which operators are the other ones, and what is in no count of MACs."""
    others = list(dict.fromkeys(op for bar in bars for op in bar.others))
    texts = [f"other: {listed(others)}"] if others else []
    transforms = list(
        dict.fromkeys(row.case.model for row in drawn if FFT in row.values and row.values[FFT].value.value)
    )
    texts += [f"in no count of MACs: Fourier transforms of {listed(transforms)}"] if transforms else []
    return texts + omission_texts((label_of(row, axes), row.values[MACS].value) for row in drawn)


# -- drawing -------------------------------------------------------------------------------------------------


def draw(bars: Sequence[Bar], scale: Scale, percent: bool, title: Any) -> alt.LayerChart:
    """Return the chart: bars with the share of each part that has room for it, and the totals."""
    import altair as alt

    longest = 100.0 if percent else max(bar.macs for bar in bars) / scale.factor
    pieces = [piece for bar in bars for piece in pieces_of(bar, scale, percent, longest)]
    ticks = [0, 20, 40, 60, 80, 100] if percent else list(even_ticks(0, longest))
    axis = alt.Axis(values=ticks, format="~f", gridColor=GREY, labelFlush=False)
    title_of_x = "Share of the MACs (%)" if percent else axis_title(MACS, scale)
    x = alt.X("start:Q", scale=alt.Scale(domain=[0, longest], nice=False), title=title_of_x, axis=axis)
    names = alt.Axis(ticks=False, domain=False, labelLimit=320, labelPadding=8)
    y = alt.Y("name:N", sort=[bar.name for bar in bars], title=None, axis=names, scale=alt.Scale(paddingInner=0.3))
    base = alt.Chart(alt.Data(values=pieces)).encode(y=y)
    tips = [alt.Tooltip(f"{field}:N") for field in ("name", "group", "MACs", "share")]
    text = base.transform_filter("datum.text != ''").mark_text(baseline="middle", fontSize=FONT_SIZE)
    layers = [
        base.mark_bar(stroke="white", strokeWidth=0.8).encode(x, colour_of(bars), x2="end:Q", tooltip=tips),
        text.encode(x=alt.X("middle:Q"), color=alt.Color("ink:N", scale=None), text="text:N"),
        *total_layers(bars, scale, percent, x, y),
    ]
    chart = alt.layer(*layers).resolve_scale(color="independent")
    return styled(chart.properties(width=WIDTH, height=STEP * len(bars), title=title))


def colour_of(bars: Sequence[Bar]) -> Any:
    """Return the colours of the groups that occur, and their legend above the bars."""
    import altair as alt

    groups = [group for group in DRAWN if any(group.title in bar.parts for bar in bars)]
    titles = [group.title for group in groups]
    entry = max(text_width(title) for title in titles) + 30  # with its mark
    legend = alt.Legend(
        orient="top",
        title=None,
        symbolType="square",
        symbolSize=90,
        labelFontSize=12,
        labelColor=INK,
        offset=6,
        columns=len(groups) if sum(text_width(t) + 30 for t in titles) <= WIDTH else max(1, int(WIDTH / entry)),
    )
    scale = alt.Scale(domain=titles, range=[group.colour for group in groups])
    return alt.Color("group:N", scale=scale, sort=titles, legend=legend)


def total_layers(bars: Sequence[Bar], scale: Scale, percent: bool, x: Any, y: Any) -> list[Any]:
    """Return all MACs of each row behind its bar, and beside shares what these numbers are."""
    import altair as alt

    ends = [100.0 if percent else bar.macs / scale.factor for bar in bars]
    texts = [number_text(bar.macs / scale.factor) for bar in bars]
    data = [{"name": b.name, "start": end, "text": text} for b, end, text in zip(bars, ends, texts, strict=True)]
    style: dict[str, Any] = {"align": "left", "baseline": "middle", "dx": 7, "fontSize": 12, "color": INK}
    totals = alt.Chart(alt.Data(values=data)).mark_text(**style).encode(x, y, text="text:N")
    head = alt.Chart(alt.Data(values=[{"text": axis_title(MACS, scale)}])).mark_text(**style)
    return [totals, head.encode(x=alt.value(WIDTH), y=alt.value(-12.5), text="text:N")] if percent else [totals]


def pieces_of(bar: Bar, scale: Scale, percent: bool, longest: float) -> Iterator[dict[str, Any]]:
    """Yield the parts of a bar, from the left, as the chart's data."""
    unit = bar.macs / 100 if percent else scale.factor
    start = 0.0
    for group in DRAWN:
        if group.title in bar.parts:
            macs = bar.parts[group.title]
            end, share = start + macs / unit, 100 * macs / bar.macs
            text = "> 99 %" if 99.5 <= share < 100 else f"{share:.0f} %"
            room = WIDTH * (end - start) / longest >= text_width(text, FONT_SIZE) + 6
            yield {
                "name": bar.name, "group": group.title, "start": start, "end": end, "middle": (start + end) / 2,
                "MACs": f"{number_text(macs / scale.factor)} {scale.label}".rstrip(), "share": f"{share:.1f} %",
                "text": text if room else "", "ink": group.ink,
            }  # fmt: skip
            start = end
