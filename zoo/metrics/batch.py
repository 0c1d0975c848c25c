"""The largest batch whose peak fits: numbers in, a number out."""

from __future__ import annotations

from collections.abc import Callable

Point = tuple[int, int]  # a batch and its bytes

# So many guesses go along the secant; after them every other one halves what is left, however the peak bends.
SECANTS = 4
# No guess is farther than so many times what is known to fit: a line that is almost level leads anywhere.
FARTHEST = 1024
# Batch norm needs two samples to train on, where an image has but one pixel left.
LEAST_IN_TRAINING = 2


def largest_batch(peak_of: Callable[[int], int], allowed: int, most: int = 1 << 20, least: int = 1) -> int:
    """Return the largest batch, up to ``most``, that needs no more than ``allowed`` bytes; 0 when not even one does.

    ``peak_of`` tells the bytes of a batch, and is asked for none below ``least``: smaller ones count as it. Where
    these grow with the batch, the answer fits and one more does not; where they grow evenly, ``peak_of`` is asked four
    times.
    """
    fits = before = 1, peak_of(least)
    if fits[1] > allowed:
        return 0
    fails: Point | None = None
    guess, tries = 2, 0
    while (end := fails[0] if fails else most + 1) - fits[0] > 1:
        batch = min(max(guess, fits[0] + 1), end - 1, FARTHEST * fits[0])
        tried = batch, peak_of(max(batch, least))
        if tried[1] <= allowed:
            before, fits = fits, tried
        else:
            fails = tried
        tries += 1
        guess = _secant(fits, fails or before, allowed)
        if fails and tries > SECANTS and tries % 2:
            guess = (fits[0] + fails[0]) // 2
    return fits[0]


def _secant(a: Point, b: Point, allowed: int) -> int:
    """Return the batch that reaches ``allowed`` on the line through two; twice the larger one where it is level."""
    rise, run = b[1] - a[1], b[0] - a[0]
    return a[0] + (allowed - a[1]) * run // rise if rise else 2 * max(a[0], b[0])
