"""How a cost grows with its size n: laws, local exponents, breaks, crossovers. Numbers in, numbers out.

A law is a sum of terms that an architecture can have, none of them negative: ``a + b n + c n log2(n) + d n^2``. Counts
have no noise and are fitted exactly; times have relative errors that are alike at all sizes, and each number that is
drawn from them has an interval. One slope over everything is never fitted: it is the slope of nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from scipy.optimize import nnls
from scipy.special import stdtrit

from zoo.cost import Term, parse

Array = np.ndarray[Any, np.dtype[np.float64]]
# A law has an interval where so many sizes are left over, a count is proven where one is.
LEAST_FREEDOM = 2
# By how much BIC must fall for a break: 10 is very strong evidence (Kass and Raftery 1995, section 3.2).
BREAK_EVIDENCE = 10.0
# How far beyond the sizes that were measured a crossover is looked for.
REACH = 2.0
STEPS = 4000  # of the grid, even in log n, on which crossovers are looked for


def terms_of(text: str) -> tuple[Term, ...]:
    """Return the terms of a sum such as ``1 + n + n log2(n) + n^2``, the slowest-growing first."""
    return tuple(sorted(parse(text), key=growth))


def growth(term: Term) -> tuple[int, int]:
    """Return by what terms are ordered: the power of n, then that of its logarithm."""
    return dict(term.powers).get("n", 0), len(term.logs)


def values_at(terms: Sequence[Term], sizes: Sequence[float] | Array) -> Array:
    """Return the terms (columns) at sizes (rows), without coefficients."""
    n = np.asarray(sizes, dtype=float)[:, None]
    powers, logs = np.array([growth(term) for term in terms]).T
    found: Array = n**powers * np.log2(n) ** logs
    return found


def slopes_at(terms: Sequence[Term], sizes: Sequence[float] | Array) -> Array:
    """Return the derivatives of the terms by the logarithm of n."""
    n = np.asarray(sizes, dtype=float)[:, None]
    powers, logs = np.array([growth(term) for term in terms]).T
    by_log = logs * np.log2(n) ** np.maximum(logs - 1, 0) / math.log(2)
    found: Array = n**powers * (powers * np.log2(n) ** logs + by_log)
    return found


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; None where there is none, an end is None where the data leave it open."""

    value: float
    interval: tuple[float | None, float | None] | None = None


@dataclass(frozen=True)
class Crossing:
    """Where one law overtakes another: the size, with the interval that holds it in 95 % of cases.

    ``inside`` tells whether it lies among the sizes that were measured.
    """

    size: Estimate
    inside: bool


