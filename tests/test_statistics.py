"""Intervals cover what they promise, and sampling stops for the reason that is given."""

from __future__ import annotations

import math
import statistics as stdlib_statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.statistics import (
    StoppingRule,
    is_steady,
    median_interval,
    relative_half_width,
    wilson_interval,
)

TIMES = st.lists(st.integers(1, 10**12), min_size=6, max_size=60)


# -- the median's interval -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k"),
    [
        (6, 1),  # 2 * (1/2)^6 = 0.031 <= 0.05, and 2 * (1 + 6) / 64 = 0.22 is too much
        (8, 1),  # 2 * (1 + 8) / 256 = 0.070 is too much for k = 2
        (9, 2),  # 2 * (1 + 9) / 512 = 0.039
        (10, 2),  # 2 * (1 + 10) / 1024 = 0.021; k = 3: 2 * (1 + 10 + 45) / 1024 = 0.109
        (100, 40),  # the table in Conover: 40 and 61
    ],
)
def test_median_interval_takes_the_kth_smallest_and_largest(n: int, k: int) -> None:
    assert median_interval(range(1, n + 1)) == (k, n + 1 - k)


@pytest.mark.parametrize("n", range(6))
def test_fewer_than_six_samples_have_no_interval(n: int) -> None:
    assert median_interval(range(n)) is None
    assert relative_half_width(range(n)) == math.inf


def test_a_lower_confidence_needs_fewer_samples() -> None:
    assert median_interval([1, 2, 3], confidence=0.75) == (1, 3)  # 2 * (1/2)^3 = 0.25
    with pytest.raises(ValueError, match="between 0 and 1"):
        median_interval([1, 2, 3], confidence=95)


def draws_that_cover(samples: np.ndarray, middle: float) -> float:
    """Return the share of rows whose interval holds the true median."""
    intervals = [median_interval(row.tolist()) for row in samples]
    return sum(low <= middle <= high for low, high in filter(None, intervals)) / len(samples)


@pytest.mark.parametrize("n", [25, 100])
def test_interval_covers_the_median_of_lognormal_times(n: int) -> None:
    samples = np.random.default_rng(0).lognormal(mean=0.0, sigma=0.5, size=(2000, n))
    assert 0.93 <= draws_that_cover(samples, 1.0) <= 0.98  # exp(0) = 1; exact: 0.957 for 25, 0.965 for 100


def test_interval_covers_the_median_of_heavy_tails() -> None:
    samples = np.random.default_rng(1).standard_cauchy(size=(2000, 51))
    assert 0.93 <= draws_that_cover(samples, 0.0) <= 0.98


def test_interval_covers_the_median_of_two_modes() -> None:
    # Seven in ten near 1, three in ten near 3: the median is the 0.5 / 0.7 quantile of the first, N(1, 0.01).
    rng = np.random.default_rng(2)
    slow = rng.random((2000, 60)) < 0.3
    samples = rng.normal(1.0, 0.01, slow.shape) + 2.0 * slow
    middle = stdlib_statistics.NormalDist(1.0, 0.01).inv_cdf(0.5 / 0.7)
    assert 0.93 <= draws_that_cover(samples, middle) <= 0.98


@given(TIMES)
def test_interval_holds_the_sample_median_and_ends_at_samples(times: list[int]) -> None:
    interval = median_interval(times)
    assert interval is not None
    assert interval[0] <= stdlib_statistics.median(times) <= interval[1]
    assert set(interval) <= set(times)


@given(TIMES, st.integers(1, 1000))
def test_interval_scales_with_the_unit_and_forgets_the_order(times: list[int], scale: int) -> None:
    low, high = median_interval(times) or (0, 0)
    assert median_interval([t * scale for t in reversed(times)]) == (low * scale, high * scale)


