"""The Performer plugin: FAVOR+ against its formula, exact parameters and MACs, masks, causality, what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
import zoo_performer
from favor_formula import explicit, explicit_causal
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from zoo_performer import attention
from zoo_performer.attention import ROWS_AT_ONCE, ROWS_ELSEWHERE, TOKENS_AT_ONCE, Favor, favor, orthogonal_features
from zoo_performer.model import sinusoids

from zoo import LayerSpec, ModelSpec, ZooError, published
from zoo.metrics.macs import count
from zoo.spec import resolve

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in zoo_performer.zoo_models()}
LAYERS: dict[str, LayerSpec] = {spec.name: spec for spec in zoo_performer.zoo_layers()}
TEXT = [name for name, spec in SPECS.items() if spec.input.kind == "tokens"]
NANO = ["performer_nano", "performer_vision_nano"]
KERNELS = ["relu", "softmax"]


def build(name: str, size: int | str | None = None, **options: object) -> nn.Module:
    """Build a variant for inference."""
    spec = SPECS[name]
    return resolve(spec.build)(spec.size(size).native, **spec.with_options(options)).eval()


def on_meta(name: str, size: int | str | None = None, **options: object) -> nn.Module:
    """Build a variant on the meta device."""
    with torch.device("meta"):
        return build(name, size, **options)


def closed_form(name: str, size: int | str | None = None, **options: object) -> int:
    """Return the MACs that the plugin works out by hand."""
    spec = SPECS[name]
    return resolve(spec.closed_form)(spec.size(size).native, **spec.with_options(options))


def inputs(name: str, size: int | str | None = None, batch_size: int = 1, device: str = "cpu") -> Tensor:
    """Make one batch of inputs as the spec says."""
    spec = SPECS[name]
    make = resolve(spec.input.make)
    (x,), _ = make(spec.size(size), batch_size, torch.float32, torch.device(device), None, **spec.input_params({}))
    return x


def hidden(out: Tensor | dict[str, Tensor]) -> Tensor:
    """Return the one tensor that a model gives back."""
    return out if isinstance(out, Tensor) else out["hidden"]


def params(model: nn.Module) -> int:
    """Count the parameters."""
    return sum(p.numel() for p in model.parameters())


def qkv(n: int, width: int = 16, batch: int = 2, heads: int = 3, seed: int = 0, **kwargs: object) -> list[Tensor]:
    """Return random queries, keys and values (batch, heads, n, width), float64."""
    torch.manual_seed(seed)
    return [torch.randn(batch, heads, n, width, dtype=torch.float64, **kwargs) for _ in range(3)]


def weight(features: int, width: int = 16, seed: int = 0) -> Tensor:
    """Return a projection (features, width), float64."""
    return orthogonal_features(features, width, torch.Generator().manual_seed(seed))


def error(ours: Tensor, reference: Tensor) -> float:
    """Return the relative error in the 2-norm."""
    return float((ours.double() - reference).norm() / reference.norm())


# -- random features -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [16, 40, 7, 1])
def test_features_are_orthogonal_within_blocks_of_the_width(features):
    w = weight(features)
    assert w.shape == (features, 16)
    for block in w.split(16):
        gram = block @ block.T
        torch.testing.assert_close(gram, torch.diag(gram.diagonal()))


def test_norms_of_features_are_those_of_gaussian_vectors_or_all_the_same():
    chi = weight(64 * 16).square().sum(1)  # chi squared of 16 degrees: mean 16, variance 32
    assert abs(chi.mean() - 16) < 5 * math.sqrt(32 / len(chi))
    assert chi.std() > 4
    same = orthogonal_features(40, 16, norm="sqrt").norm(dim=1)
    torch.testing.assert_close(same, torch.full((40,), 4.0, dtype=torch.float64))


def test_directions_of_features_are_uniform_although_those_of_lapack_are_not():
    q, _ = torch.linalg.qr(torch.randn(500, 16, 16, dtype=torch.float64))
    assert (q[:, 0, 0] <= 0).all()
    ours = weight(500 * 16).view(500, 16, 16)
    assert 0.4 < (ours[:, 0, 0] <= 0).double().mean() < 0.6


def test_features_of_the_softmax_kernel_are_unbiased():
    w = weight(4096 * 16)
    torch.manual_seed(0)
    x, y = torch.randn(2, 16, dtype=torch.float64) * 0.5
    products = torch.exp(w @ x - x @ x / 2) * torch.exp(w @ y - y @ y / 2)  # E = exp(x . y)
    blocks = products.view(-1, 16).mean(1)
    assert abs(blocks.mean() - torch.exp(x @ y)) < 4 * blocks.std() / math.sqrt(len(blocks))


def test_features_come_from_the_seed_and_differ_between_layers():
    first, again, other = (build("performer_nano", feature_seed=s).state_dict() for s in (0, 0, 1))
    name = "layers.{}.attention.favor.projection"
    assert torch.equal(first[name.format(0)], again[name.format(0)])
    assert not torch.equal(first[name.format(0)], other[name.format(0)])
    assert not torch.equal(first[name.format(0)], first[name.format(1)])
    assert not torch.equal(first[name.format(1)], other[name.format(0)])


def test_features_are_redrawn_only_when_asked():
    model, x = build("performer_nano"), inputs("performer_nano")
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with torch.no_grad():
        model.train()(x)
        model.eval()(x)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    model.redraw(torch.Generator().manual_seed(5))
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {name for name in before if name.endswith("projection")}


# -- attention -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("n", [1, 7, TOKENS_AT_ONCE, 2 * TOKENS_AT_ONCE + 3])
def test_favor_is_the_explicit_formula(n, kernel):
    q, k, v = qkv(n)
    w = weight(40)
    assert error(favor(q, k, v, w, kernel), explicit(q, k, v, w, kernel)) < 1e-9


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("n", [1, 5, 127, 128, 129, 256, 301])
def test_causal_favor_is_the_explicit_formula_on_every_prefix(n, kernel):
    q, k, v = qkv(n, batch=1, heads=2)
    w = weight(40)
    assert error(favor(q, k, v, w, kernel, causal=True), explicit_causal(q, k, v, w, kernel)) < 1e-9


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("chunk", [1, 3, 64, 1000])
def test_chunks_do_not_change_causal_favor(chunk, kernel):
    q, k, v = qkv(70)
    w = weight(40)
    ours = favor(q, k, v, w, kernel, causal=True, chunk=chunk)
    assert error(ours, favor(q, k, v, w, kernel, causal=True)) < 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("group", [1, 2, 3, 5, 8, 100])
def test_chunks_handled_at_once_do_not_change_causal_favor(group, kernel, monkeypatch):
    q, k, v = qkv(70, heads=2, batch=1)
    k *= torch.linspace(0.2, 3, 70)[:, None]  # the stabiliser rises again and again
    w = weight(40)
    mask = torch.arange(70)[None] > 10  # the first two chunks and some of the third are padding
    monkeypatch.setattr(attention, "ROWS_AT_ONCE", group * 2 * zoo_performer.CHUNK)
    ours = favor(q, k, v, w, kernel, causal=True, mask=mask, chunk=4)
    assert error(ours[:, :, 11:], explicit_causal(q[:, :, 11:], k[:, :, 11:], v[:, :, 11:], w, kernel)) < 1e-12


@pytest.mark.parametrize("causal", [False, True])
def test_the_relu_kernel_of_the_tokens_themselves_needs_no_projection(causal):
    q, k, v = qkv(33)
    formula = explicit_causal if causal else explicit
    assert error(favor(q, k, v, None, "relu", causal), formula(q, k, v, None, "relu")) < 1e-9


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [False, True])
def test_float32_is_close_to_float64(kernel, causal):
    q, k, v = qkv(300, width=64, batch=1)
    w = weight(256, 64)
    single = favor(*(t.float() for t in (q, k, v, w)), kernel, causal)
    assert single.dtype == torch.float32
    assert error(single, favor(q, k, v, w, kernel, causal)) < 1e-5


def test_many_features_come_close_to_softmax_attention_as_one_over_their_root():
    q, k, v = qkv(32, batch=1, heads=8)
    exact = nn.functional.scaled_dot_product_attention(q / 2, k / 2, v)

    def typical(features):
        draws = [error(favor(q / 2, k / 2, v, weight(features, seed=s), "softmax"), exact) for s in range(12)]
        return sum(draws) / len(draws)

    few, many = typical(256), typical(4096)
    assert many < 0.06
    assert 3 < few / many < 5  # 16 times the features: 4


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [False, True])
def test_samples_of_a_batch_are_independent(kernel, causal):
    q, k, v = qkv(130)
    w = weight(40)
    alone = favor(q[:1], k[:1], v[:1], w, kernel, causal)
    loud = torch.cat([k[:1], 5 * k[1:]])
    torch.testing.assert_close(favor(q, loud, v, w, kernel, causal)[:1], alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("left", [False, True])
def test_padding_changes_nothing(kernel, causal, left):
    n, real = 150, 90
    q, k, v = qkv(n, batch=1)
    w = weight(40)
    at = slice(n - real, n) if left else slice(0, real)
    mask = torch.zeros(1, n, dtype=torch.bool)
    mask[:, at] = True
    k[:, :, ~mask[0]] *= 50  # padding would win if it were seen
    padded = favor(q, k, v, w, kernel, causal, mask)
    assert padded.isfinite().all()
    alone = favor(*(t[:, :, at] for t in (q, k, v)), w, kernel, causal)
    assert error(padded[:, :, at], alone) < 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [False, True])
def test_where_all_is_padding_the_output_is_zero(kernel, causal):
    mask = torch.zeros(2, 9, dtype=torch.bool)
    assert torch.equal(favor(*qkv(9), weight(40), kernel, causal, mask), torch.zeros(2, 3, 9, 16).double())


@pytest.mark.parametrize("kernel", KERNELS)
def test_causal_favor_knows_no_later_token(kernel):
    q, k, v = qkv(200)
    w = weight(40)
    before = favor(q, k, v, w, kernel, causal=True)
    for t in (q, k, v):
        t[:, :, 150:] = 4 * torch.randn(2, 3, 50, 16)
    after = favor(q, k, v, w, kernel, causal=True)
    torch.testing.assert_close(after[:, :, :150], before[:, :, :150], rtol=1e-11, atol=1e-13)
    assert not torch.allclose(after[:, :, 150:], before[:, :, 150:])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e2, 1e4, 1e8])
def test_extreme_inputs_stay_finite_in_float32(kernel, causal, scale):
    q, k, v = (t.float().requires_grad_() for t in qkv(140))
    out = favor(q * scale, k * scale, v, weight(40).float(), kernel, causal)
    assert out.isfinite().all()
    assert out.abs().max() <= v.abs().max() * (1 + 1e-3)  # a weighted mean
    out.square().sum().backward()
    assert all(t.grad.isfinite().all() for t in (q, k, v))


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_loud_key_leaves_a_causal_past_finite(kernel):
    q, k, v = (t.float() for t in qkv(140))
    k[:, :, 60] *= 1e5
    out = favor(q, k, v, weight(40).float(), kernel, causal=True)
    assert out.isfinite().all()
    assert out.abs().max() <= v.abs().max() * (1 + 1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_loud_key_takes_nothing_off_the_chunks_before_its_own(kernel):
    q, k, v = (t.float() for t in qkv(140, batch=1, heads=1))
    w = weight(40).float()
    before = favor(q, k, v, w, kernel, causal=True, chunk=16)
    k[:, :, 60] *= 1e5
    after = favor(q, k, v, w, kernel, causal=True, chunk=16)
    torch.testing.assert_close(after[:, :, :48], before[:, :, :48])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_those_of_the_explicit_formula(kernel, causal):
    w = weight(24, 8)
    tensors = qkv(10, width=8, batch=1, heads=2, requires_grad=True)
    ours = torch.autograd.grad(favor(*tensors, w, kernel, causal, chunk=4).square().sum(), tensors)
    formula = explicit_causal if causal else explicit
    theirs = torch.autograd.grad(formula(*tensors, w, kernel).square().sum(), tensors)
    for mine, reference in zip(ours, theirs, strict=True):
        assert error(mine, reference) < 1e-9


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_those_of_finite_differences(kernel, causal):
    w = weight(12, 4)
    tensors = qkv(6, width=4, batch=1, heads=1, requires_grad=True)
    # the stabiliser passes no gradient, which the 1e-6 makes visible at 1e-6 or so
    assert torch.autograd.gradcheck(lambda *t: favor(*t, w, kernel, causal, chunk=4), tensors, atol=1e-4)


class Largest(TorchDispatchMode):
    """Notes the most elements that any one result has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, Tensor)]
        self.elements = max(self.elements, *sizes, 0) if sizes else self.elements
        return out


