"""Polynomials come back from counts exactly, and the growth of a depth from its values."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import growth
from zoo.cost import Term, evaluate, parse

N, D, K = (64, 144, 256, 400), (32, 64, 96), (3, 5, 7)
POINTS = [{"n": n, "d": d, "k": k} for n, d, k in itertools.product(N, D, K)]
POWERS_OF_TWO = [{"n": n, "d": d} for n, d in itertools.product((64, 128, 256, 512, 1024), (32, 64, 128, 256))]


def counts(text: str, points: list[dict[str, int]]) -> list[int]:
    return [round(evaluate(parse(text), p)) for p in points]


def as_set(terms: tuple[Term, ...] | None) -> set[tuple[float, tuple[tuple[str, int], ...], tuple[str, ...]]]:
    return {(t.coefficient, t.powers, t.logs) for t in terms or ()}


@given(
    st.dictionaries(
        st.tuples(*(st.integers(0, 2) for _ in range(3))).filter(any), st.integers(1, 50), min_size=1, max_size=5
    )
)
@settings(max_examples=30, deadline=None)
def test_any_polynomial_comes_back_from_its_counts(wanted: dict[tuple[int, ...], int]) -> None:
    terms = [
        Term(float(c), tuple((x, a) for x, a in zip("dkn", powers, strict=True) if a)) for powers, c in wanted.items()
    ]
    found = growth.polynomial(POINTS, [round(evaluate(tuple(terms), p)) for p in POINTS])
    assert as_set(found) == as_set(tuple(terms))


def test_one_count_that_is_off_by_one_has_no_polynomial() -> None:
    wrong = counts("3 n d^2 + 3 k^2 n d", POINTS)
    wrong[17] += 1
    assert growth.polynomial(POINTS, wrong) is None


def test_counts_without_one_left_over_prove_nothing() -> None:
    few = [{"n": n, "d": d} for n, d in itertools.product(N[:3], D)]
    assert growth.polynomial(few, counts("2 n^2 d", few)) is None


def test_a_letter_of_which_few_values_are_known_has_no_square() -> None:
    """At h = 8 alone m and d do not vary: what they tell of squares of h is left, and the others tell the rest."""
    points = [{"n": n, "d": d, "h": h} for n, d, h in itertools.product(N, D, (2, 4))] + [{"n": 64, "d": 256, "h": 8}]
    found = growth.polynomial(points, counts("4 n d^2 + 2 n h", points))
    assert as_set(found) == as_set(parse("4 n d^2 + 2 n h"))


def test_transforms_have_their_law_where_no_logarithm_is_rounded() -> None:
    found = growth.logarithmic(POWERS_OF_TWO, counts("5 n d log2(n) + 5 n d log2(d)", POWERS_OF_TWO))
    assert as_set(found) == as_set(parse("5 n d log2(n) + 5 n d log2(d)"))
    assert growth.logarithmic(POWERS_OF_TWO[:9], counts("n d log2(n)", POWERS_OF_TWO[:9])) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4 n d^2 + 2 n^2 d", "O(n d² + n² d)"),
        ("2 n^2 d", "O(n² d)"),
        ("k n d^2 + n d", "O(n d² k)"),
        ("5 n d log2(n) + 5 n d log2(d) + n d", "O(n d log d + n d log n)"),
        ("", "O(0)"),
    ],
)
def test_what_is_outgrown_is_not_in_the_o(text: str, expected: str) -> None:
    assert growth.leading(parse(text)) == expected


@pytest.mark.parametrize(
    ("papers", "ours"),
    [
        ("O(n^2 * d)", "O(n² d)"),
        ("O(k * n * d^2)", "O(n d² k)"),
        ("O(r * n * d)", "O(n d r)"),
        ("O(log_k(n))", "O(logₖ n)"),
        ("O(log_k n)", "O(logₖ n)"),
        ("O(n/r)", "O(n/r)"),
        ("O(sqrt(n)/k)", "O(√n/k)"),
        ("O(1)", "O(1)"),
        ("O(n)", "O(n)"),
        ("O(n + k)", "O(k + n)"),
        ("O(n log n)", "O(n log n)"),
    ],
)
def test_an_o_reads_the_same_however_a_paper_writes_it(papers: str, ours: str) -> None:
    assert growth.read_big_o(papers) == ours


SIZES = (16, 36, 64, 100, 144, 196, 256)
DEPTHS = {
    "O(1)": lambda n, k: 7,
    "O(n)": lambda n, k: 3 * n + 3,
    "O(n/k)": lambda n, k: math.ceil((n - 1) / ((k - 1) / 2)),
    "O(√n/k)": lambda n, k: math.ceil((math.isqrt(n) - 1) / ((k - 1) / 2)),
    "O(logₖ n)": lambda n, k: math.ceil(math.log(2 * n - 1) / math.log(k) - 1e-9),
}


@pytest.mark.parametrize("expected", DEPTHS)
def test_a_depth_in_whole_layers_tells_how_it_grows(expected: str) -> None:
    points = [{"n": n, "k": k} for n, k in itertools.product(SIZES, (3, 5, 9))]
    assert growth.depth(points, [DEPTHS[expected](p["n"], p["k"]) for p in points]) == expected


def test_a_depth_at_one_size_tells_nothing() -> None:
    assert growth.depth([{"n": 64}], [64.0]) is None


def test_a_depth_at_two_sizes_tells_nothing() -> None:
    assert growth.depth([{"n": 16, "k": 3}, {"n": 64, "k": 3}], [4, 5]) is None
