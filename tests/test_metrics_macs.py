"""Multiply-accumulates as added up by hand, on meta and on the CPU, and nothing left out in silence."""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import Lambda
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from zoo.metrics import formulas, macs
from zoo.metrics.macs import UncountedOp

DEVICES = pytest.mark.parametrize("device", ["cpu", "meta"])


def count(what: nn.Module | Callable[..., Any], *shapes: tuple[int, ...], device: str = "meta") -> macs.Count:
    """Count a module or a function on inputs of these shapes."""
    module = what if isinstance(what, nn.Module) else Lambda(what)
    return macs.count(module.to(device), [torch.ones(shape, device=device) for shape in shapes])


def sdpa(**options: Any) -> Callable[..., Tensor]:
    """Return scaled-dot-product attention with options."""
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)


B, N, M, C, H = 2, 16, 24, 32, 4

TABLE: list[tuple[str, Any, list[tuple[int, ...]], int]] = [
    # products
    ("linear", nn.Linear(8, 3), [(5, 8)], 5 * 8 * 3),
    ("linear_batched", nn.Linear(8, 3), [(2, 5, 8)], 2 * 5 * 8 * 3),
    ("linear_without_bias", nn.Linear(8, 3, bias=False), [(5, 8)], 5 * 8 * 3),
    ("mm", torch.mm, [(5, 8), (8, 3)], 5 * 8 * 3),
    ("bmm", torch.bmm, [(2, 5, 8), (2, 8, 3)], 2 * 5 * 8 * 3),
    ("matmul_broadcast", torch.matmul, [(2, 4, 5, 8), (8, 3)], 2 * 4 * 5 * 8 * 3),
    ("addmm", torch.addmm, [(3,), (5, 8), (8, 3)], 5 * 8 * 3),
    ("addmm_in_place", lambda c, a, b: c.addmm_(a, b), [(5, 3), (5, 8), (8, 3)], 5 * 8 * 3),
    ("baddbmm", torch.baddbmm, [(2, 5, 3), (2, 5, 8), (2, 8, 3)], 2 * 5 * 8 * 3),
    ("addbmm", torch.addbmm, [(5, 3), (2, 5, 8), (2, 8, 3)], 2 * 5 * 8 * 3),
    ("mv", torch.mv, [(5, 8), (8,)], 5 * 8),
    ("addmv", torch.addmv, [(5,), (5, 8), (8,)], 5 * 8),
    ("dot", torch.dot, [(8,), (8,)], 8),
    ("vdot", torch.vdot, [(8,), (8,)], 8),
    ("addr", torch.addr, [(5, 8), (5,), (8,)], 5 * 8),
    ("einsum", lambda a, b: torch.einsum("bnd,bmd->bnm", a, b), [(2, 5, 8), (2, 3, 8)], 2 * 5 * 3 * 8),
    # convolutions: output pixels x kernel x (c_in / groups) x c_out
    ("conv2d", nn.Conv2d(3, 8, 3, padding=1), [(2, 3, 16, 16)], 2 * 16 * 16 * 9 * 3 * 8),
    ("conv2d_strided", nn.Conv2d(3, 8, 3, stride=2), [(2, 3, 17, 17)], 2 * 8 * 8 * 9 * 3 * 8),
    ("conv2d_dilated", nn.Conv2d(3, 8, 3, dilation=2), [(2, 3, 16, 16)], 2 * 12 * 12 * 9 * 3 * 8),
    ("conv2d_grouped", nn.Conv2d(8, 16, 3, groups=4), [(2, 8, 10, 10)], 2 * 8 * 8 * 9 * (8 // 4) * 16),
    ("conv2d_depthwise", nn.Conv2d(8, 8, 3, groups=8), [(2, 8, 10, 10)], 2 * 8 * 8 * 9 * 8),
    ("conv2d_of_one_image", nn.Conv2d(3, 8, 3), [(3, 16, 16)], 14 * 14 * 9 * 3 * 8),
    ("conv1d", nn.Conv1d(3, 8, 5), [(2, 3, 16)], 2 * 12 * 5 * 3 * 8),
    ("conv3d", nn.Conv3d(3, 8, 2), [(2, 3, 5, 6, 7)], 2 * 4 * 5 * 6 * 8 * 3 * 8),
    # transposed: input pixels x kernel x c_in x (c_out / groups)
    ("conv2d_transposed", nn.ConvTranspose2d(8, 4, 2, stride=2), [(2, 8, 5, 5)], 2 * 5 * 5 * 4 * 8 * 4),
    ("conv2d_transposed_grouped", nn.ConvTranspose2d(8, 4, 3, groups=2), [(2, 8, 5, 5)], 2 * 25 * 9 * 8 * 2),
    ("conv1d_transposed", nn.ConvTranspose1d(8, 4, 2, stride=2), [(2, 8, 5)], 2 * 5 * 2 * 8 * 4),
    # attention: n m d for the scores, n m e for the mixture, per head
    ("sdpa", sdpa(), [(B, H, N, 8)] * 3, B * H * N * N * (8 + 8)),
    ("sdpa_cross", sdpa(), [(B, H, N, 8), (B, H, M, 8), (B, H, M, 8)], B * H * N * M * (8 + 8)),
    ("sdpa_values_wider", sdpa(), [(B, H, N, 8), (B, H, M, 8), (B, H, M, 12)], B * H * N * M * (8 + 12)),
    ("sdpa_causal_is_dense", sdpa(is_causal=True), [(B, H, N, 8)] * 3, B * H * N * N * (8 + 8)),
    ("sdpa_grouped_query", sdpa(enable_gqa=True), [(B, H, N, 8), (B, 2, N, 8), (B, 2, N, 8)], B * H * N * N * 16),
    # four projections and both products; then the two layers of the MLP
    (
        "encoder_layer",
        nn.TransformerEncoderLayer(C, H, 64, batch_first=True),
        [(B, N, C)],
        B * (4 * N * C * C + 2 * N * N * C) + 2 * B * N * C * 64,
    ),
    (
        "decoder_layer",
        nn.TransformerDecoderLayer(C, H, 64, batch_first=True),
        [(B, N, C), (B, M, C)],
        B * (4 * N * C * C + 2 * N * N * C)  # among themselves
        + B * (2 * (N + M) * C * C + 2 * N * M * C)  # to the memory
        + 2 * B * N * C * 64,
    ),
    # recurrence: gates x (input + hidden) x hidden, each step
    ("lstm", nn.LSTM(8, 16), [(5, 2, 8)], 5 * 2 * 4 * (8 + 16) * 16),
    ("gru", nn.GRU(8, 16), [(5, 2, 8)], 5 * 2 * 3 * (8 + 16) * 16),
    ("rnn", nn.RNN(8, 16), [(5, 2, 8)], 5 * 2 * (8 + 16) * 16),
    (
        "lstm_two_layers_both_ways",
        nn.LSTM(8, 16, 2, bidirectional=True),
        [(5, 2, 8)],
        2 * 5 * 2 * 4 * ((8 + 16) * 16 + (32 + 16) * 16),
    ),
]


@DEVICES
@pytest.mark.parametrize(("what", "shapes", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_macs_by_hand(what: Any, shapes: list[tuple[int, ...]], expected: int, device: str) -> None:
    found = count(what, *shapes, device=device)
    assert found.macs == expected == sum(found.by_op.values())
    assert not any(op.material for op in found.uncounted)


@DEVICES
@pytest.mark.parametrize("need_weights", [False, True])
def test_multi_head_attention(need_weights: bool, device: str) -> None:
    attention = nn.MultiheadAttention(C, H, batch_first=True)
    inputs = [torch.ones(B, N, C, device=device)] * 3
    found = macs.count(attention.to(device), inputs, {"need_weights": need_weights})
    assert found.macs == B * (4 * N * C * C + 2 * N * N * C)  # 2 * (4 * 16384 + 16384) = 163,840


@DEVICES
def test_cross_attention_from_a_shorter_sequence(device: str) -> None:
    attention = nn.MultiheadAttention(C, H, batch_first=True).to(device)
    query, memory = torch.ones(B, N, C, device=device), torch.ones(B, M, C, device=device)
    found = macs.count(attention, (query, memory, memory))
    assert found.macs == B * (2 * (N + M) * C * C + 2 * N * M * C)


def test_the_fused_operators_of_the_cpu_are_the_ones_counted() -> None:
    x = (B, N, C)
    layer = nn.TransformerEncoderLayer(C, H, 64, batch_first=True)
    assert set(count(layer, x, device="cpu").by_op) == {"aten._transformer_encoder_layer_fwd"}
    assert set(count(sdpa(), *[(B, H, N, 8)] * 3, device="cpu").by_op) == {
        "aten._scaled_dot_product_flash_attention_for_cpu"
    }


def test_a_ragged_batch_is_named_and_not_guessed() -> None:
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(C, H, 64, batch_first=True), 1)
    padding = torch.zeros(B, N, dtype=torch.bool)
    padding[1, 8:] = True
    with pytest.warns(UserWarning, match="nested tensors"):
        found = macs.count(layers, (torch.ones(B, N, C),), {"src_key_padding_mask": padding})
    assert found.macs == 0
    assert "aten._transformer_encoder_layer_fwd" in {op.name for op in found.uncounted if op.material}


# -- Fourier transforms --------------------------------------------------------------------------------------


@DEVICES
def test_fft_is_counted_apart_from_macs(device: str) -> None:
    mixed = count(lambda x: torch.fft.fft2(x, dim=(-2, -1)), (2, 16, 32), device=device)
    assert mixed.macs == 0
    # Real input is made complex first: 5 n log2 n with n = 16 * 32 points, two of them.
    assert mixed.flops_fft == 2 * 5 * 512 * log2(512) == 46_080
    assert not any(op.material for op in mixed.uncounted)


@DEVICES
def test_fft_of_real_input_or_output_counts_half(device: str) -> None:
    assert count(torch.fft.rfft, (3, 64), device=device).flops_fft == 3 * 2.5 * 64 * 6 == 2_880
    there_and_back = count(lambda x: torch.fft.irfft(torch.fft.rfft(x)), (3, 64), device=device)
    assert there_and_back.flops_fft == 2 * 2_880


def test_fft_over_two_axes_one_after_the_other_costs_the_same() -> None:
    together = count(lambda x: torch.fft.fft2(torch.complex(x, x)), (2, 16, 32)).flops_fft
    apart = count(lambda x: torch.fft.fft(torch.fft.fft(torch.complex(x, x)), dim=-2), (2, 16, 32)).flops_fft
    assert together == apart  # log2 16 + log2 32 = log2 512


# -- what is not counted -------------------------------------------------------------------------------------


@DEVICES
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x.cumsum(1), UncountedOp("aten.cumsum", 1, 2 * 5 * 8, True)),
        (lambda x: torch.cdist(x, x), UncountedOp("aten._cdist_forward", 1, 2 * 5 * 5, True)),
        (lambda x: x.sort().values, UncountedOp("aten.sort", 1, 2 * 80, True)),  # values and indices
        (lambda x: x.softmax(-1).softmax(-2), UncountedOp("aten._softmax", 2, 2 * 80, False)),
        (lambda x: x.exp_(), UncountedOp("aten.exp_", 1, 80, False)),
        (lambda x: x.sum(-1), UncountedOp("aten.sum", 1, 10, False)),
        (lambda x: F.gelu(x), UncountedOp("aten.gelu", 1, 80, False)),
    ],
)
def test_what_is_left_out_is_named(function: Any, expected: UncountedOp, device: str) -> None:
    found = count(function, (2, 5, 8), device=device)
    assert found.macs == 0
    assert found.uncounted == (expected,)