@pytest.mark.parametrize("causal", [False, True])
def test_no_result_is_as_large_as_the_features_of_all_tokens(causal):
    n, m, width, heads = 4096, 128, 16, 2
    q, k, v = (torch.randn(1, heads, n, width) for _ in range(3))
    w = weight(m, width).float()
    with torch.no_grad(), Largest() as seen:
        favor(q, k, v, w, "softmax", causal)
    at_once = ROWS_AT_ONCE // heads if causal else TOKENS_AT_ONCE
    assert seen.elements == heads * max(at_once * m, n * (width + 1))
    assert seen.elements < heads * n * m  # and n m d_h, all prefix sums of a causal layer, is 16 times that


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_result_of_causal_favor_is_as_large_as_all_features_on_other_devices_either(kernel):
    n, m, width, heads = 2**16, 256, 8, 8
    q, k, v = (torch.empty(1, heads, n, width, device="meta") for _ in range(3))
    with Largest() as seen:
        favor(q, k, v, torch.empty(m, width, device="meta"), kernel, causal=True)
    assert seen.elements == ROWS_ELSEWHERE * m == heads * n * m / 2


@pytest.mark.parametrize("kernel", KERNELS)
def test_autocast_and_bfloat16_leave_the_features_in_float32(kernel):
    layer = Favor(16, 40, kernel)
    q, k, v = (t.bfloat16() for t in qkv(20))
    wide = layer(q.float(), k.float(), v.float()).bfloat16()
    assert torch.equal(layer(q, k, v), wide)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(q, k, v), wide)


