"""Costs are read as papers write them, and add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo import Cost
from zoo.cost import parse
from zoo.errors import BadSpec


def test_self_attention_costs_what_the_table_says():
    cost = Cost(projection="4 n d^2", mixing="2 n^2 d")
    assert cost.macs({"n": 10, "d": 3}) == 4 * 10 * 9 + 2 * 100 * 3
    assert cost.letters == {"n", "d"}


def test_terms_of_projection_and_mixing_with_the_same_powers_add_up():
    assert [str(term) for term in Cost(projection="4 n d^2", mixing="4 d^2 n").mac_terms] == ["8 d^2 n"]


def test_fourier_transforms_are_flops_apart():
    cost = Cost(fft="5 n d log2(n) + 5 n d log2(d)")
    assert cost.macs({"n": 4, "d": 8}) == 0
    assert cost.flops_fft({"n": 4, "d": 8}) == 5 * 32 * 2 + 5 * 32 * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4 n d^2 +", "has an empty term"),
        ("n * d", "'\\*' in the cost"),
        ("4nd", "'4nd' in the cost"),
        ("n^d", "'n\\^d' in the cost"),
        ("2 n d + 3 d n", "two terms of the same powers"),
        ("0 n", "empty term"),
    ],
)
def test_what_is_no_polynomial_gets_one_sentence(text, message):
    with pytest.raises(BadSpec, match=message):
        Cost(mixing=text)


@given(st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.integers(1, 99), min_size=1, max_size=4))
def test_a_written_polynomial_is_read_back(coefficients):
    text = " + ".join(f"{c} n^{n} d^{d}" for (n, d), c in coefficients.items())
    terms = parse(text)
    assert parse(" + ".join(map(str, terms))) == terms
    assert Cost(mixing=text).macs({"n": 5, "d": 7}) == sum(c * 5**n * 7**d for (n, d), c in coefficients.items())
