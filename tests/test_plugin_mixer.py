"""The MLP-Mixer plugin: the formula of the paper, exact parameters and MACs, checkpoints, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo_mixer
from models import build, closed_form, macs, on_meta, params
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor, nn

from zoo import ModelSpec, ZooError, load_weights, published
from zoo.metrics.macs import count
from zoo.spec import resolve

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in zoo_mixer.zoo_models()}
WEIGHTS = SPECS["mixer_nano"].weights
(TOKEN_MLP,) = zoo_mixer.zoo_layers()
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


# -- the formula, over arrays in the layout of the JAX original ----------------------------------------------


def jax_arrays(
    n: int, classes: int, patch: int, d: int, depth: int, token_hidden: int, channel_hidden: int
) -> dict[str, np.ndarray]:
    """Draw the arrays of a Mixer as its JAX original names and shapes them: kernels are (in, out), (H, W, in, out)."""
    shapes: dict[str, tuple[int, ...]] = {"stem/kernel": (patch, patch, 3, d), "stem/bias": (d,)}
    for i in range(depth):
        for norm in ("LayerNorm_0", "LayerNorm_1"):
            shapes |= {f"MixerBlock_{i}/{norm}/scale": (d,), f"MixerBlock_{i}/{norm}/bias": (d,)}
        for mlp, width, hidden in (("token_mixing", n, token_hidden), ("channel_mixing", d, channel_hidden)):
            for dense, (before, after) in {"Dense_0": (width, hidden), "Dense_1": (hidden, width)}.items():
                name = f"MixerBlock_{i}/{mlp}/{dense}"
                shapes |= {f"{name}/kernel": (before, after), f"{name}/bias": (after,)}
    shapes |= {"pre_head_layer_norm/scale": (d,), "pre_head_layer_norm/bias": (d,)}
    shapes |= {"head/kernel": (d, classes), "head/bias": (classes,)}
    draw = np.random.default_rng(5)
    # what fans in is the second last axis of a kernel; norms scatter about 1
    return {
        name: draw.normal(float("scale" in name), 0.1 if len(s) == 1 else s[-2] ** -0.5, s).astype(np.float32)
        for name, s in shapes.items()
    }


def formula(arrays: dict[str, np.ndarray], image: Tensor) -> Tensor:
    """Return the logits of images (B, 3, H, W), worked out from the arrays as the paper writes them."""
    a = {name: torch.from_numpy(array).to(image.dtype) for name, array in arrays.items()}
    patch = a["stem/kernel"].shape[0]
    rows, columns = image.shape[2] // patch, image.shape[3] // patch
    cut = image.reshape(len(image), 3, rows, patch, columns, patch)
    x = torch.einsum("bcrhsw,hwcd->brsd", cut, a["stem/kernel"]).flatten(1, 2) + a["stem/bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * a[f"{name}/scale"] + a[f"{name}/bias"]
        )

    def mlp(x: Tensor, name: str) -> Tensor:
        for i in (0, 1):
            x = torch.einsum("...i,io->...o", x, a[f"{name}/Dense_{i}/kernel"]) + a[f"{name}/Dense_{i}/bias"]
            x = x * (1 + torch.erf(x / 2**0.5)) / 2 if i == 0 else x
        return x

    for i in range(sum(name.endswith("LayerNorm_0/scale") for name in a)):
        mixed = norm(x, f"MixerBlock_{i}/LayerNorm_0")
        columns_mixed = [mlp(mixed[:, :, c], f"MixerBlock_{i}/token_mixing") for c in range(mixed.shape[2])]
        x = x + torch.stack(columns_mixed, dim=2)
        x = x + mlp(norm(x, f"MixerBlock_{i}/LayerNorm_1"), f"MixerBlock_{i}/channel_mixing")
    pooled = norm(x, "pre_head_layer_norm").sum(1) / x.shape[1]
    return pooled @ a["head/kernel"] + a["head/bias"]


def save(arrays: dict[str, np.ndarray], folder: Path) -> Path:
    """Write an npz file."""
    np.savez(folder / "mixer.npz", **arrays)
    return folder / "mixer.npz"


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ("32px", {}),
        ("12px", {"depth": 2}),  # 3 x 3 tokens
        ("4px", {"depth": 1}),  # one token
        ("16x56px", {"num_classes": 7, "patch_size": 8, "width": 24, "depth": 3}),  # 2 x 7
        ("20px", {"width": 30, "depth": 2, "token_ratio": 1.5, "channel_ratio": 2.5}),  # 5 x 5
    ],
)
def test_logits_are_those_of_the_formula_with_the_same_file(size, options, dtype, tmp_path):
    o = {**SPECS["mixer_nano"].knobs, **options}
    n = resolve(SPECS["mixer_nano"].input.tokens)(SPECS["mixer_nano"].size(size).native, **o)
    hidden = int(o["token_ratio"] * o["width"]), int(o["channel_ratio"] * o["width"])
    arrays = jax_arrays(n, o["num_classes"], o["patch_size"], o["width"], o["depth"], *hidden)
    model = build("mixer_nano", size, **options)
    assert load_weights(model, save(arrays, tmp_path), WEIGHTS).id == "jax"
    image = torch.randn(2, 3, *SPECS["mixer_nano"].size(size).pair, dtype=dtype)
    with torch.no_grad():
        assert (model.to(dtype)(image) - formula(arrays, image)).abs().max() < TOLERANCE[dtype]


# -- checkpoints ---------------------------------------------------------------------------------------------


def named_as_in_jax(model: nn.Module) -> dict[str, np.ndarray]:
    """Return the parameters of timm's model under the names of the JAX original, layer by layer."""
    arrays = {}
    layers = {"stem": model.stem.proj, "pre_head_layer_norm": model.norm, "head": model.head}
    for i, block in enumerate(model.blocks):
        layers |= {f"MixerBlock_{i}/LayerNorm_0": block.norm1, f"MixerBlock_{i}/LayerNorm_1": block.norm2}
        for name, mlp in (("token_mixing", block.mlp_tokens), ("channel_mixing", block.mlp_channels)):
            layers |= {f"MixerBlock_{i}/{name}/Dense_0": mlp.fc1, f"MixerBlock_{i}/{name}/Dense_1": mlp.fc2}
    for name, layer in layers.items():
        weight = layer.weight.detach()
        if isinstance(layer, nn.LayerNorm):
            arrays[f"{name}/scale"] = weight.numpy()
        else:
            arrays[f"{name}/kernel"] = (weight.T if weight.ndim == 2 else weight.permute(2, 3, 1, 0)).numpy()
        arrays[f"{name}/bias"] = layer.bias.detach().numpy()
    return arrays


