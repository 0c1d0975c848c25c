"""The ViT plugin: exact parameters and MACs of every variant, checkpoints of three layouts, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import timm
import torch
import torch.nn.functional as F
import zoo_vit
from models import build, closed_form, macs, on_meta, params
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torchvision.models import vision_transformer as torchvision_vit

import zoo
from zoo import ModelSpec, ZooError, published
from zoo.errors import BadWeights
from zoo.spec import resolve
from zoo.weights import load_weights

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in zoo_vit.zoo_models()}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def shaken(model: nn.Module) -> nn.Module:
    """Give every parameter a random value that matters, so that no name can be mixed up unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1 + (parameter.ndim == 1))
    return model.eval()


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return the norm of the difference over the norm of the reference."""
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        # counted apart from this code, off timm 1.0.31; at 518 off the weights of torchvision
        ("vit_b16", 224, 86_567_656),
        ("vit_b16", 384, 86_859_496),
        ("vit_b16", 512, 87_203_560),
        ("vit_b32", 224, 88_224_232),
        ("vit_b32", 384, 88_297_192),
        ("vit_b32", 512, 88_383_208),
        ("vit_l16", 224, 304_326_632),
        ("vit_l16", 384, 304_715_752),
        ("vit_l16", 512, 305_174_504),
        ("vit_l32", 224, 306_535_400),
        ("vit_l32", 384, 306_632_680),
        ("vit_l32", 512, 306_747_368),
        ("vit_h14", 224, 632_045_800),
        ("vit_h14", 518, 633_470_440),
        ("hybrid_vit_b16", 384, 98_950_952),
        ("hybrid_vit_b16", 224, 97_890_112 + 768 * 1000 + 1000),  # counted without its head
        ("hybrid_vit_l32", 384, 329_092_136),  # 329.09 M in timm's tables
    ],
)
def test_parameters_are_exact(name, size, expected):
    assert params(on_meta(name, size)) == expected


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        # patches 196 x 768 x 768; 12 layers of 12 x 197 x 768^2 and 2 x 197^2 x 768; head 768 x 1000
        ("vit_b16", 224, 17.564),
        ("vit_b16", 384, 55.484),
        ("vit_b16", 512, 107.028),
        ("vit_b32", 224, 4.409),
        ("vit_b32", 384, 13.044),
        ("vit_b32", 512, 23.650),
        ("vit_l16", 224, 61.555),
        ("vit_l16", 384, 191.066),
        ("vit_l16", 512, 361.986),
        ("vit_l32", 224, 15.378),
        ("vit_l32", 384, 45.276),
        ("vit_l32", 512, 81.664),
        ("vit_h14", 224, 167.295),
        ("vit_h14", 518, 1016.717),
        ("hybrid_vit_b16", 224, 21.535),
        ("hybrid_vit_b16", 384, 67.156),
    ],
)
def test_macs_by_hand_are_those_published(name, size, expected):
    assert round(closed_form(name, size) / 1e9, 3) == expected


@pytest.mark.parametrize("name", SPECS)
def test_macs_by_hand_are_those_counted(name):
    size = SPECS[name].size()
    assert macs(on_meta(name), 1, 3, *size.pair) == closed_form(name)


def test_macs_by_hand_hold_for_every_option_and_for_a_rectangle():
    options = {"num_classes": 7, "patch_size": 8, "width": 48, "depth": 3, "heads": 6, "mlp_ratio": 2.5}
    model = on_meta("vit_nano", "32x64px", **options)
    assert macs(model, 1, 3, 32, 64) == closed_form("vit_nano", "32x64px", **options)


def test_every_option_changes_the_model():
    usual = str(on_meta("vit_nano"))
    others = {"num_classes": 7, "patch_size": 8, "width": 32, "depth": 3, "mlp_ratio": 2.0}
    assert set(others) | {"heads"} == set(SPECS["vit_nano"].knobs)
    for option, value in others.items():
        assert str(on_meta("vit_nano", **{option: value})) != usual
    assert on_meta("vit_nano", heads=2).blocks[0].attn.num_heads == 2  # the one that no parameter shows


def test_tokens_are_the_patches_and_the_class_token():
    tokens = resolve(SPECS["vit_b16"].input.tokens)
    assert tokens(224, **SPECS["vit_b16"].knobs) == 14 * 14 + 1
    assert tokens((224, 448), **SPECS["vit_b16"].knobs) == 14 * 28 + 1


@pytest.mark.parametrize("size", [8, 32, 48, "16x32px"])
def test_nano_classifies_images_of_several_sizes(size):
    shape = SPECS["vit_nano"].size(size).pair
    with torch.no_grad():
        logits = build("vit_nano", size)(torch.randn(2, 3, *shape))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_a_size_that_cuts_patches_is_refused_with_those_that_do_not():
    with pytest.raises(ZooError, match=r"250px is not legal: expected a multiple of 16.*256px or 240px"):
        build("vit_b16", 250)


def test_a_width_that_does_not_divide_into_heads_is_refused():
    with pytest.raises(ZooError, match="width 64 cannot have 5 heads"):
        build("vit_nano", heads=5)


# -- hybrids -------------------------------------------------------------------------------------------------


def test_macs_of_a_hybrid_by_hand_hold_for_every_option_and_for_sides_that_are_no_multiple():
    options = {
        "num_classes": 7,
        "stages": "2-1-3",  # a stride of 16 where sizes are multiples of 8: maps of odd sides
        "trunk_width": 256,
        "width": 48,
        "depth": 3,
        "heads": 6,
        "mlp_ratio": 2.5,
    }
    assert set(options) == set(SPECS["hybrid_vit_nano"].knobs)
    model = on_meta("hybrid_vit_nano", "40x72px", **options)
    assert macs(model, 1, 3, 40, 72) == closed_form("hybrid_vit_nano", "40x72px", **options)
    tokens = resolve(SPECS["hybrid_vit_nano"].input.tokens)
    assert tokens((40, 72), **options) == model.pos_embed.shape[1] == 3 * 5 + 1


def test_every_option_of_a_hybrid_changes_the_model():
    others = {"num_classes": 7, "stages": "1-2", "trunk_width": 256, "width": 32, "depth": 3, "mlp_ratio": 2.0}
    assert set(others) | {"heads"} == set(SPECS["hybrid_vit_nano"].knobs)
    for option, value in others.items():
        assert str(on_meta("hybrid_vit_nano", **{option: value})) != str(on_meta("hybrid_vit_nano"))
    assert on_meta("hybrid_vit_nano", heads=2).blocks[0].attn.num_heads == 2


@pytest.mark.parametrize(
    ("name", "theirs"), [("hybrid_vit_b16", "vit_base_r50_s16_384"), ("hybrid_vit_l32", "vit_large_r50_s32_384")]
)
def test_a_hybrid_has_the_parameters_of_timms(name, theirs):
    ours = on_meta(name, 384).state_dict()
    with torch.device("meta"):
        reference = timm.create_model(theirs, num_classes=1000).state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in reference.items()}


def test_tokens_of_a_hybrid_are_the_cells_of_its_last_map_and_the_class_token():
    for name, cells in (("hybrid_vit_b16", 14 * 14), ("hybrid_vit_l32", 7 * 7)):
        assert resolve(SPECS[name].input.tokens)(224, **SPECS[name].knobs) == cells + 1


@pytest.mark.parametrize("size", [8, 32, 40, "16x32px"])
def test_hybrid_nano_classifies_images_of_several_sizes(size):
    shape = SPECS["hybrid_vit_nano"].size(size).pair
    with torch.no_grad():
        logits = build("hybrid_vit_nano", size)(torch.randn(2, 3, *shape))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_gradients_reach_every_parameter_of_a_hybrid():
    model = shaken(build("hybrid_vit_nano"))
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if not p.grad.any()] == []


def test_the_last_norm_of_a_unit_starts_at_zero():
    for stage in build("hybrid_vit_nano").patch_embed.backbone.stages:
        assert [float(unit.norm3.weight.detach().abs().max()) for unit in stage.blocks] == [0.0] * len(stage.blocks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": "3-4-6-3-3"}, "stages is '3-4-6-3-3'; expected the blocks of one to four stages"),
        ({"stages": "3-0"}, "stages is '3-0'"),
        ({"trunk_width": 64}, "trunk_width is 64; expected a multiple of 128"),
        ({"heads": 5}, "width 64 cannot have 5 heads"),
    ],
)
def test_a_hybrid_that_cannot_be_is_refused(options, message):
    with pytest.raises(ZooError, match=message):
        build("hybrid_vit_nano", **options)


# -- checkpoints: torchvision --------------------------------------------------------------------------------


def torchvisions(size: int = 32, **options: Any) -> nn.Module:
    """Return torchvision's ViT with the arguments of ``vit_nano``."""
    o = {**SPECS["vit_nano"].knobs, **options}
    return shaken(
        torchvision_vit.VisionTransformer(
            image_size=size,
            patch_size=o["patch_size"],
            num_layers=o["depth"],
            num_heads=o["heads"],
            hidden_dim=o["width"],
            mlp_dim=int(o["mlp_ratio"] * o["width"]),
            num_classes=o["num_classes"],
        )
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"patch_size": 8},
        {"width": 48, "heads": 6},
        {"heads": 2},
        {"mlp_ratio": 2.5},
        {"depth": 2, "num_classes": 7},
    ],
)
def test_outputs_are_those_of_torchvision(tmp_path, options):
    reference = torchvisions(**options)
    torch.save(reference.state_dict(), tmp_path / "theirs.pth")
    model = zoo.create_model("vit_nano", weights=str(tmp_path / "theirs.pth"), **options).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative_error(model(images), reference(images)) < 1e-5
        assert relative_error(model.double()(images.double()), reference.double()(images.double())) < 1e-9


