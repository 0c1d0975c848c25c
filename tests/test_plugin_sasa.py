"""The SASA plugin: its operator against the formula, speed and memory against unfold, rows of the paper's tables."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import zoo_sasa
from models import Lambda, build, closed_form, on_meta, params
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from zoo_sasa import local
from zoo_sasa.attention import EMBEDDING, KERNELS, BlockAttention, LocalAttention, TokenMixer
from zoo_sasa.local import local_attention
from zoo_sasa.macs import local_attention as formula

import zoo
from zoo import ModelSpec, ZooError, published
from zoo.metrics import macs, memory, predicted_memory
from zoo.metrics.counts import Count
from zoo.registry import installed
from zoo.spec import resolve
from zoo.testing import assert_conforms

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in zoo_sasa.zoo_models()}
(LAYER,) = zoo_sasa.zoo_layers()
STAGES = [(56, 64), (28, 128), (14, 256)]  # sides of the maps and widths of ResNet's groups at 224px


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def arguments(
    batch: int, width: int, height: int, right: int, heads: int, kernel: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    """Draw q, k, v (B, C, H, W) and the embeddings of row and column offsets (heads, K, C / heads / 2)."""
    maps = [torch.randn(batch, width, height, right, dtype=dtype) for _ in range(3)]
    return *maps, *(torch.randn(heads, kernel, width // heads // 2, dtype=dtype) for _ in range(2))


def by_loop(q: Tensor, k: Tensor | None, v: Tensor, rel_h: Tensor, rel_w: Tensor, masked: bool) -> Tensor:
    """Compute the formula, one head of one pixel after the other."""
    batch, _, height, right = q.shape
    heads, kernel, half = rel_h.shape
    out, reach, d = torch.zeros_like(q), kernel // 2, 2 * half
    zeros = torch.zeros(d, dtype=q.dtype)
    for b, head, i, j in itertools.product(range(batch), range(heads), range(height), range(right)):
        channels = slice(head * d, (head + 1) * d)
        scores, values = [], []
        for a, c in itertools.product(range(-reach, reach + 1), repeat=2):
            inside = 0 <= i + a < height and 0 <= j + c < right
            if masked and not inside:
                continue
            r = torch.cat([rel_h[head, a + reach], rel_w[head, c + reach]])
            key = k[b, channels, i + a, j + c] if inside and k is not None else zeros
            scores.append(q[b, channels, i, j] @ key + q[b, channels, i, j] @ r)
            values.append(v[b, channels, i + a, j + c] if inside else zeros)
        out[b, channels, i, j] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return out


def by_unfold(q: Tensor, k: Tensor | None, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Compute the formula with k^2 copies of keys and values side by side, as public ports do."""
    batch, _, height, right = q.shape
    heads, kernel, half = rel_h.shape
    many = batch, heads, 2 * half, kernel**2, height * right
    rows, columns = rel_h[:, :, None].expand(-1, -1, kernel, -1), rel_w[:, None].expand(-1, kernel, -1, -1)
    r = torch.cat([rows, columns], -1).reshape(heads, kernel**2, 2 * half).transpose(1, 2)[None, ..., None]
    keys = r if k is None else F.unfold(k, kernel, padding=kernel // 2).view(many) + r
    scores = (q.reshape(batch, heads, 2 * half, 1, -1) * keys).sum(2)
    values = F.unfold(v, kernel, padding=kernel // 2).view(many)
    return (scores.softmax(2)[:, :, None] * values).sum(3).view(q.shape)


def off(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def count(model: nn.Module, x: Tensor) -> Count:
    """Count with the formulas of all plugins."""
    return macs.count(model, (x,), custom=installed().custom)


def image(name: str, size: int | str | None = None, batch: int = 1) -> Tensor:
    """Return a batch of images on the meta device."""
    return torch.empty(batch, 3, *SPECS[name].size(size).pair, device="meta")


# -- the operator against the formula ------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("content", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_operator_is_the_formula(kernel, content, masked):
    q, k, v, rel_h, rel_w = arguments(2, 8, 3, 5, heads=2, kernel=kernel)
    keys = k if content else None
    expected = by_loop(q, keys, v, rel_h, rel_w, masked)
    assert off(local_attention(q, keys, v, rel_h, rel_w, masked), expected) < 1e-9


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("height", "right"), [(1, 1), (1, 9), (4, 17), (13, 8)])  # blocks are up to 8 columns wide
def test_the_operator_is_the_formula_whatever_the_map(height, right, masked):
    args = arguments(1, 4, height, right, heads=1, kernel=5)
    assert off(local_attention(*args, masked), by_loop(*args, masked)) < 1e-9


@pytest.mark.parametrize(("height", "right"), [(56, 56), (23, 41), (7, 7), (2, 2)])
@pytest.mark.parametrize("kernel", [3, 7, 11])
def test_the_operator_is_unfold(height, right, kernel):
    args = arguments(2, 32, height, right, heads=4, kernel=kernel)
    expected = by_unfold(*args)
    assert off(local_attention(*args, False), expected) < 1e-9
    in_single = local_attention(*(t.float() for t in args), False)
    assert off(in_single.double(), expected) < 1e-5


def test_how_the_work_is_cut_into_chunks_does_not_matter(monkeypatch):
    args = arguments(3, 16, 9, 11, heads=2, kernel=3)
    whole, gradient = local_attention(*args, True), torch.randn(3, 16, 9, 11, dtype=torch.float64)
    wholes = local.backward(gradient, *args, True)
    monkeypatch.setattr(local, "CPU_CHUNK", 1)  # one head of one image at a time
    torch.testing.assert_close(local_attention(*args, True), whole)
    for found, expected in zip(local.backward(gradient, *args, True), wholes, strict=True):
        torch.testing.assert_close(found, expected)


def test_maps_in_any_memory_format_give_the_same():
    q, k, v, *rel = arguments(2, 16, 9, 11, heads=2, kernel=3)
    expected = local_attention(q, k, v, *rel, False)
    last = [t.to(memory_format=torch.channels_last) for t in (q, k, v)]
    torch.testing.assert_close(local_attention(*last, *rel, False), expected)
    torch.testing.assert_close(local_attention(q.mT.contiguous().mT, k, v, *rel, False), expected)


def test_a_pixel_sees_its_neighbourhood_and_no_more():
    args = arguments(1, 8, 15, 15, heads=2, kernel=7)
    v = args[2].clone().requires_grad_()
    local_attention(args[0], args[1], v, *args[3:], False)[0, :, 7, 6].sum().backward()
    seen = v.grad[0].abs().sum(0) > 0
    expected = torch.zeros(15, 15, dtype=torch.bool)
    expected[4:11, 3:10] = True
    assert torch.equal(seen, expected)


def test_zeros_beyond_the_border_share_in_the_softmax_and_masked_ones_do_not():
    # nothing to tell apart: the corner of a map sees 4 pixels of 9, all ones
    q, ones, rel = torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4), torch.zeros(1, 3, 1)
    assert local_attention(q, ones, ones, rel, rel, False)[0, 0, 0, 0] == pytest.approx(4 / 9)
    assert local_attention(q, ones, ones, rel, rel, True)[0, 0, 0, 0] == pytest.approx(1)


# -- its gradients and dtypes --------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_finite_differences(masked):
    args = [t.requires_grad_() for t in arguments(1, 4, 3, 9, heads=2, kernel=3)]
    assert torch.autograd.gradcheck(lambda *a: local_attention(*a, masked), args)
    position_only = lambda q, *rest: local_attention(q, None, *rest, masked)  # noqa: E731
    assert torch.autograd.gradcheck(position_only, [args[0], *args[2:]])


@pytest.mark.parametrize("kernel", [3, 7, 11])
def test_gradients_are_those_of_unfold(kernel):
    args = [t.requires_grad_() for t in arguments(2, 16, 13, 19, heads=4, kernel=kernel)]
    gradient = torch.randn(2, 16, 13, 19, dtype=torch.float64)
    found = torch.autograd.grad(local_attention(*args, False), args, gradient)
    expected = torch.autograd.grad(by_unfold(*args), args, gradient)
    for mine, theirs in zip(found, expected, strict=True):
        assert off(mine, theirs) < 1e-9


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck looks at it
@pytest.mark.parametrize("content", [True, False])
def test_the_operator_keeps_the_contract_of_torch_library(content):
    q, k, *rest = (t.requires_grad_() for t in arguments(1, 8, 5, 9, heads=2, kernel=3))
    torch.library.opcheck(torch.ops.zoo_sasa.local_attention.default, (q, k if content else None, *rest, True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    args = [t.to(dtype) for t in arguments(1, 16, 9, 9, heads=2, kernel=7)]
    found = local_attention(*args, False)
    assert found.dtype == dtype
    assert torch.equal(found, local_attention(*(t.float() for t in args), False).to(dtype))


def test_autocast_gives_bfloat16_maps_to_the_operator_and_single_inside_it():
    layer, x = LocalAttention(16, 5, heads=2), torch.randn(2, 16, 9, 9, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = layer(x)
        q, k, v = (projection(x) for projection in (layer.q, layer.k, layer.v))
        again = local_attention(q, k, v, layer.rel_h.bfloat16(), layer.rel_w.bfloat16(), False)
    outside = local_attention(q, k, v, layer.rel_h.bfloat16(), layer.rel_w.bfloat16(), False)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, outside)
    assert torch.equal(again, outside)
    mixed.float().square().sum().backward()
    for parameter in (x, *layer.parameters()):
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


@pytest.mark.parametrize("content", [True, False])
def test_forward_and_backward_run_on_meta(content):
    with torch.device("meta"):
        layer, x = LocalAttention(16, heads=2, content=content), torch.randn(2, 16, 9, 13, requires_grad=True)
        layer(x).sum().backward()
    assert x.grad.shape == (2, 16, 9, 13)
    assert all(p.grad.shape == p.shape for p in layer.parameters())


# -- speed and memory ----------------------------------------------------------------------------------------


def interleaved(first: Callable[[], object], second: Callable[[], object], rounds: int = 4) -> tuple[float, float]:
    """Return the least seconds of this process that each of two calls takes, in the order A B B A."""
    calls = (first, second, second, first)
    taken: dict[Callable[[], object], list[float]] = {first: [], second: []}
    for call in (*calls[:2], *calls * rounds):
        start = time.process_time()
        call()
        taken[call].append(time.process_time() - start)
    return min(taken[first]), min(taken[second])


def seconds_of_operator_and_unfold(side: int, width: int) -> tuple[float, float]:
    """Return what both take on one thread of this process, at equal outputs."""
    torch.set_num_threads(1)
    args = arguments(1, width, side, side, heads=8, kernel=7, dtype=torch.float32)
    assert off(local_attention(*args, False), by_unfold(*args)) < 1e-5
    return interleaved(lambda: local_attention(*args, False), lambda: by_unfold(*args))


@pytest.mark.parametrize(("side", "width"), STAGES)
def test_the_operator_is_at_least_3_times_faster_than_unfold(side, width):
    """In a fresh process: other tests set the allocator up for themselves, and unfold lives on large allocations."""
    code = f"import test_plugin_sasa as t; print(*t.seconds_of_operator_and_unfold({side}, {width}))"
    folder = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    ours, unfold = map(float, done.stdout.split())
    assert unfold / ours >= 3


def peak(function: Callable[..., object], batch: int, side: int, width: int) -> int:
    """Predict the bytes that a function needs at most beside q, k, v, embeddings and a gradient."""

    def make(device: torch.device) -> memory.Inputs:
        shapes = [(batch, width, side, side)] * 4 + [(8, 7, width // 16)] * 2
        return [torch.zeros(shape, device=device) for shape in shapes], {}

    predicted = predicted_memory.predict_peak(lambda: Lambda(function), make)
    return predicted.peak - predicted.inputs


def forward(_grad: Tensor, *args: Tensor) -> Tensor:
    return local.forward(*args, False)


def forward_and_backward(grad: Tensor, *args: Tensor) -> tuple[Tensor, ...]:
    return local.forward(*args, False), *local.backward(grad, *args, False)


@pytest.mark.parametrize(("side", "width"), STAGES)
def test_neither_pass_holds_k_squared_copies(side, width):
    batch = 4
    of_map = batch * width * side**2 * 4
    copies = 49 * 2 * of_map
    assert peak(lambda _grad, *args: by_unfold(*args), batch, side, width) > copies
    assert peak(forward, batch, side, width) < copies / 7
    assert peak(forward_and_backward, batch, side, width) < copies / 4


def test_memory_beside_the_results_does_not_grow_with_the_batch():
    of_map = 128 * 28**2 * 4
    for function, results in ((forward, 1), (forward_and_backward, 4)):
        small, large = peak(function, 4, 28, 128), peak(function, 8, 28, 128)
        # the embeddings, laid out for each head of each image, are the rest
        assert large - small == pytest.approx(results * 4 * of_map, rel=0.02)


# -- the stem ------------------------------------------------------------------------------------------------


def stem_by_loop(stem: BlockAttention, x: Tensor) -> Tensor:
    """Compute the stem's formula for one image (3, H, W), one head of one pixel after the other."""
    width, d = stem.q.out_channels, stem.q.out_channels // 4
    out = torch.zeros(width, *x.shape[1:], dtype=x.dtype)
    w_q, w_k, w_v = (t.weight.flatten(1) for t in (stem.q, stem.k, stem.v))
    w_v = w_v.view(stem.mixtures, width, 3)

    def value(i: int, j: int) -> Tensor:
        if stem.mixtures == 1:
            return w_v[0] @ x[:, i, j]
        p = ((stem.row[i % 4] + stem.column[j % 4]) @ stem.nu.T).softmax(0)
        return (p[:, None, None] * w_v).sum(0) @ x[:, i, j]

    for head, i, j in itertools.product(range(4), range(x.shape[1]), range(x.shape[2])):
        channels = slice(head * d, (head + 1) * d)
        q, top, left = (w_q @ x[:, i, j])[channels], i - i % 4, j - j % 4
        scores, values = [], []
        for a, b in itertools.product(range(top, top + 4), range(left, left + 4)):
            r = torch.cat([stem.rel_h[head, a - i + 3], stem.rel_w[head, b - j + 3]])
            scores.append(q @ (w_k @ x[:, a, b])[channels] + q @ r)
            values.append(value(a, b)[channels])
        out[channels, i, j] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return out


@pytest.mark.parametrize("mixtures", [1, 4])
def test_the_stem_is_its_formula(mixtures):
    stem, images = BlockAttention(16, mixtures).double(), torch.randn(2, 3, 8, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([stem_by_loop(stem, x) for x in images])
        assert off(stem(images), expected) < 1e-9
        in_single = stem.float()(images.float())
    assert off(in_single.double(), expected) < 1e-5


def test_what_chooses_among_the_mixtures_depends_on_the_place_alone():
    stem = BlockAttention(16, 4)
    by_hand = (stem.row[:, None] + stem.column) @ stem.nu.T  # (4, 4, m)
    assert stem.row.shape == (4, EMBEDDING)
    torch.testing.assert_close(stem.weights().view(4, 4, 4), by_hand.softmax(-1))


# -- the paper's tables --------------------------------------------------------------------------------------

CONV = {"groups": "cccc"}
ROWS = [
    # model, options, parameters in M and FLOPS in B as the paper prints them
    # Table 1
    ("sasa26_conv_stem", CONV, 13.7, 4.7),
    ("sasa38_conv_stem", CONV, 19.6, 6.5),
    ("sasa50_conv_stem", CONV, 25.6, 8.2),
    ("sasa26_conv_stem", {}, 10.3, 4.5),
    ("sasa38_conv_stem", {}, 14.1, 5.7),
    ("sasa50_conv_stem", {}, 18.0, 7.0),
    ("sasa26", {}, 10.3, 4.7),
    ("sasa38", {}, 14.1, 6.0),
    ("sasa50", {}, 18.0, 7.2),
    # Table 3: groups of convolutions
    ("sasa50_conv_stem", {"groups": "caaa"}, 18.1, 7.3),
    ("sasa50_conv_stem", {"groups": "ccaa"}, 18.5, 7.5),
    ("sasa50_conv_stem", {"groups": "ccca"}, 20.8, 8.0),
    ("sasa50_conv_stem", {"groups": "accc"}, 25.5, 7.9),
    ("sasa50_conv_stem", {"groups": "aacc"}, 25.0, 7.8),
    ("sasa50_conv_stem", {"groups": "aaac"}, 22.7, 7.2),
    # Table 4: the size of the neighbourhood
    ("sasa50_conv_stem", {"kernel_size": 3}, 18.0, 6.6),
    ("sasa50_conv_stem", {"kernel_size": 5}, 18.0, 6.7),
    ("sasa50_conv_stem", {"kernel_size": 7}, 18.0, 7.0),
    ("sasa50_conv_stem", {"kernel_size": 9}, 18.0, 7.3),
    ("sasa50_conv_stem", {"kernel_size": 11}, 18.0, 7.7),
    # Table 6: q . r only, without W_K
    ("sasa50_conv_stem", {"content": False}, 16.7, 6.1),
    # Table 7: the stem with plain values, and with values that are aware of their place
    ("sasa50", {"mixtures": 1}, None, 7.1),
    ("sasa50", {"mixtures": 4}, None, 7.2),
]


@pytest.mark.parametrize(("name", "options", "millions", "billions"), ROWS)
def test_every_row_of_the_papers_tables_holds(name, options, millions, billions):
    model = on_meta(name, **options)
    counted = count(model, image(name))
    assert [op for op in counted.uncounted if op.material] == []
    assert counted.macs == closed_form(name, **options)
    assert abs(2 * counted.macs / 1e9 - billions) < 0.1  # the paper counts 2 FLOPS a MAC
    if millions is not None:
        assert abs(params(model) / 1e6 - millions) < 0.1


def test_every_row_that_is_published_for_a_variant_of_ours_holds():
    units = {
        "FLOPS": lambda name, model: 2 * closed_form(name) / 1e9,
        "params": lambda name, model: params(model) / 1e6,
    }
    checked = 0
    for name in SPECS.keys() - {"sasa_nano"}:
        model = on_meta(name)
        for row in published.of(*SPECS[name].published):
            if row.metric in units:
                assert abs(units[row.metric](name, model) - float(row.value)) < 0.1, row
                checked += 1
    assert checked == 2 * 6 + 2 + 1 + 1 + 2 + 1  # Table 1 and Tables 3 to 7


RECOUNTED = {
    "ResNet-26 conv": ("sasa26_conv_stem", CONV, 13.70, 2.34),
    "ResNet-38 conv": ("sasa38_conv_stem", CONV, 19.63, 3.215),
    "ResNet-50 conv": ("sasa50_conv_stem", CONV, 25.56, 4.09),
    "ResNet-26 conv-stem+attn": ("sasa26_conv_stem", {}, 10.34, 2.24),
    "ResNet-38 conv-stem+attn": ("sasa38_conv_stem", {}, 14.19, 2.865),
    "ResNet-50 conv-stem+attn": ("sasa50_conv_stem", {}, 18.04, 3.485),
}


@pytest.mark.parametrize("row", RECOUNTED)
def test_independent_recounts_agree(row):
    name, options, millions, giga = RECOUNTED[row]
    assert params(on_meta(name, **options)) / 1e6 == pytest.approx(millions, abs=0.005)
    # the recount halves FLOPS that were rounded to two decimals
    assert closed_form(name, **options) / 1e9 == pytest.approx(giga, abs=0.005)


def test_projections_split_by_head_would_have_14_7_million_parameters():
    # the reading of the text that the tables refute: W_Q, W_K, W_V in R^(d/8 x d/8) for each of 8 heads
    model = on_meta("sasa50_conv_stem")
    dense = sum(3 * p.numel() for name, p in model.named_parameters() if name.endswith("conv2.q.weight"))
    assert round((params(model) - dense + dense / 8) / 1e6, 2) == 14.74


def test_parameters_are_exact():
    # conv stem 9,408 and classifier 2,049,000, as torchvision; each attention has 3 d^2 + 7 d instead of 9 d^2
    blocks = ((3, 64), (4, 128), (6, 256), (3, 512))
    assert params(on_meta("sasa50_conv_stem")) == 25_557_032 - sum(n * (6 * d**2 - 7 * d) for n, d in blocks)
    assert params(on_meta("sasa50_conv_stem")) == 18_038_632
    # the attention stem: (2 + 4) x 3 x 64, offsets 7 x 64, places (4 + 4 + 4) x 16
    assert params(on_meta("sasa50")) == 18_038_632 - 9_408 + 6 * 3 * 64 + 7 * 64 + 12 * 16


# -- counts --------------------------------------------------------------------------------------------------


def test_the_formula_of_the_operator_counts_the_whole_neighbourhood_thrice():
    q, rel = (2, 64, 5, 6), (8, 7, 4)
    assert formula(q, q, q, rel, rel, False, out=q) == 3 * 2 * 64 * 30 * 49
    assert formula(q, None, q, rel, rel, False, out=q) == 2 * 2 * 64 * 30 * 49


def test_the_operator_is_counted_as_one_on_meta_and_on_cpu():
    for device in ("meta", "cpu"):
        layer = LocalAttention(16, 5, heads=2).to(device)
        counted = count(layer, torch.zeros(2, 16, 6, 7, device=device))
        assert counted.by_op["zoo_sasa.local_attention"] == 3 * 2 * 16 * 42 * 25
        assert counted.macs == 2 * 42 * (3 * 16**2 + 3 * 25 * 16)


@pytest.mark.parametrize("size", [32, 64, "64x160px", 512, "512x32px"])
@pytest.mark.parametrize("name", ["sasa_nano", "sasa26", "sasa50_conv_stem"])
def test_macs_by_hand_are_those_counted_at_every_size(name, size):
    model = on_meta(name, size)
    assert count(model, image(name, size)).macs == closed_form(name, size)
    assert model(image(name, size, batch=2)).shape == (2, SPECS[name].knobs["num_classes"])


OTHERS = {
    "num_classes": 7,
    "stages": "1-2-1-1",
    "stem": "attention",
    "groups": "caca",
    "kernel_size": 9,
    "heads": 2,
    "content": False,
    "borders": "masked",
    "mixtures": 2,
    "width": 32,
}


def test_macs_by_hand_hold_for_every_option_and_each_changes_the_model():
    assert set(OTHERS) == set(SPECS["sasa_nano"].knobs)
    for option, value in OTHERS.items():
        base = {"stem": "attention"} if option == "mixtures" else {}
        usual, other = on_meta("sasa_nano", **base), on_meta("sasa_nano", **{**base, option: value})
        shapes = [{n: t.shape for n, t in model.state_dict().items()} for model in (usual, other)]
        assert option == "borders" or shapes[0] != shapes[1]
        assert count(other, image("sasa_nano")).macs == closed_form("sasa_nano", **{**base, option: value})
    assert count(on_meta("sasa_nano", **OTHERS), image("sasa_nano")).macs == closed_form("sasa_nano", **OTHERS)


def test_masked_borders_change_what_is_computed():
    zero, masked = build("sasa_nano"), build("sasa_nano", borders="masked")
    masked.load_state_dict(zero.state_dict())
    with torch.no_grad():
        x = torch.randn(1, 3, 32, 32)
        assert not torch.allclose(zero(x), masked(x))


# -- the network ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "stages"), zoo_sasa.DEPTHS.items())
def test_all_convolutional_it_is_the_resnet_of_torchvision(depth, stages):
    theirs = on_torchvision(stages)
    ours = on_meta(f"sasa{depth}_conv_stem", **CONV)
    shapes = {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
    assert {name: tuple(t.shape) for name, t in ours.state_dict().items()} == shapes
    assert params(ours) == {26: 13_696_552, 38: 19_626_792, 50: 25_557_032}[depth]


def on_torchvision(stages: str) -> nn.Module:
    """Build torchvision's ResNet on the meta device."""
    with torch.device("meta"):
        return ResNet(Bottleneck, [int(depth) for depth in stages.split("-")])


def test_all_convolutional_it_computes_what_torchvision_does():
    theirs = ResNet(Bottleneck, [1, 2, 4, 1], num_classes=5).eval()
    ours = build("sasa26_conv_stem", 64, num_classes=5, **CONV)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_names_are_torchvisions_but_for_the_attention():
    theirs, ours = set(on_torchvision("3-4-6-3").state_dict()), set(on_meta("sasa50").state_dict())
    assert {name for name in theirs - ours if not name.endswith("conv2.weight")} == {"conv1.weight"}
    attention = {f"layer3.5.conv2.{part}" for part in ("q.weight", "k.weight", "v.weight", "rel_h", "rel_w")}
    assert {name for name in ours - theirs if name.startswith("layer3.5.")} == attention
    stem = {"q.weight", "k.weight", "v.weight", "rel_h", "rel_w", "row", "column", "nu"}
    assert {name for name in ours - theirs if not name.startswith("layer")} == {f"conv1.{part}" for part in stem}


def test_attention_sees_the_whole_map_and_the_mean_comes_after_it():
    model, seen = build("sasa_nano", 64), []
    for group in (model.layer1, model.layer2, model.layer3, model.layer4):
        group[0].conv2.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[2:])))
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 32))
    assert seen == [(16, 8), (16, 8), (8, 4), (4, 2)]


def test_scores_start_with_a_variance_of_about_1():
    # no 1 / sqrt(d_head) in the formula: it is in the weights of q
    layer, x = LocalAttention(256, heads=4), torch.randn(4, 256, 16, 16).relu()
    q, k = (t(x).unflatten(1, (4, 64)).detach() for t in (layer.q, layer.k))
    assert (q * k).sum(2).var().item() == pytest.approx(1, rel=0.3)
    assert torch.einsum("bhdij,hd->bhij", q[:, :, :32], layer.rel_h[:, 0]).var().item() == pytest.approx(0.5, rel=0.4)


@pytest.mark.parametrize("name", ["sasa_nano", "sasa"])
def test_the_conformance_kit_passes(name):
    assert_conforms(name)


@pytest.mark.parametrize("size", [32, 64, "64x96px"])
def test_a_full_attention_network_runs_and_trains(size):
    model = zoo.create_model("sasa26", size, num_classes=4)
    logits = model(torch.randn(2, 3, *SPECS["sasa26"].size(size).pair))
    assert logits.shape == (2, 4)
    logits.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_bfloat16_autocast_of_the_network_is_close_to_single():
    model, x = build("sasa_nano", stem="attention"), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(x)
    assert found.dtype == torch.bfloat16
    assert off(found.float(), expected) < 0.05


# -- the layer by name ---------------------------------------------------------------------------------------


def test_the_layer_is_the_attention_of_its_grid():
    layer = zoo.create_layer("sasa", (5, 9), 16, heads=4)
    assert isinstance(layer, TokenMixer)
    x = torch.randn(2, 45, 16)
    with torch.no_grad():
        expected = layer.attention(x.transpose(1, 2).reshape(2, 16, 5, 9)).flatten(2).transpose(1, 2)
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("kernel", [3, 11])
def test_the_layer_costs_its_polynomial(kernel):
    with torch.device("meta"):
        layer = zoo.create_layer("sasa", (6, 10), 32, kernel_size=kernel)
        x = torch.empty(1, 60, 32)
    assert count(layer, x).macs == LAYER.cost.macs({"n": 60, "d": 32, "k": kernel})


# -- sizes, refusals, what is published ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 33, 100, "64x80px"])
def test_a_size_whose_halves_are_not_exact_is_refused(size):
    with pytest.raises(ZooError, match="is not legal: expected a multiple of 32, at least 32px"):
        build("sasa_nano", size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "kernel_size is 4; expected one of 3, 5, 7, 9, 11"),
        ({"kernel_size": 13}, "kernel_size is 13; expected one of"),
        ({"heads": 3}, "a width of 16 cannot be split into 3 heads of an even number of channels"),
        ({"heads": 16}, "a width of 16 cannot be split into 16 heads"),
        ({"heads": 0}, "into 0 heads"),
        ({"borders": "reflect"}, "borders is 'reflect'; expected zero or masked"),
        ({"stem": "patch"}, "stem is 'patch'; expected attention or conv"),
        ({"stages": "1-2-3"}, "stages='1-2-3' is not the shape of a ResNet"),
        (
            {"groups": "aab"},
            "groups is 'aab'; expected a .attention. or c .convolution. for each of four, such as ccaa",
        ),
        ({"groups": "aaab"}, "groups is 'aaab'"),
        ({"stem": "attention", "mixtures": 0}, "mixtures is 0; expected at least 1"),
    ],
)
def test_what_it_cannot_be_is_refused(options, message):
    with pytest.raises(ZooError, match=message):
        on_meta("sasa_nano", **options)


def test_tokens_are_the_pixels_of_the_first_map():
    tokens = resolve(SPECS["sasa50"].input.tokens)
    assert tokens(224, **SPECS["sasa50"].knobs) == 56 * 56
    assert tokens((64, 32)) == 16 * 8


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.published])
def test_published_numbers_are_there(name):
    system, *variants = SPECS[name].published
    for variant in variants:
        assert published.of(system, variant), variant