def test_relative_half_width() -> None:
    # 10 samples: second smallest 92, second largest 108, median 100: (108 - 92) / 2 / 100.
    assert relative_half_width([90, 92, 95, 98, 100, 100, 102, 105, 108, 1000]) == pytest.approx(0.08)
    assert relative_half_width([0] * 10) == 0.0
    assert relative_half_width([0] * 8 + [1, 1]) == math.inf  # from 0 to 1 around 0


# -- fractions -----------------------------------------------------------------------------------------------


def test_wilson_interval_by_hand() -> None:
    # z = 1.96: centre (0.8 + 3.8415 / 20) / (1 + 3.8415 / 10) = 0.71674,
    # half 1.95996 / 1.38415 * sqrt(0.016 + 3.8415 / 400) = 0.22658.
    assert wilson_interval(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)


def test_wilson_interval_agrees_with_scipy() -> None:
    from scipy.stats import binomtest

    for successes, n in [(0, 10), (1, 3), (37, 360), (359, 360), (360, 360)]:
        theirs = binomtest(successes, n).proportion_ci(0.95, method="wilson")
        assert wilson_interval(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@given(st.integers(0, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_fraction_and_stays_in_range(counts: tuple[int, int]) -> None:
    successes, n = counts
    low, high = wilson_interval(successes, n)
    assert 0.0 <= low <= (successes / n if n else 0.5) <= high <= 1.0


def test_wilson_interval_refuses_what_is_no_fraction() -> None:
    with pytest.raises(ValueError, match="11 successes of 10"):
        wilson_interval(11, 10)


# -- steadiness and stopping ---------------------------------------------------------------------------------


def test_steady_when_the_last_two_windows_agree() -> None:
    assert not is_steady([100, 100, 100], window=2, tolerance=0.05)  # one sample short
    assert not is_steady([200, 180, 100, 102], window=2, tolerance=0.05)  # medians 190 and 101
    assert is_steady([900, 103, 101, 100, 102], window=2, tolerance=0.05)  # 102 and 101; the 900 is past
    assert is_steady([95, 95, 100, 100], window=2, tolerance=0.05)  # 5 of 100 is within


def test_steady_is_not_fooled_by_one_stall() -> None:
    assert is_steady([100, 101, 99, 100, 5000, 101], window=3, tolerance=0.05)


RULE = StoppingRule(target=0.02, min_samples=10, max_samples=50, budget=2.0)


def test_stops_tight_once_the_interval_is_narrow() -> None:
    assert RULE.reason([100] * 9, elapsed=0.1) is None
    assert RULE.reason([100] * 10, elapsed=0.1) == "tight"


def test_goes_on_while_the_interval_is_wide() -> None:
    assert RULE.reason([100, 200] * 10, elapsed=1.9) is None
    assert RULE.reason([], elapsed=0.0) is None


def test_stops_at_the_budget_or_at_enough_samples() -> None:
    assert RULE.reason([100, 200] * 10, elapsed=2.0) == "budget"
    assert RULE.reason([100, 200] * 25, elapsed=1.0) == "samples"


def test_slow_call_may_overdraw_the_budget_for_the_six_samples_of_an_interval() -> None:
    assert RULE.reason([1_000_000_000] * 5, elapsed=5.0) is None
    assert RULE.reason([1_000_000_000] * 6, elapsed=6.0) == "budget"
    assert RULE.reason([9_000_000_000], elapsed=9.0) == "budget"


def test_a_median_between_two_modes_is_never_called_tight() -> None:
    assert StoppingRule(max_samples=10**6).reason([100, 300] * 200, elapsed=0.0) is None


@given(TIMES, st.floats(0, 10))
def test_a_reason_is_always_true(times: list[int], elapsed: float) -> None:
    reason = RULE.reason(times, elapsed)
    if reason == "tight":
        assert len(times) >= RULE.min_samples
        assert relative_half_width(times) <= RULE.target
    elif reason == "samples":
        assert len(times) >= RULE.max_samples
    elif reason == "budget":
        assert elapsed >= RULE.budget
    else:
        assert elapsed < RULE.budget * (1 if len(times) >= 6 else RULE.overdraft)
        assert len(times) < RULE.max_samples
