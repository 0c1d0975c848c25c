"""Multiply-accumulates as added up by hand, on meta and on the CPU, and nothing left out in silence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import log2
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gpu import CUDA
from models import Lambda
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from zoo.metrics import formulas, macs
from zoo.metrics.counts import Op, UncountedOp

# Said once a process, when torch runs it for real.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
DEVICES = pytest.mark.parametrize("device", ["cpu", "meta", CUDA])


def count(what: nn.Module | Callable[..., Any], *shapes: tuple[int, ...], device: str = "meta") -> macs.Count:
    """Count a module or a function on inputs of these shapes."""
    module = copy.deepcopy(what) if isinstance(what, nn.Module) else Lambda(what)
    return macs.count(module.to(device), [torch.ones(shape, device=device) for shape in shapes])


def sdpa(**options: Any) -> Callable[..., Tensor]:
    """Return scaled-dot-product attention with options."""
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)


def sdpa_with_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Return scaled-dot-product attention with a bias for each pair of tokens."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


B, N, M, C, H = 2, 16, 24, 32, 4


def local_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend from (B, N, C) to (B, N, 9, C) neighbours, as products and sums."""
    weights = (q[:, :, None] * k).sum(-1).softmax(-1)
    return (weights[..., None] * v).sum(2)


def causal_linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend to the past by cumulative sums of outer products, (B, N, m) and (B, N, e)."""
    state = (k[..., :, None] * v[..., None, :]).cumsum(1)
    return torch.einsum("bnm,bnme->bne", q, state)


def sampled(**options: Any) -> Callable[..., Tensor]:
    """Return grid_sample with options."""
    return lambda x, grid: F.grid_sample(x, grid, align_corners=False, **options)


class Packed(nn.Module):
    """Runs a recurrent network on two sequences of 5 and 3 steps, packed."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Pack and run."""
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3]))
        out: Tensor = self.net(packed)[0].data
        return out