# -- counts --------------------------------------------------------------------------------------------------


def test_parameters_are_those_of_a_transformer():
    with torch.device("meta"):
        layer = nn.TransformerEncoderLayer(512, 8, 2048)
    assert params(layer) == 3_152_384
    assert params(on_meta("performer_base")) == 6 * 3_152_384 + 32_000 * 512 == 35_298_304
    assert params(on_meta("performer_base_softmax")) == 35_298_304
    assert params(on_meta("performer_base", features=64)) == 35_298_304  # features are drawn, not learned


def test_vision_parameters_are_those_of_vit():
    assert params(on_meta("performer_vision_b16")) == 86_567_656


def test_macs_of_the_base_model_are_the_papers_formula():
    n, d, m, h = 512, 512, 256, 8
    layer = 4 * n * d**2 + 4 * n * m * d + 2 * n * m * h + 2 * n * d * 2048
    assert closed_form("performer_base") == closed_form("performer_base_softmax") == 6 * layer == 11_286_872_064


def test_favor_beats_softmax_attention_only_beyond_twice_as_many_tokens_as_features():
    def favor_less_softmax(n, m=256, d=512, h=8):
        return closed_form("performer_base", n) - 6 * (4 * n * d**2 + 2 * n**2 * d + 2 * n * d * 2048)

    assert favor_less_softmax(512) == 6 * 2 * 512 * 256 * 8  # only the denominators, 2 n m h, are left
    assert favor_less_softmax(500) > 0
    assert favor_less_softmax(530) < 0