def timm_model(image_size: int = 32, **options: int) -> nn.Module:
    """Build timm's own model in the shape of ``mixer_nano``, with noise on every parameter."""
    model = MlpMixer(10, image_size, patch_size=4, num_blocks=5, embed_dim=64, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the head starts at zero, norms at one
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def test_a_file_of_timm_and_one_of_jax_give_the_same_model(tmp_path):
    reference, from_timm, from_jax = timm_model(), build("mixer_nano"), build("mixer_nano")
    torch.save(reference.state_dict(), tmp_path / "timm.pth")
    assert load_weights(from_timm, tmp_path / "timm.pth", WEIGHTS).id == "timm"
    assert load_weights(from_jax, save(named_as_in_jax(reference), tmp_path), WEIGHTS).id == "jax"
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(from_timm(images), reference(images))
        assert torch.equal(from_jax(images), reference(images))


def test_the_file_of_the_first_jax_code_has_the_names_of_every_parameter():
    model = on_meta("mixer_b16")
    arrays = {
        name: torch.empty(array.shape, device="meta")
        for name, array in jax_arrays(196, 1000, 16, 768, 12, 384, 3072).items()
    }
    converted = resolve(WEIGHTS[1].convert)(arrays, model)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize("layout", ["timm.pth", "mixer.npz"])
def test_a_file_of_another_resolution_is_refused_with_both_shapes(layout, tmp_path):
    reference, model = timm_model(32), build("mixer_nano", 48)
    torch.save(reference.state_dict(), tmp_path / "timm.pth")
    save(named_as_in_jax(reference), tmp_path)
    before = model.head.weight.clone()
    reason = r"fc1.weight is 32x64, for 64 patches, expected 32x144; a Mixer is built for one resolution"
    with pytest.raises(ZooError, match=reason):
        load_weights(model, tmp_path / layout, WEIGHTS)
    assert torch.equal(model.head.weight, before)
    assert "token-mixing MLPs are as wide as the patches" in SPECS["mixer_nano"].sizes.rebuilds


def test_names_that_are_not_known_and_parts_that_are_missing_are_named(tmp_path):
    arrays = named_as_in_jax(timm_model())
    del arrays["head/bias"]
    arrays["MixerBlock_0/Attention_0/kernel"] = arrays["head/kernel"]
    with pytest.raises(ZooError, match=r"1 missing: head.bias; 1 not known: MixerBlock_0/Attention_0/kernel"):
        load_weights(build("mixer_nano"), save(arrays, tmp_path), WEIGHTS)


def test_a_head_for_other_classes_is_refused_with_its_shape(tmp_path):
    arrays = named_as_in_jax(timm_model())
    with pytest.raises(ZooError, match=r"head.weight is 10x64, expected 7x64"):
        load_weights(build("mixer_nano", num_classes=7), save(arrays, tmp_path), WEIGHTS)


# -- the layer -----------------------------------------------------------------------------------------------


def layer_of(n: int, width: int, **options: object) -> nn.Module:
    """Build the layer."""
    return resolve(str(TOKEN_MLP.build))(n, width, **TOKEN_MLP.with_options(options))


@pytest.mark.parametrize(("n", "d", "hidden"), [(1, 1, 1), (7, 10, 3), (49, 16, 256)])
def test_the_layer_is_one_mlp_over_the_tokens_of_each_channel(n, d, hidden):
    layer = layer_of(n, d, hidden=hidden).double()
    x = torch.randn(2, n, d, dtype=torch.float64)
    fc1, fc2 = layer.mlp_tokens.fc1, layer.mlp_tokens.fc2
    with torch.no_grad():
        mixed = layer(x)
        for c in range(d):
            by_hand = F.gelu(x[:, :, c] @ fc1.weight.T + fc1.bias) @ fc2.weight.T + fc2.bias
            torch.testing.assert_close(mixed[:, :, c], by_hand)


@pytest.mark.parametrize(("n", "d", "hidden"), [(1, 1, 1), (7, 10, 3), (196, 768, 384)])
def test_the_layer_costs_what_it_declares(n, d, hidden):
    with torch.device("meta"):
        counted = count(layer_of(n, d, hidden=hidden), (torch.empty(1, n, d),))
    assert counted.macs == TOKEN_MLP.cost.macs(TOKEN_MLP.values(n, d, {"hidden": hidden})) == 2 * n * hidden * d
    assert not [op for op in counted.uncounted if op.material]


def test_the_layer_is_the_token_mixing_of_the_model():
    model, layer = build("mixer_nano"), layer_of(64, 64, hidden=32)
    names = {name: tensor.shape for name, tensor in model.blocks[0].state_dict(prefix="").items()}
    assert {name: tensor.shape for name, tensor in layer.state_dict().items()}.items() <= names.items()


# -- counts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        # counted apart from this code, off timm 1.0.31
        ("mixer_s32", 224, 19_104_624),
        ("mixer_s16", 224, 18_528_264),
        ("mixer_s16", 256, 18_774_504),
        ("mixer_s16", 384, 20_087_784),
        ("mixer_b32", 224, 60_293_428),
        ("mixer_b16", 224, 59_880_472),
        ("mixer_l32", 224, 206_939_264),
        ("mixer_l16", 224, 208_196_168),
        ("mixer_h14", 224, 432_350_952),
    ],
)
def test_parameters_are_exact(name, size, expected):
    assert params(on_meta(name, size)) == expected


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.published])
def test_parameters_without_the_head_are_those_the_paper_prints(name):
    (printed,) = [p.value for p in published.of(*SPECS[name].published[:2]) if p.metric == "params"]
    model = on_meta(name)
    assert round((params(model) - params(model.head)) / 1e6) == int(printed)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("mixer_s32", 224, 1.002),
        ("mixer_s16", 224, 3.777),
        ("mixer_s16", 256, 4.933),
        ("mixer_s16", 384, 11.099),
        ("mixer_b32", 224, 3.238),
        # patches 196 x 768 x 768; 12 layers of 2 x 196 x 768 x (384 + 3072); head 768 x 1000
        ("mixer_b16", 224, 12.602),
        ("mixer_l32", 224, 11.253),
        ("mixer_l16", 224, 44.548),
        ("mixer_h14", 224, 120.990),
    ],
)
def test_macs_by_hand_are_those_published(name, size, expected):
    assert round(closed_form(name, size) / 1e9, 3) == expected


