"""ListOps (Nangia and Bowman 2018) with the settings of Long Range Arena (Tay et al. 2021), generated, not downloaded.

    [MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]   is 5

The rules are the published ones: an argument is an operator with probability 1/4, else one of ten digits; an operator
is MIN, MAX, MED or SM (the sum modulo 10), each as likely, with two to ten arguments; trees are at most ten deep; the
median of an even number of arguments is the mean of the middle two, rounded down. Trees are drawn until one has a
length that is asked for, in tokens: an operator with its bracket is one, so are a digit and a closing bracket.

What differs: Long Range Arena asks for 500 to 2,000 tokens and has 96,000 trees to train on. Here a length is an axis,
every tree of ``length`` has more than half as many tokens and at most as many, and 10,000 are for training. Each comes
from the name of its split and its number, so it is made when it is asked for, and is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from random import Random

import torch
from torch import Tensor

from zoo import Samples, ZooError

TOKENS = ("", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")  # a token's id is its place; 0 is padding
VOCABULARY = len(TOKENS)
FIRST_DIGIT, FIRST_OPERATOR, CLOSING = TOKENS.index("0"), TOKENS.index("[MIN"), TOKENS.index("]")
CLASSES = 10
SIZES = {"train": 10_000, "test": 1_000}
SHORTEST, LONGEST = 32, 4096
DEPTH = 10
NESTED = 0.25  # the probability that an argument is an operator


def median(values: Sequence[int]) -> int:
    """Return the middle of the sorted values, of an even number the mean of two, rounded down."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) // 2


def sum_modulo(values: Sequence[int]) -> int:
    """Return the last digit of the sum."""
    return sum(values) % 10


OPERATORS: tuple[Callable[[Sequence[int]], int], ...] = (min, max, median, sum_modulo)  # in the order of their tokens


class Expressions(Samples):
    """The expressions of a split, each made when it is first asked for: token ids (n,), int64, and what they are."""

    def __init__(self, split: str, length: int) -> None:
        self.split, self.length = split, length
        self.made: dict[int, tuple[bytes, int]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return SIZES[self.split]

    def sample(self, number: int) -> tuple[Tensor, int]:
        """Return one, made if it was not before."""
        if number not in self.made:
            self.made[number] = expression(self.split, number, self.length)
        tokens, value = self.made[number]
        return torch.frombuffer(bytearray(tokens), dtype=torch.uint8).long(), value


def load(split: str, length: int) -> Expressions:
    """Return the expressions of ``"train"`` (10,000) or ``"test"`` (1,000) with length / 2 < n <= length tokens.

    ZooError when there is no such split, or the length is not from 32 to 4,096.
    """
    if split not in SIZES:
        raise ZooError(f"ListOps has no split {split!r}; its splits: {', '.join(SIZES)}")
    if not SHORTEST <= length <= LONGEST:
        raise ZooError(f"ListOps has no expressions of {length} tokens; expected {SHORTEST} to {LONGEST}")
    return Expressions(split, length)


def written(tokens: Sequence[int] | Tensor) -> str:
    """Return token ids as people read them."""
    return " ".join(TOKENS[int(token)] for token in tokens if token)


# -- one of them ---------------------------------------------------------------------------------------------


def expression(split: str, index: int, length: int) -> tuple[bytes, int]:
    """Return the tokens, a byte each, and the value of the expression that has this number in a split."""
    # Python promises that ``random()`` of a seed never changes, and of nothing else that it draws.
    draw = Random(f"listops {split} {length} {index}").random
    levels = next(levels for _ in count() if (levels := tree(draw, length // 2, length)))
    tokens = bytearray()
    value = write([iter(level) for level in levels], 0, draw, tokens)
    return bytes(tokens), value


def tree(draw: Callable[[], float], shorter: int, longest: int) -> list[list[int]]:
    """Draw how many arguments each node of a tree has, 0 for a digit: depth by depth, each from left to right.

    The whole is an operator, as only that is longer than one token. Empty where the tree is not of the length asked.
    """
    levels, length = [[arguments(draw)]], 2  # two tokens an operator, one a digit
    while nodes := sum(levels[-1]):
        nested = len(levels) < DEPTH - 1
        levels.append([arguments(draw) if nested and draw() < NESTED else 0 for _ in range(nodes)])
        length += 2 * nodes - levels[-1].count(0)
        if length > longest:
            return []
    return levels if length > shorter else []


def arguments(draw: Callable[[], float]) -> int:
    """Draw how many arguments an operator has."""
    return 2 + int(9 * draw())


def write(levels: Sequence[Iterator[int]], depth: int, draw: Callable[[], float], tokens: bytearray) -> int:
    """Append the next node of a depth, with all that is in it, to the tokens, and return its value."""
    count = next(levels[depth])
    if not count:
        digit = int(10 * draw())
        tokens.append(FIRST_DIGIT + digit)
        return digit
    operator = int(len(OPERATORS) * draw())
    tokens.append(FIRST_OPERATOR + operator)
    values = [write(levels, depth + 1, draw, tokens) for _ in range(count)]
    tokens.append(CLOSING)
    return OPERATORS[operator](values)