def check_count(name: str, size: int | str | None = None, **options: object) -> None:
    """Hold the count of a variant to the closed form, and to naming nothing that matters as uncounted."""
    counted = count(on_meta(name, size, **options), (inputs(name, size, device="meta"),))
    assert counted.macs == closed_form(name, size, **options)
    assert [op for op in counted.uncounted if op.material] == []


@pytest.mark.parametrize("name", SPECS)
def test_macs_by_hand_are_those_counted(name):
    check_count(name)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [1, 100, 128, 300])
def test_macs_by_hand_hold_for_every_option(size, kernel, causal):
    options = {"width": 48, "depth": 3, "heads": 6, "ff_width": 80, "features": 20, "feature_norm": "sqrt"}
    others = {"kernel": kernel, "causal": causal, "vocab_size": 40_000, "dropout": 0.0, "feature_seed": 3}
    assert set(options | others) == set(SPECS["performer_nano"].knobs)
    check_count("performer_nano", size, **options, **others)


@pytest.mark.parametrize("causal", [False, True])
def test_macs_by_hand_hold_without_a_projection(causal):
    check_count("performer_nano", 200, features=0, causal=causal)


def test_macs_by_hand_hold_for_every_option_of_vision_and_for_a_rectangle():
    options = {"num_classes": 7, "patch_size": 8, "width": 48, "depth": 3, "heads": 6, "mlp_ratio": 2.5}
    favors = {"features": 20, "kernel": "softmax", "feature_norm": "sqrt", "feature_seed": 3}
    assert set(options | favors) == set(SPECS["performer_vision_nano"].knobs)
    check_count("performer_vision_nano", "32x64px", **options, **favors)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", LAYERS)
