"""What torch's operators hold on a CPU while they run, beside what they are given: functions of shapes and strides.

An operator that holds nothing but its results has no entry. All sizes are in bytes, and all were read off the
profiler's allocations; how a convolution is laid out is oneDNN's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

# oneDNN's patches with a wider kernel than this are unfolded where weights get their gradient.
WIDEST_BLOCKED_KERNEL = 14


def held(func: Any, args: tuple[Any, ...], out: Any) -> int:
    """Return what an operator holds at most while it runs, its results included; 0 where these are all.

    ``out`` is what it returned, on fake tensors or real ones.
    """
    if func in whole():
        return whole()[func](out, *args)
    return beside()[func](out, *args) + _bytes(tree_leaves(out)) if func in beside() else 0


def _bytes(values: Iterable[Any]) -> int:
    """Return the bytes of some tensors."""
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def _copied(*tensors: Tensor) -> int:
    """Return the bytes of contiguous copies of those that are not."""
    return sum(0 if t.is_contiguous() else t.nbytes for t in tensors)


# -- attention and norms -------------------------------------------------------------------------------------


def _flash_attention(_out: Any, query: Tensor, key: Tensor, value: Tensor, *_rest: Any) -> int:
    """A block of scores, its maxima and sums and a block of results for each thread, in float32 at least.

    Source: aten/src/ATen/native/cpu/FlashAttentionKernel.cpp.
    """
    rows, columns = _blocks_of_attention(query, key)
    half = query.element_size() < 4
    wide = max(query.element_size(), 4)
    return torch.get_num_threads() * rows * ((columns + 2 + query.shape[-1]) * wide + (2 * columns if half else 0))


def _flash_attention_backward(_out: Any, grad: Tensor, query: Tensor, key: Tensor, *_rest: Any) -> int:
    """Two blocks of scores for each thread, sums, and a copy of a gradient that is not laid out as (B, N, heads, d)."""
    rows, columns = _blocks_of_attention(query, key)
    half = query.element_size() < 4
    wide = max(query.element_size(), 4)
    blocks = 2 * rows * columns * (wide + 2 if half else wide)
    return _copied(grad.transpose(1, 2)) + torch.get_num_threads() * blocks + rows * wide


def _blocks_of_attention(query: Tensor, key: Tensor) -> tuple[int, int]:
    """Return how many queries and keys of (B, heads, N, d) are taken at a time."""
    n = query.shape[2]
    rows = 256 if n >= 768 else 64 if n >= 192 else 32
    return min(rows, n), min(512, key.shape[2])


def _safe_softmax(_out: Tensor, x: Tensor, *_rest: Any) -> int:
    """Which elements are masked, and which rows are so as a whole, a byte each."""
    return x.numel() + x.numel() // max(1, x.shape[-1])


def _copy(_out: Any, x: Tensor, *_rest: Any) -> int:
    """A contiguous copy of the input."""
    return _copied(x)


def _softmax_backward(_out: Tensor, grad: Tensor, output: Tensor, *_rest: Any) -> int:
    """Contiguous copies."""
    return _copied(grad, output)


def _layer_norm_backward(_out: Any, grad: Tensor, x: Tensor, shape: list[int], *_rest: Any) -> int:
    """Contiguous copies, and sums of weight and bias for each thread."""
    return _copied(grad, x) + torch.get_num_threads() * 2 * prod(shape) * x.element_size()


def _batch_norm_backward(_out: Any, grad: Tensor, x: Tensor, *_rest: Any) -> int:
    """A copy as large as the input, where the gradient is laid out as the input is."""
    return x.nbytes if x.stride() == grad.stride() else 0


def _roll(out: Tensor, _x: Tensor, shifts: Any, *_rest: Any) -> int:
    """One dimension at a time: what is rolled so far beside what is being made."""
    return out.nbytes * (min(len(shifts), 3) - 1) if isinstance(shifts, list | tuple) and shifts else 0


# -- torch's fused encoder -----------------------------------------------------------------------------------


def _fused_attention(_out: Any, query: Tensor, key: Tensor, _value: Tensor, _width: int, heads: int, *rest: Any) -> int:
    """Self-attention of (B, N, C) in one operator, whole."""
    masked = len(rest) > 4 and rest[4] is not None
    return _attention(query, key, heads, masked, weights=len(rest) < 6 or bool(rest[5]))


def _attention(query: Tensor, key: Tensor, heads: int, masked: bool, weights: bool) -> int:
    """Follow torch's fused self-attention (B, N, C): projections, their copy by head, scores, mixture, projection.

    Source: aten/src/ATen/native/transformers/attention.cpp.
    """
    x = query.nbytes
    scores = query.shape[0] * heads * query.shape[1] * key.shape[1] * query.element_size()
    # Scores that are to be returned live on beside the projection, and their mean over heads; others are freed before.
    projecting = max(5 * x + scores, 4 * x + scores + scores // heads) if weights else 5 * x
    return max(6 * x, 3 * x + scores * (2 if masked else 1), projecting)


def _fused_encoder_layer(_out: Any, x: Tensor, _width: int, heads: int, *args: Any) -> int:
    """Follow torch's fused encoder layer (B, N, C): attention, then two linear layers, with what is kept across them.

    Source: aten/src/ATen/native/transformers/transformer.cpp.
    """
    norm_first, up = bool(args[5]), args[11]
    masked = len(args) > 15 and args[15] is not None
    hidden = x.nbytes // x.shape[-1] * int(up.shape[0])
    kept = x.nbytes if norm_first else 0
    return kept + max(_attention(x, x, heads, masked, weights=False), 2 * x.nbytes + hidden)


# -- convolution ---------------------------------------------------------------------------------------------


def _convolution(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> int:
    """Follow a convolution: copies into oneDNN's blocked layout and back, or unfolded columns.

    The kernel is torch's choice. Some tens of kilobytes that oneDNN takes for each thread are not followed.
    """
    stride, padding, _dilation, transposed, _output_padding, groups = how
    kernel = _kernel(x, weight, bias, how)
    channels_last = _channels_last(x) or _channels_last(weight)
    copied = _weight_for_channels_last(weight) if channels_last else 0
    if kernel == "columns":
        return out.nbytes + copied + _columns(out, weight, stride, padding)
    if kernel != "oneDNN":
        return 0
    if channels_last:  # nothing is rearranged but the weight
        return out.nbytes + copied + weight.nbytes
    copy = _blocked(x) if _rearranged(x.shape[1], groups) else 0
    rearranging = copy + _padded_weight(weight, groups) + _blocked(out) + _thinned(out, x, weight, stride)
    return _copied(x) + max(rearranging, _blocked(out) + out.nbytes * (2 if transposed else 1))


def _convolution_backward(out: Any, grad: Tensor, x: Tensor, weight: Tensor, bias: Any, *how: Any) -> int:
    """Follow the gradients of the input, then of the weight; those of a transposed convolution are not followed."""
    stride, padding, _dilation, transposed, _output_padding, groups, mask = how
    kernel = _kernel(x, weight, None, how[:-1], bias)
    results = _bytes(out)
    channels_last = _channels_last(x) or _channels_last(weight)
    copied = _weight_for_channels_last(weight) if channels_last else 0
    if kernel == "columns":
        return results + copied + _columns(grad, weight, stride, padding)
    if kernel != "oneDNN" or transposed:
        return results
    of_input = x.nbytes if mask[0] else 0
    if channels_last:
        copied += 0 if _channels_last(grad) else grad.nbytes
        of_weight = max(weight.nbytes + _thinned(grad, x, weight, stride), 3 * weight.nbytes if mask[1] else 0)
        return copied + of_input + of_weight
    inputs = _gradient_of_input(grad, x, weight, groups, strided=max(stride) > 1) if mask[0] else 0
    weights = _gradient_of_weight(grad, x, weight, groups, _thinned(grad, x, weight, stride)) if mask[1] else 0
    return _copied(grad, x) + max(inputs, of_input + weights)


def _gradient_of_input(grad: Tensor, x: Tensor, weight: Tensor, groups: int, strided: bool) -> int:
    """Return what the gradient of a convolution's input takes, itself included; with a stride it is not blocked."""
    if strided and groups == 1:
        return max(grad.nbytes + _padded_weight(weight, groups) + x.nbytes, 3 * x.nbytes)
    copied = _blocked(grad) + _padded_weight(weight, groups)
    return max(copied + _blocked(x), _blocked(x) + x.nbytes)


