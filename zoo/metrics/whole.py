"""Functions that torch takes apart before it dispatches an operator, seen whole: attention and recurrent networks.

Which operators they fall apart into depends on the device, the version of torch and whether gradients are wanted. Seen
whole they count the same everywhere; on the meta device they need not even be run, so a million steps cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from zoo.metrics import formulas


@dataclass(frozen=True)
class Call:
    """One call of such a function.

    ``pointwise`` names the work of other operators inside it with their elements. ``tensors`` are those that a gradient
    may be wanted of, ``gradients`` returns the MACs of the gradients that are. ``make`` returns empty results.
    """

    name: str
    macs: int
    pointwise: tuple[tuple[str, int], ...]
    tensors: tuple[Tensor, ...]
    gradients: Callable[[Sequence[bool]], int]
    make: Callable[[], tuple[Tensor, ...]]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> Call | None:
    """Read a call of ``scaled_dot_product_attention`` (..., N, d), (..., M, d), (..., M, e); None where it is wrong."""
    if min(query.dim(), key.dim(), value.dim()) < 2 or query.shape[-1] != key.shape[-1]:
        return None
    if key.shape[-2] != value.shape[-2]:
        return None
    q, k, v = (tuple(t.shape) for t in (query, key, value))
    scores = prod(q[:-1]) * k[-2]
    pointwise = [("aten.mul", prod(q)), ("aten._softmax", scores)]
    if attn_mask is not None or is_causal:
        pointwise.append(("aten.add", scores))
    if dropout_p:
        pointwise.append(("aten.native_dropout", scores))
    return Call(
        name="scaled_dot_product_attention",
        macs=formulas.attention(q, k, v),
        pointwise=tuple(pointwise),
        tensors=(query, key, value, *((attn_mask,) if attn_mask is not None else ())),
        gradients=lambda wanted: formulas.attention_gradients(q, k, v, wanted),
        make=lambda: (_by_token(query.new_empty(_heads_last((*q[:-1], v[-1])))),),
    )


def _heads_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (..., N, heads, e) of (..., heads, N, e): so the fused kernels lay their results out."""
    return (*shape[:-3], shape[-2], shape[-3], shape[-1]) if len(shape) > 3 else shape


def _by_token(laid_out: Tensor) -> Tensor:
    """Return the view (..., heads, N, e)."""
    return laid_out.transpose(-2, -3) if laid_out.dim() > 3 else laid_out


# Pointwise work of one hidden unit in one step: the sums, activations and products of its gates.
_GATES = {
    "lstm": (("aten.add", 5), ("aten.sigmoid", 3), ("aten.tanh", 2), ("aten.mul", 3)),
    "gru": (("aten.add", 5), ("aten.sigmoid", 2), ("aten.tanh", 1), ("aten.mul", 2)),
    "rnn_tanh": (("aten.add", 1), ("aten.tanh", 1)),
    "rnn_relu": (("aten.add", 1), ("aten.relu", 1)),
}


def recurrent(name: str, *args: Any) -> Call | None:
    """Read a call of ``torch.lstm``, ``gru`` or ``rnn_*``, with a batch (N, B, C) or a packed one (steps, C)."""
    if isinstance(args[1], Tensor) and not isinstance(args[3], bool):
        x, _, states, weights, _, layers, _, _, both_ways = args
        packed, batch_first = True, False
    else:
        x, states, weights, _, layers, _, _, both_ways, batch_first = args
        packed = False
    first = (states,) if isinstance(states, Tensor) else tuple(states)
    directions, batch = 2 if both_ways else 1, first[0].shape[-2]
    width = first[0].shape[-1]
    shapes = [tuple(w.shape) for w in weights]
    rows, hidden = prod(x.shape[:-1]), (first[-1] if name == "lstm" else first[0]).shape[-1]

    def make() -> tuple[Tensor, ...]:
        """Return the output and the last states."""
        return (x.new_empty((*x.shape[:-1], directions * width)), *(s.new_empty(s.shape) for s in first))

    def gradients(wanted: Sequence[bool]) -> int:
        """Tell what autograd would multiply: a gradient of a weight is wanted, or nothing is."""
        of_states = wanted[1 : 1 + len(first)]
        return formulas.rnn_gradients(tuple(x.shape), batch, shapes, layers, directions, (wanted[0], *of_states))

    del packed, batch_first
    units = rows * hidden * layers * directions
    return Call(
        name=name,
        macs=formulas.rnn_stack(tuple(x.shape), shapes),
        pointwise=tuple((op, times * units) for op, times in _GATES[name]),
        tensors=(x, *first, *weights),
        gradients=gradients,
        make=make,
    )


def readers() -> dict[Any, Callable[..., Call | None]]:
    """Return function -> what reads its calls."""
    named = {getattr(torch, name): name for name in _GATES}
    return {
        torch.nn.functional.scaled_dot_product_attention: attention,
        **{function: _reader(name) for function, name in named.items()},
    }


def _reader(name: str) -> Callable[..., Call | None]:
    return lambda *args: recurrent(name, *args)


# -- in place of a call on the meta device -------------------------------------------------------------------


class StandIn(torch.autograd.Function):
    """Empty results in place of a call, and empty gradients, which are counted when they are asked for."""

    @staticmethod
    def forward(ctx: Any, call: Call, note: Callable[[str, int], None], *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return results of the right shapes."""
        ctx.call, ctx.note = call, note
        ctx.save_for_backward(*tensors)
        return call.make()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Count the gradients that are wanted."""
        wanted = ctx.needs_input_grad[2:]
        ctx.note(ctx.call.name + "_backward", ctx.call.gradients(wanted))
        made = [torch.empty_like(t) if w else None for t, w in zip(ctx.saved_tensors, wanted, strict=True)]
        return (None, None, *made)
