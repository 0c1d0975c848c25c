"""Multiply-accumulates of one call of an operator, as pure functions of shapes.

Each function takes the operator's arguments with every tensor replaced by its shape, and ``out``, the shape of its
(first) result; None says that shapes alone do not tell. Attention is counted dense: a causal mask saves nothing here.
A gradient counts as the products that the chain rule needs, and never what a kernel computes a second time.
:func:`table` maps operators to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import log2, prod
from typing import Any

import torch

Shape = tuple[int, ...]
Formula = Callable[..., int | None]


# -- products ------------------------------------------------------------------------------------------------


def mm(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    """(n, k) @ (k, m), batched or not: n k m each."""
    return prod(a) * b[-1]


def addmm(_bias: Shape, a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    """A product added to a bias."""
    return mm(a, b)


def mv(a: Shape, *_: Any, **__: Any) -> int:
    """(n, k) @ (k,), or the inner product of two (k,)."""
    return prod(a)


def addmv(_bias: Shape, a: Shape, *_: Any, **__: Any) -> int:
    """A matrix by a vector, added to a bias."""
    return mv(a)


def addr(_bias: Shape, a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    """The outer product of (n,) and (m,), added to a matrix."""
    return prod(a) * prod(b)


def grouped_mm(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    """A product for each group of rows, of columns or of the inner axis: no row meets more than one group."""
    groups = a[0] if len(a) == len(b) == 3 else 1
    return groups * a[-2] * a[-1] * b[-1]


def linear(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    """(..., k) by a weight (m, k)."""
    return prod(x[:-1]) * prod(weight)


def packed_linear(x: Shape, *_: Any, out: Shape, **__: Any) -> int:
    """(..., k) by a weight whose layout hides its shape."""
    return prod(x) * out[-1]


def distances(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    """Distances of (..., n, k) from (..., m, k): each pair is a sum over k."""
    return prod(a) * b[-2]


def distances_backward(_grad: Shape, a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    """The gradient of the distances in one of the two sets of points."""
    return distances(a, b)


def trilinear(
    a: Shape,
    b: Shape,
    c: Shape,
    new_a: Sequence[int],
    new_b: Sequence[int],
    new_c: Sequence[int],
    summed: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """A sum over the product of three, each with new axes: first over the axes that the third lacks, then the rest."""
    shapes = [_with_axes(shape, new) for shape, new in ((a, new_a), (b, new_b), (c, new_c))]
    joint: int = prod(max(sizes) for sizes in zip(*shapes, strict=True))
    first: int = prod(max(shape[axis] for shape in shapes) for axis in summed if axis in new_c)
    return joint + joint // first


def _with_axes(shape: Shape, new: Sequence[int]) -> Shape:
    """Return a shape with axes of size 1 where ``new`` says."""
    sizes = iter(shape)
    return tuple(1 if axis in new else next(sizes) for axis in range(len(shape) + len(new)))


# -- convolutions --------------------------------------------------------------------------------------------


def forward_conv(x: Shape, weight: Shape, *_: Any, out: Shape, **__: Any) -> int:
    """Each output pixel meets the whole weight (c_out, c_in / groups, *kernel) once, whatever the groups."""
    return x[0] * prod(out[2:]) * prod(weight)


def transposed_conv(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    """Each input pixel meets the whole weight (c_in, c_out / groups, *kernel) once."""
    return x[0] * prod(x[2:]) * prod(weight)


def conv(
    x: Shape,
    weight: Shape,
    _bias: Shape | None,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    *_: Any,
    out: Shape,
    **__: Any,
) -> int:
    """A convolution of either kind."""
    return transposed_conv(x, weight) if transposed else forward_conv(x, weight, out=out)


def conv_backward(
    grad: Shape,
    x: Shape,
    weight: Shape,
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    wanted: Sequence[bool],
    *_: Any,
    **__: Any,
) -> int:
    """As many as forward for the gradient of the input, and again for that of the weight, groups or not."""
    forward = transposed_conv(x, weight) if transposed else forward_conv(x, weight, out=grad)
    return forward * (bool(wanted[0]) + bool(wanted[1]))


def conv_tbc(_x: Shape, weight: Shape, *_: Any, out: Shape, **__: Any) -> int:
    """A convolution over (time, batch, channels)."""
    return prod(out[:2]) * prod(weight)


def conv_tbc_backward(grad: Shape, _x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    """The gradients of input and weight."""
    return 2 * conv_tbc(_x, weight, out=grad)


def deformable_conv(x: Shape, weight: Shape, *_: Any, out: Shape, **__: Any) -> int:
    """A convolution whose k taps are each mixed from four pixels of every input channel."""
    kernel, pixels = prod(weight[2:]), prod(out[2:])
    return x[0] * pixels * (prod(weight) + 4 * kernel * x[1])


# -- sampling ------------------------------------------------------------------------------------------------

TAPS = {0: 2, 1: 1, 2: 4}  # pixels along each axis: bilinear, nearest, bicubic


def grid_sample(_x: Shape, grid: Shape, mode: int = 0, *_: Any, out: Shape, **__: Any) -> int:
    """Each value is mixed from 2 (or 4) pixels along each axis."""
    return prod(out) * TAPS[mode] ** grid[-1] if mode != 1 else 0


def grid_sample_backward(
    grad: Shape, _x: Shape, grid: Shape, mode: int, _padding: int, _align: bool, wanted: Sequence[bool], **__: Any
) -> int:
    """The gradient of the pixels, and of the position along each axis."""
    return grid_sample(_x, grid, mode, out=grad) * (bool(wanted[0]) + grid[-1] * bool(wanted[1]))


def roi_align(
    _x: Shape, _boxes: Shape, _scale: float, _height: int, _width: int, ratio: int, *_: Any, out: Shape, **__: Any
) -> int | None:
    """Each value is the mean of ratio^2 points, each mixed from four pixels; a ratio of -1 depends on the box."""
    return prod(out) * ratio**2 * 4 if ratio > 0 else None


# -- attention -----------------------------------------------------------------------------------------------


def attention(q: Shape, k: Shape, v: Shape, *_: Any, **__: Any) -> int:
    """(..., n, d), (..., m, d), (..., m, e): n m d for the scores and n m e for the mixture, in each head of q."""
    return prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def attention_backward(_grad: Shape, q: Shape, k: Shape, v: Shape, *_: Any, **__: Any) -> int:
    """The gradients of q, k, v and of the scores: twice the products of forward."""
    return 2 * attention(q, k, v)


def attention_gradients(q: Shape, k: Shape, v: Shape, wanted: Sequence[bool]) -> int:
    """Return the products for the gradients of those of q, k, v and the mask that are wanted."""
    of_q, of_k, of_v, *of_mask = (bool(w) for w in wanted)
    of_scores = of_q or of_k or any(of_mask)
    return prod(q[:-1]) * k[-2] * (q[-1] * (of_q + of_k) + v[-1] * (of_scores + of_v))


def attention_by_token(q: Shape, k: Shape, v: Shape, *_: Any, **__: Any) -> int | None:
    """(batch, n, heads, d), (batch, m, heads, d), (batch, m, heads, e); ragged ones (tokens, heads, d) do not tell."""
    return prod(q[:-1]) * k[1] * (q[-1] + v[-1]) if len(q) == 4 else None


def attention_by_token_backward(_grad: Shape, q: Shape, k: Shape, v: Shape, *_: Any, **__: Any) -> int | None:
    """The gradients of the same."""
    forward = attention_by_token(q, k, v)
    return None if forward is None else 2 * forward


def flex_attention_backward(q: Shape, k: Shape, v: Shape, *_: Any, **__: Any) -> int:
    """The gradients of flex_attention, whose operator is given q, k, v first."""
    return 2 * attention(q, k, v)


def multi_head_attention(query: Shape, key: Shape, _value: Shape, width: int, *_: Any, **__: Any) -> int:
    """Self or cross attention (B, N, C) with its four projections, as one operator."""
    batch, n, m = query[0], query[1], key[1]
    return batch * (2 * (n + m) * width * width + 2 * n * m * width)


def encoder_layer(x: Shape, width: int, *args: Any, **__: Any) -> int:
    """A Transformer encoder layer (B, N, C) as one operator."""
    up: Shape = args[12]
    down: Shape = args[14]
    return multi_head_attention(x, x, x, width) + prod(x[:-1]) * (prod(up) + prod(down))


# -- recurrence ----------------------------------------------------------------------------------------------


def rnn_layer(x: Shape, input_weight: Shape, hidden_weight: Shape, *_: Any, **__: Any) -> int:
    """One layer in one direction: every step meets both weights."""
    return prod(x[:-1]) * (prod(input_weight) + prod(hidden_weight))


def rnn_layer_backward(x: Shape, input_weight: Shape, hidden_weight: Shape, *_: Any, **__: Any) -> int:
    """Twice as many, but for the state before the first step, which no gradient is wanted of."""
    batch = prod(x[1:-1])
    return 2 * rnn_layer(x, input_weight, hidden_weight) - batch * prod(hidden_weight)


def rnn_stack(x: Shape, weights: Iterable[Shape], *_: Any, **__: Any) -> int:
    """All layers and directions at once: every step meets every matrix."""
    return prod(x[:-1]) * sum(prod(w) for w in weights if len(w) == 2)


def rnn_gradients(
    x: Shape, batch: int, weights: Sequence[Shape], layers: int, directions: int, wanted: Sequence[bool]
) -> int:
    """Return the products for the gradients of a stack of layers; of input and first states where ``wanted`` says so.

    Every matrix has a gradient, and so has what it was multiplied with, but perhaps for the input of the first layer
    and the states before the first step.
    """
    matrices = [w for w in weights if len(w) == 2]
    each = len(matrices) // (layers * directions)  # input, hidden and, in an LSTM, perhaps a projection
    total = 2 * rnn_stack(x, matrices)
    if not wanted[0]:
        total -= rnn_stack(x, matrices[: directions * each : each])
    if not any(wanted[1:]):
        total -= batch * sum(prod(w) for w in matrices[1::each])
    return total


# -- Fourier transforms, in FLOPs ----------------------------------------------------------------------------


def fft_complex(x: Shape, axes: Iterable[int], *_: Any, **__: Any) -> int:
    """5 n log2 n FLOPs a transform of n points (Cooley and Tukey 1965; the convention of FFTW's benchmarks)."""
    return round(5 * prod(x) * _log2(x, axes))


def fft_from_real(x: Shape, axes: Iterable[int], *_: Any, **__: Any) -> int:
    """Half as many, for real input."""
    return round(2.5 * prod(x) * _log2(x, axes))


def fft_to_real(_x: Shape, axes: Iterable[int], *_: Any, out: Shape, **__: Any) -> int:
    """Half as many, for real output."""
    return round(2.5 * prod(out) * _log2(out, axes))


def _log2(shape: Shape, axes: Iterable[int]) -> float:
    """Return the log2 of the number of points of one transform."""
    return log2(max(1, prod(shape[axis] for axis in axes)))


# -- the tables ----------------------------------------------------------------------------------------------

_NAMES: tuple[tuple[Formula, str], ...] = (
    (mm, "aten.mm aten.bmm aten._int_mm aten._scaled_mm aten._scaled_mm_v2"),
    (addmm, "aten.addmm aten.baddbmm aten.addbmm aten._addmm_activation aten._scaled_addmm"),
    (mv, "aten.mv aten.dot aten.vdot"),
    (addmv, "aten.addmv"),
    (addr, "aten.addr"),
    (grouped_mm, "aten._grouped_mm aten._scaled_grouped_mm aten._scaled_grouped_mm_v2"),
    (linear, "aten.linear aten.mkldnn_linear"),
    (packed_linear, "aten._weight_int8pack_mm aten._weight_int4pack_mm aten._weight_int4pack_mm_for_cpu"),
    (packed_linear, "aten._weight_int4pack_mm_with_scales_and_zeros mkldnn._linear_pointwise"),
    (trilinear, "aten._trilinear"),
    (distances, "aten._cdist_forward aten._euclidean_dist"),
    (distances_backward, "aten._cdist_backward"),
    (conv, "aten.convolution aten._convolution aten.convolution_overrideable"),
    (conv_backward, "aten.convolution_backward aten.convolution_backward_overrideable"),
    (forward_conv, "aten.mkldnn_convolution aten.cudnn_convolution aten.cudnn_convolution_relu"),
    (forward_conv, "aten.cudnn_convolution_add_relu aten._slow_conv2d_forward aten.slow_conv3d_forward"),
    (forward_conv, "aten.slow_conv_dilated2d aten.slow_conv_dilated3d aten._conv_depthwise2d aten.conv_depthwise3d"),
    (forward_conv, "aten._nnpack_spatial_convolution mkldnn._convolution_pointwise"),
    (transposed_conv, "aten.cudnn_convolution_transpose aten.slow_conv_transpose2d aten.slow_conv_transpose3d"),
    (transposed_conv, "mkldnn._convolution_transpose_pointwise"),
    (conv_tbc, "aten.conv_tbc"),
    (conv_tbc_backward, "aten.conv_tbc_backward"),
    (deformable_conv, "torchvision.deform_conv2d"),
    (grid_sample, "aten.grid_sampler_2d aten.grid_sampler_3d aten._grid_sampler_2d_cpu_fallback"),
    (grid_sample, "aten.cudnn_grid_sampler"),
    (grid_sample_backward, "aten.grid_sampler_2d_backward aten.grid_sampler_3d_backward"),
    (roi_align, "torchvision.roi_align"),
    (attention, "aten._scaled_dot_product_flash_attention aten._scaled_dot_product_flash_attention_for_cpu"),
    (attention, "aten._scaled_dot_product_efficient_attention aten._scaled_dot_product_cudnn_attention"),
    (attention, "aten._scaled_dot_product_fused_attention_overrideable aten._triton_scaled_dot_attention"),
    (attention, "aten._scaled_dot_product_attention_math_for_mps"),
    (attention_backward, "aten._scaled_dot_product_flash_attention_backward"),
    (attention_backward, "aten._scaled_dot_product_flash_attention_for_cpu_backward"),
    (attention_backward, "aten._scaled_dot_product_efficient_attention_backward"),
    (attention_backward, "aten._scaled_dot_product_cudnn_attention_backward"),
    (attention_backward, "aten._scaled_dot_product_fused_attention_overrideable_backward"),
    (attention_by_token, "aten._flash_attention_forward aten._efficient_attention_forward"),
    (attention_by_token_backward, "aten._flash_attention_backward aten._efficient_attention_backward"),
    (multi_head_attention, "aten._native_multi_head_attention"),
    (encoder_layer, "aten._transformer_encoder_layer_fwd"),
    (rnn_layer, "aten.mkldnn_rnn_layer"),
    (rnn_layer_backward, "aten.mkldnn_rnn_layer_backward"),
    (rnn_stack, "aten._cudnn_rnn"),
)
_FFT_NAMES: tuple[tuple[Formula, str], ...] = (
    (fft_complex, "aten._fft_c2c"),
    (fft_from_real, "aten._fft_r2c"),
    (fft_to_real, "aten._fft_c2r"),
)


def table() -> dict[Any, Formula]:
    """Return operator -> MACs, for the operators that this torch has, those of higher order among them."""
    higher = torch.ops.higher_order
    return _existing(_NAMES) | {
        higher.flex_attention: attention,
        higher.flex_attention_backward: flex_attention_backward,
    }


def fft_table() -> dict[Any, Formula]:
    """Return operator -> FLOPs of its Fourier transforms."""
    return _existing(_FFT_NAMES)


def _existing(names: tuple[tuple[Formula, str], ...]) -> dict[Any, Formula]:
    """Look up operators, in place ones too, and leave out those that this torch lacks."""
    found = {}
    for formula, listed in names:
        for name in listed.split():
            for spelling in (name, name + "_"):
                namespace, _, op = spelling.partition(".")
                packet = getattr(getattr(torch.ops, namespace), op, None)
                if packet is not None:
                    found[packet] = formula
    return found
