"""Multiply-accumulates of the operators of a TorchScript trace: handles for what fvcore misses or counts otherwise.

They see what a model called (``scaled_dot_product_attention``, ``einsum``, ``lstm``), not what torch made of it, and go
by the shapes in the trace. They share nothing with the counter that they are there to check: only a plugin's own
operators have one formula for both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import log2, prod
from typing import Any

import torch
from torch import Tensor

from zoo.spec import resolve

Shape = tuple[int, ...]
# What fvcore calls for a node of a trace: with the values that go in and those that come out.
Handle = Callable[[Sequence[Any], Sequence[Any]], Any]

# Names under which handles report: FLOPs of Fourier transforms, which are no MACs, and elementwise products, summed.
FFT, CONTRACTION = "fft", "mul+sum"


_EXPANSIONS = frozenset({"aten::expand", "aten::expand_as"})
_REARRANGEMENTS = frozenset(
    f"aten::{name}" for name in ("view", "reshape", "permute", "transpose", "flatten", "unflatten", "contiguous")
)


# -- reading a trace -----------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return a value of a trace: a tensor's shape, a list of such, a constant; None for what the trace leaves open."""
    if value.isCompleteTensor():
        return tuple(value.type().sizes())
    node = value.node()
    if node.kind() in ("prim::ListConstruct", "prim::TupleConstruct"):
        return [plain(part) for part in node.inputs()]
    found = value.toIValue() if node.kind() == "prim::Constant" else None
    return tuple(found.shape) if isinstance(found, Tensor) else found


