"""The Swin plugin: windows against the formula, exact parameters and MACs, padding, checkpoints."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
import zoo_swin
from models import build, closed_form, macs, macs_of, on_meta, params
from timm.layers import resize_rel_pos_bias_table_simple
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torchvision.models import swin_transformer as torchvision_swin
from zoo_swin import weights
from zoo_swin.layer import ShiftedWindows, attend_in_windows, shift_mask

import zoo
from zoo import ModelSpec, ZooError, published
from zoo.errors import BadWeights
from zoo.spec import resolve
from zoo.weights import check_fit, load_weights

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in zoo_swin.zoo_models()}
(LAYER,) = zoo_swin.zoo_layers()
# Four stages with windows of 7 as Swin-T has them, but narrow.
NARROW = {"width": 24, "heads": "1-2-3-6", "depths": "2-2-2-2", "num_classes": 10}


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
    return float((ours - theirs).detach().norm() / theirs.detach().norm())


# -- counts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # counted apart from this code, off timm 1.0.31
        ("swin_t", 28_288_354),
        ("swin_s", 49_606_258),
        ("swin_b", 87_768_224),
        ("swin_l", 196_532_476),
        ("swin_b_w12", 87_903_584),
        ("swin_l_w12", 196_735_516),
    ],
)
def test_parameters_are_exact(name, expected):
    assert params(on_meta(name)) == expected


def test_wider_windows_only_grow_the_tables():
    # (2 M - 1)^2 relative positions: 529 instead of 169, for 4, 8, 16, 32 heads in 2, 2, 18, 2 blocks
    assert params(on_meta("swin_b_w12")) - params(on_meta("swin_b")) == 360 * (2 * 4 + 2 * 8 + 18 * 16 + 2 * 32)


def test_parameters_do_not_depend_on_a_size_that_holds_a_window():
    assert params(on_meta("swin_t", 224)) == params(on_meta("swin_t", 256)) == params(on_meta("swin_t", "224x512px"))


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        # stage: depth x (12 n C^2 + 2 n 49 C), n from 56^2 to 7^2, C from 96 to 768; mergers n/4 x 4 C x 2 C
        ("swin_t", 224, 4.491),
        ("swin_s", 224, 8.741),
        ("swin_b", 224, 15.431),
        ("swin_l", 224, 34.476),
        ("swin_b_w12", 384, 47.083),
        ("swin_l_w12", 384, 103.919),
        # the maps of 64, 32, 16, 8 are padded to 70, 35, 21, 14: not 4.491 x (256 / 224)^2 = 5.866
        ("swin_t", 256, 7.345),
    ],
)
def test_macs_by_hand_are_those_published(name, size, expected):
    assert round(closed_form(name, size) / 1e9, 3) == expected


def test_a_multiple_of_the_clean_size_costs_a_multiple():
    head = 768 * 1000
    assert closed_form("swin_t", 448) - head == 4 * (closed_form("swin_t", 224) - head)


@pytest.mark.parametrize("name", SPECS)
def test_macs_by_hand_are_those_counted(name):
    for size in (str(SPECS[name].size()), "256px", "384px", "512px", "64x96px"):
        at = SPECS[name].size(size)
        assert macs(on_meta(name, size, depths=shallow(name)), 1, 3, *at.pair) == closed_form(
            name, size, depths=shallow(name)
        )


def shallow(name: str) -> str:
    """Return two blocks a stage, one with a shift: more of them are only counted more often."""
    return "-".join("2" for _ in str(SPECS[name].knobs["depths"]).split("-"))


@pytest.mark.parametrize("name", ["swin_t", "swin_b_w12"])
def test_macs_by_hand_hold_for_the_whole_depth(name):
    assert macs(on_meta(name), 1, 3, *SPECS[name].size().pair) == closed_form(name)


def test_macs_by_hand_hold_for_every_option_and_for_a_rectangle():
    options = {
        "num_classes": 7,
        "patch_size": 4,
        "width": 24,
        "depths": "1-3",
        "heads": "2-3",
        "window": 3,
        "mlp_ratio": 2.5,
        "drop_path": 0.1,
    }
    assert set(options) == set(SPECS["swin_nano"].knobs)
    model = on_meta("swin_nano", "40x64px", **options)
    assert macs(model, 1, 3, 40, 64) == closed_form("swin_nano", "40x64px", **options)


def test_every_option_changes_the_model():
    others = {
        "num_classes": 7,
        "patch_size": 4,
        "width": 64,
        "depths": "2-2-4",
        "mlp_ratio": 2.0,
        "drop_path": 0.1,
    }
    assert set(others) | {"heads", "window"} == set(SPECS["swin_nano"].knobs)
    for option, value in others.items():
        assert str(on_meta("swin_nano", **{option: value})) != str(on_meta("swin_nano"))
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    assert on_meta("swin_nano", heads="2-2-4").state_dict()[table].shape == (49, 2)
    assert on_meta("swin_nano", window=8).state_dict()[table].shape == (225, 1)


def test_tokens_are_the_patches_before_they_are_merged():
    tokens = resolve(SPECS["swin_t"].input.tokens)
    assert tokens(224, **SPECS["swin_t"].knobs) == 56 * 56
    assert tokens((224, 448), **SPECS["swin_t"].knobs) == 56 * 112


# -- windows -------------------------------------------------------------------------------------------------


def by_the_formula(x: Tensor, layer: nn.Module, shift: tuple[int, int], barrier: float) -> Tensor:
    """Attend within shifted windows, token by token: softmax(q k / sqrt(d_h) + bias of the relative position) v.

    Two tokens of a window that the roll made neighbours lie further apart in the map than in the window.
    """
    _, height, width, d = x.shape
    (h, w), heads = layer.window_size, layer.num_heads
    rows, columns = math.ceil(height / h) * h, math.ceil(width / w) * w
    padded = x.new_zeros(len(x), rows, columns, d)
    padded[:, :height, :width] = x
    q, k, v = (
        t.unflatten(-1, (heads, -1)) for t in layer.qkv(padded).chunk(3, dim=-1)
    )  # (B, rows, columns, heads, d_h)
    table = layer.relative_position_bias_table.view(2 * h - 1, 2 * w - 1, heads)
    mixed = torch.zeros_like(q)
    for r in range(rows):
        for c in range(columns):
            at = ((r - shift[0]) % rows, (c - shift[1]) % columns)  # where the roll puts the token
            scores, values = [], []
            for other_r in range(rows):
                for other_c in range(columns):
                    to = ((other_r - shift[0]) % rows, (other_c - shift[1]) % columns)
                    if (at[0] // h, at[1] // w) != (to[0] // h, to[1] // w):
                        continue
                    dr, dc = at[0] - to[0], at[1] - to[1]
                    score = (q[:, r, c] * k[:, other_r, other_c]).sum(-1) / math.sqrt(d / heads)
                    torn = (dr, dc) != (r - other_r, c - other_c)
                    scores.append(score + table[dr + h - 1, dc + w - 1] + (barrier if torn else 0))
                    values.append(v[:, other_r, other_c])
            p = torch.stack(scores).softmax(0)  # (m^2, B, heads)
            mixed[:, r, c] = (p[..., None] * torch.stack(values)).sum(0)
    return layer.proj(mixed.flatten(-2))[:, :height, :width]


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("size", [(8, 12), (4, 8), (4, 4)])
def test_windows_are_those_of_the_formula(size, shift):
    layer = shaken(ShiftedWindows(size, 12, 4, 3, shift)).double()
    x = torch.randn(2, size[0] * size[1], 12, dtype=torch.float64)
    moved = tuple(2 if shift and side > 4 else 0 for side in size)
    expected = by_the_formula(x.unflatten(1, size), layer.attention, moved, -100.0)
    torch.testing.assert_close(layer(x).unflatten(1, size), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(5, 7), (6, 4), (9, 8)])
def test_windows_of_a_padded_map_are_those_of_the_formula(size):
    layer = shaken(ShiftedWindows((12, 12), 8, 4, 2, True)).double()
    padded = tuple(math.ceil(side / 4) * 4 for side in size)
    mask = shift_mask(padded, (4, 4), (2, 2)).double()
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    out = attend_in_windows(x, layer.attention, (2, 2), mask)
    torch.testing.assert_close(out, by_the_formula(x, layer.attention, (2, 2), -100.0), rtol=1e-9, atol=1e-9)


def test_the_mask_is_minus_100_and_not_minus_infinity():
    layer = shaken(ShiftedWindows((8, 8), 8, 4, 2, True)).double()
    with torch.no_grad():
        layer.attention.relative_position_bias_table.mul_(1000)  # biases that lift some scores over the barrier
    x = torch.randn(1, 64, 8, dtype=torch.float64)
    at_100, at_infinity = (
        by_the_formula(x.unflatten(1, (8, 8)), layer.attention, (2, 2), barrier).flatten(1, 2)
        for barrier in (-100.0, -math.inf)
    )
    torch.testing.assert_close(layer(x), at_100, rtol=1e-9, atol=1e-9)
    assert relative_error(layer(x), at_infinity) > 0.01


@pytest.mark.parametrize("size", [224, 256, "224x448px", "64x96px"])
def test_the_mask_is_timms(size):
    blocks = [m for m in build("swin_t", size, **NARROW).modules() if type(m).__name__ == "Block"]
    for block in blocks:
        if block.attn_mask is not None:
            padded = tuple(math.ceil(s / w) * w for s, w in zip(block.input_resolution, block.window_size, strict=True))
            assert torch.equal(shift_mask(padded, block.window_size, block.shift_size), block.attn_mask)
    assert sum(block.attn_mask is not None for block in blocks) >= 2


def reach(size: tuple[int, int], *layers: nn.Module) -> Tensor:
    """Return which tokens (N, N) the output of some layers in a row depends on."""

    n = size[0] * size[1]
    x = torch.randn(1, n, 8, dtype=torch.float64).repeat(n, 1, 1).requires_grad_(True)
    y = x
    for layer in layers:
        y = layer(y)
    (grad,) = torch.autograd.grad(y.sum(-1).diagonal().sum(), x)  # sample i is asked for its token i
    return grad.abs().amax(-1) > 1e-20  # a barrier of -100 leaves 1e-44


def test_a_token_reaches_its_window_and_across_only_by_a_shift():
    size = (8, 8)
    plain, shifted = (shaken(ShiftedWindows(size, 8, 4, 2, shift)).double() for shift in (False, True))
    of_window = torch.tensor([(r // 4) * 2 + c // 4 for r in range(8) for c in range(8)])
    assert torch.equal(reach(size, plain), of_window[:, None] == of_window)
    assert torch.equal(reach(size, plain, plain), of_window[:, None] == of_window)
    assert reach(size, plain, shifted).sum() > reach(size, plain).sum()


@pytest.mark.parametrize("side", [16, 19])
def test_no_token_reaches_across_the_seam_of_the_roll(side):
    layer = shaken(ShiftedWindows((20, 20), 8, 5, 2, True)).double()
    x = torch.randn(1, side, side, 8, dtype=torch.float64, requires_grad=True)
    out = attend_in_windows(x, layer.attention, (2, 2), shift_mask((20, 20), (5, 5), (2, 2)).double())
    (grad,) = torch.autograd.grad(out[:, -1].sum(), x)  # of the last row
    assert grad[:, : side - 5].abs().max() < 1e-20
    assert grad[:, -1].abs().max() > 1e-3


def test_gradients_reach_the_layers_parameters_and_every_token():
    layer = shaken(ShiftedWindows((14, 7), 16, 7, 4, True))
    x = torch.randn(2, 98, 16, requires_grad=True)
    (layer(x) * torch.randn(2, 98, 16)).sum().backward()
    assert [name for name, p in layer.named_parameters() if not p.grad.any()] == []
    assert x.grad.abs().sum(-1).min() > 0


@pytest.mark.parametrize(("window", "heads", "width"), [(7, 4, 32), (4, 2, 48)])
def test_the_layer_costs_what_it_says(window, heads, width):
    options = {"window": window, "heads": heads, "shift": True}
    size = (2 * window, 3 * window)
    with torch.device("meta"):
        layer = resolve(LAYER.build)(size, width, **options)
    n = 6 * window**2
    expected = 4 * n * width**2 + 2 * n * window**2 * width
    assert macs_of(layer, torch.empty(1, n, width, device="meta")) == expected
    assert LAYER.cost.macs(LAYER.values(size, width, options)) == expected


def test_a_layer_of_one_window_is_not_shifted():
    assert ShiftedWindows((7, 7), 8, 7, 2, True).mask is None
    assert ShiftedWindows((7, 14), 8, 7, 2, True).shift == (0, 3)


# -- against others ------------------------------------------------------------------------------------------


def theirs() -> nn.Module:
    """Return torchvision's Swin, as narrow as ours."""
    model = torchvision_swin.SwinTransformer(
        [4, 4], 24, [2, 2, 2, 2], [1, 2, 3, 6], [7, 7], num_classes=10, stochastic_depth_prob=0.0
    )
    return shaken(model)


