"""Numbers as they are read: units, digits, intervals and the words of a status."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.metrics import METRICS
from zoo.record import Value

STATUS_WORDS = {"oom": "OOM", "timeout": "time-out"}


@dataclass(frozen=True)
class Scale:
    """A unit for reading: ``factor`` SI units."""

    factor: float
    label: str


SCALES: dict[str, tuple[Scale, ...]] = {
    "B": tuple(Scale(2.0**power, label) for power, label in ((20, "MiB"), (30, "GiB"), (40, "TiB"))),
    "s": (Scale(1e-6, "µs"), Scale(1e-3, "ms"), Scale(1.0, "s")),
    "J": (Scale(1e-3, "mJ"), Scale(1.0, "J"), Scale(1e3, "kJ")),
    "1/s": (Scale(1.0, "samples/s"),),
    "1": tuple(Scale(10.0 ** (3 * n), label) for n, label in enumerate(("", "k", "M", "G", "T", "P"))),
}
PERCENT = Scale(0.01, "%")


def scales_of(name: str, values: Sequence[Value]) -> tuple[Scale, ...]:
    """Return the units that a metric may be read in. A fraction that is no count of the harness reads in percent."""
    unit = values[0].unit if values else "1"
    numbers = [v.value for v in values if v.value is not None]
    if unit == "1" and name not in METRICS and numbers and all(0 <= n <= 1 for n in numbers):
        return (PERCENT,)
    if name in METRICS and METRICS[name].whole:
        return SCALES["1"][:1]
    return SCALES.get(unit, (Scale(1.0, unit),))


def common_scale(name: str, values: Sequence[Value]) -> Scale | None:
    """Return the one unit that a column reads best in; None when its values lie too far apart for one."""
    scales = scales_of(name, values)
    sizes = sorted(abs(v.value) for v in values if v.value)
    if not sizes or (len(scales) > 1 and scales[0].factor == 1 and sizes[-1] < 10_000):
        return scales[0]
    chosen = fitting_scale(scales, statistics.median_low(sizes))
    near = sizes[0] >= chosen.factor * 1e-3 and sizes[-1] < chosen.factor * 1e6
    return chosen if near or len(scales) == 1 else None


def fitting_scale(scales: Sequence[Scale], size: float) -> Scale:
    """Return the largest unit that is not larger than ``size``, else the smallest."""
    return max((s for s in scales if s.factor <= size), key=lambda s: s.factor, default=scales[0])


def leading(x: float) -> tuple[int, int]:
    """Return the first digit of a number and its power of ten: 0.0199999999 is (2, -2)."""
    mantissa, exponent = f"{abs(x):.6e}".split("e")
    return int(mantissa[0]), int(exponent)


def decimals(x: float, significant: int) -> int:
    """Return the decimals that leave so many significant digits; negative left of the point."""
    return significant - 1 - leading(x)[1]


def number_text(x: float) -> str:
    """Return 3 significant digits, 4 where the first is a 1 (17.56, 86.6); whole numbers are not cut."""
    return f"{x:.{max(0, decimals(x, 4 if leading(x)[0] == 1 else 3))}f}" if x else "0"


def interval_text(x: float, low: float, high: float) -> tuple[str, bool]:
    """Return ``12.3 ± 0.2``, or ``12.3 [12.1, 12.9]`` where the sides differ; 3 to 4 digits, as the interval decides.

    The flag says that the interval is narrower than the last digit, and was widened to one unit of it.
    """
    half = (high - low) / 2
    base = x or high or 1.0
    wanted = decimals(half, 2 if leading(half)[0] == 1 else 1) if half > 0 else decimals(base, 4)
    places = min(max(wanted, decimals(base, 3)), decimals(base, 4))
    up, down = round(high - x, places), round(x - low, places)
    if up == down:
        narrow = up == 0
        return f"{fixed(x, places)} ± {fixed(up or 10.0**-places, places)}", narrow
    return f"{fixed(x, places)} [{fixed(low, places)}, {fixed(high, places)}]", False


def fixed(x: float, places: int) -> str:
    """Round to so many decimals (negative: tens, hundreds) and print without an exponent."""
    return f"{round(x, places) + 0.0:.{max(0, places)}f}"


def value_text(value: Value, scale: Scale | None, scales: Sequence[Scale]) -> tuple[str, bool]:
    """Return the text of a value in ``scale``, or in a unit of its own; and whether its interval was widened."""
    if value.value is None:
        word = STATUS_WORDS.get(value.status, value.status)
        return (f"{word} (predicted)" if value.detail.get("predicted") else word), False
    unit = scale or fitting_scale(scales, abs(value.value))
    x = value.value / unit.factor
    if value.interval is None:
        exact = isinstance(value.value, int) and unit.factor == 1 and not unit.label
        text, widened = (str(value.value) if exact else number_text(x)), False
    else:
        text, widened = interval_text(x, value.interval[0] / unit.factor, value.interval[1] / unit.factor)
    text = text if scale or not unit.label else f"{text} {unit.label}"
    return " ".join(filter(None, [text, value.detail.get("verdict", "")])), widened


def clean(text: str) -> str:
    """Return text on one line, without control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "", re.sub(r"\s+", " ", text)).strip()