@pytest.mark.parametrize("size", [16, 48])
def test_positions_of_torchvision_are_resampled_as_it_does(tmp_path, size):
    state = torchvisions().state_dict()
    torch.save(state, tmp_path / "theirs.pth")
    model = zoo.create_model("vit_nano", size, weights=str(tmp_path / "theirs.pth")).eval()
    reference = torchvisions(size)
    reference.load_state_dict(torchvision_vit.interpolate_embeddings(size, 4, state))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert relative_error(model(images), reference(images)) < 1e-5
        assert relative_error(model.double()(images.double()), reference.double()(images.double())) < 1e-9


def test_torchvisions_older_names_are_read_too():
    state = torchvisions().state_dict()
    older = {n.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): t for n, t in state.items()}
    assert set(older) != set(state)
    convert = resolve("zoo_vit.weights:from_torchvision")
    model = build("vit_nano")
    new, old = convert(state, model), convert(older, model)
    assert set(new) == set(old) == set(model.state_dict())
    assert all(torch.equal(new[name], old[name]) for name in new)


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"])
def test_torchvisions_variants_fit(name):
    with torch.device("meta"):
        state = getattr(torchvision_vit, name)().state_dict()
    model = on_meta(name.replace("_", "", 2).replace("vit", "vit_"))
    converted = resolve("zoo_vit.weights:from_torchvision")(state, model)
    assert {n: t.shape for n, t in converted.items()} == {n: t.shape for n, t in model.state_dict().items()}


