"""Multiply-accumulates of one call of an operator, as pure functions of shapes.

Each function takes the operator's arguments with every tensor replaced by its shape, and ``out``, the shape of its
(first) result. Attention is counted dense: a causal mask saves nothing here. :func:`table` maps operators to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import log2, prod
from typing import Any

import torch

Shape = tuple[int, ...]
Formula = Callable[..., int]


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


def conv_tbc(_x: Shape, weight: Shape, *_: Any, out: Shape, **__: Any) -> int:
    """A convolution over (time, batch, channels)."""
    return prod(out[:2]) * prod(weight)


# -- attention -----------------------------------------------------------------------------------------------


def attention(q: Shape, k: Shape, v: Shape, *_: Any, **__: Any) -> int:
    """(..., n, d), (..., m, d), (..., m, e): n m d for the scores and n m e for the mixture, in each head of q."""
    return prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


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


def rnn_stack(x: Shape, weights: Iterable[Shape], *_: Any, **__: Any) -> int:
    """All layers and directions at once: every step meets every matrix."""
    return prod(x[:-1]) * sum(prod(w) for w in weights if len(w) == 2)


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
    (conv, "aten.convolution aten._convolution aten.convolution_overrideable"),
    (forward_conv, "aten.mkldnn_convolution aten.cudnn_convolution aten.cudnn_convolution_relu"),
    (forward_conv, "aten.cudnn_convolution_add_relu aten._slow_conv2d_forward aten.slow_conv3d_forward"),
    (forward_conv, "aten.slow_conv_dilated2d aten.slow_conv_dilated3d aten._conv_depthwise2d aten.conv_depthwise3d"),
    (forward_conv, "aten._nnpack_spatial_convolution mkldnn._convolution_pointwise"),
    (transposed_conv, "aten.cudnn_convolution_transpose aten.slow_conv_transpose2d aten.slow_conv_transpose3d"),
    (transposed_conv, "mkldnn._convolution_transpose_pointwise"),
    (conv_tbc, "aten.conv_tbc"),
    (attention, "aten._scaled_dot_product_flash_attention aten._scaled_dot_product_flash_attention_for_cpu"),
    (attention, "aten._scaled_dot_product_efficient_attention aten._scaled_dot_product_cudnn_attention"),
    (attention, "aten._scaled_dot_product_fused_attention_overrideable aten._triton_scaled_dot_attention"),
    (attention, "aten._scaled_dot_product_attention_math_for_mps"),
    (multi_head_attention, "aten._native_multi_head_attention"),
    (encoder_layer, "aten._transformer_encoder_layer_fwd"),
    (rnn_layer, "aten.mkldnn_rnn_layer"),
    (rnn_stack, "aten._cudnn_rnn"),
)
_FFT_NAMES: tuple[tuple[Formula, str], ...] = (
    (fft_complex, "aten._fft_c2c"),
    (fft_from_real, "aten._fft_r2c"),
    (fft_to_real, "aten._fft_c2r"),
)


def table() -> dict[Any, Formula]:
    """Return operator -> MACs, for the operators that this torch has."""
    return _existing(_NAMES)


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