def handle(formula: Callable[..., int | None]) -> Handle:
    """Return the handle of a formula: it is given the operator's arguments as :func:`plain` reads them, and ``out``."""

    def count(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        """Count one node."""
        return formula(*map(plain, inputs), out=plain(outputs[0])) or 0

    return count


def nothing(*_: Any, **__: Any) -> int:
    """No MACs: norms, pools and resampling, which fvcore counts a few FLOPs an element."""
    return 0


# -- products ------------------------------------------------------------------------------------------------


def matmul(a: Shape, b: Shape, *, out: Shape) -> int:
    """(..., n, k) @ (..., k, m), broadcast, of matrices or vectors: each element of the result is a sum over k."""
    return prod(out) * a[-1]


def baddbmm(_added: Shape, a: Shape, b: Shape, *_: Any, out: Shape) -> int:
    """A batch of products added to something."""
    return prod(a) * b[-1]


def matvec(_added: Shape, a: Shape, *_: Any, out: Shape) -> int:
    """A matrix by a vector, added to something."""
    return prod(a)


def addr(*_: Any, out: Shape) -> int:
    """An outer product, added to something: one for each element of the result."""
    return prod(out)


def bilinear(x: Shape, y: Shape, weight: Shape, *_: Any, out: Shape) -> int:
    """(..., i), (..., j) and (o, i, j): each weight meets x, and what comes of it meets y."""
    return prod(x[:-1]) * (prod(weight) + weight[0] * y[-1])


def tensordot(a: Shape, _b: Shape, axes: Sequence[int], *_: Any, out: Shape) -> int:
    """Each element of the result is a sum over some axes."""
    return prod(out) * prod(a[axis] for axis in axes)


def distances(a: Shape, b: Shape, *_: Any, out: Shape) -> int:
    """Distances of (..., n, k) from (..., m, k): each is a sum over k."""
    return prod(out) * a[-1]


def einsum(equation: str, shapes: Sequence[Shape], path: Sequence[int] | None = None, *, out: Shape) -> int:
    """Two operands at a time, along the path or else from the left: as many as the letters of both of them span.

    Two that share no letter to be summed are only multiplied.
    """
    left, result = _explicit(equation, shapes)
    sizes = {a: n for term, shape in zip(left, shapes, strict=True) for a, n in zip(term, shape, strict=True) if n > 1}
    terms = [frozenset(term) & sizes.keys() for term in left]
    steps = [path[i : i + 2] for i in range(0, len(path), 2)] if path else [(0, 1)] * (len(terms) - 1)
    macs = 0
    for step in steps:
        first, second = (terms[i] for i in step)
        terms = [term for i, term in enumerate(terms) if i not in step]
        needed = frozenset(result).union(*terms)
        # What one of them alone has is summed before they meet.
        met = (first & (second | needed)) | (second & (first | needed))
        macs += prod(sizes[letter] for letter in met) if met - needed else 0
        # What torch contracts next it puts last; where it is given a path, that path says so too.
        terms = [*terms, met & needed] if path else [met & needed, *terms]
    return macs


def _explicit(equation: str, shapes: Sequence[Shape]) -> tuple[list[list[str]], list[str]]:
    """Return the letters of each operand and of the result, with one letter for each axis of an ellipsis."""
    inputs, _, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    rest = [len(s) - len(t.replace("...", "")) for t, s in zip(terms, shapes, strict=True)]

    def letters(term: str, axes: int) -> list[str]:
        """Spell out one term; the axes of an ellipsis are numbered from the right."""
        before, dots, after = term.partition("...")
        return [*before, *([str(i) for i in range(axes, 0, -1)] if dots else []), *after]

    if "->" not in equation:
        once = sorted(a for a in set(inputs) - set(".,") if inputs.count(a) == 1)
        output = "..." * ("..." in inputs) + "".join(once)
    return [letters(t, n) for t, n in zip(terms, rest, strict=True)], letters(output, max(rest))


# -- convolutions, attention, recurrence, sampling -----------------------------------------------------------


def convolution(x: Shape, weight: Shape, *rest: Any, out: Shape) -> int:
    """Each output (transposed: input) pixel meets the whole weight; one sample may have no batch axis."""
    transposed = len(rest) > 4 and rest[4] is True
    pixels, axes = (x if transposed else out), len(weight) - 2
    return prod(pixels[-axes:]) * prod(pixels[: -axes - 1]) * prod(weight)


def attention(q: Shape, k: Shape, v: Shape, *_: Any, out: Shape) -> int:
    """Each element of the result (..., n, e) mixes m values, weighed by m scores of d for each of its n rows."""
    return prod(out[:-1]) * v[-2] * (q[-1] + v[-1])


def recurrent(x: Shape, _second: Any, third: Any, fourth: Any, *_: Any, out: Shape) -> int:
    """Every step of (..., C) meets every matrix; packed sequences carry their batch sizes before the states."""
    weights: list[Shape] = third if isinstance(fourth, bool) else fourth
    return prod(x[:-1]) * sum(prod(w) for w in weights if len(w) == 2)


def multi_head_attention(
    x: Shape,
    _k: Any,
    _v: Any,
    _width: Any,
    _heads: Any,
    of_input: Shape,
    _b: Any,
    of_output: Shape,
    *_: Any,
    out: Shape,
) -> int:
    """Self-attention (B, N, C) as one operator: every token meets the weights in and out, and every other token."""
    return x[0] * x[1] * (prod(of_input) + prod(of_output) + 2 * x[1] * x[2])


def encoder_layer(x: Shape, width: int, heads: int, *rest: Any, out: Shape) -> int:
    """A Transformer encoder layer (B, N, C) as one operator."""
    of_mlp: int = prod(rest[11]) + prod(rest[13])
    return multi_head_attention(x, x, x, width, heads, *rest, out=out) + prod(x[:-1]) * of_mlp


def grid_sampler(_x: Shape, grid: Shape, mode: int | None, *_: Any, out: Shape) -> int:
    """Each value is mixed from two (bicubic: four) pixels along each axis."""
    taps = {0: 2, 2: 4}.get(mode or 0, 0)
    return prod(out) * prod([taps] * grid[-1])


def roi_align(_x: Shape, _boxes: Shape, _scale: Any, _h: Any, _w: Any, ratio: int | None, *_: Any, out: Shape) -> int:
    """Each value is the mean of ratio^2 points, each mixed from four pixels; other ratios depend on the box."""
    points: int = max(ratio or 0, 0)
    return prod(out) * points * points * 4


# -- what needs more than shapes -----------------------------------------------------------------------------


def fft(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
    """Report 5 n log2 n FLOPs for each transform of n points, half for one that takes or gives real numbers."""
    x, _, axes = (plain(value) for value in inputs[:3])
    shape = max(x, plain(outputs[0]), key=prod)
    if not isinstance(axes, int | list):
        axes = range(len(shape))
    points = prod(shape[axis] for axis in ([axes] if isinstance(axes, int) else axes))
    name = outputs[0].node().kind().removeprefix("aten::fft_")
    of_real = name in ("fft", "ifft") and not inputs[0].type().dtype().is_complex  # torch does not widen for one axis
    each = 2.5 if of_real or name.lstrip("i")[0] in "rh" else 5
    return Counter({FFT: round(each * prod(shape) * log2(max(points, 1)))})


def summed(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
    """Report a sum of products, where a factor is used more than once: a contraction without a matrix product.

    The sum must run over an axis that both factors have; one that a factor lacks could be summed before.
    """
    product = _behind(inputs[0], _REARRANGEMENTS)
    shapes, made = _factors(product), prod(plain(product))
    if not shapes or made == min(map(prod, shapes)):
        return Counter()
    axes = plain(inputs[1]) if len(inputs) > 2 and _factors(inputs[0]) else None  # after a view: any axis may be meant
    dims = max(map(len, shapes))
    first, second = ((*[1] * (dims - len(shape)), *shape) for shape in shapes)
    both = {axis for axis in range(dims) if first[axis] > 1 and second[axis] > 1}
    over = both if axes is None else {axis % dims for axis in ([axes] if isinstance(axes, int) else axes)}
    return Counter({CONTRACTION: made}) if over & both else Counter()


def _behind(value: Any, kinds: frozenset[str]) -> Any:
    """Return the value that some operators were applied to."""
    while value.node().kind() in kinds:
        value = next(iter(value.node().inputs()))
    return value


def _factors(value: Any) -> list[Shape]:
    """Return the shapes of the two tensors that a value is the product of; none when it is no such product."""
    if value.node().kind() not in ("aten::mul", "aten::mul_"):
        return []
    shapes = [plain(_behind(factor, _EXPANSIONS)) for factor in value.node().inputs()]
    return shapes if all(isinstance(shape, tuple) and prod(shape) > 1 for shape in shapes) else []


# -- the table -----------------------------------------------------------------------------------------------

_FORMULAS: tuple[tuple[Callable[..., int | None], str], ...] = (
    (matmul, "matmul mm mv dot vdot inner"),
    (baddbmm, "baddbmm addbmm"),
    (matvec, "addmv"),
    (addr, "addr"),
    (bilinear, "bilinear"),
    (tensordot, "tensordot"),
    (distances, "cdist"),
    (einsum, "einsum"),
    (convolution, "_convolution _convolution_mode"),
    (attention, "scaled_dot_product_attention"),
    (recurrent, "lstm gru rnn_tanh rnn_relu"),
    (multi_head_attention, "_native_multi_head_attention"),
    (encoder_layer, "_transformer_encoder_layer_fwd"),
    (grid_sampler, "grid_sampler"),
    (nothing, "batch_norm layer_norm group_norm instance_norm adaptive_avg_pool2d"),
    (nothing, "upsample_nearest2d upsample_bilinear2d"),
)
_FFT = "fft ifft rfft irfft hfft ihfft fft2 ifft2 rfft2 irfft2 hfft2 ihfft2 fftn ifftn rfftn irfftn hfftn ihfftn"


def handles(custom: Mapping[str, str]) -> dict[str, Handle]:
    """Return operator -> handle; ``custom`` maps a plugin's operators to import strings of their formulas."""
    found = {f"aten::{name}": handle(formula) for formula, names in _FORMULAS for name in names.split()}
    found |= {f"aten::fft_{name}": fft for name in _FFT.split()}
    found |= {"aten::sum": summed, "aten::mean": summed, "aten::cumsum": summed}
    found |= {"torchvision::roi_align": handle(roi_align)}
    return found | {name: handle(resolve(code)) for name, code in custom.items() if _is_defined(name)}


def _is_defined(name: str) -> bool:
    """Tell whether an operator has been defined in this process; one that has not is not called here."""
    namespace, _, op = name.partition("::")
    return hasattr(getattr(torch.ops, namespace), op)