@DEVICES
def test_local_attention_written_as_mul_and_sum_is_material(device: str) -> None:
    scores = count(lambda q, k: (q[:, :, None] * k).sum(-1), (2, 5, 8), (2, 5, 9, 8), device=device)
    assert scores.uncounted[0] == UncountedOp(macs.CONTRACTION, 1, 2 * 5 * 9 * 8, True)
    scaled = count(lambda q: (q * 2.0).sum(-1), (2, 5, 8), device=device)
    assert not any(op.material for op in scaled.uncounted)


@DEVICES
def test_views_and_copies_are_free(device: str) -> None:
    moved = count(
        lambda x: torch.cat([x.transpose(1, 2).contiguous().view(2, 40), x.new_zeros(2, 1)], 1).roll(1, 1).half(),
        (2, 5, 8),
        device=device,
    )
    assert moved == macs.Count(0, 0, {}, ())


def test_material_ops_come_first() -> None:
    found = count(lambda x: x.exp().cumsum(1), (2, 5, 8))
    assert [op.material for op in found.uncounted] == [True, False]


def test_an_operator_that_only_torch_knows_is_taken_from_its_registry() -> None:
    op = torch.ops.aten._efficient_attention_forward
    assert op in flop_registry
    assert op not in formulas.table()
    args = [(B, N, H, 8)] * 3  # (batch, sequence, heads, width)
    theirs = macs._Counter().formula(op)
    assert theirs is not None
    tensors = [torch.ones(shape, device="meta") for shape in args]
    found = theirs((*tensors, None, None, None, None, None, 0.0, 0), {}, (tensors[0],))
    assert 2 * found == flop_registry[op](*tensors, None, None, None, None, None, 0.0, 0, out_val=(tensors[0],))


