"""The look of every picture: the palette and who gets which colour, axes and ticks, what is said above, the files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import BadRecords, UnknownName
from zoo.metrics import CONVENTIONS, METRICS
from zoo.pareto import task_metrics
from zoo.record import Value
from zoo.rows import MISSING, Row, constant_axes, listed
from zoo.tables import metric_title
from zoo.units import Scale, clean, value_text

if TYPE_CHECKING:
    import altair as alt

WIDTH, HEIGHT = 420, 300
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
INK, PALE_INK, GREY = "#222222", "#6b6b6b", "#dddddd"
# Okabe and Ito's palette without yellow, which is lost on white paper; it is told apart by colour-blind readers.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = ("circle", "square", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right")
DASHES = ([1, 0], [6, 3], [2, 2])
LINE_LENGTH = 90  # characters of a line above a picture


# -- who looks how -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """The colour, shape and dash of a model."""

    colour: str
    shape: str
    dash: Sequence[int]


def look(place: int) -> Look:
    """Return the look of a place in the palette; a colour that comes again has another shape and dash."""
    around, colour = divmod(place, len(OKABE_ITO))
    return Look(OKABE_ITO[colour], SHAPES[(place + around) % len(SHAPES)], DASHES[around % len(DASHES)])


def looks(labels: Sequence[str], models: Iterable[str]) -> dict[str, Look]:
    """Return the look of each of the sorted ``labels`` of a picture; ``models`` are those of all the suite's rows."""
    places = places_of(labels, sorted({clean(model) for model in models}))
    return {label: look(place) for label, place in places.items()}


def places_of(labels: Sequence[str], models: Sequence[str]) -> dict[str, int]:
    """Return the place of each line in the palette: its model's among all models, so that plots of one suite agree.

    Where that gives two lines one colour, or a model has several lines, the place among the lines of this plot.
    """
    places = {label: models.index(label) for label in labels if label in models}
    if len({n % len(OKABE_ITO) for n in places.values()}) == len(labels):
        return places
    return {label: n for n, label in enumerate(labels)}


def label_of(row: Row, axes: Iterable[str]) -> str:
    """Return what a row is called in a picture: its model, its size, and the other axes that tell it from others.

    An option that its model does not have is left out.
    """
    parts = [
        f"{row.case.model} {row.case.size}" if "size" in axes else row.case.model,
        *(f"{a} {row.text(a)}" for a in axes if a not in ("model", "size") and row.text(a) != MISSING),
    ]
    return clean(", ".join(parts))


# -- what is said above a picture ----------------------------------------------------------------------------


def check_known(names: Iterable[str], found: Sequence[Row], what: str) -> None:
    """Raise BadRecords for what is no metric of the harness, of a task, or of any of these rows."""
    known = {*METRICS, *task_metrics(), *(name for row in found for name in row.values)}
    for name in names:
        if name not in known:
            raise BadRecords(f"{what}: {UnknownName('metric', name, known)}")


def heading(title: str, texts: Iterable[str]) -> Any:
    """Return a title with texts below it, each folded to lines; empty ones are left out."""
    import altair as alt

    return alt.TitleParams(clean(title), subtitle=[line for text in texts if text for line in folded(clean(text))])


def folded(text: str) -> list[str]:
    """Break text into as few lines as it takes, of about one length, between its parts where that can be."""
    lines = packed(text, LINE_LENGTH)
    longest = max(map(len, parts(text)))
    for width in range(LINE_LENGTH, longest - 1 if longest <= LINE_LENGTH else 0, -1):
        narrower = packed(text, width)
        if len(narrower) > len(lines):
            break
        lines = narrower
    return lines


def packed(text: str, width: int) -> list[str]:
    """Fill lines of at most ``width`` characters with parts; only a part that is longer than a line is broken."""
    import textwrap

    lines = [""]
    for part in parts(text):
        if lines[-1] and len(lines[-1]) + 1 + len(part) > width:
            lines.append("")
        lines[-1:] = textwrap.wrap(f"{lines[-1]} {part}".strip(), width)
    return [line.removesuffix(" ·") for line in lines]


def parts(text: str) -> list[str]:
    """Return the parts of a text, which end in a comma, semicolon or dot."""
    return re.split(r"(?<=[,;·]) ", text)


def shared_text(chosen: Sequence[Row], shown: Sequence[str]) -> str:
    """Return the axes that are the same in all rows, and the machine if it is one."""
    machines = sorted({row.machine for row in chosen if row.machine})
    return " · ".join([*constant_axes(chosen, shown), *(machines if len(machines) == 1 else [])])


