"""The largest batch whose peak fits, and the smallest that is as fast as any: numbers in, a number out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

Point = tuple[int, int]  # a batch and its bytes

# So many guesses go along the secant; after them every other one halves what is left, however the peak bends.
SECANTS = 4
# No guess is farther than so many times what is known to fit: a line that is almost level leads anywhere.
FARTHEST = 1024
# Batch norm needs two samples to train on, where an image has but one pixel left.
LEAST_IN_TRAINING = 2
# Throughputs that differ by less are as good as each other; the knee is found in so many probes at most.
ALIKE = 0.02
PROBES = 3


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


def least_batch(mode: str | None) -> int:
    """Return the smallest batch that is called in a mode."""
    return 1 if mode in (None, "inference") else LEAST_IN_TRAINING


def knee_of(rates: Mapping[int, float]) -> int:
    """Return the smallest batch whose rate is within 2 % of the best."""
    best = max(rates.values())
    return min(batch for batch, rate in rates.items() if rate >= (1 - ALIKE) * best)


def predicted_knee(rate_of: Callable[[int], float], most: int, least: int = 1) -> int:
    """Return the smallest power of two whose rate is within 2 % of that of the largest batch, ``most``.

    ``rate_of`` is a bound, which never falls as the batch grows: above the answer it is asked for ``most`` alone.
    """
    enough, batch = (1 - ALIKE) * rate_of(most), least
    while 2 * batch <= most and rate_of(batch) < enough:
        batch *= 2
    return batch


def probe_knee(rate_of: Callable[[int], float | None], predicted: int, most: int, least: int = 1) -> dict[int, float]:
    """Return the rates of at most three batches around the knee, the predicted one first; None is a batch that failed.

    Larger batches are tried while the largest gains more than 2 %, smaller ones while the smallest loses no more.
    """
    tried: dict[int, float | None] = {}
    batch: int | None = predicted
    while batch is not None and len(tried) < PROBES:
        tried[batch] = rate_of(batch)
        batch = _next_probe(tried, most, least)
    return {batch: rate for batch, rate in tried.items() if rate is not None}


def _next_probe(tried: Mapping[int, float | None], most: int, least: int) -> int | None:
    """Return the batch to try next, None when the knee lies between two that were tried."""
    rates = {batch: rate for batch, rate in tried.items() if rate is not None}
    larger, smaller = 2 * max(tried), min(tried) // 2
    knee = knee_of(rates) if rates else min(tried)
    if rates and knee == max(tried) and larger <= most:
        return larger
    return smaller if knee == min(tried) and smaller >= least else None


def open_end(tried: Collection[int], knee: int, most: int, least: int = 1) -> str:
    """Say on which side of a knee nothing was tried, though a batch there may be the knee; nothing where it is none."""
    if knee == max(tried) and 2 * knee <= most:
        return "the knee is at this batch or a larger one: none larger was tried"
    if knee == min(tried) and knee > least:
        return "the knee is at this batch or a smaller one: none smaller was tried"
    return ""
