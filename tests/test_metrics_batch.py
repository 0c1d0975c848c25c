"""The largest batch that fits is found in a few guesses, however its peak grows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.metrics.batch import largest_batch


def asked(peak_of: Callable[[int], int], allowed: int) -> tuple[int, list[int]]:
    """Return the largest batch, and which batches were asked for."""
    log: list[int] = []

    def logged(batch: int) -> int:
        log.append(batch)
        return peak_of(batch)

    return largest_batch(logged, allowed), log


def test_a_straight_line_takes_four_guesses() -> None:
    # 100 + 7 b <= 1000 up to b = 128; 1 and 2 give the line, 128 fits and 129 does not.
    assert asked(lambda b: 100 + 7 * b, 1000) == (128, [1, 2, 128, 129])


def test_a_batch_that_just_fits_is_taken() -> None:
    assert largest_batch(lambda b: 10 * b, 50) == 5
    assert largest_batch(lambda b: 10 * b, 49) == 4


def test_nothing_fits() -> None:
    assert asked(lambda b: 100 + b, 100) == (0, [1])


def test_only_one_fits() -> None:
    assert largest_batch(lambda b: 60 * b, 100) == 1


def test_a_peak_that_stays_level_at_first() -> None:
    # The optimiser dominates up to a batch of 300, activations from there on: 4 b = 4000 at 1000.
    found, log = asked(lambda b: max(1200, 4 * b), 4000)
    assert found == 1000
    assert len(log) <= 16


def test_a_line_that_is_almost_level_at_first_leads_nowhere() -> None:
    # The optimiser dominates at batches of 1 and 2, which differ by their inputs only.
    found, log = asked(lambda b: max(10**9 + b, 10**7 * b), 10**10)
    assert found == 1000
    assert max(log) <= 2 * 1024
    assert len(log) <= 8


def test_a_peak_that_never_grows_ends_at_the_limit() -> None:
    assert largest_batch(lambda b: 7, 10, most=64) == 64
    assert largest_batch(lambda b: 7, 10, most=1) == 1


@pytest.mark.parametrize("bend", [lambda b: b * b, lambda b: b**0.5, lambda b: b // 8, lambda b: max(b, 50 * b - 9999)])
def test_a_bent_peak_is_still_answered_exactly(bend: Callable[[int], float]) -> None:
    peak_of = lambda b: int(1000 * bend(b))  # noqa: E731
    found, log = asked(peak_of, 123_456)
    assert peak_of(found) <= 123_456 < peak_of(found + 1)
    assert len(log) <= 50


@given(st.lists(st.integers(1, 100), min_size=1, max_size=8), st.integers(0, 10**5))
def test_the_answer_fits_and_one_more_does_not(slopes: list[int], allowed: int) -> None:
    def peak_of(batch: int) -> int:
        """Return a piecewise linear peak: each slope holds for 20 batches, the last one for ever."""
        parts = [min(max(batch - 20 * i, 0), 20) * slope for i, slope in enumerate(slopes)]
        return sum(parts) + max(batch - 20 * len(slopes), 0) * slopes[-1]

    found = largest_batch(peak_of, allowed)
    assert found == 0 or peak_of(found) <= allowed
    assert peak_of(found + 1) > allowed
