"""Loops over tokens, cut short where only sizes matter: as many times the samples as there are fewer tokens.

A loop over the tokens of a batch makes and keeps as many bytes as one over a t-th of the tokens of t times the samples,
except for what does not grow with the tokens: a state, and what one turn of the loop needs, of which there is t times
as much. Two runs with different t tell that part from the rest, so a million turns cost no more than some dozens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from operator import mul
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor

RECURRENT = "rnn_tanh", "rnn_relu", "lstm", "gru"
TURNS = 8, 16  # the least that the loops of the two runs are cut to
LONG = 64  # turns of a loop that is cut


@dataclass
class _Folding:
    """The least that loops are to be cut to, and how many parts they were folded into: turns -> parts."""

    least: int
    parts: dict[int, int] = field(default_factory=dict)


_active: ContextVar[_Folding | None] = ContextVar("folding", default=None)


# -- for a function that loops over tokens -------------------------------------------------------------------


def over_tokens(function: Callable[..., Tensor], step: int, *tensors: Tensor | None) -> Tensor:
    """Call a function of tensors (B, h, N, ...) -> (B, h, N, ...) that loops over ``step`` tokens at a time.

    Where memory is predicted, and only there, N is folded into B.
    """
    n = next(t.shape[2] for t in tensors if t is not None)
    times = _times(n // step) if n % step == 0 else 1
    if times == 1:
        return function(*tensors)
    return _unfold(function(*(_fold(t, 0, 2, times) if t is not None else None for t in tensors)), 0, 2, times)


def _recurrent(function: Callable[..., Any], *args: Any) -> Any:
    """Call what torch's recurrent layers do, with fewer steps; not with a packed sequence, whose steps differ."""
    x, states, *rest, batch_first = args
    if not isinstance(batch_first, bool):
        return function(*args)
    batch, tokens = (0, 1) if batch_first else (1, 0)
    times = _times(x.shape[tokens])
    if times == 1:
        return function(*args)
    if x.shape[batch] == 1 and batch_first:  # a single sample is contiguous when transposed, but not when folded
        x, batch, tokens = x.transpose(0, 1), 1, 0
    one = isinstance(states, Tensor)
    wide = [state.repeat(1, times, 1) for state in ((states,) if one else states)]
    out, *last = function(_fold(x, batch, tokens, times), wide[0] if one else wide, *rest, batch == 0)
    out = _unfold(out, batch, tokens, times)
    out = out if batch_first == (batch == 0) else out.transpose(0, 1)
    return out, *(state[:, : x.shape[batch]] for state in last)


def _times(turns: int) -> int:
    """Return into how many parts to fold a loop of so many turns: a divisor, or 1."""
    folding = _active.get()
    if folding is None or turns < LONG:
        return 1
    cut = {least: next((few for few in range(least, 2 * least) if turns % few == 0), 0) for least in TURNS}
    if not all(cut.values()):
        return 1
    folding.parts[turns] = turns // cut[folding.least]
    return folding.parts[turns]


# -- for who predicts ----------------------------------------------------------------------------------------

# What is reached at most at an operator, by the operator and the shape of its result.
Levels = Mapping[tuple[Any, Any], int]
Rest = TypeVar("Rest")


def unfolded(run: Callable[[], tuple[Levels, Rest]]) -> tuple[int, Rest]:
    """Return the highest level of a run with loops at their full length, and what else ``run`` returns."""
    few, more = TURNS
    levels, rest, parts = _folded(run, more)
    if not parts:
        return max(levels.values(), default=0), rest
    levels_of_shorter, _, parts_of_shorter = _folded(run, few)
    longest = max(parts)  # what one turn of it needs is in a level as often as it has parts
    times, more_times = parts[longest], parts_of_shorter[longest]

    def whole(shorter: int, longer: int) -> float:
        return longer - (shorter - longer) * (times - 1) / (more_times - times)

    pairs = _paired(levels_of_shorter, levels)
    return round(max(whole(*pair) for pair in pairs)), rest


def _paired(shorter: Levels, longer: Levels) -> Iterator[tuple[int, int]]:
    """Yield levels of the two runs that belong together: of one shape outside of loops, of one operator inside them."""
    for key in shorter.keys() & longer.keys():
        yield shorter[key], longer[key]
    inside: list[dict[Any, int]] = [{}, {}]
    for found, one, other in zip(inside, (shorter, longer), (longer, shorter), strict=True):
        for func, shape in one.keys() - other.keys():
            found[func] = max(found.get(func, 0), one[func, shape])
    for func in inside[0].keys() & inside[1].keys():
        yield inside[0][func], inside[1][func]


def _folded(run: Callable[[], tuple[Levels, Rest]], least: int) -> tuple[Levels, Rest, dict[int, int]]:
    """Run with short loops; return the parts that loops were folded into, too."""
    folding = _Folding(least)
    token = _active.set(folding)
    try:
        # Seen where nn.RNN, LSTM and GRU call them: watched by a mode, torch would leave out its fused encoder.
        functions: Any = {name: partial(_recurrent, getattr(torch._VF, name)) for name in RECURRENT}
        with patch.multiple(torch._VF, **functions):
            return *run(), folding.parts
    finally:
        _active.reset(token)


# -- layout --------------------------------------------------------------------------------------------------


class _Relaid(torch.autograd.Function):
    """Another shape for the same storage; what lies where does not matter, as there is nothing in it.

    ``times`` times the batch and as many times fewer tokens, or back: laid out in memory as the tensor is.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, batch: int, tokens: int, times: int, back: bool) -> Tensor:
        """Return the tensor in its new shape."""
        ctx.how = batch, tokens, times, not back
        return _relaid(x, batch, tokens, times, back)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient in the shape that the tensor had."""
        return _relaid(grad, *ctx.how), None, None, None, None


def _relaid(x: Tensor, batch: int, tokens: int, times: int, back: bool) -> Tensor:
    of_token = x.stride(tokens)
    of_batch = x.stride(batch)
    if x.shape[batch] == 1:  # as if there were others, further out or further in
        of_batch = max(map(mul, x.shape, x.stride())) if batch < tokens else of_token
    scaled = partial(mul, times) if back else partial(_over, times)
    shape, strides = list(x.shape), [scaled(s) if s > of_token else s for s in x.stride()]
    shape[batch] = x.shape[batch] // times if back else x.shape[batch] * times
    shape[tokens] = x.shape[tokens] * times if back else x.shape[tokens] // times
    strides[batch] = scaled(of_batch) if of_batch > of_token else of_batch
    if of_batch <= of_token:
        strides[tokens] = of_token // times if back else of_token * times
    return x.detach().as_strided(shape, strides)


def _over(times: int, stride: int) -> int:
    return stride // times


def _fold(x: Tensor, batch: int, tokens: int, times: int) -> Tensor:
    """Return x with ``times`` times the batch and as many times fewer tokens."""
    result: Tensor = _Relaid.apply(x, batch, tokens, times, False)
    return result


def _unfold(x: Tensor, batch: int, tokens: int, times: int) -> Tensor:
    """Undo :func:`_fold`."""
    result: Tensor = _Relaid.apply(x, batch, tokens, times, True)
    return result