@pytest.mark.parametrize("size", ["224px", "256px", "224x256px"])  # clean, padded, both
def test_outputs_are_those_of_torchvision(tmp_path, size):
    reference = theirs()
    torch.save(reference.state_dict(), tmp_path / "theirs.pth")
    model = zoo.create_model("swin_t", size, weights=str(tmp_path / "theirs.pth"), **NARROW).eval()
    images = torch.randn(1, 3, *SPECS["swin_t"].size(size).pair)
    with torch.no_grad():
        assert relative_error(model(images), reference(images)) < 1e-5
        assert relative_error(model.double()(images.double()), reference.double()(images.double())) < 1e-9


@pytest.mark.parametrize("variant", ["swin_t", "swin_s", "swin_b"])
def test_torchvisions_variants_fit(variant):
    with torch.device("meta"):
        reference = getattr(torchvision_swin, variant)()
    model = on_meta(variant)
    check_fit(model, weights.from_torchvision(reference.state_dict(), model), variant, ())
    assert params(model) == params(reference)


def timms(size: object, window: int = 7) -> nn.Module:
    """Return timm's Swin, as narrow as ours."""
    model = SwinTransformer(
        img_size=size, embed_dim=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 6), window_size=window, num_classes=10
    )
    return shaken(model)


@pytest.mark.parametrize("size", [224, (224, 448)])
def test_outputs_are_timms_where_nothing_is_padded(tmp_path, size):
    reference = timms(size)
    torch.save(reference.state_dict(), tmp_path / "timm.pth")
    text = f"{size}px" if isinstance(size, int) else f"{size[0]}x{size[1]}px"
    model = zoo.create_model("swin_t", text, weights=str(tmp_path / "timm.pth"), **NARROW).eval()
    images = torch.randn(1, 3, *SPECS["swin_t"].size(text).pair)
    with torch.no_grad():
        assert relative_error(model(images), reference(images)) < 1e-5