# -- laws ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Law:
    """A sum of terms with coefficients, fitted to values at sizes; exact where it has no covariance and no error.

    ``free`` are the coefficients that nothing keeps from being negative, which ``covariance`` belongs to.
    """

    terms: tuple[Term, ...]
    coefficients: tuple[float, ...]
    sizes: tuple[float, ...]
    values: tuple[float, ...]
    free: tuple[float, ...] = ()
    covariance: Array | None = None
    freedom: int = 0

    def __call__(self, size: float) -> float:
        """Return the law's value at a size."""
        return float(values_at(self.terms, [size])[0] @ np.array(self.coefficients))

    def __str__(self) -> str:
        """Write the law with its coefficients, those that are zero left out."""
        parts = (
            f"{coefficient:.4g}{f' {term}' if growth(term) != (0, 0) else ''}"
            for term, coefficient in zip(self.terms, self.coefficients, strict=True)
            if coefficient
        )
        return " + ".join(parts) or "0"

    def exponent(self, size: float) -> Estimate:
        """Return the local exponent at a size: the slope of the law's logarithm by the logarithm of n.

        It lies between the exponents of the law's terms, for none of them is negative, and so does its interval.
        """
        value, slope = values_at(self.terms, [size])[0], slopes_at(self.terms, [size])[0]
        found = np.array(self.coefficients)
        estimate = self.ratio(slope, value, float(slope @ found / (value @ found)))
        if estimate.interval is None:
            return estimate
        least, most = float((slope / value).min()), float((slope / value).max())
        low, high = (least if estimate.interval[0] is None else estimate.interval[0],
                     most if estimate.interval[1] is None else estimate.interval[1])  # fmt: skip
        return Estimate(estimate.value, (max(low, least), min(high, most)))

    def coefficient(self, index: int) -> Estimate:
        """Return a term's coefficient."""
        if self.covariance is None:
            return Estimate(self.coefficients[index])
        half = self.quantile * math.sqrt(self.covariance[index, index])
        low, high = (max(0.0, self.free[index] + side) for side in (-half, half))
        return Estimate(self.coefficients[index], held(low, high, self.coefficients[index]))

    def leading(self) -> tuple[Term, ...]:
        """Return the term that decides at last: the fastest-growing that is surely there, and those that may be.

        The sure one is the first.
        """
        sure = 0
        for index in range(len(self.terms)):
            found = self.coefficient(index)
            low = found.interval[0] if found.interval else found.value
            if low:
                sure = index
        return self.terms[sure:]

    @property
    def quantile(self) -> float:
        """By how many standard errors a 95 % interval goes to each side."""
        return float(stdtrit(self.freedom, 0.975))

    def ratio(self, top: Array, bottom: Array, value: float) -> Estimate:
        """Return a ratio of two sums of coefficients (Fieller, Some problems in interval estimation, 1954)."""
        if self.covariance is None:
            return Estimate(value)
        free, square = np.array(self.free), self.quantile**2
        a, b = float(top @ free), float(bottom @ free)
        aa, ab, bb = (float(x @ self.covariance @ y) for x, y in ((top, top), (top, bottom), (bottom, bottom)))
        head, middle, tail = b * b - square * bb, a * b - square * ab, a * a - square * aa
        inner = middle * middle - head * tail
        if head <= 0 or inner < 0:
            return Estimate(value, (None, None))
        ends = sorted(((middle - math.sqrt(inner)) / head, (middle + math.sqrt(inner)) / head))
        return Estimate(value, held(ends[0], ends[1], value))

    def overtakes(self, slower: Sequence[int], faster: Sequence[int]) -> Crossing | None:
        """Return where the second terms together pass the first ones; None where they do not, within reach."""
        sign = np.zeros(len(self.terms))
        sign[list(slower)], sign[list(faster)] = 1.0, -1.0

        found = list(crossings(lambda n: self.gap(values_at(self.terms, n) * sign), self.sizes))
        return found[-1] if found else None

    def within(self, limit: float) -> Crossing | None:
        """Return the size at which the law reaches a limit; None where it does not, within reach."""
        found = list(crossings(lambda n: self.gap(values_at(self.terms, n), less=limit), self.sizes))
        return found[-1] if found else None

    def gap(self, table: Array, less: float = 0.0) -> Gap:
        """Return sums of the coefficients, one a row of a table, less a number."""
        free = table @ np.array(self.free or self.coefficients)
        variance = None if self.covariance is None else ((table @ self.covariance) * table).sum(axis=1)
        return Gap(table @ np.array(self.coefficients) - less, free - less, variance, self.freedom)


def held(low: float, high: float, value: float) -> tuple[float, float]:
    """Return an interval, widened to hold the value: that of a law without negative terms may lie outside."""
    return min(low, value), max(high, value)


def fit(sizes: Sequence[float], values: Sequence[float], terms: Sequence[Term]) -> Law:
    """Fit a law to values, all positive, whose relative errors are alike; no coefficient becomes negative.

    Coefficients are those of non-negative least squares on relative errors. Intervals are those of least squares
    without that bound, by Student's t on what the sizes left over say of the error: they hold 95 % whether a term is
    there or not, and are cut at zero. There are none with fewer than ``LEAST_FREEDOM`` sizes more than terms.
    ValueError for fewer sizes than terms, or values that are not positive.
    """
    n, y = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    if len(set(sizes)) < len(terms):
        raise ValueError(f"{len(set(sizes))} sizes do not tell {len(terms)} terms apart")
    if not (y > 0).all():
        raise ValueError("a law is fitted to positive values")
    table = values_at(terms, n) / y[:, None]
    scale = table.max(axis=0)
    bounded, _ = nnls(table / scale, np.ones(len(y)))
    law = {"terms": tuple(terms), "sizes": tuple(map(float, sizes)), "values": tuple(map(float, values))}
    freedom = len(y) - len(terms)
    if freedom < LEAST_FREEDOM:
        return Law(coefficients=tuple(bounded / scale), **law)  # type: ignore[arg-type]
    free, *_ = np.linalg.lstsq(table / scale, np.ones(len(y)), rcond=None)
    variance = float(((table / scale @ free - 1) ** 2).sum()) / freedom
    spread = variance * np.linalg.pinv((table / scale).T @ (table / scale)) / np.outer(scale, scale)
    return Law(coefficients=tuple(bounded / scale), free=tuple(free / scale), covariance=spread, freedom=freedom, **law)  # type: ignore[arg-type]