# What, shapes of the inputs, MACs by hand, and how many times as many the gradients of everything take (2 unless said).
Row = tuple[str, Any, list[tuple[int, ...]], int] | tuple[str, Any, list[tuple[int, ...]], int, int]
TABLE: list[Row] = [
    # products: one for the gradient of each factor
    ("linear", nn.Linear(8, 3), [(5, 8)], 5 * 8 * 3),
    ("linear_batched", nn.Linear(8, 3), [(2, 5, 8)], 2 * 5 * 8 * 3),
    ("linear_without_bias", nn.Linear(8, 3, bias=False), [(5, 8)], 5 * 8 * 3),
    ("mm", torch.mm, [(5, 8), (8, 3)], 5 * 8 * 3),
    ("bmm", torch.bmm, [(2, 5, 8), (2, 8, 3)], 2 * 5 * 8 * 3),
    ("matmul_broadcast", torch.matmul, [(2, 4, 5, 8), (8, 3)], 2 * 4 * 5 * 8 * 3),
    ("addmm", torch.addmm, [(3,), (5, 8), (8, 3)], 5 * 8 * 3),
    ("baddbmm", torch.baddbmm, [(2, 5, 3), (2, 5, 8), (2, 8, 3)], 2 * 5 * 8 * 3),
    ("addbmm", torch.addbmm, [(5, 3), (2, 5, 8), (2, 8, 3)], 2 * 5 * 8 * 3),
    ("mv", torch.mv, [(5, 8), (8,)], 5 * 8, 1),  # the gradient of the matrix is an outer product: nothing is summed
    ("einsum", lambda a, b: torch.einsum("bnd,bmd->bnm", a, b), [(2, 5, 8), (2, 3, 8)], 2 * 5 * 3 * 8),
    ("cdist", torch.cdist, [(2, 5, 8), (2, 3, 8)], 2 * 5 * 3 * 8),
    # convolutions: output pixels x kernel x (c_in / groups) x c_out, and backward twice that whatever the groups
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
    # attention: n m d for the scores, n m e for the mixture, per head; gradients of q, k, v and of the scores
    ("sdpa", sdpa(), [(B, H, N, 8)] * 3, B * H * N * N * (8 + 8)),
    ("sdpa_cross", sdpa(), [(B, H, N, 8), (B, H, M, 8), (B, H, M, 8)], B * H * N * M * (8 + 8)),
    ("sdpa_values_wider", sdpa(), [(B, H, N, 8), (B, H, M, 8), (B, H, M, 12)], B * H * N * M * (8 + 12)),
    ("sdpa_causal_is_dense", sdpa(is_causal=True), [(B, H, N, 8)] * 3, B * H * N * N * (8 + 8)),
    ("sdpa_with_dropout", sdpa(dropout_p=0.5), [(B, H, N, 8)] * 3, B * H * N * N * (8 + 8)),
    ("sdpa_grouped_query", sdpa(enable_gqa=True), [(B, H, N, 8), (B, 2, N, 8), (B, 2, N, 8)], B * H * N * N * 16),
    ("sdpa_with_a_trained_bias", sdpa_with_bias, [(B, H, N, 8)] * 3 + [(H, N, N)], B * H * N * N * 16),
    ("sdpa_of_one_head", sdpa(), [(N, 8)] * 3, N * N * (8 + 8)),
    ("flex_attention", flex_attention, [(B, H, N, 8), (B, H, M, 8), (B, H, M, 8)], B * H * N * M * (8 + 8)),
    # the gradients of queries and weights are sums; each copy of a neighbour is one query's, and has nothing to sum
    ("local_attention", local_attention, [(2, 5, 8), (2, 5, 9, 8), (2, 5, 9, 8)], 2 * (2 * 5 * 9 * 8), 1),
    # n m e for the sums of outer products k v, n m e for q with them
    ("causal_linear_attention", causal_linear_attention, [(2, 5, 4), (2, 5, 4), (2, 5, 8)], 2 * (2 * 5 * 4 * 8)),
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
    ("lstm_batch_first", nn.LSTM(8, 16, batch_first=True), [(2, 5, 8)], 5 * 2 * 4 * (8 + 16) * 16),
    ("rnn_of_packed_sequences", Packed(nn.GRU(8, 16)), [(5, 2, 8)], (5 + 3) * 3 * (8 + 16) * 16),
    ("lstm_with_projection", nn.LSTM(8, 16, proj_size=4), [(5, 2, 8)], 5 * 2 * (4 * (8 + 4) * 16 + 16 * 4)),
    ("lstm_cell", nn.LSTMCell(8, 16), [(2, 8)], 2 * 4 * (8 + 16) * 16),
    (
        "lstm_two_layers_both_ways",
        nn.LSTM(8, 16, 2, bidirectional=True),
        [(5, 2, 8)],
        2 * 5 * 2 * 4 * ((8 + 16) * 16 + (32 + 16) * 16),
    ),
    # sampling: four pixels a value, or eight, or sixteen; their gradients, and those of the position along each axis
    ("grid_sample", sampled(), [(2, 3, 8, 8), (2, 5, 6, 2)], 2 * 3 * 5 * 6 * 4, 3),
    ("grid_sample_3d", sampled(), [(2, 3, 8, 8, 8), (2, 5, 6, 7, 3)], 2 * 3 * 5 * 6 * 7 * 8, 4),
    ("grid_sample_bicubic", sampled(mode="bicubic"), [(2, 3, 8, 8), (2, 5, 6, 2)], 2 * 3 * 5 * 6 * 16, 3),
    ("grid_sample_nearest", sampled(mode="nearest"), [(2, 3, 8, 8), (2, 5, 6, 2)], 0),
]
# The state before the first step is given, not learned: hidden weights meet one gradient less for each sample.
FIRST_STEP = {
    "lstm": 2 * 4 * 16 * 16,
    "gru": 2 * 3 * 16 * 16,
    "rnn": 2 * 16 * 16,
    "rnn_of_packed_sequences": 2 * 3 * 16 * 16,
    "lstm_batch_first": 2 * 4 * 16 * 16,
    "lstm_with_projection": 2 * 4 * 16 * 4,
    "lstm_cell": 2 * 4 * 16 * 16,
    "lstm_two_layers_both_ways": 2 * 2 * 2 * 4 * 16 * 16,
}


def rows(*names: str) -> Any:
    """Parametrize over the rows of the table, by name or all."""
    chosen = [row for row in TABLE if not names or row[0] in names]
    return pytest.mark.parametrize("row", chosen, ids=[row[0] for row in chosen])


@DEVICES
@rows()
def test_macs_by_hand(row: Row, device: str) -> None:
    _, what, shapes, expected, *_ = row
    found = count(what, *shapes, device=device)
    assert found.macs == expected == sum(found.by_op.values())
    assert found.at_most_uncounted() in (0.0, pytest.approx(0.0, abs=0.01))


@DEVICES
@rows()
def test_macs_of_a_training_step_by_hand(row: Row, device: str) -> None:
    name, what, shapes, expected, *times = row
    module = copy.deepcopy(what) if isinstance(what, nn.Module) else Lambda(what)
    inputs = [torch.rand(shape).to(device).requires_grad_() for shape in shapes]
    found = macs.count_step(module.to(device), inputs)
    assert found.forward.macs == expected
    assert found.backward.macs == (times or [2])[0] * expected - FIRST_STEP.get(name, 0)
    assert not any(p.grad is not None for p in [*module.parameters(), *inputs])