def _gradient_of_weight(grad: Tensor, x: Tensor, weight: Tensor, groups: int, thinned: int) -> int:
    """Return what the gradient of a convolution's weight takes, itself included."""
    few = weight.shape[1] < 16 and groups == 1
    if few and weight.shape[-1] > WIDEST_BLOCKED_KERNEL:
        columns = prod(weight.shape[1:]) * prod(grad.shape[2:]) * x.element_size()
        return weight.nbytes + torch.get_num_threads() * (4 * weight.nbytes + columns)
    copied = _blocked(grad) + (_blocked(x) if _rearranged(x.shape[1], groups) else 0)
    rearranged = _padded_weight(weight, groups)
    return max(copied + rearranged + thinned, rearranged + weight.nbytes)


def _kernel(x: Tensor, weight: Tensor, bias: Tensor | None, how: Iterable[Any], bias_sizes: Any = None) -> str:
    """Return which kind of kernel torch chooses: ``oneDNN``, ``columns`` that are unfolded, or another."""
    stride, padding, dilation, transposed, output_padding, groups = how
    backend = torch._C._select_conv_backend(
        x, weight, bias=bias, stride=stride, padding=padding, dilation=dilation, transposed=transposed,
        output_padding=output_padding, groups=groups, bias_sizes=bias_sizes
    )  # fmt: skip
    if backend.name in ("Slow2d", "Slow3d"):
        return "columns"
    # Torch has no name for oneDNN's transposed convolution.
    return "oneDNN" if backend.name.startswith("Mkldnn") or (transposed and backend.name == "???") else backend.name