def exact(sizes: Sequence[int], values: Sequence[int], terms: Sequence[Term]) -> Law | None:
    """Return the one law with these terms that gives all the values, which are counts; None where none does.

    Polynomials are solved in fractions, and their terms of no coefficient left out; with logarithms the law holds to
    six digits, for each transform's count is rounded. None, too, where there is no size left over to prove it.
    """
    if len(set(sizes)) <= len(terms):
        return None
    if any(term.logs for term in terms):
        table = values_at(terms, sizes)
        scale = table.max(axis=0)
        found, *_ = np.linalg.lstsq(table / scale, np.asarray(values, dtype=float), rcond=None)
        there = (np.abs(table * found / scale) / np.asarray(values, dtype=float)[:, None]).max(axis=0) > 1e-6
        law = sized(terms, [tidy(c) if t else 0.0 for c, t in zip(found / scale, there, strict=True)], sizes, values)
        return law if all(math.isclose(law(n), v, rel_tol=1e-6) for n, v in zip(sizes, values, strict=True)) else None
    solved = solve([[Fraction(n) ** growth(term)[0] for term in terms] for n in sizes], values)
    if solved is None:
        return None
    return sized(terms, [float(c) for c in solved], sizes, values)


def sized(terms: Sequence[Term], coefficients: Sequence[float], sizes: Sequence[int], values: Sequence[int]) -> Law:
    """Return a law without the terms that have no coefficient."""
    kept = [(term, c) for term, c in zip(terms, coefficients, strict=True) if c] or [(terms[0], 0.0)]
    return Law(tuple(t for t, _ in kept), tuple(c for _, c in kept), tuple(sizes), tuple(values))


def tidy(number: float) -> float:
    """Return a number that a fraction of small terms stands for, where it lies within rounding of one."""
    near = Fraction(number).limit_denominator(1 << 12)
    return float(near) if math.isclose(float(near), number, rel_tol=1e-6) or abs(number) < 1e-9 else number


def solve(table: Sequence[Sequence[Fraction]], values: Sequence[int]) -> list[Fraction] | None:
    """Return the one solution of more equations than unknowns, in fractions; None where there is none, or several."""
    rows = [[*row, Fraction(value)] for row, value in zip(table, values, strict=True)]
    unknowns = len(table[0])
    for column in range(unknowns):
        at = next((r for r in range(column, len(rows)) if rows[r][column]), None)
        if at is None:
            return None
        rows[column], rows[at] = rows[at], rows[column]
        pivot = rows[column] = [cell / rows[column][column] for cell in rows[column]]
        for r, row in enumerate(rows):
            if r != column and row[column]:
                rows[r] = [a - row[column] * b if b else a for a, b in zip(row, pivot, strict=True)]
    return None if any(row[-1] for row in rows[unknowns:]) else [row[-1] for row in rows[:unknowns]]


# -- breaks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """Laws that hold one after the other, and the sizes between which each gives way to the next."""

    laws: tuple[Law, ...]
    breaks: tuple[tuple[float, float], ...] = ()

    @property
    def last(self) -> Law:
        """The law of the largest sizes."""
        return self.laws[-1]

    def __call__(self, size: float) -> float:
        """Return the value at a size, of the law that holds there."""
        return self.laws[sum(size > low for low, _ in self.breaks)](size)


