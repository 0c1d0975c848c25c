"""Dates as people write them. None is ambiguous: where a month is a number, the order is that of ISO 8601."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from zoo_translation.cardinals import ordinal, year

# Names of our own, since strftime's depend on the locale.
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)


def month(day: date) -> str:
    """Return the name of its month."""
    return MONTHS[day.month - 1]


def weekday(day: date) -> str:
    """Return the name of its day of the week."""
    return WEEKDAYS[day.weekday()]


def suffix(n: int) -> str:
    """Return what stands behind the figures of an ordinal number: 1st, 2nd, 3rd, 4th, 11th, 21st."""
    return "th" if n in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")


FORMS: tuple[Callable[[date], str], ...] = (
    lambda d: f"{d.day} {month(d)} {d.year}",  # 3 March 2014
    lambda d: f"{month(d)} {d.day}, {d.year}",  # March 3, 2014
    lambda d: f"{month(d)} {d.day}{suffix(d.day)}, {d.year}",  # March 3rd, 2014
    lambda d: f"{weekday(d)}, {d.day} {month(d)} {d.year}",  # Monday, 3 March 2014
    lambda d: f"{weekday(d)[:3]} {d.day} {month(d)[:3]} {d.year}",  # Mon 3 Mar 2014
    lambda d: f"{d.day:02}-{month(d)[:3]}-{d.year}",  # 03-Mar-2014
    lambda d: f"{d.year}{d.month:02}{d.day:02}",  # 20140303
    lambda d: f"the {ordinal(d.day)} of {month(d)} {d.year}",  # the third of March 2014
    lambda d: f"the {ordinal(d.day)} of {month(d)}, {year(d.year)}",  # the third of March, twenty fourteen
)