def test_the_cost_of_a_layer_is_what_is_counted(name, kernel):
    spec = LAYERS[name]
    for options, width in (({}, 64), ({"features": 24, "heads": 4}, 80), ({"features": 7, "heads": 1}, 12)):
        knobs = spec.with_options(options | {"kernel": kernel})
        step = knobs.get("chunk", 1)
        for n in (step, 3 * step):
            with torch.device("meta"):
                layer = resolve(spec.build)(n, width, **knobs)
                counted = count(layer, (torch.empty(1, n, width),))
            assert counted.macs == spec.cost.macs(spec.values(n, width, knobs))
            assert [op for op in counted.uncounted if op.material] == []


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_million_tokens_are_counted_in_a_few_thousand_operators(name, kernel):
    spec, n, width = LAYERS[name], 2**20, 64
    knobs = spec.with_options({"kernel": kernel})
    with torch.device("meta"):
        counted = count(resolve(spec.build)(n, width, **knobs), (torch.empty(1, n, width),))
    assert counted.macs == spec.cost.macs(spec.values(n, width, knobs))
    assert sum(op.calls for op in counted.ops) < 4000  # a causal layer has 8,192 chunks


@pytest.mark.parametrize("name", LAYERS)
def test_layers_mix_tokens_of_any_number(name):
    layer = resolve(LAYERS[name].build)(128, 32, **LAYERS[name].knobs)
    x = torch.randn(2, 77, 32)
    assert layer(x).shape == x.shape


@pytest.mark.parametrize("name", NANO)
def test_every_option_changes_the_model(name):
    others = {
        "num_classes": 7,
        "patch_size": 8,
        "width": 32,
        "depth": 3,
        "heads": 2,
        "mlp_ratio": 2.0,
        "ff_width": 100,
        "features": 32,
        "kernel": "softmax",
        "feature_norm": "sqrt",
        "causal": True,
        "vocab_size": 200,
        "dropout": 0.2,
    }
    assert {*others, "feature_seed"} >= set(SPECS[name].knobs)  # feature_seed: see the features
    usual = on_meta(name)
    for option in set(SPECS[name].knobs) - {"feature_seed"}:
        other = on_meta(name, **{option: others[option]})
        shapes = [[(n, t.shape) for n, t in model.state_dict().items()] for model in (usual, other)]
        assert str(other) != str(usual) or shapes[0] != shapes[1], option


# -- behaviour -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"kernel": "softmax"}, {"features": 0}])
@pytest.mark.parametrize("size", [1, 32, 129])
def test_nano_encodes_texts_of_several_lengths(size, options):
    with torch.no_grad():
        out = build("performer_nano", size, **options)(inputs("performer_nano", size, batch_size=2))
    assert out["hidden"].shape == (2, size, 64)
    assert out["hidden"].isfinite().all()


def test_a_text_of_thousands_of_tokens_needs_no_other_model():
    with torch.no_grad():
        out = build("performer_nano", 4096)(inputs("performer_nano", 4096))
    assert out["hidden"].shape == (1, 4096, 64)
    assert params(on_meta("performer_base", 4096)) == params(on_meta("performer_base", 32))


@pytest.mark.parametrize("size", [8, 32, 48, "16x32px"])
def test_vision_nano_classifies_images_of_several_sizes(size):
    with torch.no_grad():
        logits = build("performer_vision_nano", size)(inputs("performer_vision_nano", size, batch_size=2))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"kernel": "softmax"}])
