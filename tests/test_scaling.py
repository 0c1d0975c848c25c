"""Laws: intervals hold what they say, counts are exact, breaks are found where they are, and only there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zoo import scaling
from zoo.scaling import Law, crossover, exact, fit, fit_broken, left_out, terms_of

DRAWS = 1000
NOISE = 0.02
SEVEN = [256 * 2**k for k in range(7)]  # 256 to 16,384
THIRTEEN = [round(256 * 2 ** (k / 2)) for k in range(13)]
# What the times of a ViT-B, a Performer and an FNet may look like, in seconds.
SOFTMAX = ("1 + n + n^2", [2e-3, 4.6e-5, 1e-8])
LINEAR = ("1 + n", [4e-3, 8e-5])
FOURIER = ("1 + n + n log2(n)", [3e-3, 2e-5, 2e-6])


def law_of(known: tuple[str, list[float]]) -> Law:
    """Return a known law."""
    terms, coefficients = known
    return Law(terms_of(terms), tuple(coefficients), (1.0,), (1.0,))


def noisy(known: tuple[str, list[float]], sizes: list[int], draw: np.random.Generator) -> list[float]:
    """Return values of a known law with relative errors."""
    return [law_of(known)(n) * (1 + NOISE * draw.standard_normal()) for n in sizes]


def share_held(found: list[scaling.Estimate], true: float) -> float:
    """Return the share of intervals that hold the truth."""
    assert all(e.interval for e in found)
    ends = [e.interval or (None, None) for e in found]
    return sum((low is None or low <= true) and (high is None or true <= high) for low, high in ends) / len(found)


@pytest.mark.parametrize("sizes", [SEVEN, THIRTEEN], ids=len)
@pytest.mark.parametrize("known", [SOFTMAX, LINEAR, FOURIER], ids=lambda known: known[0])
def test_intervals_of_exponents_and_terms_hold_95_per_cent(known: tuple[str, list[float]], sizes: list[int]) -> None:
    draw = np.random.default_rng(7)
    laws = [fit(sizes, noisy(known, sizes, draw), terms_of(known[0])) for _ in range(DRAWS)]
    for size in (sizes[0], 1024, sizes[-1], 2 * sizes[-1]):
        held = share_held([law.exponent(size) for law in laws], law_of(known).exponent(size).value)
        assert 0.93 <= held <= 0.97, f"exponent at {size}"
    for index, coefficient in enumerate(known[1]):
        held = share_held([law.coefficient(index) for law in laws], coefficient)
        assert 0.93 <= held <= 0.97, f"term {index}"


@pytest.mark.parametrize("sizes", [SEVEN, THIRTEEN], ids=len)
def test_intervals_of_crossovers_hold_95_per_cent(sizes: list[int]) -> None:
    (true,) = crossover(
        *(Law(law_of(k).terms, law_of(k).coefficients, tuple(sizes), tuple(sizes)) for k in (SOFTMAX, LINEAR))
    )
    draw, found, within = np.random.default_rng(11), [], []
    for _ in range(DRAWS):
        laws = [fit(sizes, noisy(known, sizes, draw), terms_of(known[0])) for known in (SOFTMAX, LINEAR)]
        (one,) = crossover(*laws)
        assert one.inside
        found.append(one.size)
        term = laws[0].overtakes([1], [2])
        assert term
        within.append(term.size)
    assert 0.93 <= share_held(found, true.size.value) <= 0.97
    # Where attention overtakes its projections: 4.6e-5 n = 1e-8 n^2.
    assert 0.93 <= share_held(within, 4600) <= 0.97


def test_a_time_limit_is_reached_at_a_size_with_an_interval() -> None:
    draw, found = np.random.default_rng(5), []
    limit = law_of(SOFTMAX)(6000)
    for _ in range(DRAWS):
        reached = fit(SEVEN, noisy(SOFTMAX, SEVEN, draw), terms_of(SOFTMAX[0])).within(limit)
        assert reached
        found.append(reached.size)
    assert 0.93 <= share_held(found, 6000) <= 0.97


def test_a_term_that_is_not_there_is_found_to_be_zero_or_nearly_so() -> None:
    draw, held = np.random.default_rng(2), 0
    for _ in range(DRAWS):
        law = fit(THIRTEEN, noisy(LINEAR, THIRTEEN, draw), terms_of("1 + n + n^2"))
        interval = law.coefficient(2).interval
        assert interval
        assert min(law.coefficients) >= 0
        held += interval[0] == 0
    assert 0.95 <= held / DRAWS <= 0.99  # cut at zero: only the upper side can miss


def test_the_leading_term_is_the_fastest_that_is_surely_there() -> None:
    draw = np.random.default_rng(4)
    surely = fit(THIRTEEN, noisy(SOFTMAX, THIRTEEN, draw), terms_of("1 + n + n^2"))
    assert [str(term) for term in surely.leading()] == ["n^2"]
    linear = fit(THIRTEEN, noisy(LINEAR, THIRTEEN, draw), terms_of("1 + n + n^2"))
    assert [str(term) for term in linear.leading()] == ["n", "n^2"]


def test_a_break_is_found_where_it_is() -> None:
    """A floor below 1,024 (launches), and caches that end at 4,000 tokens."""
    draw, floors, caches = np.random.default_rng(6), 0, 0
    linear = law_of(("1 + n", [1e-4, 8e-5]))
    exponents = []
    for _ in range(200):
        noise = 1 + NOISE * draw.standard_normal(len(THIRTEEN))
        floor = [max(0.08, linear(n)) * e for n, e in zip(THIRTEEN, noise, strict=True)]
        found = fit_broken(THIRTEEN, floor, terms_of("1 + n"))
        floors += [tuple(b) for b in found.breaks] in ([(1024, 1448)], [(724, 1024)])
        exponents.append(found.last.exponent(16384))
        spilt = [linear(n) * (1.5 if n > 4000 else 1) * e for n, e in zip(THIRTEEN, noise, strict=True)]
        caches += list(fit_broken(THIRTEEN, spilt, terms_of("1 + n")).breaks) == [(2896, 4096)]
    assert floors >= 190
    assert caches >= 190
    assert share_held(exponents, linear.exponent(16384).value) >= 0.93


@pytest.mark.parametrize("known", [SOFTMAX, LINEAR, FOURIER], ids=lambda known: known[0])
def test_no_break_is_seen_where_there_is_none(known: tuple[str, list[float]]) -> None:
    draw = np.random.default_rng(8)
    for sizes in (SEVEN, THIRTEEN):
        seen = sum(len(fit_broken(sizes, noisy(known, sizes, draw), terms_of(known[0])).breaks) for _ in range(200))
        assert seen <= 10


def test_two_laws_are_evaluated_each_where_it_holds() -> None:
    found = fit_broken(THIRTEEN, [1.0 if n < 2000 else n / 1000 for n in THIRTEEN], terms_of("1 + n"))
    assert found(300) == pytest.approx(1)
    assert found(10_000) == pytest.approx(10)
    assert str(found.last) == "0.001 n"


def test_counts_are_fitted_exactly() -> None:
    sizes = [64, 196, 576, 1024, 4096]
    macs = [3 * n**2 * 384 + 4 * n * 384**2 + 17 for n in sizes]
    law = exact(sizes, macs, terms_of("1 + n + n^2 + n^3"))
    assert law
    assert [str(term) for term in law.terms] == ["1", "n", "n^2"]
    assert law.coefficients == (17, 4 * 384**2, 3 * 384)
    assert str(law) == "17 + 5.898e+05 n + 1152 n^2"
    assert law.exponent(512).value == pytest.approx(2 - (4 * 384**2 * 512 + 2 * 17) / macs_at(512), rel=1e-9)
    assert law.exponent(512).interval is None
    assert exact(sizes, [m + (n == 576) for m, n in zip(macs, sizes, strict=True)], terms_of("1 + n + n^2")) is None
    assert exact(sizes[:3], macs[:3], terms_of("1 + n + n^2")) is None  # nothing is left over to prove it


def macs_at(n: int) -> int:
    """Return the counts of the test above."""
    return 3 * n**2 * 384 + 4 * n * 384**2 + 17


def test_fourier_transforms_are_fitted_with_their_logarithm() -> None:
    sizes = [64, 128, 512, 1024, 4096]
    law = exact(sizes, [5 * 768 * n * int(math.log2(n)) + 5 * n for n in sizes], terms_of("n + n log2(n)"))
    assert law
    assert law.coefficients == (5, 3840)
    assert law.exponent(1024).value == pytest.approx(1 + (3840 / math.log(2)) / (3840 * 10 + 5))


def test_the_largest_size_left_out_tells_what_the_law_is_worth_beyond() -> None:
    quadratic = [law_of(SOFTMAX)(n) for n in SEVEN]
    assert left_out(SEVEN, quadratic, terms_of("1 + n + n^2")) == pytest.approx(0, abs=1e-6)
    found = left_out(SEVEN, quadratic, terms_of("1 + n"))
    assert found is not None
    assert found < -0.3
    assert left_out([1, 2], [1, 2], terms_of("1 + n")) is None


def test_crossovers_are_looked_for_a_little_beyond_what_was_measured_only() -> None:
    sizes = [256, 512, 1024, 2048, 4096]
    linear = fit(sizes, [1e-2 * n for n in sizes], terms_of("1 + n"))
    near = fit(sizes, [n * n / 6e5 for n in sizes], terms_of("1 + n + n^2"))
    far = fit(sizes, [n * n / 6e6 for n in sizes], terms_of("1 + n + n^2"))
    (found,) = crossover(linear, near)
    assert found.size.value == pytest.approx(6000, rel=1e-3)
    assert not found.inside
    assert crossover(linear, far) == []
    apart = fit([1e5, 2e5, 4e5, 8e5], [1, 2, 4, 8], terms_of("1 + n"))
    assert crossover(linear, apart) == []


def test_too_few_sizes_are_refused_or_give_no_interval() -> None:
    with pytest.raises(ValueError, match="do not tell 3 terms apart"):
        fit([1, 2], [1, 2], terms_of("1 + n + n^2"))
    with pytest.raises(ValueError, match="positive"):
        fit([1, 2, 3], [1, 0, 2], terms_of("1 + n"))
    law = fit([1, 2, 4], [1, 2, 4], terms_of("1 + n"))
    assert law.exponent(4).interval is None
    assert law.coefficient(1).interval is None
