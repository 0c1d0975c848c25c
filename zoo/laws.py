"""The law that a cost follows over the sizes of one model: which terms it may have, and what was found."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from zoo import scaling
from zoo.cost import Term
from zoo.record import Value
from zoo.scaling import Broken

# What a law is fitted to. A rate is fitted as the time that a sample takes.
COUNTS = ("macs", "flops", "flops_fft", "params", "activations", "peak_memory_predicted")
MEASURED = ("latency", "throughput", "latency_graph", "peak_memory", "energy")
# What tells which terms a time may have.
ARITHMETIC = ("macs", "flops_fft")
POLYNOMIAL = scaling.terms_of("1 + n + n^2 + n^3")
FOURIER = scaling.terms_of("1 + n + n log2(n)")
# A count that is no polynomial (windows are padded) is fitted as times are; a time is never less than linear.
FALLBACK = scaling.terms_of("1 + n + n^2")
LINEAR = scaling.terms_of("1 + n")


@dataclass(frozen=True)
class Point:
    """One size of one model: the size as a text, the tokens that it becomes, and what was found there."""

    size: str
    n: int
    value: Value

    @property
    def cost(self) -> float | None:
        """The value as a cost: of a rate, the time that one sample takes; None where there is none."""
        found = self.value.value
        return None if found is None else (1 / found if self.value.unit == "1/s" else float(found))


@dataclass(frozen=True)
class Curve:
    """A metric of one model over its sizes, and the law that it follows; ``problem`` says why there is none.

    ``left_out`` is how far the law of the other sizes is off at the largest one.
    """

    model: str
    metric: str
    points: tuple[Point, ...]
    law: Broken | None = None
    exact: bool = False
    left_out: float | None = None
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def fitted(self) -> list[Point]:
        """The points that have a value."""
        return [point for point in self.points if point.cost is not None]


def terms_of_time(counted: Iterable[Curve]) -> tuple[Term, ...]:
    """Return the terms that a time may have: a constant, n, and whatever the counted work has."""
    found = {scaling.growth(term): term for term in LINEAR}
    for curve in counted:
        for law in curve.law.laws if curve.law else ():
            for term, coefficient in zip(law.terms, law.coefficients, strict=True):
                if coefficient and scaling.growth(term) != (0, 0):
                    found[scaling.growth(term)] = replace(term, coefficient=1.0)
    return tuple(found[key] for key in sorted(found))


def with_count_law(curve: Curve) -> Curve:
    """Return a curve of counts with its exact law, or, where there is none, with the one that is nearest."""
    known = {point.n: round(point.cost) for point in curve.fitted if point.cost is not None}
    if len(known) < 2:
        return replace(curve, problem="fewer than two sizes have a value")
    if not all(known.values()):
        return replace(curve, problem="none" if not any(known.values()) else "none at some sizes")
    sizes, values = list(known), list(known.values())
    terms = FOURIER if curve.metric == "flops_fft" else POLYNOMIAL
    for count in range(1, len(terms) + 1):
        law = scaling.exact(sizes, values, terms[:count])
        if law:
            return replace(curve, law=Broken((law,)), exact=True)
    # Another moment of the call may be the peak of small sizes.
    for start, count in itertools.product(range(1, len(sizes) - 2), range(1, len(FALLBACK) + 1)):
        law = scaling.exact(sizes[start:], values[start:], FALLBACK[:count])
        if law:
            below = scaling.fit(sizes[:start], values[:start], LINEAR[: min(2, start)])
            broken = Broken((below, law), ((sizes[start - 1], sizes[start]),))
            return replace(curve, law=broken, exact=True, notes=("the law is that of the larger sizes",))
    return with_law(replace(curve, notes=("no polynomial gives these counts exactly",)), FALLBACK)


def with_law(curve: Curve, terms: Sequence[Term]) -> Curve:
    """Return a curve with the law that is fitted to it; sizes at which the host sets the pace are left out."""
    known, notes = curve.fitted, curve.notes
    bound = [point for point in known if point.value.detail.get("launch_bound")]
    if bound:
        known = [point for point in known if point not in bound]
        notes = (*notes, f"launch-bound, and not fitted: {', '.join(point.size for point in bound)}")
    sizes = [float(point.n) for point in known]
    costs = [point.cost for point in known if point.cost is not None]
    if len(set(sizes)) < len(terms):
        what = " + ".join(map(str, terms))
        return replace(curve, notes=notes, problem=f"{len(set(sizes))} sizes have a value; the law {what} needs more")
    law = scaling.fit_broken(sizes, costs, terms)
    return replace(curve, law=law, left_out=scaling.left_out(sizes, costs, terms), notes=notes)
