"""The largest batch that fits is found in a few guesses, however its peak grows; the knee in three probes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.metrics.batch import knee_of, largest_batch, least_batch, open_end, predicted_knee, probe_knee


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


# -- the knee of throughput ----------------------------------------------------------------------------------

LARGER = "the knee is at this batch or a larger one: none larger was tried"
SMALLER = "the knee is at this batch or a smaller one: none smaller was tried"
Rate = Callable[[int], float | None]


def saturating(half: float) -> Rate:
    """Return a throughput that a fixed time a call keeps low: a batch of ``half`` reaches half of the most, 1000."""
    return lambda batch: 1000 * batch / (batch + half)


def probed(rate_of: Rate, predicted: int, most: int = 1024, least: int = 1) -> tuple[list[int], int, str]:
    """Return which batches were tried, in order, the knee, and what is open about it."""
    tried: list[int] = []

    def logged(batch: int) -> float | None:
        tried.append(batch)
        return rate_of(batch)

    knee = knee_of(probe_knee(logged, predicted, most, least))
    return tried, knee, open_end(tried, knee, most, least)


def test_the_predicted_knee_is_within_two_per_cent_of_the_largest_batch() -> None:
    # b / (b + 1) >= 0.98 * 1000 / 1001 = 0.97902 from 46.7 on.
    assert predicted_knee(saturating(1), 1000) == 64
    assert predicted_knee(lambda batch: 7.0, 1000) == 1
    assert predicted_knee(lambda batch: 7.0, 1000, least=2) == 2
    assert predicted_knee(float, 100) == 64  # a bound that never saturates ends at what fits


def test_a_prediction_asks_only_for_what_it_needs() -> None:
    asked: list[int] = []

    def rate(batch: int) -> float:
        asked.append(batch)
        return min(batch, 4.0)

    assert predicted_knee(rate, 5000) == 4
    assert asked == [5000, 1, 2, 4]


def test_a_knee_where_it_was_predicted_has_worse_and_no_better_beside_it() -> None:
    # 8 reaches 8 / 8.1 = 0.988 of the most, 16 gains 0.6 % over it, and 4 loses 1.2 %.
    assert probed(saturating(0.1), 4) == ([4, 8, 2], 4, "")


def test_a_throughput_that_goes_on_growing_is_followed_and_said_to_be_open() -> None:
    assert probed(saturating(100), 4) == ([4, 8, 16], 16, LARGER)


def test_a_flat_throughput_is_followed_downward_and_said_to_be_open() -> None:
    assert probed(lambda batch: 500.0, 64) == ([64, 128, 32], 32, SMALLER)
    assert probed(lambda batch: 500.0, 2) == ([2, 4, 1], 1, "")  # no batch is smaller
    assert probed(lambda batch: 500.0, 2, least=2) == ([2, 4], 2, "")


def test_a_throughput_that_falls_beyond_the_cache_is_left_for_the_smaller_batch() -> None:
    assert probed(lambda batch: {4: 700.0, 8: 900.0, 16: 600.0}[batch], 8) == ([8, 16, 4], 8, "")
    assert probed(lambda batch: 1000 / batch, 8) == ([8, 16, 4], 4, SMALLER)


def test_a_larger_batch_that_fails_ends_the_search_upward() -> None:
    fits: Rate = lambda batch: saturating(100)(batch) if batch <= 8 else None  # noqa: E731
    assert probed(fits, 8) == ([8, 16, 4], 8, "")
    assert probed(fits, 16) == ([16, 8, 4], 8, "")
    assert probe_knee(lambda batch: None, 16, 1024) == {}


def test_no_batch_is_tried_beyond_what_is_predicted_to_fit() -> None:
    assert probed(saturating(100), 8, most=10) == ([8, 4], 8, "")
    assert probed(lambda batch: 500.0, 8, most=10) == ([8, 4, 2], 2, SMALLER)
    assert probed(lambda batch: 500.0, 1, most=1) == ([1], 1, "")


@given(
    st.integers(0, 8), st.integers(1, 300), st.floats(0, 300), st.lists(st.floats(0.9, 1.1), min_size=10, max_size=10)
)
def test_however_noisy_the_knee_was_tried_and_no_smaller_one_is_as_good(
    power: int, most: int, half: float, noise: list[float]
) -> None:
    predicted = min(2**power, most)
    rates: dict[int, float] = {}

    def rate(batch: int) -> float:
        rates[batch] = 1000 * batch / (batch + half) * noise[batch.bit_length() - 1]
        return rates[batch]

    tried, knee, _ = probed(rate, predicted, most)
    assert len(tried) == len(set(tried)) <= 3
    assert max(tried) <= most
    assert rates[knee] >= 0.98 * max(rates.values())
    assert all(rates[batch] < 0.98 * max(rates.values()) for batch in tried if batch < knee)


def test_batch_norm_trains_on_two() -> None:
    assert [least_batch(mode) for mode in (None, "inference", "forward_backward", "training")] == [1, 1, 2, 2]
