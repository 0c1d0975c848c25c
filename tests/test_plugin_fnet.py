"""The FNet plugin: its mixing against the formula, exact parameters and MACs, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
import zoo_fnet
from models import build, closed_form, macs_of, on_meta, params
from torch import Tensor, nn
from zoo_fnet.model import Attention, fourier_mix
from zoo_fnet.weights import from_transformers

from zoo import ModelSpec, ZooError, published
from zoo.metrics.macs import count
from zoo.spec import resolve

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in zoo_fnet.zoo_models()}
(FOURIER,) = zoo_fnet.zoo_layers()
TEXT = [name for name, spec in SPECS.items() if spec.input.kind == "tokens"]


def inputs(name: str, size: int | str | None = None, batch_size: int = 1, device: str = "cpu") -> Tensor:
    """Make one batch of inputs as the spec says."""
    spec = SPECS[name]
    make = resolve(spec.input.make)
    (x,), _ = make(spec.size(size), batch_size, torch.float32, torch.device(device), None, **spec.input_params({}))
    return x


def dft(n: int) -> Tensor:
    """Return the DFT matrix (n, n): exp(-2 pi i jk / n)."""
    jk = torch.outer(torch.arange(n), torch.arange(n)).double()
    return torch.exp(-2j * math.pi * jk / n)


# -- mixing --------------------------------------------------------------------------------------------------


def test_mixing_is_the_real_part_of_a_transform_over_tokens_and_channels():
    x = torch.randn(2, 6, 10, dtype=torch.float64)
    by_hand = (dft(6) @ x.to(torch.complex128) @ dft(10)).real  # F_N x F_d, both symmetric
    torch.testing.assert_close(fourier_mix(x), by_hand)
    torch.testing.assert_close(fourier_mix(x), torch.fft.fft2(x).real)


def test_the_order_of_the_two_transforms_does_not_matter():
    x = torch.randn(2, 6, 10, dtype=torch.float64)
    channels_first = torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real
    tokens_first = torch.fft.fft(torch.fft.fft(x, dim=-2), dim=-1).real
    torch.testing.assert_close(channels_first, tokens_first)
    torch.testing.assert_close(fourier_mix(x), channels_first)


def test_mixing_ones_puts_everything_into_the_first_place():
    mixed = fourier_mix(torch.ones(1, 4, 8))
    assert mixed[0, 0, 0] == 4 * 8
    assert mixed.abs().sum() == 4 * 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_mixing_keeps_the_dtype_and_computes_at_least_in_float32(dtype):
    x = torch.randn(2, 6, 10).to(dtype)
    wide = x if dtype == torch.float64 else x.float()
    assert torch.equal(fourier_mix(x), torch.fft.fft2(wide).real.to(dtype))


def test_autocast_leaves_the_transform_in_float32():
    x = torch.randn(2, 6, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fourier_mix(x), torch.fft.fft2(x).real)
        assert build("fnet_vision_nano")(inputs("fnet_vision_nano")).isfinite().all()


# -- attention of the hybrid ---------------------------------------------------------------------------------


def softmax_attention(x: Tensor, layer: Attention) -> Tensor:
    """Return what attention should, head by head and token by token."""
    q, k, v = (x @ w.T + b for w, b in zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True))
    d = x.shape[-1] // layer.heads
    heads = []
    for at in range(0, x.shape[-1], d):
        scores = q[..., at : at + d] @ k[..., at : at + d].mT / math.sqrt(d)
        heads.append(scores.exp() / scores.exp().sum(-1, keepdim=True) @ v[..., at : at + d])
    return torch.cat(heads, -1) @ layer.out.weight.T + layer.out.bias


@pytest.mark.parametrize(("n", "heads"), [(1, 1), (7, 3), (8, 2)])
def test_attention_is_that_of_the_formula(n, heads):
    layer, x = Attention(12, heads, 0.1).double().eval(), torch.randn(2, n, 12, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), softmax_attention(x, layer), rtol=0, atol=1e-12)


def test_the_last_layers_of_the_hybrid_attend_and_the_others_transform():
    kinds = [type(layer.mixing).__name__ for layer in on_meta("fnet_hybrid_base").layers]
    assert kinds == ["Fourier"] * 10 + ["Attention"] * 2
    assert on_meta("fnet_hybrid_base").layers[-1].mixing.heads == 12


def test_the_hybrid_has_the_parameters_of_two_attentions_more():
    attention = 4 * 768 * 769  # query, key, value and output, with biases
    assert params(on_meta("fnet_hybrid_base")) == 82_861_056 + 2 * attention == 87_585_792
    assert closed_form("fnet_hybrid_base") - closed_form("fnet_base") == 2 * (4 * 512 * 768**2 + 2 * 512**2 * 768)


def test_the_hybrid_without_attention_is_fnet():
    model, plain = on_meta("fnet_hybrid_base", attention_layers=0), on_meta("fnet_base")
    assert str(model) == str(plain)
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("layers", [-1, 5])
def test_more_attention_than_layers_is_refused(layers):
    with pytest.raises(ZooError, match=f"an FNet of 4 layers cannot have attention in {layers} of them"):
        build("fnet_nano", attention_layers=layers)


def test_a_width_that_does_not_divide_into_heads_is_refused():
    with pytest.raises(ZooError, match="heads of 64 channels; a width of 96 is no multiple"):
        build("fnet_nano", width=96, attention_layers=1)


# -- the layer -----------------------------------------------------------------------------------------------


def layer_of(size: int, width: int, **options: object) -> nn.Module:
    """Build the layer."""
    return resolve(str(FOURIER.build))(size, width, **FOURIER.with_options(options))


def test_the_layer_mixes_and_has_no_parameters():
    layer, x = layer_of(7, 10), torch.randn(2, 7, 10, dtype=torch.float64)
    assert params(layer) == 0
    torch.testing.assert_close(layer(x), torch.fft.fft2(x).real)
    torch.testing.assert_close(layer_of(7, 10, norm="ortho")(x), torch.fft.fft2(x).real / math.sqrt(7 * 10))


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 64), (7, 10), (128, 64), (511, 96), (8192, 768)])
def test_the_layer_costs_what_it_declares(n, d):
    counted = count(layer_of(n, d), (torch.empty(1, n, d, device="meta"),))
    declared = FOURIER.values(n, d, FOURIER.knobs)
    assert counted.macs == FOURIER.cost.macs(declared) == 0
    assert abs(counted.flops_fft - FOURIER.cost.flops_fft(declared)) <= 1  # both are rounded
    assert not [op for op in counted.uncounted if op.material]


def test_an_unknown_norm_is_refused():
    with pytest.raises(ZooError, match="no norm 'forward'; its norms: backward, ortho"):
        layer_of(7, 10, norm="forward")


# -- checkpoints ---------------------------------------------------------------------------------------------


def test_names_of_transformers_become_ours_and_heads_and_buffers_are_left_out():
    names = {
        "embeddings.word_embeddings.weight": "embeddings.word.weight",
        "embeddings.token_type_embeddings.weight": "embeddings.kind.weight",
        "encoder.layer.11.fourier.output.LayerNorm.bias": "layers.11.mixing_norm.bias",
        "encoder.layer.3.output.LayerNorm.weight": "layers.3.norm.weight",
        "pooler.dense.bias": "pooler.bias",
    }
    others = ["cls.predictions.decoder.weight", "fnet.embeddings.position_ids", "embeddings.token_type_ids"]
    for prefix in ("", "fnet."):
        tensors = {name: torch.empty(0) for name in (*(prefix + name for name in names), *others)}
        assert list(from_transformers(tensors, nn.Identity())) == list(names.values())


def test_unknown_names_are_passed_on_as_they_are():
    unknown = ["classifier.weight", "fnet.encoder.layer.0.attention.weight", "fnet.pooler.dense.scale"]
    assert list(from_transformers({name: torch.empty(0) for name in unknown}, nn.Identity())) == unknown


# -- counts --------------------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_port_in_transformers():
    # d (32,000 words + 512 positions + 4 types), LN, projection; layers of 2 LNs and d -> 4 d -> d; pooler
    d = 768
    embeddings = (32_000 + 512 + 4) * d + 2 * d + d * (d + 1)
    layer = 2 * 2 * d + 4 * d * (d + 1) + d * (4 * d + 1)
    assert embeddings + 12 * layer + d * (d + 1) == 82_861_056
    assert params(on_meta("fnet_base")) == 82_861_056
    assert params(on_meta("fnet_large")) == 236_945_408


def test_vision_parameters_are_those_of_vit_without_attention_and_class_token():
    attention = 4 * 768 * 769  # query, key, value and output, with biases
    class_token = 768 + 768  # itself and its position embedding
    assert params(on_meta("fnet_vision_b16")) == 86_567_656 - 12 * attention - class_token


@pytest.mark.parametrize(("name", "expected"), [("fnet_base", 29.294), ("fnet_large", 103.617)])
def test_macs_by_hand_are_those_published(name, expected):
    assert round(closed_form(name) / 1e9, 3) == expected


@pytest.mark.parametrize(("name", "d", "total"), [("fnet_base", 768, 83_486_722), ("fnet_large", 1024, 238_031_106)])
def test_with_the_heads_of_pre_training_parameters_are_the_papers(name, d, total):
    # words: d -> d, LN, a bias for each of 32,000 words, whose embeddings are there; order: d -> 2. 83 M and 238 M
    heads = d * (d + 1) + 2 * d + 32_000 + 2 * (d + 1)
    assert params(on_meta(name)) + heads == params(on_meta(name, pretraining_heads=True)) == total


def test_the_pooler_counts_too():
    d, n = 768, 512
    without = n * d**2 + 12 * 2 * n * d * 4 * d
    assert round(without / 1e9, 3) == 29.293
    assert closed_form("fnet_base") == without + d**2


@pytest.mark.parametrize("name", SPECS)
def test_macs_by_hand_are_those_counted(name):
    assert macs_of(on_meta(name), inputs(name, device="meta")) == closed_form(name)


def test_macs_by_hand_hold_for_every_option():
    options = {"width": 64, "depth": 3, "ff_ratio": 2, "attention_layers": 1, "max_positions": 40}
    options |= {"dropout": 0.0, "pretraining_heads": True}
    assert set(options) == set(SPECS["fnet_nano"].knobs)
    model = on_meta("fnet_nano", 40, **options)
    assert macs_of(model, inputs("fnet_nano", 40, device="meta")) == closed_form("fnet_nano", 40, **options)

    options = {"num_classes": 7, "patch_size": 8, "width": 48, "depth": 3, "mlp_ratio": 2.5}
    assert set(options) == set(SPECS["fnet_vision_nano"].knobs)
    model = on_meta("fnet_vision_nano", "32x64px", **options)
    x = inputs("fnet_vision_nano", "32x64px", device="meta")
    assert macs_of(model, x) == closed_form("fnet_vision_nano", "32x64px", **options)


@pytest.mark.parametrize("name", ["fnet_nano", "fnet_vision_nano"])
def test_every_option_changes_the_model(name):
    others = {
        "num_classes": 7,
        "patch_size": 8,
        "width": 32,
        "depth": 3,
        "mlp_ratio": 2.0,
        "ff_ratio": 2,
        "attention_layers": 1,
        "max_positions": 200,
        "dropout": 0.2,
        "pretraining_heads": True,
    }
    for option in SPECS[name].knobs:
        assert str(on_meta(name, **{option: others[option]})) != str(on_meta(name))


# -- behaviour -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 128, 300])
def test_nano_encodes_texts_of_several_lengths(size):
    with torch.no_grad():
        out = build("fnet_nano", size)(inputs("fnet_nano", size, batch_size=2))
    assert out["hidden"].shape == (2, size, 64)
    assert out["pooled"].shape == (2, 64)
    assert out["hidden"].isfinite().all()
    assert out["pooled"].abs().max() <= 1


@pytest.mark.parametrize("size", [8, 32, 48, "16x32px"])
def test_vision_nano_classifies_images_of_several_sizes(size):
    with torch.no_grad():
        logits = build("fnet_vision_nano", size)(inputs("fnet_vision_nano", size, batch_size=2))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_types_of_token_are_0_when_left_out():
    model, ids = build("fnet_nano"), inputs("fnet_nano")
    with torch.no_grad():
        plain, zero, one = model(ids), model(ids, torch.zeros_like(ids)), model(ids, torch.ones_like(ids))
    assert torch.equal(plain["hidden"], zero["hidden"])
    assert not torch.equal(plain["hidden"], one["hidden"])


@pytest.mark.parametrize(
    ("name", "options"), [("fnet_nano", {}), ("fnet_nano", {"attention_layers": 2}), ("fnet_vision_nano", {})]
)
def test_gradients_reach_every_parameter(name, options):
    model = build(name, **options)
    out = model(inputs(name))
    loss = out.square().sum() if isinstance(out, Tensor) else out["hidden"].sum() + out["pooled"].sum()
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_the_last_of_many_tokens_reaches_the_first_in_one_layer():
    model, ids = build("fnet_nano", 64, depth=1), inputs("fnet_nano", 64)
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % zoo_fnet.VOCABULARY
    with torch.no_grad():
        assert not torch.allclose(model(ids)["pooled"], model(other)["pooled"])


def test_tokens_of_a_text_are_its_length_and_of_an_image_its_patches():
    for name, size, expected in (("fnet_base", 512, 512), ("fnet_vision_b16", 224, 196)):
        assert resolve(SPECS[name].input.tokens)(size, **SPECS[name].knobs) == expected


def test_a_text_longer_than_the_paper_allows_is_refused():
    with pytest.raises(ZooError, match="1024tok is not legal: expected from 1 to 512tok; nearest legal size: 512tok"):
        build("fnet_base", 1024)


def test_a_text_may_be_as_long_as_there_are_positions():
    with pytest.raises(ZooError, match="128tok is not legal: expected from 1 to 64tok; nearest legal size: 64tok"):
        build("fnet_nano", 128, max_positions=64)
    assert on_meta("fnet_base", 1024, max_positions=1024).embeddings.position.weight.shape == (1024, 768)


def test_the_vision_variants_say_that_they_are_not_the_papers():
    assert all("not the paper's" in SPECS[name].notes for name in SPECS if name not in TEXT)


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.published])
def test_published_numbers_are_there(name):
    assert published.of(*SPECS[name].published)