def test_padded_batch_equals_single_texts(options):
    model = build("performer_nano", **options)
    short, long = inputs("performer_nano", 20), inputs("performer_nano", 50)
    ids = torch.cat([nn.functional.pad(short, (0, 30)), long])
    mask = torch.arange(50) < torch.tensor([[20], [50]])
    with torch.no_grad():
        both = model(ids, mask)["hidden"]
        torch.testing.assert_close(both[:1, :20], model(short)["hidden"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(both[1:], model(long)["hidden"], rtol=1e-4, atol=1e-5)


def test_a_causal_text_knows_no_later_word():
    model, ids = build("performer_nano", causal=True), inputs("performer_nano", 140)
    other = ids.clone()
    other[:, 100:] = 0
    with torch.no_grad():
        torch.testing.assert_close(model(ids)["hidden"][:, :100], model(other)["hidden"][:, :100])


def test_positions_are_interleaved_sines_and_cosines():
    positions = sinusoids(50, 7, torch.device("cpu"))
    assert positions.shape == (50, 7)
    for p, channel in ((0, 0), (3, 0), (49, 4)):
        angle = p / 10_000 ** (channel / 7)
        assert abs(positions[p, channel] - math.sin(angle)) < 1e-5
        assert abs(positions[p, channel + 1] - math.cos(angle)) < 1e-5


@pytest.mark.parametrize("name", NANO)
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_reach_every_parameter(name, kernel):
    model = build(name, kernel=kernel)
    hidden(model(inputs(name))).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", NANO)
def test_meta_models_run_backward(name):
    model = on_meta(name)
    hidden(model(inputs(name, device="meta"))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", NANO)
def test_a_model_made_on_meta_takes_the_state_of_another(name):
    model, x = build(name), inputs(name)
    other = on_meta(name).to_empty(device="cpu")
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(hidden(model(x)), hidden(other(x)))


@pytest.mark.parametrize("name", NANO)
def test_every_input_matters(name):
    model, x = build(name, depth=1), inputs(name)
    embedded = []
    first = model.embedding if name in TEXT else model.patches
    first.register_forward_hook(lambda module, args, out: embedded.append(out) or out.retain_grad())
    hidden(model(x))[0].flatten()[:4].sum().backward()
    assert embedded[0].grad.abs().sum(-1 if name in TEXT else 1).min() > 0


@pytest.mark.parametrize("name", NANO)
def test_models_run_in_float64_and_under_autocast(name):
    x = inputs(name)
    model = build(name)
    with torch.no_grad():
        usual = hidden(model(x))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = hidden(model(x))
        double = hidden(model.double()(x.double() if x.is_floating_point() else x))
    assert double.dtype == torch.float64
    torch.testing.assert_close(usual.double(), double, rtol=1e-4, atol=1e-4)
    assert error(half, double) < 0.1


def test_tokens_of_a_text_are_its_length_and_of_an_image_its_patches_and_the_class_token():
    for name, size, expected in (("performer_base", 512, 512), ("performer_vision_b16", 224, 197)):
        assert resolve(SPECS[name].input.tokens)(size, **SPECS[name].knobs) == expected


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "width 64 cannot have 5 heads"),
        ({"kernel": "gelu"}, "no kernel 'gelu'; expected 'relu' or 'softmax'"),
        ({"kernel": "softmax", "features": 0}, "the softmax kernel needs random features"),
        ({"features": -1}, "cannot be -1 random features"),
        ({"feature_norm": "unit"}, "no feature_norm 'unit'; expected 'chi' or 'sqrt'"),
    ],
)
@pytest.mark.parametrize("make", [build, on_meta])
def test_impossible_options_are_refused(make, options, message):
    with pytest.raises(ZooError, match=message):
        make("performer_nano", **options)


def test_a_layer_without_features_is_refused():
    with pytest.raises(ZooError, match="cannot have 0 random features"):
        resolve(LAYERS["favor"].build)(128, 64, features=0, heads=4, kernel="relu")


def test_a_chunk_without_tokens_is_refused():
    with pytest.raises(ZooError, match="a chunk cannot have 0 tokens"):
        Favor(16, 40, chunk=0)


def test_the_vision_variants_say_that_they_are_not_the_papers():
    assert all("not the paper's" in SPECS[name].notes for name in SPECS if name not in TEXT)


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.published])
def test_published_numbers_are_there(name):
    system, *globs = SPECS[name].published
    assert all(published.of(system, glob) for glob in globs)