def fit_broken(sizes: Sequence[float], values: Sequence[float], terms: Sequence[Term]) -> Broken:
    """Fit one law, or two with a break between them where the data are much better told by two.

    Below a break there may be a floor (a launch takes as long as it takes) or another law (caches, kernels). Two laws
    are taken where the Bayesian information criterion falls by ``BREAK_EVIDENCE``, and each has sizes left over.
    """
    order = np.argsort(sizes)
    n, y = [float(sizes[i]) for i in order], [float(values[i]) for i in order]
    best, least = Broken((fit(n, y, terms),)), criterion([fit(n, y, terms)]) - BREAK_EVIDENCE
    for at in range(2, len(n) - len(terms) - LEAST_FREEDOM + 1):
        for below in {terms_of("1"), tuple(terms)}:
            if at < len(below) + 1:
                continue
            laws = fit(n[:at], y[:at], below), fit(n[at:], y[at:], terms)
            if (found := criterion(laws)) < least:
                best, least = Broken(laws, ((n[at - 1], n[at]),)), found
    return best


def criterion(laws: Sequence[Law]) -> float:
    """Return the Bayesian information criterion of laws that hold one after the other; less is better."""
    count = sum(len(law.sizes) for law in laws)
    errors = [law(n) / value - 1 for law in laws for n, value in zip(law.sizes, law.values, strict=True)]
    parameters = sum(len(law.terms) for law in laws) + len(laws) - 1
    left = max(sum(e * e for e in errors) / count, 1e-24)
    return count * math.log(left) + parameters * math.log(count)


def left_out(sizes: Sequence[float], values: Sequence[float], terms: Sequence[Term]) -> float | None:
    """Return how far the law of all sizes but the largest is off at that one, as a share; None of too few sizes."""
    if len(sizes) <= len(terms):
        return None
    last = int(np.argmax(sizes))
    others = [i for i in range(len(sizes)) if i != last]
    law = fit([sizes[i] for i in others], [values[i] for i in others], terms)
    return law(sizes[last]) / values[last] - 1


# -- crossovers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """The difference of two laws at sizes: as fitted, without bounds, and its variance by so many sizes left over."""

    fitted: Array
    free: Array
    variance: Array | None
    freedom: Any


def crossover(first: Law, second: Law) -> list[Crossing]:
    """Return where the second law passes the first, or the first the second, from small to large sizes.

    They are looked for among the sizes that both were measured at, and up to ``REACH`` times beyond.
    """
    shared = [max(min(law.sizes) for law in (first, second)), min(max(law.sizes) for law in (first, second))]
    if shared[0] >= shared[1]:
        return []

    def gap(n: Array) -> Gap:
        a, b = (law.gap(values_at(law.terms, n)) for law in (first, second))
        if a.variance is None or b.variance is None:
            return Gap(a.fitted - b.fitted, a.free - b.free, None, 0)
        # Welch and Satterthwaite's degrees of freedom of a sum of two variances.
        freedom = (a.variance + b.variance) ** 2 / (a.variance**2 / a.freedom + b.variance**2 / b.freedom)
        return Gap(a.fitted - b.fitted, a.free - b.free, a.variance + b.variance, freedom)

    return list(crossings(gap, shared))


def crossings(gap: Callable[[Array], Gap], sizes: Sequence[float]) -> Iterator[Crossing]:
    """Yield where a difference changes its sign, each with the sizes around it at which it might be zero."""
    low, high = min(sizes), max(sizes)
    grid = np.geomspace(low / REACH, high * REACH, STEPS)
    found = gap(grid)
    changes = np.flatnonzero(np.sign(found.fitted[1:]) * np.sign(found.fitted[:-1]) < 0)
    for at in changes:
        a, b = abs(found.fitted[at]), abs(found.fitted[at + 1])
        size = float(grid[at] * (grid[at + 1] / grid[at]) ** (a / (a + b)))
        yield Crossing(Estimate(size, around(found, grid, int(at), size)), low <= size <= high)


def around(found: Gap, grid: Array, at: int, size: float) -> tuple[float | None, float | None] | None:
    """Return the ends of the stretch around a crossing at which the difference may be zero, None for an open end."""
    if found.variance is None:
        return None
    far = np.abs(found.free) > stdtrit(found.freedom, 0.975) * np.sqrt(found.variance)
    below, above = np.flatnonzero(far[: at + 1]), np.flatnonzero(far[at + 1 :])
    low = float(grid[below[-1]]) if len(below) else None
    high = float(grid[at + 1 + above[0]]) if len(above) else None
    return (None if low is None else min(low, size)), (None if high is None else max(high, size))
