"""What grows how: polynomials in several letters recovered from counts, and the O() of depths. Numbers in, terms out.

Nothing is fitted to what is declared: a count is taken apart into every product of powers that its letters may have.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from zoo.cost import Term, evaluate
from zoo.scaling import BREAK_EVIDENCE, solve

Values = Mapping[str, int]
MOST_POWER = 2
LEAST_SIZES = 3
SUBSCRIPTS = {"k": "ₖ", "m": "ₘ", "r": "ᵣ"}


# -- counts --------------------------------------------------------------------------------------------------


def polynomial(points: Sequence[Values], counts: Sequence[int]) -> tuple[Term, ...] | None:
    """Return the one polynomial, of powers up to ``MOST_POWER`` in each letter, that gives all counts, in fractions.

    A letter of v different values has powers up to v - 1; where the points do not tell that many apart, letters other
    than n and d have none above 1. None where no polynomial does, or where no point is left over to prove it.
    """
    letters = sorted(points[0])
    values = {letter: len({p[letter] for p in points}) for letter in letters}
    for most in range(MOST_POWER, 0, -1):
        highest = [min(MOST_POWER if letter in "nd" else most, values[letter] - 1) for letter in letters]
        powers = list(itertools.product(*(range(n + 1) for n in highest)))
        if len({tuple(sorted(p.items())) for p in points}) <= len(powers):
            continue
        table = [[Fraction(math.prod(p[x] ** a for x, a in zip(letters, power, strict=True))) for power in powers]
                 for p in points]  # fmt: skip
        if solved := solve(table, counts):
            return tuple(
                Term(float(c), tuple((x, a) for x, a in zip(letters, power, strict=True) if a))
                for power, c in zip(powers, solved, strict=True)
                if c
            )
    return None


def logarithmic(points: Sequence[Values], counts: Sequence[int]) -> tuple[Term, ...] | None:
    """Return the sum of products of letters, each with the base-2 logarithm of a letter or none, that gives counts.

    It is solved in fractions where all letters are powers of two, and holds elsewhere to four digits, for the count of
    each transform is rounded there. None where there is none, or where no point is left over to prove it.
    """
    letters = sorted(points[0])
    products = [c for n in range(len(letters) + 1) for c in itertools.combinations(letters, n)]
    terms = [
        Term(1.0, tuple((letter, 1) for letter in product), logs)
        for product in products
        for logs in [(), *((letter,) for letter in letters)]
    ]
    whole = [i for i, p in enumerate(points) if all(v.bit_count() == 1 for v in p.values())]
    if len(whole) <= len(terms):
        return None
    table = [[Fraction(round(term.factor(points[i]))) for term in terms] for i in whole]
    solved = solve(table, [counts[i] for i in whole])
    if solved is None:
        return None
    kept = tuple(Term(float(c), t.powers, t.logs) for t, c in zip(terms, solved, strict=True) if c)
    given = [evaluate(kept, p) for p in points]
    return kept if all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(given, counts, strict=True)) else None


def less(whole: Sequence[Term], part: Sequence[Term]) -> tuple[Term, ...]:
    """Return a sum of terms less another one."""
    left = {(t.powers, t.logs): t.coefficient for t in whole}
    for term in part:
        key = term.powers, term.logs
        left[key] = left.get(key, 0.0) - term.coefficient
    return tuple(Term(c, *key) for key, c in left.items() if c)


# -- O() -----------------------------------------------------------------------------------------------------


def leading(terms: Sequence[Term]) -> str:
    """Return the O() of a sum: its terms without coefficients, those left out that another one outgrows."""
    kept = [t for t in terms if not any(outgrows(other, t) for other in terms)]
    return f"O({' + '.join(sorted(product_text(t) for t in kept)) or '0'})"


def outgrows(a: Term, b: Term) -> bool:
    """Tell whether one product is at least another one, and more, however its letters grow."""
    mine, others = dict(a.powers), dict(b.powers)
    if (mine, sorted(a.logs)) == (others, sorted(b.logs)):
        return False
    return all(mine.get(letter, 0) >= n for letter, n in others.items()) and set(b.logs) <= set(a.logs)


def product_text(term: Term) -> str:
    """Write a term without its coefficient: ``n² d``, ``n d log n``; n stands first."""
    powers = sorted(term.powers, key=lambda p: (p[0] != "n", p[0]))
    words = [f"{letter}{'²' if n == 2 else '' if n == 1 else f'^{n}'}" for letter, n in powers]
    return " ".join([*words, *(f"log {letter}" for letter in term.logs)]) or "1"


def sum_text(terms: Sequence[Term]) -> str:
    """Write a sum of terms: ``4 n d² + 2 n² d``."""
    parts = []
    for term in sorted(terms, key=lambda t: (-max((n for letter, n in t.powers if letter == "d"), default=0), str(t))):
        coefficient = [] if term.coefficient == 1 else [f"{term.coefficient:g}"]
        parts.append(" ".join([*coefficient, product_text(term)]))
    return " + ".join(parts) or "0"


def read_big_o(text: str) -> str:
    """Return an O() as papers write it, ``O(k * n * d^2)`` or ``O(log_k(n))``, in the one way that is printed here.

    What is not of a form that is printed here is returned as it stands.
    """
    inner = re.sub(r"^O\((.*)\)$", r"\1", text.strip())
    if found := re.fullmatch(r"log(?:_([a-z]))?\s*\(?\s*n\s*\)?", inner):
        return f"O(log{SUBSCRIPTS.get(found[1], '_' + found[1]) if found[1] else ''} n)"
    rooted = re.sub(r"sqrt\((\w)\)", r"√\1", inner)
    if re.fullmatch(r"√?[a-z]\s*(?:/\s*[a-z])?", rooted) and ("/" in rooted or "√" in rooted):
        return f"O({re.sub(r' ', '', rooted)})"
    factor = r"[a-z](?:\^\d+)?"
    if not re.fullmatch(rf"{factor}(?:\s*[* ]\s*{factor})*(?:\s*\+\s*{factor}(?:\s*[* ]\s*{factor})*)*", inner):
        return f"O({inner})"
    terms = [re.findall(r"([a-z])(?:\^(\d+))?", part) for part in inner.split("+")]
    return leading([Term(1.0, tuple(sorted((letter, int(power or 1)) for letter, power in words))) for words in terms])


@dataclass(frozen=True)
class Growth:
    """A way to grow: its O(), and the function that a depth is proportional to, but for a constant."""

    text: str
    value: Callable[[Values], float]


def growths(letter: str) -> list[Growth]:
    """Return the ways in which a depth may grow with n, and shrink with a letter where there is one."""
    found = [
        Growth("O(log n)", lambda v: math.log2(v["n"])),
        Growth("O(√n)", lambda v: math.sqrt(v["n"])),
        Growth("O(n)", lambda v: float(v["n"])),
    ]
    if letter:
        found += [
            Growth(f"O(log{SUBSCRIPTS.get(letter, '_' + letter)} n)", lambda v: math.log(v["n"]) / math.log(v[letter])),
            Growth(f"O(√n/{letter})", lambda v: math.sqrt(v["n"]) / v[letter]),
            Growth(f"O(n/{letter})", lambda v: v["n"] / v[letter]),
        ]
    return found


def depth(points: Sequence[Values], depths: Sequence[float]) -> str | None:
    """Return how a depth grows, as an O(): of all ways, the one that leaves least, with a constant beside it.

    None where there are fewer than ``LEAST_SIZES`` values of n, or where the next best is not much worse: its Bayesian
    information criterion is less than ``BREAK_EVIDENCE`` higher. Depths are whole numbers of layers or steps, so that
    no way fits better than rounding allows.
    """
    if len({p["n"] for p in points}) < LEAST_SIZES:
        return None
    if len(set(depths)) == 1:
        return "O(1)"
    varied = [x for x in sorted(points[0]) if x != "n" and len({p[x] for p in points}) > 1]
    y = np.asarray(depths, dtype=float)
    scored = []
    for way in growths(varied[0] if varied else ""):
        table = np.array([[1.0, way.value(p)] for p in points])
        found, *_ = np.linalg.lstsq(table, y, rcond=None)
        left = max(float(((table @ found - y) ** 2).mean()), 1e-6)
        scored.append((len(y) * math.log(left), way.text))
    scored.sort()
    return scored[0][1] if scored[1][0] - scored[0][0] >= BREAK_EVIDENCE else None