@pytest.mark.parametrize("name", SPECS)
def test_macs_by_hand_are_those_counted(name):
    size = SPECS[name].size()
    assert macs(on_meta(name), 1, 3, *size.pair) == closed_form(name)


def test_macs_by_hand_hold_for_every_option_and_for_a_rectangle():
    options = {
        "num_classes": 7,
        "patch_size": 8,
        "width": 48,
        "depth": 3,
        "token_ratio": 1.5,
        "channel_ratio": 2.5,
    }
    model = on_meta("mixer_nano", "32x64px", **options)
    assert macs(model, 1, 3, 32, 64) == closed_form("mixer_nano", "32x64px", **options)


def test_every_option_changes_the_model():
    usual = str(on_meta("mixer_nano"))
    others = {
        "num_classes": 7,
        "patch_size": 8,
        "width": 32,
        "depth": 3,
        "token_ratio": 1.0,
        "channel_ratio": 2.0,
    }
    assert set(others) == set(SPECS["mixer_nano"].knobs)
    for option, value in others.items():
        assert str(on_meta("mixer_nano", **{option: value})) != usual


def test_macs_are_linear_in_the_tokens_while_parameters_grow():
    head = 512 * 1000
    once, four_times = closed_form("mixer_s16", 224) - head, closed_form("mixer_s16", 448) - head
    assert four_times == 4 * once
    # 8 layers of two token MLP matrices 256 x n and a bias of n: n grows from 196 to 256
    assert params(on_meta("mixer_s16", 256)) - params(on_meta("mixer_s16", 224)) == 8 * 60 * (2 * 256 + 1)


def test_tokens_are_the_patches():
    tokens = resolve(SPECS["mixer_b16"].input.tokens)
    assert tokens(224, **SPECS["mixer_b16"].knobs) == 14 * 14
    assert tokens((224, 448), **SPECS["mixer_b16"].knobs) == 14 * 28


@pytest.mark.parametrize("size", [8, 32, 48, "16x32px"])
def test_nano_classifies_images_of_several_sizes(size):
    shape = SPECS["mixer_nano"].size(size).pair
    with torch.no_grad():
        logits = build("mixer_nano", size)(torch.randn(2, 3, *shape))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_gradients_reach_every_parameter():
    # the head starts at zero: what stands before it gets a gradient once it has moved
    model = build("mixer_nano")
    nn.init.normal_(model.head.weight)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_size_that_cuts_patches_is_refused_with_those_that_do_not():
    with pytest.raises(ZooError, match=r"230px is not legal: expected a multiple of 14.*224px or 238px"):
        build("mixer_h14", 230)