def _columns(out: Tensor, weight: Tensor, stride: list[int], padding: list[int]) -> int:
    """Return the bytes of unfolded columns; there are none for a pointwise convolution."""
    if prod(weight.shape[2:]) == 1 and set(stride) == {1} and set(padding) == {0}:
        return 0
    return out.shape[0] * prod(weight.shape[1:]) * prod(out.shape[2:]) * out.element_size()


def _thinned(out: Tensor, x: Tensor, weight: Tensor, stride: list[int]) -> int:
    """Return the bytes of the pixels that a pointwise convolution with a stride takes: of one image for each thread."""
    if prod(weight.shape[2:]) > 1 or max(stride) == 1:
        return 0
    return torch.get_num_threads() * x.shape[1] * prod(out.shape[2:]) * x.element_size()


def _channels_last(x: Tensor) -> bool:
    """Tell whether torch takes a tensor as channels last; one that could be either is not."""
    return x.dim() > 3 and suggest_memory_format(x) != torch.contiguous_format


def _weight_for_channels_last(weight: Tensor) -> int:
    """Return the bytes of a weight that is copied to be channels last."""
    layout = torch.channels_last if weight.dim() == 4 else torch.channels_last_3d
    return 0 if weight.is_contiguous(memory_format=layout) else weight.nbytes


def _rearranged(channels: int, groups: int) -> bool:
    """Tell whether oneDNN copies the input into blocks: not when it has few channels, or odd groups."""
    if groups == 1:
        return channels >= 16
    return groups == channels or channels // groups % 8 == 0


def _blocked(x: Tensor) -> int:
    """Return the bytes of (B, C, ...) with the channels padded to whole blocks."""
    return x.nbytes // x.shape[1] * _padded(x.shape[1])


def _padded_weight(weight: Tensor, groups: int) -> int:
    """Return the bytes of a weight (O, I, ...) in blocks; few input channels, and groups, are not padded."""
    if groups > 1 or weight.shape[1] < 16:
        return weight.nbytes // weight.shape[0] * _padded(weight.shape[0])
    return weight.nbytes // (weight.shape[0] * weight.shape[1]) * _padded(weight.shape[0]) * _padded(weight.shape[1])


def _padded(channels: int) -> int:
    """Return the channels of whole blocks: of 16 on a CPU with AVX-512, of 8 on others."""
    block = 16 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else 8
    return -(-channels // block) * block


# -- the tables ----------------------------------------------------------------------------------------------


@cache
def unknown() -> frozenset[Any]:
    """Return torch's operators that hold far more than their results, and nothing here tells how much."""
    return frozenset({aten.mkldnn_rnn_layer.default, aten.mkldnn_rnn_layer_backward.default})


@cache
def whole() -> Mapping[Any, Callable[..., int]]:
    """Map operators to what tells all that they hold at most, results included."""
    return {
        aten.convolution.default: _convolution,
        aten.convolution_backward.default: _convolution_backward,
        aten._native_multi_head_attention.default: _fused_attention,
        aten._transformer_encoder_layer_fwd.default: _fused_encoder_layer,
    }


@cache
def beside() -> Mapping[Any, Callable[..., int]]:
    """Map operators to what tells what they hold beside their results."""
    return {
        aten._scaled_dot_product_flash_attention_for_cpu.default: _flash_attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _flash_attention_backward,
        aten._safe_softmax.default: _safe_softmax,
        aten._softmax.default: _copy,
        aten._log_softmax.default: _copy,
        aten._softmax_backward_data.default: _softmax_backward,
        aten._log_softmax_backward_data.default: _softmax_backward,
        aten.native_layer_norm.default: _copy,
        aten.native_layer_norm_backward.default: _layer_norm_backward,
        aten.native_batch_norm_backward.default: _batch_norm_backward,
        aten.roll.default: _roll,
    }
