"""The cost of a layer as a polynomial, written as the papers write it: ``4 n d^2 + 2 n^2 d``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from zoo.errors import BadSpec

_FACTOR = re.compile(r"(?P<number>\d+(?:\.\d+)?)|(?P<log>log2\((?P<of>[a-z])\))|(?P<letter>[a-z])(?:\^(?P<power>\d+))?")


@dataclass(frozen=True)
class Term:
    """A coefficient times powers of letters, and base-2 logarithms of letters."""

    coefficient: float
    powers: tuple[tuple[str, int], ...]
    logs: tuple[str, ...] = ()

    @property
    def letters(self) -> frozenset[str]:
        """The letters that appear."""
        return frozenset(letter for letter, _ in self.powers) | frozenset(self.logs)

    def factor(self, values: Mapping[str, int]) -> float:
        """Return the term's value without its coefficient."""
        powers = (float(values[letter]) ** power for letter, power in self.powers)
        return math.prod(powers) * math.prod(math.log2(values[letter]) for letter in self.logs)

    def __str__(self) -> str:
        """Write the term as :func:`parse` reads it."""
        coefficient = [] if self.coefficient == 1 and (self.powers or self.logs) else [f"{self.coefficient:g}"]
        powers = [letter if power == 1 else f"{letter}^{power}" for letter, power in self.powers]
        return " ".join([*coefficient, *powers, *(f"log2({letter})" for letter in self.logs)])


def parse(text: str) -> tuple[Term, ...]:
    """Read a sum of products, such as ``4 n d^2 + 2 n^2 d`` or ``5 n d log2(n)``; empty text is no terms.

    BadSpec when it is not one, or when two terms differ only in their coefficient.
    """
    terms = tuple(_term(part, text) for part in text.split("+")) if text.strip() else ()
    if len({(term.powers, term.logs) for term in terms}) < len(terms):
        raise BadSpec(f"the cost {text!r} has two terms of the same powers; expected their sum")
    return terms


def _term(part: str, whole: str) -> Term:
    coefficient, powers, logs = 1.0, dict[str, int](), list[str]()
    for word in part.split():
        factor = _FACTOR.fullmatch(word)
        if not factor:
            raise BadSpec(f"{word!r} in the cost {whole!r} is not a factor; expected a number, n, d^2 or log2(n)")
        if factor["number"]:
            coefficient *= float(factor["number"])
        elif factor["log"]:
            logs.append(factor["of"])
        else:
            powers[factor["letter"]] = powers.get(factor["letter"], 0) + int(factor["power"] or 1)
    if not part.strip() or coefficient == 0:
        raise BadSpec(f"the cost {whole!r} has an empty term; expected a sum such as '4 n d^2 + 2 n^2 d'")
    return Term(coefficient, tuple(sorted(powers.items())), tuple(sorted(logs)))


@dataclass(frozen=True)
class Cost:
    """What a layer costs for one sample: MACs that make queries, keys, values and output, and MACs that mix tokens.

    ``n`` is the number of tokens, ``d`` the width; any other letter is bound to an option of the layer. ``fft`` are the
    FLOPs of Fourier transforms (5 N log2 N each), which are no MACs. Attention is counted dense, masked or not.
    """

    projection: str = ""
    mixing: str = ""
    fft: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be read."""
        for text in (self.projection, self.mixing, self.fft):
            parse(text)

    @property
    def letters(self) -> frozenset[str]:
        """The letters of all terms."""
        terms = (*parse(self.projection), *parse(self.mixing), *parse(self.fft))
        return frozenset[str]().union(*(term.letters for term in terms))

    @property
    def mac_terms(self) -> tuple[Term, ...]:
        """The terms of all MACs; those of projection and mixing with the same powers are added up."""
        total: dict[tuple[tuple[tuple[str, int], ...], tuple[str, ...]], float] = {}
        for term in (*parse(self.projection), *parse(self.mixing)):
            total[term.powers, term.logs] = total.get((term.powers, term.logs), 0.0) + term.coefficient
        return tuple(Term(coefficient, *key) for key, coefficient in total.items())

    @property
    def fft_terms(self) -> tuple[Term, ...]:
        """The terms of the Fourier transforms."""
        return parse(self.fft)

    def macs(self, values: Mapping[str, int]) -> int:
        """Return the MACs of one sample."""
        return round(evaluate(self.mac_terms, values))

    def flops_fft(self, values: Mapping[str, int]) -> int:
        """Return the FLOPs of the Fourier transforms of one sample."""
        return round(evaluate(self.fft_terms, values))


def evaluate(terms: tuple[Term, ...], values: Mapping[str, int]) -> float:
    """Return the value of a sum of terms."""
    return math.fsum(term.coefficient * term.factor(values) for term in terms)