def as_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Relabel timm's names as the authors' files have them, with the buffers that these hold."""
    files: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("head.fc."):
            name = name.replace("head.fc.", "head.")
        if found := re.match(r"layers\.([123])\.downsample\.(.*)", name):
            name = f"layers.{int(found[1]) - 1}.downsample.{found[2]}"
        files[name] = tensor
        if name.endswith("relative_position_bias_table"):
            block = name.removesuffix(".attn.relative_position_bias_table")
            files[f"{block}.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
            if block.endswith("1"):
                files[f"{block}.attn_mask"] = torch.zeros(4, 49, 49)
    return files


def test_the_authors_files_load_under_their_key(tmp_path):
    reference = timms(224)
    torch.save({"model": as_published(reference.state_dict())}, tmp_path / "official.pth")
    model = zoo.create_model("swin_t", weights=str(tmp_path / "official.pth"), **NARROW).eval()
    for name, tensor in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_window_of_another_size_has_its_tables_resampled_bicubically(tmp_path):
    state = timms(224).state_dict()
    torch.save(as_published(state), tmp_path / "window7.pth")
    model = build("swin_t", 384, window=12, **NARROW)
    assert load_weights(model, tmp_path / "window7.pth", SPECS["swin_t"].weights).id == "swin"
    for name, tensor in model.state_dict().items():
        if name.endswith("bias_table"):
            expected = resize_rel_pos_bias_table_simple(state[name], (12, 12), tensor.shape)
            torch.testing.assert_close(tensor, expected)
        else:
            assert torch.equal(tensor, state[name]), name


def test_a_window_that_shrinks_to_a_rectangle_has_tables_of_its_sides(tmp_path):
    torch.save(timms(224).state_dict(), tmp_path / "window7.pth")
    model = build("swin_t", "128x224px", **NARROW)  # the last map is 4 x 7
    load_weights(model, tmp_path / "window7.pth", SPECS["swin_t"].weights)
    assert model.layers[3].blocks[0].attn.relative_position_bias_table.shape == (7 * 13, 6)


def test_what_is_not_known_in_a_file_is_reported(tmp_path):
    state = {**timms(224).state_dict(), "layers.0.blocks.0.gamma": torch.zeros(1)}
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(BadWeights, match=r"layout timm\) does not fit the model: 1 not known: layers.0.blocks.0.gamma"):
        zoo.create_model("swin_t", weights=str(tmp_path / "odd.pth"), **NARROW)


def test_tables_of_other_heads_are_reported_and_not_resampled(tmp_path):
    torch.save(timms(224).state_dict(), tmp_path / "heads.pth")
    options = {**NARROW, "heads": "2-2-3-6"}
    with pytest.raises(BadWeights, match="relative_position_bias_table is 169x1, expected 169x2"):
        zoo.create_model("swin_t", weights=str(tmp_path / "heads.pth"), **options)


def test_every_layout_is_told_by_its_key(tmp_path):
    files = {
        "timm": timms(224).state_dict(),
        "swin": as_published(timms(224).state_dict()),
        "torchvision": theirs().state_dict(),
    }
    assert [layout.id for layout in SPECS["swin_t"].weights] == list(files)
    for layout, state in files.items():
        file = Path(tmp_path / f"{layout}.pth")
        torch.save(state, file)
        assert load_weights(build("swin_t", **NARROW), file, SPECS["swin_t"].weights).id == layout


# -- behaviour -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 32, 40, "16x48px", "40x24px"])
def test_nano_classifies_images_of_several_sizes(size):
    shape = SPECS["swin_nano"].size(size).pair
    with torch.no_grad():
        logits = build("swin_nano", size)(torch.randn(2, 3, *shape))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size", [32, 40])
def test_images_of_a_batch_do_not_meet(size):
    model = shaken(build("swin_nano", size))
    images = torch.randn(3, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-4, atol=1e-5)


def test_a_window_shrinks_to_a_smaller_map():
    # at 16px the maps of swin_nano are 8, 4 and 2: the last one's window of 4 becomes 2, its table 3 x 3
    tables = [t.shape[0] for n, t in on_meta("swin_nano", 16).state_dict().items() if n.endswith("bias_table")]
    assert tables == [49, 49, 49, 49, 9, 9]
    assert closed_form("swin_nano", 16) == macs(on_meta("swin_nano", 16), 1, 3, 16, 16)


def test_gradients_reach_every_parameter_on_the_cpu_and_on_meta():
    for model, device in ((build("swin_nano"), "cpu"), (on_meta("swin_nano"), "meta")):
        model(torch.randn(2, 3, 32, 32, device=device)).square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_bfloat16_autocast_gives_the_same_answer_roughly():
    model, images = build("swin_nano"), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert relative_error(model(images).float(), exact) < 0.05


def test_sizes_that_pad_say_so():
    assert "multiples of 32 x window pixels need none" in SPECS["swin_t"].sizes.pads


def test_a_size_that_leaves_odd_maps_or_a_single_token_is_refused():
    with pytest.raises(ZooError, match=r"240px is not legal: expected a multiple of 32, at least 64px.*224px or 256px"):
        build("swin_t", 240)
    with pytest.raises(ZooError, match=r"32px is not legal.*nearest legal size: 64px"):
        build("swin_t", 32)
    with pytest.raises(
        ZooError, match="96px is not legal for patches of 8px merged 3 times: expected a multiple of 64"
    ):
        build("swin_t", 96, patch_size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": "2-2"}, "depths has 2 stages and heads has 3"),
        ({"depths": "2,2,2"}, "depths is '2,2,2'; expected one whole number a stage, such as 2-2-6-2"),
        ({"heads": "1-0-4"}, "heads is '1-0-4'"),
        ({"heads": "1-2-3"}, "stage 3 is 128 wide and cannot have 3 heads"),
        ({"window": 0}, "window is 0"),
    ],
)
def test_stages_that_do_not_fit_together_are_refused(options, message):
    with pytest.raises(ZooError, match=message):
        build("swin_nano", **options)


def test_a_layers_width_that_does_not_divide_into_heads_is_refused():
    with pytest.raises(ZooError, match="width 30 cannot have 4 heads"):
        resolve(LAYER.build)((7, 7), 30, **LAYER.knobs)


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.published])
def test_published_numbers_are_there(name):
    assert published.of(*SPECS[name].published)