def in_sentence(metric: str) -> str:
    """Return a metric's title as it is written within a sentence."""
    title = metric_title(metric)
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def axis_title(metric: str, scale: Scale) -> str:
    """Return a metric's title with the unit."""
    return f"{metric_title(metric)} ({scale.label})" if scale.label else metric_title(metric)


def convention_texts(drawn: Sequence[Row], metrics: Iterable[str]) -> list[str]:
    """Say how each metric was counted or measured."""
    conventions = {m: drawn[0].values[m].value.convention for m in metrics}
    return [f"{metric_title(m)}: {CONVENTIONS.get(c, c)}" for m, c in conventions.items() if c]


def omission_texts(values: Iterable[tuple[str, Value]]) -> list[str]:
    """Say which operations counts leave out, where they matter; ``values`` are counts with their names."""
    named: dict[str, dict[str, None]] = {}
    for name, value in values:
        for op in value.detail.get("uncounted") or []:
            if op.get("material"):
                named.setdefault(name, {})[op["name"]] = None
    return [f"not counted for {name}: {', '.join(ops)}" for name, ops in named.items()]


def status_text(value: Value) -> str:
    """Return the words of a status, as the tables have them."""
    return value_text(value, None, ())[0]


def with_all(chosen: Sequence[Row], metrics: Sequence[str]) -> tuple[list[Row], dict[str, list[str]]]:
    """Return the rows that have all of some metrics, and the names of the others by what they lack."""
    drawn, missing = [], dict[str, list[str]]()
    for row in chosen:
        if reasons := [why for m in metrics if (why := why_not(row, m))]:
            missing.setdefault(" and ".join(reasons), []).append(short_name(row))
        else:
            drawn.append(row)
    return drawn, missing


def why_not(row: Row, metric: str) -> str:
    """Return why a row has no value of a metric, empty where it has."""
    if metric not in row.values:
        return f"no {metric}"
    value = row.values[metric].value
    return "" if value.status == "ok" else f"{metric}: {status_text(value)}"


def short_name(row: Row) -> str:
    """Return model and size."""
    return f"{row.case.model} {row.case.size}"


def without_text(missing: Mapping[str, Sequence[str]]) -> str:
    """Say which rows have no mark, by reason: nothing is left out in silence."""
    parts = [f"{listed(list(dict.fromkeys(names)))} ({reason})" for reason, names in missing.items()]
    return f"not drawn: {'; '.join(parts)}" if parts else ""


# -- axes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """An axis, logarithmic unless said otherwise: its domain, the ticks with a label, and its length in pixels."""

    low: float
    high: float
    ticks: tuple[float, ...]
    length: int
    log: bool = True

    def pixel(self, value: float) -> float:
        """Return how far from the low end a value lies, in pixels."""
        if not self.log:
            return self.length * (value - self.low) / (self.high - self.low)
        return self.length * math.log(value / self.low) / math.log(self.high / self.low)

    def value(self, pixel: float) -> float:
        """Return the value so many pixels from the low end."""
        share = pixel / self.length
        return self.low * (self.high / self.low) ** share if self.log else self.low + (self.high - self.low) * share

    @property
    def scale(self) -> Any:
        """The axis as Altair's scale."""
        import altair as alt

        kind = "log" if self.log else "linear"
        return alt.Scale(type=kind, domain=[self.low, self.high], nice=False, **({} if self.log else {"zero": False}))


def padded(low: float, high: float, length: int, pad: int) -> tuple[float, float]:
    """Widen a range by ``pad`` pixels at both ends; a range of one value becomes one of a factor of four."""
    if high / low < 1.02:
        return low / 2, high * 2
    more = (high / low) ** (pad / (length - 2 * pad))
    return low / more, high * more


def padded_evenly(low: float, high: float, length: int, pad: int) -> tuple[float, float]:
    """Widen the range of a linear axis by ``pad`` pixels at both ends; one value lies in a range of a tenth of it."""
    if high == low:
        return low - (abs(low) / 20 or 1), high + (abs(high) / 20 or 1)
    more = (high - low) * pad / (length - 2 * pad)
    return low - more, high + more


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


# -- charts and files ----------------------------------------------------------------------------------------


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


def save(chart: alt.LayerChart, stem: Path) -> list[Path]:
    """Write a chart as ``<stem>.svg`` and ``<stem>.png`` (two pixels a point), and return the two paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png")]
    for file in files:
        chart.save(str(file), scale_factor=2 if file.suffix == ".png" else 1)
    return files