# -- manners -------------------------------------------------------------------------------------------------


def test_torchs_registry_is_left_alone() -> None:
    before = dict(flop_registry)
    count(nn.Linear(8, 3), (5, 8))
    assert flop_registry == before


@pytest.mark.parametrize("fails", [False, True])
def test_the_mode_of_every_part_is_restored(fails: bool) -> None:
    def last(x: Tensor) -> Tensor:
        if fails:
            raise RuntimeError("forward failed")
        return x

    net = nn.Sequential(nn.Dropout(0.5).eval(), nn.BatchNorm1d(4).train(), Lambda(last))
    seen = []
    net[2].register_forward_pre_hook(lambda *_: seen.append((net[1].training, torch.is_grad_enabled())))
    before = [part.training for part in net.modules()]
    if fails:
        with pytest.raises(RuntimeError, match="forward failed"):
            macs.count(net, (torch.ones(2, 4),))
    else:
        macs.count(net, (torch.ones(2, 4),))
    assert seen == [(False, False)]
    assert [part.training for part in net.modules()] == before == [True, False, True, True]
    assert torch.is_grad_enabled()


def test_keyword_arguments_are_passed_on() -> None:
    class Named(nn.Module):
        def forward(self, *, a: Tensor, b: Tensor) -> Tensor:
            return a @ b

    found = macs.count(Named(), kwargs={"a": torch.ones(5, 8), "b": torch.ones(8, 3)})
    assert found == macs.Count(120, 0, {"aten.mm": 120}, ())


def test_inference_mode_counts_the_same() -> None:
    layer = nn.Linear(8, 3)
    with torch.inference_mode():
        assert count(layer, (2, 5, 8), device="cpu").macs == 240


def test_formulas_that_this_torch_cannot_reach_by_itself() -> None:
    assert formulas.grouped_mm((10, 8), (3, 8, 4), (3,), out=(10, 4)) == 10 * 8 * 4  # rows in three groups
    assert formulas.grouped_mm((3, 5, 8), (3, 8, 4), out=(3, 5, 4)) == 3 * 5 * 8 * 4
    assert formulas.packed_linear((5, 8), (1, 99), out=(5, 3)) == 5 * 8 * 3
    assert formulas.conv_tbc((10, 2, 3), (5, 3, 4), out=(6, 2, 4)) == 6 * 2 * 5 * 3 * 4
    assert formulas.rnn_stack((5, 2, 8), [(64, 8), (64, 16), (64,), (64,)]) == 10 * (512 + 1024)
    assert formulas.attention((B, H, N, 8), (B, H, M, 8), (B, H, M, 12)) == B * H * N * M * 20