@DEVICES
def test_bilinear_layer_meets_one_input_then_the_other(device: str) -> None:
    assert count(nn.Bilinear(4, 6, 3), (5, 4), (5, 6), device=device).macs == 5 * 3 * (4 * 6 + 6)


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


@DEVICES
def test_attention_and_recurrence_are_seen_whole(device: str) -> None:
    assert set(count(sdpa(), *[(B, H, N, 8)] * 3, device=device).by_op) == {"scaled_dot_product_attention"}
    assert set(count(nn.LSTM(8, 16), (5, 2, 8), device=device).by_op) == {"lstm"}


@pytest.mark.parametrize(
    "net",
    [nn.LSTM(8, 16, 2, bidirectional=True), nn.GRU(8, 16, batch_first=True), nn.LSTM(8, 16)],
    ids=["2", "gru", "1"],
)
def test_on_meta_what_is_seen_whole_has_the_results_that_torch_gives(net: nn.Module) -> None:
    found: list[Any] = []
    x = torch.ones(5, 2, 8, device="meta")
    net.to("meta").register_forward_hook(lambda _net, _x, out: found.append([t.shape for t in tree_leaves(out)]))
    macs.count(net, (x,))
    net(x)
    assert found[0] == found[1]


@pytest.mark.parametrize("shapes", [[(4, 8), (4, 6), (4, 6)], [(4, 8), (5, 8), (4, 8)]])
def test_a_wrong_call_fails_as_torch_fails(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(RuntimeError):
        count(sdpa(), *shapes)


@DEVICES
def test_padding_is_counted_as_tokens_are(device: str) -> None:
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(C, H, 64, batch_first=True), 1).to(device)
    padding = torch.zeros(B, N, dtype=torch.bool, device=device)
    padding[1, 8:] = True
    found = macs.count(layers, (torch.ones(B, N, C, device=device),), {"src_key_padding_mask": padding})
    assert found.macs == B * (4 * N * C * C + 2 * N * N * C) + 2 * B * N * C * 64


def test_a_ragged_batch_is_named_and_not_guessed() -> None:
    ragged = torch.nested.nested_tensor([torch.ones(3, 8), torch.ones(5, 8)], layout=torch.jagged)
    found = macs.count(nn.Linear(8, 3), (ragged,))
    assert found.macs == 0
    assert found.at_most_uncounted() is None


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
        (lambda x: x.cumsum(1), UncountedOp("aten.cumsum", 1, 2 * 5 * 8, False)),
        (torch.linalg.svdvals, UncountedOp("aten._linalg_svd", 1, 2 * (5 + 5 * 5 + 5 * 8), True)),
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
@pytest.mark.parametrize(
    "function",
    [
        lambda q, k: (q * k * 2.0).sum(-1),  # of something else than the product
        lambda q, k: (q * k.mean(1, keepdim=True)).sum(1),  # over an axis that only one factor has: LayerScale's bias
        lambda q, k: (q * k).sum(-1),  # both alike: a mask
        lambda q, k: q[:, :, None] * k[:, None],  # products without a sum
    ],
)
def test_other_sums_of_products_are_pointwise_work(function: Any, device: str) -> None:
    assert count(function, (2, 5, 8), (2, 5, 8), device=device).macs == 0


@DEVICES
def test_a_sum_over_a_view_of_a_product_is_a_contraction(device: str) -> None:
    found = count(lambda q, k: (q[:, :, None] * k).view(2, 5, 9, 2, 4).sum(-1), (2, 5, 8), (2, 5, 9, 8), device=device)
    assert found.by_op == {macs.CONTRACTION: 2 * 5 * 9 * 8}


@DEVICES
def test_views_and_copies_are_free(device: str) -> None:
    moved = count(
        lambda x: torch.cat([x.transpose(1, 2).contiguous().view(2, 40), x.new_zeros(2, 1)], 1).roll(1, 1).half(),
        (2, 5, 8),
        device=device,
    )
    assert (moved.macs, moved.flops_fft, moved.flops_elementwise, moved.uncounted) == (0, 0, 0, ())


def test_material_ops_come_first() -> None:
    found = count(lambda x: x.exp().sort().values, (2, 5, 8))
    assert [op.material for op in found.uncounted] == [True, False]


def test_an_operator_that_only_torch_knows_is_taken_from_its_registry() -> None:
    only = [op for op in flop_registry if op not in formulas.table()]
    assert {str(op) for op in only} <= {
        "aten._varlen_attn",
        "torch_attn._varlen_attn",
        "torch_attn._varlen_attn_backward",
    }


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
    assert found.ops == (Op("aten.mm", 1, 120, 0, read=40, written=15, kind="product"),)


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
