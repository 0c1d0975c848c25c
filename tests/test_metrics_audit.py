"""The second counter: handles by hand, a trace on meta as on the CPU, and reasons that add up to the difference."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from math import log2
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from models import Lambda, on_meta
from torch import Tensor, nn

from zoo.cli import main
from zoo.metrics.audit import Audit, Untraceable, audit
from zoo.registry import installed

DEVICES = pytest.mark.parametrize("device", ["cpu", "meta"])
Zoo = Callable[..., "subprocess.CompletedProcess[str]"]


def audited(what: nn.Module | Callable[..., Any], *shapes: tuple[int, ...], device: str = "meta") -> Audit:
    """Audit a module or a function on inputs of these shapes."""
    module = what if isinstance(what, nn.Module) else Lambda(what)
    return audit(module.to(device), [torch.ones(shape, device=device) for shape in shapes])


def einsum(equation: str) -> Callable[..., Tensor]:
    """Return a contraction."""
    return lambda *operands: torch.einsum(equation, *operands)


class SelfAttention(nn.Module):
    """torch's own attention, of a sequence to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(C, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


B, N, M, C, H = 2, 16, 24, 32, 4

# What is counted, of inputs of which shapes: the MACs by hand, and what fvcore says as shipped (None where it fails).
TABLE: list[tuple[str, Any, list[tuple[int, ...]], int, int | None]] = [
    ("linear", nn.Linear(8, 3), [(2, 5, 8)], 2 * 5 * 8 * 3, 2 * 5 * 8 * 3),
    ("conv", nn.Conv2d(3, 8, 3, 2), [(2, 3, 17, 17)], 2 * 64 * 9 * 3 * 8, 2 * 64 * 9 * 3 * 8),
    ("conv_of_one_image", nn.Conv2d(3, 8, 3), [(3, 16, 16)], 14 * 14 * 9 * 3 * 8, 14 * 14 * 9 * 3 * 8),
    ("conv_grouped", nn.Conv2d(8, 16, 3, groups=4), [(2, 8, 10, 10)], 2 * 64 * 9 * 2 * 16, 2 * 64 * 9 * 2 * 16),
    ("conv_padded_by_name", nn.Conv2d(8, 8, 3, padding="same", groups=8), [(2, 8, 10, 10)], 2 * 100 * 9 * 8, 0),
    ("conv_transposed", nn.ConvTranspose2d(8, 4, 3, groups=2), [(2, 8, 5, 5)], 2 * 25 * 9 * 8 * 2, 2 * 25 * 9 * 8 * 2),
    ("matmul_broadcast", torch.matmul, [(5, 8), (2, 4, 8, 3)], 2 * 4 * 5 * 8 * 3, 5 * 8 * 3),
    ("matrix_by_vector", torch.matmul, [(5, 8), (8,)], 5 * 8, None),
    ("mv", torch.mv, [(5, 8), (8,)], 5 * 8, 0),
    ("addmv", torch.addmv, [(5,), (5, 8), (8,)], 5 * 8, 0),
    ("inner", torch.inner, [(5, 8), (3, 8)], 5 * 8 * 3, 0),
    ("baddbmm", torch.baddbmm, [(2, 5, 3), (2, 5, 8), (2, 8, 3)], 2 * 5 * 8 * 3, 0),
    ("outer", torch.outer, [(5,), (3,)], 0, 0),
    ("addr", torch.addr, [(5, 3), (5,), (3,)], 5 * 3, 0),
    ("tensordot", lambda a, b: torch.tensordot(a, b, dims=2), [(5, 8, 3), (8, 3, 7)], 5 * 8 * 3 * 7, 0),
    ("cdist", torch.cdist, [(2, 5, 8), (2, 3, 8)], 2 * 5 * 3 * 8, 0),
    ("einsum", einsum("bnd,bmd->bnm"), [(2, 5, 8), (2, 3, 8)], 2 * 5 * 3 * 8, 2 * 5 * 3 * 8),
    ("einsum_in_pairs", einsum("ij,jk,kl->il"), [(5, 8), (8, 3), (3, 7)], 5 * 8 * 3 + 5 * 3 * 7, 225),
    ("einsum_ellipsis", einsum("...ij,...jk->...ik"), [(3, 1, 4, 5), (2, 5, 6)], 3 * 2 * 4 * 5 * 6, 720),
    ("einsum_without_arrow", einsum("ij,jk"), [(5, 8), (8, 3)], 5 * 8 * 3, 5 * 8 * 3),
    ("einsum_sums_alone_first", einsum("bij,bjk->ik"), [(3, 4, 5), (3, 5, 6)], 3 * 4 * 5 * 6, 360),
    # torch goes from the left, so that the first two share nothing; fvcore takes the cheapest order, 120 + 105
    ("einsum_from_the_left", einsum("ij,kl,jk->il"), [(5, 8), (3, 7), (8, 3)], 5 * 8 * 3 * 7, 225),
    ("einsum_of_four_digits", einsum("ij,jk->ik"), [(111, 113), (113, 109)], 111 * 113 * 109, 1_367_000),
    ("einsum_outer", einsum("i,j->ij"), [(6,), (7,)], 0, 6 * 7 // 2),
    ("sdpa", F.scaled_dot_product_attention, [(B, H, N, 8)] * 3, B * H * N * N * 16, 0),
    (
        "sdpa_cross",
        F.scaled_dot_product_attention,
        [(B, H, N, 8), (B, H, M, 8), (B, H, M, 12)],
        B * H * N * M * (8 + 12),
        0,
    ),
    ("lstm", nn.LSTM(8, 16, 2, bidirectional=True), [(5, 2, 8)], 80 * (8 + 16) * 16 + 80 * (32 + 16) * 16, 0),
    ("lstm_projected", nn.LSTM(8, 16, proj_size=4), [(5, 2, 8)], 10 * (4 * 16 * (8 + 4) + 16 * 4), 0),
    ("gru", nn.GRU(8, 16), [(5, 2, 8)], 10 * 3 * (8 + 16) * 16, 0),
    ("rnn", nn.RNN(8, 16), [(5, 2, 8)], 10 * (8 + 16) * 16, 0),
    ("lstm_cell", nn.LSTMCell(8, 16), [(2, 8)], 2 * 4 * (8 + 16) * 16, 2 * 4 * (8 + 16) * 16),
    ("scores_by_hand", lambda q, k: (q[:, None] * k).sum(-1), [(2, 8), (2, 5, 8)], 2 * 5 * 8, 0),
    ("scores_in_a_view", lambda q, k: (q[:, None] * k).view(2, 40).mean(-1), [(2, 8), (2, 5, 8)], 2 * 5 * 8, 0),
    ("scaled_and_summed", lambda x, scale: (x * scale).sum(0), [(5, 8), (8,)], 0, 0),
    ("products_in_pairs_summed", lambda a, b: (a * b).sum(-1), [(5, 8), (5, 8)], 0, 0),
    ("outer_by_broadcasting", lambda a, b: a[:, None].expand(5, 3) * b, [(5,), (3,)], 0, 0),
    (
        "outer_products_summed",
        lambda k, v: (k[..., None] * v[..., None, :]).cumsum(1),
        [(2, 5, 3), (2, 5, 4)],
        2 * 5 * 3 * 4,
        0,
    ),
    ("scaled", lambda a, b: a * b, [(5, 3), (3,)], 0, 0),
    ("bilinear_sample", F.grid_sample, [(2, 3, 8, 8), (2, 5, 5, 2)], 2 * 3 * 25 * 4, 2 * 3 * 25 * 4),
    ("layer_norm", nn.LayerNorm(8), [(2, 8)], 0, 5 * 16),
    ("batch_norm", nn.BatchNorm2d(3), [(2, 3, 4, 4)], 0, 2 * 96),
    ("instance_norm", nn.InstanceNorm2d(3, affine=True), [(2, 3, 4, 4)], 0, 5 * 96),
    ("pool", nn.AdaptiveAvgPool2d(1), [(2, 3, 4, 4)], 0, 96),
    ("nearest", nn.Upsample(scale_factor=2), [(2, 3, 4, 4)], 0, 4 * 96),
]
IDS = [row[0] for row in TABLE]


@DEVICES
@pytest.mark.parametrize(("what", "shapes", "expected", "shipped"), [row[1:] for row in TABLE], ids=IDS)
@pytest.mark.filterwarnings("ignore:Default grid_sample:UserWarning")
def test_macs_by_hand(
    what: Any, shapes: list[tuple[int, ...]], expected: int, shipped: int | None, device: str
) -> None:
    found = audited(what, *shapes, device=device)
    assert found.handled.macs == expected
    assert found.shipped.macs == shipped
    assert found.unexplained == 0
    if shipped is not None:
        assert sum(reason.macs for reason in found.reasons) == found.ours.macs - shipped


@DEVICES
def test_torchs_encoder_layer_counts_the_same_fused_or_not(device: str) -> None:
    """Four projections, scores and mixture, and two layers of 64: 163,840 + 131,072, fused on the CPU."""
    found = audited(nn.TransformerEncoderLayer(C, H, 64, batch_first=True), (B, N, C), device=device)
    assert found.handled.macs == B * (4 * N * C * C + 2 * N * N * C) + 2 * B * N * C * 64
    assert found.unexplained == 0


def test_torchs_fused_attention_is_a_zero_of_fvcores() -> None:
    found = audited(SelfAttention(), (B, N, C), device="cpu")
    assert found.shipped.macs == 0
    assert found.shipped.uncounted == {"_native_multi_head_attention": 1}
    assert found.handled.macs == found.ours.macs == B * (4 * N * C * C + 2 * N * N * C)


@DEVICES
def test_fourier_transforms_are_in_no_count_of_macs(device: str) -> None:
    """5 n log2 n for a complex transform of n points, half for a real one; torch makes two axes complex first."""
    transforms: list[tuple[Callable[[Tensor], Tensor], float]] = [
        (torch.fft.fft2, 5 * 2 * 512 * log2(512)),
        (torch.fft.fft, 2.5 * 2 * 512 * log2(32)),
        (torch.fft.rfft, 2.5 * 2 * 512 * log2(32)),
        (lambda x: torch.fft.irfft(torch.fft.rfft(x)), 5 * 2 * 512 * log2(32)),
        (torch.fft.fftn, 5 * 2 * 512 * log2(1024)),
    ]
    for transform, flops in transforms:
        found = audited(transform, (2, 16, 32), device=device)
        assert found.handled.flops_fft == found.ours.flops_fft == flops
        assert found.handled.macs == found.ours.macs == 0


def test_fvcore_misses_attention_and_adds_norms_in_vit() -> None:
    module = on_meta("vit_s16")
    found = audit(module, [torch.empty(1, 3, 224, 224, device="meta")])
    norms = 25 * 197 * 384 * 5  # 9,456,000: two a block and one at the end
    attention = 12 * 2 * 197 * 197 * 384  # 357,663,744
    assert found.shipped.macs == 4_250_674_560 == found.ours.macs - attention + norms
    assert {(reason.text, reason.macs) for reason in found.reasons} == {
        ("fvcore does not count scaled_dot_product_attention (12 calls)", attention),
        ("fvcore counts layer_norm: 5 FLOPs an element, 4 without weights", -norms),
    }
    assert found.unexplained == 0


@pytest.mark.parametrize("name", ["sasa_nano", "detr_nano", "swin_nano", "performer_nano", "fnet_nano", "vit_nano"])
def test_a_trace_on_meta_is_that_of_the_cpu(name: str) -> None:
    from zoo.testing import ModelTrial

    trial = ModelTrial(installed().model(name))
    found = {}
    for device in ("cpu", "meta"):
        with torch.device(device):
            module = trial.construct(trial.default)
        args, kwargs = trial.inputs(trial.default, 1, device)
        found[device] = audit(module, args, kwargs, installed().custom)
        assert found[device].unexplained == 0
    assert found["cpu"].shipped.by_op == found["meta"].shipped.by_op
    assert found["cpu"].handled.by_op == found["meta"].handled.by_op


def test_a_plugins_operator_is_counted_by_its_formula() -> None:
    from zoo_sasa.local import local_attention

    q, rel = torch.ones(2, 8, 6, 6), torch.ones(2, 3, 2)
    module = Lambda(lambda q, k, v, h, w: local_attention(q, k, v, h, w, False))
    found = audit(module, [q, q, q, rel, rel], custom=installed().custom)
    assert found.shipped.uncounted == {"zoo_sasa::local_attention": 1}
    assert found.handled.by_op == {"local_attention": 3 * 2 * 8 * 36 * 9}
    assert audit(module, [q, q, q, rel, rel]).handled.macs == 0


def test_what_neither_handle_nor_reason_covers_is_left_unexplained() -> None:
    found = audited(lambda a, b, c: torch.linalg.multi_dot([a, b, c]), (5, 8), (8, 3), (3, 7))
    assert found.handled.uncounted == {"linalg_multi_dot": 1}
    assert found.unexplained == found.ours.macs == 5 * 8 * 3 + 5 * 3 * 7


def test_a_handle_of_fvcores_that_fails_is_told() -> None:
    found = audited(torch.matmul, (5, 8), (8,))
    assert found.shipped.failure.startswith("fvcore fails: IndexError")
    assert found.shipped.macs is None
    assert found.reasons == ()


class Picky(nn.Module):
    """A module that fails behind its first layer, takes what is no tensor, and is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)

    def forward(self, x: dict[str, Tensor], *, fail: bool) -> dict[str, Any]:
        y = self.first(x["x"])
        if fail:
            raise ValueError("no")
        return {"y": y, "n": None, "text": "is no tensor"}


def test_a_call_may_take_and_return_anything() -> None:
    found = audit(Picky(), ({"x": torch.ones(2, 8)},), {"fail": False})
    assert found.shipped.macs == found.ours.macs == 2 * 8 * 8


def test_a_module_is_left_as_it_was() -> None:
    module = Picky().train()
    with pytest.raises(Untraceable, match="fvcore fails: ValueError: no"):
        audit(module, ({"x": torch.ones(2, 8)},), {"fail": True})
    assert module.training
    assert module.first.training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert not torch.jit.is_tracing()


def test_what_needs_values_cannot_be_traced_on_meta() -> None:
    with pytest.raises(Untraceable, match="fvcore fails"):
        audited(lambda x: x[x.nonzero()[:, 0]], (5,))


# -- the command ---------------------------------------------------------------------------------------------


def test_the_command_prints_both_and_why(zoo: Zoo) -> None:
    done = zoo("show", "fnet_nano", "--audit", "--size", "64")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert done.stderr == ""
    assert lines[0] == "fnet_nano at 64tok, one sample, on the meta device"
    assert [line.split()[0] for line in lines[2:6]] == ["counter", "ours", "fvcore", "fvcore,"]
    assert "fft_fft2 x4" in lines[4]
    assert lines[6].startswith("FLOPs of Fourier transforms, in no count of MACs: ours ")
    assert lines[-1].split() == ["unexplained", "0"]


def test_the_command_runs_a_detector_on_the_cpu_at_its_smallest_size() -> None:
    done = CliRunner().invoke(main, ["show", "faster_rcnn_nano", "--audit", "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert (found["size"], found["device"]) == ("32px", "cpu")
    assert "proposals" in found["why_not_meta"]
    assert found["unexplained"] == 0
    assert sum(r["macs"] for r in found["reasons"]) == found["ours"]["macs"] - found["shipped"]["macs"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("vit_nano", "--audit", "--size", "33"), "33px is not legal"),
        (("lecture", "--audit"), "there is no model named 'lecture'"),
        (("vit_nano", "--size", "32"), "--size is for --audit"),
    ],
)
def test_the_command_refuses_in_one_sentence(arguments: tuple[str, ...], told: str) -> None:
    done = CliRunner().invoke(main, ["show", *arguments])
    assert done.exit_code == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
