"""Parallel corpora that need no download, generated from a hash: numbers to words, and dates to ISO 8601.

Each has three splits. Of what train shows nothing is in ``test``, which is drawn alike otherwise. ``held_out`` is what
train leaves out on purpose, so that a model which only remembers fails there:

numbers    every number from 500,000 to 599,999. Each word and each digit that they need is in train, but never a five
           in front of six digits. Longer numbers would need the word "million", which nobody can guess.
dates      every date of the years 1970 to 1979, in any form. Each digit of theirs is in train in its place.

No random generator has a say, so a corpus is the same everywhere and for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from hashlib import blake2b
from itertools import count

from zoo import ZooError
from zoo_translation.cardinals import cardinal
from zoo_translation.dates import FIRST, FORMS, LAST

Pair = tuple[str, str]  # source, target

SIZES = {"train": 20_000, "test": 500, "held_out": 500}
TESTED = 20  # one number, or date, of so many is for testing
HELD_OUT_NUMBERS = range(500_000, 600_000)
HELD_OUT_YEARS = range(1970, 1980)


@dataclass(frozen=True)
class Drawn:
    """A pair that was drawn. What it is about is in one split, in whatever form it is written."""

    pair: Pair
    about: str
    held_out: bool

    @property
    def split(self) -> str:
        """The split that it belongs to."""
        if self.held_out:
            return "held_out"
        return "test" if number_of(f"split of {self.about}") % TESTED == 0 else "train"


def load(split: str, name: str) -> Sequence[Pair]:
    """Return the pairs of ``"train"`` (20,000), ``"test"`` (500) or ``"held_out"`` (500) of the corpus of this name."""
    if name not in CORPORA:
        raise ZooError(f"there is no generated corpus {name!r}; available: {', '.join(CORPORA)}")
    if split not in SIZES:
        raise ZooError(f"the corpus {name} has no split {split!r}; its splits: {', '.join(SIZES)}")
    return generate(name)[split]


def load_numbers(split: str) -> Sequence[Pair]:
    """Return numbers in digits and in words: ``("347281", "three hundred and forty-seven thousand ...")``."""
    return load(split, "numbers")


def load_dates(split: str) -> Sequence[Pair]:
    """Return dates as people write them and in ISO 8601: ``("March 3rd, 2014", "2014-03-03")``."""
    return load(split, "dates")


@cache
def generate(name: str) -> dict[str, tuple[Pair, ...]]:
    """Draw pairs until every split is full; no source is in it twice. In the order of another hash."""
    found: dict[str, dict[str, str]] = {split: {} for split in SIZES}
    for i in count():
        drawn = CORPORA[name](number_of(f"{name} {i}"))
        pairs = found[drawn.split]
        if len(pairs) < SIZES[drawn.split]:
            pairs.setdefault(*drawn.pair)
        elif all(len(found[split]) == size for split, size in SIZES.items()):
            break
    # As they were drawn, the short ones would come first: there are few, and soon all are there.
    return {split: tuple(sorted(pairs.items(), key=lambda pair: number_of(pair[0]))) for split, pairs in found.items()}


def number_of(text: str) -> int:
    """Return a number of 64 bits that looks random, the same for the same text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def draw_number(random: int) -> Drawn:
    """Draw a number of one to six digits, each as likely: drawn evenly, nine of ten would have six."""
    random, digits = divmod(random, 6)
    lowest = 10**digits if digits else 0
    n = lowest + random % (10 ** (digits + 1) - lowest)
    return Drawn((str(n), cardinal(n)), str(n), n in HELD_OUT_NUMBERS)


def draw_date(random: int) -> Drawn:
    """Draw a date of the years 1900 to 2099 in one of the forms."""
    random, form = divmod(random, len(FORMS))
    day = date.fromordinal(FIRST.toordinal() + random % (LAST.toordinal() - FIRST.toordinal() + 1))
    return Drawn((FORMS[form](day), day.isoformat()), day.isoformat(), day.year in HELD_OUT_YEARS)


CORPORA: dict[str, Callable[[int], Drawn]] = {"numbers": draw_number, "dates": draw_date}