# -- checkpoints: google-research/vision_transformer ---------------------------------------------------------


def as_npz(model: nn.Module) -> dict[str, np.ndarray]:
    """Write a model's parameters as google-research/vision_transformer names and lays them out."""
    arrays: dict[str, np.ndarray] = {}

    def keep(name: str, tensor: Tensor) -> None:
        arrays[name] = tensor.detach().numpy().copy()

    def norm(name: str, layer: Any, shape: tuple[int, ...] = (-1,)) -> None:
        keep(f"{name}/scale", layer.weight.reshape(shape))
        keep(f"{name}/bias", layer.bias.reshape(shape))

    def dense(name: str, layer: Any) -> None:
        keep(f"{name}/kernel", layer.weight.T)
        keep(f"{name}/bias", layer.bias)

    def conv(name: str, layer: Any) -> None:
        keep(f"{name}/kernel", layer.weight.permute(2, 3, 1, 0))

    keep("cls", model.cls_token)
    keep("Transformer/posembed_input/pos_embedding", model.pos_embed)
    conv("embedding", model.patch_embed.proj)
    keep("embedding/bias", model.patch_embed.proj.bias)
    norm("Transformer/encoder_norm", model.norm)
    dense("head", model.head)
    for i, block in enumerate(model.blocks):
        at = f"Transformer/encoderblock_{i}"
        norm(f"{at}/LayerNorm_0", block.norm1)
        norm(f"{at}/LayerNorm_2", block.norm2)
        dense(f"{at}/MlpBlock_3/Dense_0", block.mlp.fc1)
        dense(f"{at}/MlpBlock_3/Dense_1", block.mlp.fc2)
        heads, d = block.attn.num_heads, block.attn.proj.in_features
        attention = f"{at}/MultiHeadDotProductAttention_1"
        for j, part in enumerate(("query", "key", "value")):
            rows = slice(j * d, (j + 1) * d)
            keep(f"{attention}/{part}/kernel", block.attn.qkv.weight[rows].T.reshape(d, heads, d // heads))
            keep(f"{attention}/{part}/bias", block.attn.qkv.bias[rows].reshape(heads, d // heads))
        keep(f"{attention}/out/kernel", block.attn.proj.weight.T.reshape(heads, d // heads, d))
        keep(f"{attention}/out/bias", block.attn.proj.bias)
    if trunk := getattr(model.patch_embed, "backbone", None):
        channels = (1, 1, 1, -1)
        conv("conv_root", trunk.stem.conv)
        norm("gn_root", trunk.stem.norm, channels)
        for i, stage in enumerate(trunk.stages):
            for j, unit in enumerate(stage.blocks):
                at = f"block{i + 1}/unit{j + 1}"
                for k in (1, 2, 3):
                    conv(f"{at}/conv{k}", getattr(unit, f"conv{k}"))
                    norm(f"{at}/gn{k}", getattr(unit, f"norm{k}"), channels)
                if unit.downsample is not None:
                    conv(f"{at}/conv_proj", unit.downsample.conv)
                    norm(f"{at}/gn_proj", unit.downsample.norm, channels)
    return arrays


def padded_same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad as TensorFlow's SAME: ceil(side / stride) places, the odd pixel at the end."""
    for axis in (2, 3):
        side = x.shape[axis]
        missing = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        pair = (missing // 2, missing - missing // 2)
        x = F.pad(x, (0, 0, *pair) if axis == 2 else pair, value=value)
    return x


def by_the_arrays(arrays: dict[str, np.ndarray], images: Tensor) -> Tensor:
    """Classify images (B, 3, H, W) by the structure of the JAX code, in float64, with torch's eps and exact GELU."""
    w = {name: torch.from_numpy(array).double() for name, array in arrays.items()}

    def std_conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = w[f"{name}/kernel"]  # (H, W, in, out)
        var, mean = torch.var_mean(kernel, dim=(0, 1, 2), correction=0)
        kernel = ((kernel - mean) / (var + 1e-8).sqrt()).permute(3, 2, 0, 1)
        return F.conv2d(padded_same(x, kernel.shape[-1], stride), kernel, stride=stride)

    def group_norm(name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, w[f"{name}/scale"].flatten(), w[f"{name}/bias"].flatten(), 1e-5)

    def layer_norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}/scale"], w[f"{name}/bias"], 1e-6)

    def dense(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    x = images.double()
    if "conv_root/kernel" in w:
        x = group_norm("gn_root", std_conv("conv_root", x, 2)).relu()
        x = F.max_pool2d(padded_same(x, 3, 2, -math.inf), 3, 2)
        for stage in range(1, 5):
            for unit in range(1, 10):
                at, stride = f"block{stage}/unit{unit}", 2 if stage > 1 and unit == 1 else 1
                if f"{at}/conv1/kernel" not in w:
                    continue
                y = group_norm(f"{at}/gn1", std_conv(f"{at}/conv1", x)).relu()
                y = group_norm(f"{at}/gn2", std_conv(f"{at}/conv2", y, stride)).relu()
                y = group_norm(f"{at}/gn3", std_conv(f"{at}/conv3", y))
                if f"{at}/conv_proj/kernel" in w:
                    x = group_norm(f"{at}/gn_proj", std_conv(f"{at}/conv_proj", x, stride))
                x = (x + y).relu()
    kernel = w["embedding/kernel"].permute(3, 2, 0, 1)
    x = F.conv2d(x, kernel, w["embedding/bias"], stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls"].expand(len(x), 1, -1), x], 1) + w["Transformer/posembed_input/pos_embedding"]
    depth = sum(name.endswith("LayerNorm_0/scale") for name in w)
    for i in range(depth):
        at = f"Transformer/encoderblock_{i}"
        y, a = layer_norm(f"{at}/LayerNorm_0", x), f"{at}/MultiHeadDotProductAttention_1"
        q, k, v = (
            torch.einsum("bnd,dhe->bhne", y, w[f"{a}/{p}/kernel"]) + w[f"{a}/{p}/bias"][None, :, None]
            for p in ("query", "key", "value")
        )
        scores = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        x = x + torch.einsum("bhne,hed->bnd", scores @ v, w[f"{a}/out/kernel"]) + w[f"{a}/out/bias"]
        y = F.gelu(dense(f"{at}/MlpBlock_3/Dense_0", layer_norm(f"{at}/LayerNorm_2", x)))
        x = x + dense(f"{at}/MlpBlock_3/Dense_1", y)
    return dense("head", layer_norm("Transformer/encoder_norm", x)[:, 0])


def saved(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """Save arrays as an npz file and return its path."""
    np.savez(path, **arrays)
    return str(path)


NANOS = ["vit_nano", "hybrid_vit_nano"]


@pytest.mark.parametrize("name", NANOS)
@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_googles_files_load_as_timm_loads_them(tmp_path, name, prefix):
    source = shaken(build(name))
    file = saved(tmp_path / "jax.npz", {prefix + n: a for n, a in as_npz(source).items()})
    ours, by_timm = zoo.create_model(name, weights=file), build(name)
    by_timm.load_pretrained(file)
    for n, tensor in source.state_dict().items():
        assert torch.equal(ours.state_dict()[n], tensor), n
        assert torch.equal(by_timm.state_dict()[n], tensor), n


@pytest.mark.parametrize("name", NANOS)
@pytest.mark.parametrize("size", ["32px", "24x48px"])
def test_outputs_are_those_of_googles_structure(tmp_path, name, size):
    arrays = as_npz(shaken(build(name, size)))
    model = build(name, size)
    if size == "32px":
        load_weights(model, saved(tmp_path / "jax.npz", arrays), SPECS[name].weights)
    else:  # their files hold the positions of square images, and their code reads no others
        torch.manual_seed(0)
        model = shaken(build(name, size))
        arrays = as_npz(model)
    images = torch.randn(2, 3, *SPECS[name].size(size).pair)
    expected = by_the_arrays(arrays, images)
    with torch.no_grad():
        assert relative_error(model(images), expected) < 1e-5
        assert relative_error(model.double()(images.double()), expected) < 1e-9


@pytest.mark.parametrize("size", ["16px", "48px", "16x64px"])
def test_positions_of_googles_files_are_resampled_as_its_code_does(tmp_path, size):
    arrays = as_npz(shaken(build("vit_nano")))
    model = zoo.create_model("vit_nano", size, weights=saved(tmp_path / "jax.npz", arrays))
    position = arrays["Transformer/posembed_input/pos_embedding"][0]
    down, across = (side // 4 for side in SPECS["vit_nano"].size(size).pair)
    grid = scipy.ndimage.zoom(position[1:].reshape(8, 8, -1), (down / 8, across / 8, 1), order=1)
    expected = np.concatenate([position[:1], grid.reshape(down * across, -1)])
    torch.testing.assert_close(model.pos_embed[0].detach(), torch.from_numpy(expected))


def test_a_layer_before_the_logits_is_reported(tmp_path):
    arrays = as_npz(build("vit_nano")) | {"pre_logits/kernel": np.zeros((64, 64)), "pre_logits/bias": np.zeros(64)}
    with pytest.raises(BadWeights, match="2 not known: pre_logits/kernel, pre_logits/bias"):
        zoo.create_model("vit_nano", weights=saved(tmp_path / "jax.npz", arrays))


def test_a_file_of_other_heads_is_refused_although_every_shape_fits(tmp_path):
    file = saved(tmp_path / "jax.npz", as_npz(build("vit_nano", heads=2)))
    with pytest.raises(BadWeights, match="its attention has 2 heads, expected 4"):
        zoo.create_model("vit_nano", weights=file)


def test_a_file_without_some_keys_is_reported(tmp_path):
    arrays = as_npz(build("vit_nano"))
    del arrays["Transformer/encoderblock_2/MultiHeadDotProductAttention_1/key/kernel"]
    with pytest.raises(BadWeights, match=r"1 missing: blocks.2.attn.qkv.weight; 2 not known: .*query/kernel"):
        zoo.create_model("vit_nano", weights=saved(tmp_path / "jax.npz", arrays))


# -- checkpoints: timm and our own ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NANOS)
@pytest.mark.parametrize("size", ["16px", "48px", "24x48px"])
def test_positions_of_timm_are_resampled_as_timm_does(tmp_path, name, size):
    source = shaken(build(name))
    torch.save(source.state_dict(), tmp_path / "timm.pth")
    model = zoo.create_model(name, size, weights=str(tmp_path / "timm.pth"))
    expected = resample_abs_pos_embed(source.pos_embed, model.patch_embed.grid_size)
    torch.testing.assert_close(model.pos_embed, expected, check_stride=False)


def test_what_a_rectangle_saves_it_loads(tmp_path):
    source = shaken(build("vit_nano", "16x64px"))  # 64 patches, as many as a square of 32px has
    torch.save(source.state_dict(), tmp_path / "own.pth")
    model = zoo.create_model("vit_nano", "16x64px", weights=str(tmp_path / "own.pth"))
    assert torch.equal(model.pos_embed, source.pos_embed)


@pytest.mark.parametrize("name", NANOS)
def test_every_layout_is_told_by_its_key(tmp_path, name):
    model = build(name)
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    saved(tmp_path / "jax.npz", as_npz(model))
    torch.save(torchvisions().state_dict(), tmp_path / "torchvision.pth")
    for layout in SPECS[name].weights:
        (file,) = tmp_path.glob(f"{layout.id}.*")
        assert load_weights(build(name), file, SPECS[name].weights).id == layout.id


# -- published numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.published])
def test_published_numbers_are_there(name):
    assert published.of(*SPECS[name].published)
