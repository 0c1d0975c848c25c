"""Facts about Pareto fronts: what is on one, what is not, and which way is better."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import BadRecords
from zoo.pareto import Pair, front, higher_is_better

# Few different numbers, so that ties are common.
numbers = st.one_of(st.integers(0, 4), st.floats(-1e6, 1e6), st.none(), st.sampled_from([math.nan, math.inf]))
pairs = st.lists(st.tuples(numbers, numbers), max_size=12)
directions = st.tuples(st.booleans(), st.booleans())


def complete(pair: Pair) -> bool:
    return all(value is not None and math.isfinite(value) for value in pair)


def dominates(one: Pair, other: Pair, higher: tuple[bool, bool]) -> bool:
    """Say by the definition whether one is nowhere worse and somewhere better."""
    if not (complete(one) and complete(other)):
        return False
    costs = [[-v if up else v for v, up in zip(pair, higher, strict=True)] for pair in (one, other)]  # type: ignore[operator]
    worse, better = (any(a > b for a, b in zip(*costs, strict=True)), any(a < b for a, b in zip(*costs, strict=True)))
    return better and not worse


@given(pairs, directions)
def test_no_one_on_the_front_is_dominated_and_every_other_one_is(given, higher):
    for pair, on_front in zip(given, front(given, higher), strict=True):
        dominated = any(dominates(other, pair, higher) for other in given)
        assert on_front == (complete(pair) and not dominated)


@given(pairs, directions)
def test_whoever_is_not_on_the_front_is_dominated_by_one_that_is(given, higher):
    on_front = front(given, higher)
    best = [pair for pair, on in zip(given, on_front, strict=True) if on]
    others = [pair for pair, on in zip(given, on_front, strict=True) if not on and complete(pair)]
    assert all(any(dominates(one, other, higher) for one in best) for other in others)


@given(pairs, directions, st.randoms())
def test_the_order_of_the_rows_does_not_matter(given, higher, random):
    order = list(range(len(given)))
    random.shuffle(order)
    shuffled = front([given[n] for n in order], higher)
    assert [shuffled[order.index(n)] for n in range(len(given))] == front(given, higher)


def test_ties_stay_and_what_has_no_value_is_not_on_the_front():
    # Less of the first and more of the second: (1, 5) twice, (2, 7), and (2, 6), which (2, 7) beats.
    assert front([(1, 5), (1, 5), (2, 7), (2, 6), (None, 9), (0, None)]) == [True, True, True, False, False, False]


def test_the_front_turns_with_the_directions():
    points = [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert front(points, (False, False)) == [True, False, False, False]
    assert front(points, (False, True)) == [False, True, False, False]
    assert front(points, (True, False)) == [False, False, True, False]
    assert front(points, (True, True)) == [False, False, False, True]


@pytest.mark.parametrize(
    ("metric", "higher"),
    [("latency", False), ("macs", False), ("throughput", True), ("top1", True), ("bleu", True), ("loss", False)],
)
def test_the_metric_says_which_way_is_better(metric, higher):
    assert higher_is_better(metric) is higher


def test_a_metric_that_nobody_knows_has_no_direction():
    with pytest.raises(BadRecords, match="whether more or less of goodness is better is not known"):
        higher_is_better("goodness")
