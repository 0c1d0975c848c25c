"""The DETR plugin: exact counts, padding, positions, matcher and losses, post-processing, names in checkpoints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest
import torch
import zoo_detr
from models import build, closed_form, on_meta, params
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d, generalized_box_iou
from zoo_detr import matching
from zoo_detr.boxes import generalised_iou, to_corners
from zoo_detr.matching import DetrLoss, HungarianMatcher
from zoo_detr.model import Attention, FrozenNorm, Memory, Trunk, positions, shrink
from zoo_detr.panoptic import AttentionMap
from zoo_detr.postprocess import BoxDetections, InstanceMasks, PanopticMap
from zoo_detr.weights import from_facebookresearch, from_transformers

from zoo import ModelSpec, ZooError, published
from zoo.metrics.counts import Count
from zoo.metrics.macs import count
from zoo.spec import resolve

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in zoo_detr.zoo_models()}
DETECTORS = [name for name in SPECS if "panoptic" not in name and name != "detr_nano"]
PANOPTIC = [name for name in SPECS if "panoptic" in name]
TINY = {
    "num_classes": 5,
    "queries": 7,
    "width": 32,
    "heads": 8,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "ff_width": 48,
    "stages": "1-1-2-1",
    "trunk_width": 8,
}


def counted(name: str, size: str | int | None = None, **options: object) -> Count:
    """Count the MACs of one image on the meta device."""
    shape = SPECS[name].size(size).pair
    return count(on_meta(name, size, **options), (torch.empty(1, 3, *shape, device="meta"),))


def tiny(name: str = "detr_r50", **options: object) -> nn.Module:
    """Build a small model whose frozen norms are not the identity."""
    torch.manual_seed(1)
    model = build(name, 64, **{**TINY, **options})
    with torch.no_grad():
        for key, buffer in model.named_buffers():
            buffer.copy_(torch.rand_like(buffer) + 0.5 if key.endswith(("weight", "var")) else torch.randn_like(buffer))
    return model


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return random images, the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


# -- counts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total", "trained"),
    [
        # less conv1, 64 x 3 x 7 x 7, and layer1, 64 x (64 + 9 x 64 + 256) + 2 x 64 x (256 + 9 x 64 + 256) + 64 x 256
        ("detr_r50", 41_524_768, 41_302_368),
        ("detr_dc5_r50", 41_524_768, 41_302_368),
        ("detr_r101", 60_464_672, 60_242_272),
        ("detr_dc5_r101", 60_464_672, 60_242_272),
        ("detr_r50_panoptic", 42_899_288, 42_899_288 - 222_400),
        ("detr_dc5_r50_panoptic", 42_899_288, 42_899_288 - 222_400),
        ("detr_r101_panoptic", 61_839_192, 61_839_192 - 222_400),
    ],
)
def test_parameters_are_exact_and_stem_and_first_stage_are_frozen(name, total, trained):
    assert 64 * 3 * 49 + 64 * (64 + 576 + 256) + 2 * 64 * (256 + 576 + 256) + 64 * 256 == 222_400
    model = on_meta(name)
    assert params(model) == total
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    frozen = {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}


def test_buffers_are_those_of_frozen_norms_only():
    # 458 tensors: 181 of encoder, decoder and heads, 53 convolutions, 53 norms of 4
    state = on_meta("detr_r50").state_dict()
    assert len(state) == 458
    assert sum(".bn" in key or ".downsample.1." in key for key in state) == 53 * 4


@pytest.mark.parametrize(
    ("name", "size", "giga"),
    [
        # counted apart from this code, off facebookresearch/detr
        ("detr_r50", "800x1066px", 81.25),
        ("detr_dc5_r50", "800x1066px", 173.25),
        ("detr_r101", "800x1066px", 144.69),
        ("detr_dc5_r101", "800x1066px", 236.70),
        ("detr_r50", "800x1201px", 91.71),
        ("detr_dc5_r50", "800x1201px", 201.41),
        ("detr_r101", "800x1201px", 163.68),
        ("detr_dc5_r101", "800x1201px", 273.38),
        ("detr_r50", "800x1333px", 101.67),
        ("detr_dc5_r50", "800x1333px", 227.75),
        ("detr_r101", "800x1333px", 181.21),
        ("detr_dc5_r101", "800x1333px", 307.30),
        ("detr_r50_panoptic", "800x1066px", 236.61),
        ("detr_dc5_r50_panoptic", "800x1066px", 561.69),
        ("detr_r101_panoptic", "800x1066px", 300.06),
    ],
)
def test_macs_are_those_of_the_original(name, size, giga):
    assert round(closed_form(name, size) / 1e9, 2) == giga


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("size", [None, "97x133px"])
def test_macs_by_hand_are_those_counted(name, size):
    found = counted(name, size)
    assert found.macs == closed_form(name, size)
    assert [op for op in found.uncounted if op.material] == []


@pytest.mark.parametrize("size", ["32px", "33px", "63x65px", "1000x31px"])
@pytest.mark.parametrize("name", ["detr_dc5_r50", "detr_r50_panoptic"])
def test_macs_by_hand_hold_for_every_option_and_odd_sizes(name, size):
    size = size.replace("31px", "35px")
    options = {**TINY, "dropout": 0.0, "block": "bottleneck", "dilation": False, "frozen": 5, "aux": True}
    options |= {"blank_padding": True, "norm": "frozen"}
    assert set(options) == set(SPECS[name].knobs)
    assert counted(name, size, **options).macs == closed_form(name, size, **options)
    options["dilation"] = True
    assert counted(name, size, **options).macs == closed_form(name, size, **options)
    options |= {"block": "basic", "stages": "1-1-1-1", "encoder_layers": 0, "decoder_layers": 1}
    for options["dilation"] in (False, True):
        assert counted(name, size, **options).macs == closed_form(name, size, **options)


def test_the_heads_read_every_layer_as_in_the_original():
    # 5 earlier layers x 100 queries x (256 x 92 + 2 x 256^2 + 256 x 4)
    earlier = 5 * 100 * (256 * 92 + 2 * 256**2 + 256 * 4)
    assert earlier == 77_824_000
    assert round((closed_form("detr_r50") - earlier) / 1e9, 2) == 81.17  # what reading the last one alone would cost


def test_macs_and_parameters_of_aux_outputs_are_the_same():
    assert counted("detr_nano", aux=True).macs == counted("detr_nano").macs


def test_tokens_are_the_cells_of_the_last_feature_map():
    tokens = resolve(SPECS["detr_r50"].input.tokens)
    assert tokens((800, 1066), **SPECS["detr_r50"].knobs) == 25 * 34
    assert tokens((800, 1066), **SPECS["detr_dc5_r50"].knobs) == 50 * 67
    for size in ((33, 65), (97, 133)):
        for dilation in (False, True):
            model = tiny(dilation=dilation)
            assert model.look(images(1, 3, *size), None).memory.shape[1] == tokens(size, dilation)


# -- trunk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "theirs", "dilation"),
    [("basic", BasicBlock, False), ("bottleneck", Bottleneck, False), ("bottleneck", Bottleneck, True)],
)
def test_the_trunk_is_torchvisions_resnet(block, theirs, dilation):
    torch.manual_seed(0)
    depths = [1, 2, 1, 2]
    reference = ResNet(
        theirs, depths, norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=[False, False, dilation]
    )
    trunk = Trunk(block, "1-2-1-2", 64, dilation).double()
    for key, buffer in reference.named_buffers():
        buffer.copy_(torch.rand_like(buffer) + 0.5 if key.endswith(("weight", "var")) else torch.randn_like(buffer))
    state = {key: tensor for key, tensor in reference.state_dict().items() if not key.startswith("fc.")}
    trunk.load_state_dict(state, strict=True)
    x = images(2, 3, 65, 97, dtype=torch.float64)
    y = reference.double()
    expected = y.maxpool(y.relu(y.bn1(y.conv1(x))))
    for stage, found in zip((y.layer1, y.layer2, y.layer3, y.layer4), trunk(x), strict=True):
        expected = stage(expected)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_activations_of_random_weights_stay_in_the_range_of_float16():
    torch.manual_seed(0)
    with torch.no_grad():
        last = Trunk("bottleneck", "3-4-23-3", 64, dilation=False)(images(1, 3, 64, 64))[-1]
    assert 0.01 < last.std() < 10


@pytest.mark.parametrize("frozen", range(6))
def test_as_many_parts_are_frozen_as_asked_for(frozen):
    model = on_meta("detr_nano", frozen=frozen)
    order = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    found = {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert found == set(order[:frozen])


# -- positions and padding -----------------------------------------------------------------------------------


def position_by_hand(row: int, column: int, height: int, width: int, channels: int) -> list[float]:
    """Return the position of one cell, counted from 0, by the formula."""
    found = []
    for at, last in ((row + 1, height), (column + 1, width)):
        angle = at / (last + 1e-6) * 2 * math.pi
        for i in range(channels // 2):
            wave = math.sin if i % 2 == 0 else math.cos
            found.append(wave(angle / 10_000 ** (2 * (i // 2) / (channels // 2))))
    return found


def test_positions_are_the_sinusoids_of_the_formula_in_float64():
    found = positions(3, 5, 16, None, like=torch.empty(0, dtype=torch.float64))
    assert found.shape == (1, 15, 16)
    assert found.dtype == torch.float64
    by_hand = torch.tensor([position_by_hand(r, c, 3, 5, 16) for r in range(3) for c in range(5)], dtype=torch.float64)
    torch.testing.assert_close(found[0], by_hand, rtol=1e-14, atol=1e-14)


def test_positions_of_a_low_dtype_are_computed_in_float32():
    wide = positions(90, 120, 64, None, like=torch.empty(0))
    assert torch.equal(positions(90, 120, 64, None, like=torch.empty(0, dtype=torch.bfloat16)), wide.bfloat16())


def test_a_mask_without_padding_changes_no_position():
    none = torch.zeros(2, 4, 6, dtype=torch.bool)
    found = positions(4, 6, 8, none, like=torch.empty(0))
    assert torch.equal(found, positions(4, 6, 8, None, like=torch.empty(0)).expand(2, -1, -1))


def test_positions_count_what_is_not_padding():
    padding = torch.ones(1, 5, 7, dtype=torch.bool)
    padding[0, :3, :4] = False
    found = positions(5, 7, 8, padding, like=torch.empty(0)).view(5, 7, 8)[:3, :4]
    torch.testing.assert_close(found.reshape(12, 8), positions(3, 4, 8, None, like=torch.empty(0))[0])


def test_a_mask_is_shrunk_to_the_nearest_pixels():
    mask = torch.zeros(1, 96, 64, dtype=torch.bool)
    mask[0, 33:] = True  # cells begin at rows 0, 32, 64
    assert shrink(mask, 3, 2).tolist() == [[[False, False], [False, False], [True, True]]]


class Patches(nn.Module):
    """A trunk in which no pixel reaches another cell, so that padding stays where it is."""

    blank_padding = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, channels // 2 ** (3 - i), 4 * 2**i, 4 * 2**i) for i in range(4))

    def forward(self, images: Tensor, mask: Tensor | None) -> list[Tensor]:
        return [conv(images) for conv in self.convs]


def padded(*singles: Tensor) -> tuple[Tensor, Tensor]:
    """Return images (C, h, w) as one batch with noise for padding, and its mask."""
    height, width = (max(x.shape[i] for x in singles) for i in (1, 2))
    batch = 9 * torch.randn(len(singles), 3, height, width, dtype=singles[0].dtype)
    mask = torch.ones(len(singles), height, width, dtype=torch.bool)
    for i, x in enumerate(singles):
        batch[i, :, : x.shape[1], : x.shape[2]] = x
        mask[i, : x.shape[1], : x.shape[2]] = False
    return batch, mask


def test_padded_batch_equals_single_images():
    model = tiny().double()
    model.trunk = Patches(model.project.in_channels).double().eval()
    singles = [images(3, h, w, dtype=torch.float64) for h, w in ((96, 64), (64, 160), (32, 32))]
    with torch.no_grad():
        together = model(*padded(*singles))
        for i, single in enumerate(singles):
            alone = model(single[None])
            for key in ("logits", "boxes"):
                torch.testing.assert_close(together[key][i], alone[key][0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{}, {"dilation": True, "block": "bottleneck"}, {"dilation": True}],
    ids=["plain", "DC5", "DC5 of one basic block"],
)
@pytest.mark.parametrize("sides", [((96, 64), (64, 160), (32, 32)), ((90, 61), (64, 133), (33, 40))])
def test_with_the_padding_blanked_a_batch_equals_single_images_through_the_whole_model(options, sides):
    model = build("detr_nano", blank_padding=True, **options).double()
    for norm in (m for m in model.modules() if isinstance(m, FrozenNorm)):  # what padding is not zero behind
        norm.bias.normal_()
    singles = [images(3, h, w, dtype=torch.float64) for h, w in sides]
    with torch.no_grad():
        together = model(*padded(*singles))
        plain = build("detr_nano", **options).double()
        plain.load_state_dict(model.state_dict())
        assert not torch.allclose(plain(*padded(*singles))["logits"], together["logits"])
        for i, single in enumerate(singles):
            alone = model(single[None])
            for key in ("logits", "boxes"):
                torch.testing.assert_close(together[key][i], alone[key][0], rtol=1e-10, atol=1e-12)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["detr_r50", "detr_r50_panoptic"])
def test_an_image_does_not_depend_on_the_others_of_its_padded_batch(name):
    model = tiny(name).double()
    batch, mask = padded(*(images(3, h, w, dtype=torch.float64) for h, w in ((90, 61), (64, 133), (33, 40))))
    with torch.no_grad():
        together = model(batch, mask)
        for i in range(3):
            alone = model(batch[i : i + 1], mask[i : i + 1])
            for key, tensor in alone.items():
                torch.testing.assert_close(together[key][i], tensor[0], rtol=1e-9, atol=1e-9)


def test_without_a_mask_there_is_no_padding():
    model, x = tiny().double(), images(2, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        found, masked = model(x), model(x, torch.zeros(2, 65, 97, dtype=torch.bool))
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, masked[key], rtol=1e-10, atol=1e-12)


# -- layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crossed", [False, True])
def test_attention_is_that_of_torch_with_positions_on_queries_and_keys(crossed):
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4, 0.1).double().eval(), nn.MultiheadAttention(16, 4, batch_first=True).double().eval()
    with torch.no_grad():
        ours.qkv.bias.normal_()
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.out.weight)
    x, pos, tokens, token_pos = (torch.randn(2, n, 16, dtype=torch.float64) for n in (5, 5, 9, 9))
    keys, values = (tokens + token_pos, tokens) if crossed else (x + pos, x)
    padding = torch.arange(keys.shape[1]).expand(2, -1) >= 4
    memory = (keys, values) if crossed else None
    found = ours(x, pos, Memory(*memory) if memory else None, ~padding[:, None, None])
    expected = theirs(x + pos, keys, values, key_padding_mask=padding)[0]
    torch.testing.assert_close(found, ours.norm(x + expected))


def test_an_attention_map_sums_to_one_over_heads_and_cells():
    torch.manual_seed(0)
    head = AttentionMap(16, 4).double()
    queries, memory = torch.randn(2, 3, 16, dtype=torch.float64), torch.randn(2, 6, 16, dtype=torch.float64)
    padding = torch.arange(6).expand(2, -1) >= 4
    found = head(queries, memory, padding)
    q, k = head.query(queries).view(2, 3, 4, 4), head.key(memory).view(2, 6, 4, 4)
    scores = torch.einsum("bqhd,bnhd->bqhn", q, k) / 4**0.5
    by_hand = scores[..., :4].exp() / scores[..., :4].exp().sum((2, 3), keepdim=True)
    torch.testing.assert_close(found[..., :4], by_hand)
    assert not found[..., 4:].any()


# -- model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["32px", "45px", "64x97px"])
def test_a_detector_returns_classes_and_boxes_of_every_query(size):
    height, width = SPECS["detr_nano"].size(size).pair
    with torch.no_grad():
        found = build("detr_nano", size)(images(2, 3, height, width))
    assert {key: tuple(tensor.shape) for key, tensor in found.items()} == {"logits": (2, 20, 11), "boxes": (2, 20, 4)}
    assert found["boxes"].min() > 0
    assert found["boxes"].max() < 1


def test_masks_are_a_quarter_of_the_image_rounded_up():
    with torch.no_grad():
        found = tiny("detr_r50_panoptic")(images(2, 3, 65, 98))
    assert found["masks"].shape == (2, 7, 17, 25)


@pytest.mark.parametrize("name", ["detr_r50", "detr_r50_panoptic"])
def test_earlier_layers_are_returned_in_training_or_when_asked_for(name):
    model, x = tiny(name), images(1, 3, 40, 40)
    trained = model.train()(x)["aux"]
    assert [set(layer) for layer in trained] == [{"logits", "boxes"}] * 2
    assert "aux" not in model.eval()(x)
    asked = tiny(name, aux=True)(x)
    assert [layer["logits"].shape for layer in asked["aux"]] == [(1, 7, 6)] * 2


def test_earlier_layers_are_what_fewer_layers_give():
    model, x = tiny(aux=True), images(1, 3, 40, 40)
    short = tiny(aux=True, decoder_layers=2)
    short.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("decoder.2.")})
    with torch.no_grad():
        torch.testing.assert_close(model(x)["aux"][1]["boxes"], short(x)["boxes"])


@pytest.mark.parametrize("name", ["detr_nano", "detr_r50_panoptic"])
def test_gradients_reach_every_trained_parameter_and_no_other(name):
    model = build(name) if name == "detr_nano" else tiny(name)
    with torch.no_grad():
        for parameter in model.parameters():  # where biases are zero, as at the start, the first self-attention is too
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    found = model.train()(images(2, 3, 70, 90), torch.arange(90).expand(2, 70, 90) > 75)
    loss = sum(tensor.square().sum() for key, tensor in found.items() if key != "aux")
    (loss + sum(layer["boxes"].sum() + layer["logits"].sum() for layer in found["aux"])).backward()
    without = {key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {key for key, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("name", ["detr_nano", *PANOPTIC])
def test_a_masked_batch_runs_forward_and_backward_on_the_meta_device(name):
    model = on_meta(name).train()
    x, mask = torch.empty(2, 3, 65, 97, device="meta"), torch.zeros(2, 65, 97, dtype=torch.bool, device="meta")
    found = model(x, mask)
    sum(tensor.sum() for key, tensor in found.items() if key != "aux").backward()
    assert model.queries.grad.shape == model.queries.shape


@pytest.mark.parametrize("name", ["detr_r50", "detr_r50_panoptic"])
def test_autocast_is_near_float32_and_boxes_keep_float32(name):
    model, x = tiny(name), images(2, 3, 65, 97)
    mask = torch.arange(97).expand(2, 65, 97) > 80
    with torch.no_grad():
        expected = model(x, mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(x, mask)
    assert found["boxes"].dtype == torch.float32
    for key, tensor in found.items():
        assert (tensor.float() - expected[key]).abs().max() < 0.05 * expected[key].abs().max()


def test_bfloat16_weights_run():
    with torch.no_grad():
        found = tiny().bfloat16()(images(1, 3, 40, 40, dtype=torch.bfloat16))
    assert found["logits"].dtype == torch.bfloat16
    assert found["boxes"].dtype == torch.float32


def test_the_layout_of_the_images_in_memory_does_not_matter():
    model, x = tiny(), images(2, 3, 65, 97)
    with torch.no_grad():
        one, other = model(x), model(x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(one["logits"], other["logits"])


def test_evaluation_repeats_itself_and_training_drops_out():
    model, x = build("detr_nano", 64), images(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x)["logits"], model(x)["logits"])
        model.train()
        assert not torch.equal(model(x)["logits"], model(x)["logits"])


def test_every_option_changes_the_model():
    usual = str(on_meta("detr_nano"))
    others = {
        "num_classes": 7,
        "width": 32,
        "encoder_layers": 3,
        "decoder_layers": 1,
        "ff_width": 64,
        "dropout": 0.2,
        "block": "bottleneck",
        "stages": "1-1-2-1",
        "trunk_width": 8,
        "norm": "frozen",
    }
    unseen = {"queries", "heads", "dilation", "frozen", "aux", "blank_padding"}  # no module shows these
    assert set(others) | unseen == set(SPECS["detr_nano"].knobs)
    for option, value in others.items():
        assert str(on_meta("detr_nano", **{option: value})) != usual
    assert on_meta("detr_nano", queries=3).queries.shape == (3, 64)
    assert on_meta("detr_nano", heads=2).encoder[0].attention.heads == 2
    assert on_meta("detr_dc5_r50").trunk.layer4[1].conv2.dilation == (2, 2)
    assert on_meta("detr_nano", aux=True).aux
    assert on_meta("detr_nano", blank_padding=True).trunk.blank_padding


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "width 64 cannot have 5 heads"),
        ({"width": 66, "heads": 1}, "width 66 cannot have 1 heads: expected a multiple of them and of 4"),
        ({"decoder_layers": 0}, "cannot have 0 decoder layers"),
        ({"dilation": True, "stages": "1-1-1-2"}, "basic blocks cannot dilate"),
        ({"norm": "layer"}, "norm='layer' is not legal: a trunk has one of frozen, batch"),
        ({"frozen": 6}, "frozen=6 is not a number of parts of the trunk: expected 0 to 5"),
        ({"block": "wide"}, "a trunk has no block 'wide'; its blocks: basic, bottleneck"),
        ({"stages": "3-4-6"}, "stages='3-4-6' is not the shape of a trunk"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ZooError, match=message):
        build("detr_nano", **options)


def test_a_mask_head_of_an_odd_width_is_refused():
    with pytest.raises(ZooError, match="a mask head cannot have width 192 and 8 heads"):
        build("detr_r50_panoptic", width=192)


# -- boxes and matching --------------------------------------------------------------------------------------


def random_boxes(*shape: int, seed: int = 0) -> Tensor:
    """Return random boxes (..., 4) inside the image, as centre and size."""
    draw = torch.rand(*shape, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    size = 0.05 + 0.4 * draw[..., 2:]
    return torch.cat((size / 2 + draw[..., :2] * (1 - size), size), dim=-1)


def random_outputs(batch: int, queries: int, classes: int, seed: int = 0) -> dict[str, Tensor]:
    """Return outputs of a model that has not learned anything."""
    logits = torch.randn(batch, queries, classes + 1, generator=torch.Generator().manual_seed(seed)).double()
    return {"logits": logits, "boxes": random_boxes(batch, queries, seed=seed)}


def random_target(objects: int, classes: int, seed: int) -> dict[str, Tensor]:
    """Return the objects of one image."""
    labels = torch.randint(classes, (objects,), generator=torch.Generator().manual_seed(seed))
    return {"labels": labels, "boxes": random_boxes(objects, seed=100 + seed)}


def test_generalised_iou_is_that_of_torchvision():
    a, b = to_corners(random_boxes(9)), to_corners(random_boxes(5, seed=1))
    torch.testing.assert_close(generalised_iou(a[:, None], b), generalized_box_iou(a, b))


def test_generalised_iou_by_hand():
    a, b = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 3.0, 3.0])
    torch.testing.assert_close(generalised_iou(a, b), torch.tensor(1 / 7 - 2 / 9))  # union 7, hull 9
    apart = torch.tensor([3.0, 0.0, 5.0, 2.0])
    torch.testing.assert_close(generalised_iou(a, apart), torch.tensor(0.0 - 2 / 10))
    assert generalised_iou(a, a) == 1


def test_boxes_without_area_have_no_nan_and_a_gradient():
    point = torch.zeros(4, requires_grad=True)
    overlap = generalised_iou(point, torch.zeros(4))
    assert overlap == 0
    overlap.backward()
    assert point.grad.isfinite().all()


@pytest.mark.parametrize(("queries", "objects"), [(5, 3), (4, 4), (3, 5), (5, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_the_matching_is_the_best_of_all_permutations(queries, objects, seed):
    outputs, target = random_outputs(1, queries, 6, seed), random_target(objects, 6, seed)
    probability = outputs["logits"][0].softmax(-1)
    cost = torch.zeros(queries, objects, dtype=torch.float64)
    for q, t in itertools.product(range(queries), range(objects)):
        box, wanted = outputs["boxes"][0, q], target["boxes"][t]
        overlap = generalized_box_iou(to_corners(box)[None], to_corners(wanted)[None])[0, 0]
        cost[q, t] = -probability[q, target["labels"][t]] + 5 * (box - wanted).abs().sum() - 2 * overlap
    if queries >= objects:
        ways = [
            list(zip(chosen, range(objects), strict=True)) for chosen in itertools.permutations(range(queries), objects)
        ]
    else:
        ways = [
            list(zip(range(queries), chosen, strict=True)) for chosen in itertools.permutations(range(objects), queries)
        ]
    best = min(ways, key=lambda pairs: sum(float(cost[pair]) for pair in pairs))
    ((chosen, given),) = HungarianMatcher()(outputs, [target])
    assert sorted(zip(chosen.tolist(), given.tolist(), strict=True)) == sorted(best)


def test_images_of_a_batch_are_matched_each_by_itself_also_without_objects():
    outputs = random_outputs(3, 6, 4)
    targets = [random_target(2, 4, 0), random_target(0, 4, 1), random_target(5, 4, 2)]
    together = HungarianMatcher()(outputs, targets)
    assert [len(q) for q, _ in together] == [2, 0, 5]
    for i, target in enumerate(targets):
        ((q, t),) = HungarianMatcher()({key: x[i : i + 1] for key, x in outputs.items()}, [target])
        assert torch.equal(q, together[i][0])
        assert torch.equal(t, together[i][1])


def test_a_weight_of_zero_leaves_a_cost_out():
    outputs = {"logits": torch.tensor([[[9.0, 0.0], [0.0, 9.0]]]), "boxes": random_boxes(1, 2)}
    target = {"labels": torch.tensor([0]), "boxes": outputs["boxes"][0, 1:]}
    assert HungarianMatcher(l1=0, giou=0)(outputs, [target])[0][0].tolist() == [0]  # the right class
    assert HungarianMatcher(classes=0)(outputs, [target])[0][0].tolist() == [1]  # the right box


def test_a_run_that_diverged_is_matched_and_shows_in_the_loss():
    outputs = {key: torch.full_like(x, torch.nan) for key, x in random_outputs(1, 4, 3).items()}
    losses = DetrLoss(3)(outputs, [random_target(2, 3, 0)])
    assert all(loss.isnan() for loss in losses.values())


# -- losses --------------------------------------------------------------------------------------------------


def test_losses_by_hand():
    # two queries, one object of class 1; the second query is nearer and is given the object
    logits = torch.tensor([[[0.0, 1.0, 2.0], [0.0, 3.0, 1.0]]])
    boxes = torch.tensor([[[0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 0.4, 0.4]]])
    target = {"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.2]])}
    losses = DetrLoss(2)({"logits": logits, "boxes": boxes}, [target])
    object_ = math.log(1 + math.exp(3) + math.exp(1)) - 3
    nothing = math.log(1 + math.exp(1) + math.exp(2)) - 2
    assert float(losses["class"]) == pytest.approx((object_ + 0.1 * nothing) / 1.1, rel=1e-6)
    assert float(losses["l1"]) == pytest.approx(5 * 0.2, rel=1e-6)
    assert float(losses["giou"]) == pytest.approx(2 * (1 - 0.5), rel=1e-6)  # half of it inside, the hull is the box
    assert set(losses) == {"class", "l1", "giou"}


def test_box_losses_are_divided_by_the_objects_of_the_batch():
    outputs, targets = random_outputs(2, 6, 4), [random_target(3, 4, 0), random_target(1, 4, 1)]
    together = DetrLoss(4)(outputs, targets)
    alone = [DetrLoss(4)({k: x[i : i + 1] for k, x in outputs.items()}, targets[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(together["l1"], (3 * alone[0]["l1"] + alone[1]["l1"]) / 4)
    torch.testing.assert_close(together["giou"], (3 * alone[0]["giou"] + alone[1]["giou"]) / 4)


def test_every_layer_has_its_own_matching():
    last, earlier = random_outputs(1, 6, 4, seed=0), random_outputs(1, 6, 4, seed=1)
    targets = [random_target(3, 4, 0)]
    losses = DetrLoss(4)({**last, "aux": [earlier, last]}, targets)
    assert set(losses) == {f"{name}{layer}" for name in ("class", "l1", "giou") for layer in ("", "_0", "_1")}
    alone = DetrLoss(4)(earlier, targets)
    for name in ("class", "l1", "giou"):
        assert losses[f"{name}_0"] == alone[name]
        assert losses[f"{name}_1"] == losses[name]
    assert HungarianMatcher()(last, targets)[0][0].tolist() != HungarianMatcher()(earlier, targets)[0][0].tolist()


def test_a_batch_without_objects_has_a_class_loss_only_and_gradients_everywhere():
    model = build("detr_nano", 64).train()
    losses = DetrLoss(10)(model(images(2, 3, 64, 64)), [random_target(0, 10, 0)] * 2)
    assert losses["l1"] == losses["giou"] == 0
    assert losses["class"] > 0
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_gradients_of_the_losses_are_those_of_finite_differences():
    draw = torch.Generator().manual_seed(0)
    outputs = random_outputs(1, 4, 3)
    masks = torch.randn(1, 4, 3, 3, generator=draw).double()
    target = {**random_target(2, 3, 0), "masks": torch.rand(2, 6, 6, generator=draw) > 0.5}

    def loss(logits: Tensor, boxes: Tensor, masks: Tensor) -> Tensor:
        return sum(DetrLoss(3)({"logits": logits, "boxes": boxes, "masks": masks}, [target]).values())

    leaves = [x.requires_grad_(True) for x in (outputs["logits"], outputs["boxes"], masks)]
    assert torch.autograd.gradcheck(loss, leaves)


def test_mask_losses_by_hand():
    logits, wanted = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    p = 1 / (1 + math.exp(-2))
    focal = (0.75 * 0.5**2 * math.log(2) + 0.25 * (1 - p) ** 2 * -math.log(p)) / 2
    assert float(matching.focal_loss(logits, wanted)) == pytest.approx(focal, rel=1e-5)
    assert float(matching.dice_loss(logits, wanted)) == pytest.approx(1 - (2 * p + 1) / (0.5 + p + 1 + 1), rel=1e-5)


def test_only_matched_masks_are_judged_at_the_size_of_the_target():
    outputs = {**random_outputs(1, 4, 3), "masks": torch.zeros(1, 4, 5, 5)}
    target = {**random_target(1, 3, 0), "masks": torch.ones(1, 10, 10, dtype=torch.bool)}
    ((q, _),) = HungarianMatcher()(outputs, [target])
    outputs["masks"][0, q] = 4.0  # constant, and so it stays when enlarged
    losses = DetrLoss(3)(outputs, [target])
    p = 1 / (1 + math.exp(-4))
    assert float(losses["focal"]) == pytest.approx(0.25 * (1 - p) ** 2 * -math.log(p), rel=1e-3)
    assert float(losses["dice"]) == pytest.approx(1 - (200 * p + 1) / (100 * p + 101), rel=1e-3)


def test_a_few_steps_of_training_bring_the_loss_down():
    torch.manual_seed(0)
    model = build("detr_nano", 64, dropout=0.0).train()
    x, targets = images(2, 3, 64, 64), [random_target(2, 10, 0), random_target(1, 10, 1)]
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    history = []
    for _ in range(8):
        loss = sum(DetrLoss(10)(model(x), targets).values())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]


# -- post-processing -----------------------------------------------------------------------------------------


def test_a_detection_is_the_best_class_that_is_an_object():
    # softmax of logs: probabilities as written
    logits = torch.tensor([[[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]]).log()
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.5, 1.0]]])
    (found,) = BoxDetections()({"logits": logits, "boxes": boxes}, [(100, 200)])
    torch.testing.assert_close(found["scores"], torch.tensor([0.2, 0.6]))
    assert found["labels"].tolist() == [1, 0]
    torch.testing.assert_close(found["boxes"], torch.tensor([[80.0, 30, 120, 70], [0.0, 0, 100, 100]]))


def test_instance_masks_are_cut_to_the_image_and_brought_to_its_size():
    masks = torch.full((2, 1, 4, 4), -5.0)
    masks[..., :2] = 5.0  # the left half of the batch, which is 16 x 16
    first, second = InstanceMasks()({"masks": masks}, fed=[(16, 16), (8, 8)], sizes=[(32, 64), (4, 4)])
    assert first.shape == (1, 32, 64)
    assert first[0, :, :32].all()
    assert first.sum() == 32 * 32
    assert second.shape == (1, 4, 4)
    assert second.all()


def stripes(*labels: int, sure: float = 9.0, classes: int = 250) -> dict[str, Tensor]:
    """Return outputs for one image in which query i is sure of ``labels[i]`` and owns column i of the mask."""
    n = len(labels)
    logits = torch.zeros(1, n, classes + 1)
    logits[0, torch.arange(n), torch.tensor(labels)] = sure + math.log(classes)
    return {"logits": logits, "masks": (10 * torch.eye(n))[None, :, None].expand(-1, -1, n, -1).contiguous()}


def test_a_panoptic_map_gives_the_pixels_of_small_segments_to_others():
    (found,) = PanopticMap()(stripes(17, 17, 120, 120), fed=[(4, 4)], sizes=[(4, 4)])
    assert [(s["label"], s["area"]) for s in found["segments"]] == [(120, 16)]  # 4 + 4 merged are not small, 4 are
    (found,) = PanopticMap()(stripes(17, 17, 120, 120), fed=[(4, 4)], sizes=[(5, 4)])
    assert [(s["label"], s["area"]) for s in found["segments"]] == [(17, 5), (17, 5), (120, 10)]


def test_a_panoptic_map_merges_stuff_of_one_class_and_no_things():
    (found,) = PanopticMap()(stripes(17, 17, 120, 120), fed=[(8, 8)], sizes=[(8, 8)])
    assert found["map"].tolist() == [[0, 0, 1, 1, 2, 2, 2, 2]] * 8
    assert [(s["id"], s["label"], s["area"], s["thing"]) for s in found["segments"]] == [
        (0, 17, 16, True),
        (1, 17, 16, True),
        (2, 120, 32, False),
    ]
    assert all(0.99 < s["score"] < 1 for s in found["segments"])


def test_a_panoptic_map_leaves_out_what_is_not_sure_or_no_object():
    outputs = stripes(17, 250, 120)
    outputs["logits"][0, 2] = 0.0
    (found,) = PanopticMap()(outputs, fed=[(6, 6)], sizes=[(6, 6)])
    assert not found["map"].any()
    assert [(s["label"], s["area"]) for s in found["segments"]] == [(17, 36)]


def test_an_image_without_segments_has_an_empty_map():
    (found,) = PanopticMap()(stripes(250, 250), fed=[(6, 6)], sizes=[(3, 5)])
    assert found["map"].tolist() == [[-1] * 5] * 3
    assert found["segments"] == []


def test_a_panoptic_map_has_the_size_that_is_asked_for():
    (found,) = PanopticMap()(stripes(17, 18), fed=[(8, 8)], sizes=[(4, 16)])
    assert found["map"].tolist() == [[0] * 8 + [1] * 8] * 4


def test_a_panoptic_map_of_a_padded_batch_is_cut_to_the_image():
    outputs = {key: x.expand(2, *x.shape[1:]) for key, x in stripes(17, 18, 19, 20).items()}
    whole, part = PanopticMap()(outputs, fed=[(16, 16), (16, 8)], sizes=[(16, 16), (16, 8)])
    assert [s["label"] for s in whole["segments"]] == [17, 18, 19, 20]
    assert [s["label"] for s in part["segments"]] == [17, 18]
    assert torch.equal(part["map"], whole["map"][:, :8])


# -- checkpoints ---------------------------------------------------------------------------------------------


def trunk_tensors(prefix: str, depths: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of a ResNet of bottlenecks, as torchvision and timm name them."""

    def norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{prefix}{name}.{part}", (channels,)

    yield f"{prefix}conv1.weight", (64, 3, 7, 7)
    yield from norm("bn1", 64)
    inputs = 64
    for stage, depth in enumerate(depths):
        planes = 64 * 2**stage
        for block in range(depth):
            at = f"layer{stage + 1}.{block}"
            for i, (a, b, k) in enumerate(((inputs, planes, 1), (planes, planes, 3), (planes, 4 * planes, 1)), 1):
                yield f"{prefix}{at}.conv{i}.weight", (b, a, k, k)
                yield from norm(f"{at}.bn{i}", b)
            if block == 0:
                yield f"{prefix}{at}.downsample.0.weight", (4 * planes, inputs, 1, 1)
                yield from norm(f"{at}.downsample.1", 4 * planes)
            inputs = 4 * planes


def linear(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of a linear layer."""
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def norms(*names: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of norms over 256 channels."""
    for name in names:
        yield f"{name}.weight", (256,)
        yield f"{name}.bias", (256,)


def mask_tensors(query: str, key: str, convs: list[str], gns: list[str], adapters: list[str], out: str):
    """Yield names and shapes of the mask head: attention map, convolutions, norms, adapters, last convolution."""
    yield from linear(f"bbox_attention.{query}", 256, 256)
    yield from linear(f"bbox_attention.{key}", 256, 256)
    channels = [264, 264, 128, 64, 32, 16]
    for i, (conv, gn) in enumerate(zip(convs, gns, strict=True)):
        yield f"mask_head.{conv}.weight", (channels[i + 1], channels[i], 3, 3)
        for name in (f"mask_head.{conv}.bias", f"mask_head.{gn}.weight", f"mask_head.{gn}.bias"):
            yield name, (channels[i + 1],)
    for i, adapter in enumerate(adapters):
        yield f"mask_head.{adapter}.weight", (channels[i + 2], 1024 // 2**i, 1, 1)
        yield f"mask_head.{adapter}.bias", (channels[i + 2],)
    yield f"mask_head.{out}.weight", (1, 16, 3, 3)
    yield f"mask_head.{out}.bias", (1,)


def facebook_tensors(depths: tuple[int, ...], classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of a detector of facebookresearch/detr."""
    for kind, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "multihead_attn"])):
        for layer in range(6):
            at = f"transformer.{kind}.layers.{layer}"
            for attention in attentions:
                yield f"{at}.{attention}.in_proj_weight", (768, 256)
                yield f"{at}.{attention}.in_proj_bias", (768,)
                yield from linear(f"{at}.{attention}.out_proj", 256, 256)
            yield from linear(f"{at}.linear1", 2048, 256)
            yield from linear(f"{at}.linear2", 256, 2048)
            yield from norms(*(f"{at}.norm{i + 1}" for i in range(len(attentions) + 1)))
    yield from norms("transformer.decoder.norm")
    yield from linear("class_embed", classes + 1, 256)
    for i, outputs in enumerate((256, 256, 4)):
        yield from linear(f"bbox_embed.layers.{i}", outputs, 256)
    yield "query_embed.weight", (100, 256)
    yield "input_proj.weight", (256, 2048, 1, 1)
    yield "input_proj.bias", (256,)
    yield from trunk_tensors("backbone.0.body.", depths)


def transformers_tensors(version: int, depths: tuple[int, ...], classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of a detector that transformers 4 or 5 saves."""
    out, mlp, trunk = ("o_proj", "mlp.", "") if version == 5 else ("out_proj", "", "conv_encoder.")
    for kind, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "encoder_attn"])):
        for layer in range(6):
            at = f"model.{kind}.layers.{layer}"
            for attention in attentions:
                for part in ("k_proj", "v_proj", "q_proj", out):
                    yield from linear(f"{at}.{attention}.{part}", 256, 256)
                yield from norms(f"{at}.{attention}_layer_norm")
            yield from linear(f"{at}.{mlp}fc1", 2048, 256)
            yield from linear(f"{at}.{mlp}fc2", 256, 2048)
            yield from norms(f"{at}.final_layer_norm")
    yield from norms("model.decoder.layernorm")
    yield from linear("class_labels_classifier", classes + 1, 256)
    for i, outputs in enumerate((256, 256, 4)):
        yield from linear(f"bbox_predictor.layers.{i}", outputs, 256)
    yield "model.query_position_embeddings.weight", (100, 256)
    yield "model.input_projection.weight", (256, 2048, 1, 1)
    yield "model.input_projection.bias", (256,)
    yield from trunk_tensors(f"model.backbone.{trunk}model.", depths)


OLD_MASKS = list(
    mask_tensors(
        "q_linear",
        "k_linear",
        [f"lay{i}" for i in range(1, 6)],
        [f"gn{i}" for i in range(1, 6)],
        [f"adapter{i}" for i in range(1, 4)],
        "out_lay",
    )
)
STEPS = ["conv1", "conv2", *(f"fpn_stages.{i}.refine" for i in range(3))]
NEW_MASKS = list(
    mask_tensors(
        "q_proj",
        "k_proj",
        [f"{step}.conv" for step in STEPS],
        [f"{step}.norm" for step in STEPS],
        [f"fpn_stages.{i}.fpn_adapter" for i in range(3)],
        "output_conv",
    )
)


def checkpoint(layout: str, name: str) -> dict[str, Tensor]:
    """Return a checkpoint of a published model, on the meta device, as its publisher names the tensors."""
    depths = (3, 4, 23, 3) if "r101" in name else (3, 4, 6, 3)
    classes = 250 if "panoptic" in name else 91
    if layout == "facebookresearch":
        found = dict(facebook_tensors(depths, classes))
    else:
        found = dict(transformers_tensors(int(layout[-1]), depths, classes))
    if "panoptic" in name:
        found = {f"detr.{key}": shape for key, shape in found.items()}
        found |= dict(NEW_MASKS if layout == "transformers5" else OLD_MASKS)
    return {key: torch.empty(shape, device="meta") for key, shape in found.items()}


@pytest.mark.parametrize(
    ("layout", "name", "tensors"),
    [
        ("facebookresearch", "detr_r50", 458),
        ("facebookresearch", "detr_dc5_r50", 458),
        ("facebookresearch", "detr_r101", 713),
        ("facebookresearch", "detr_r50_panoptic", 490),
        ("transformers4", "detr_r50", 530),
        ("transformers5", "detr_r50", 530),
        ("transformers5", "detr_r101", 785),
        ("transformers4", "detr_r50_panoptic", 562),
        ("transformers5", "detr_r50_panoptic", 562),
    ],
)
def test_published_checkpoints_fit(layout, name, tensors):
    file = checkpoint(layout, name)
    assert len(file) == tensors
    recognised = [spec for spec in SPECS[name].weights if any(fnmatchcase(key, spec.key) for key in file)]
    assert [spec.id for spec in recognised] == [layout]
    model = on_meta(name)
    converted = resolve(str(recognised[0].convert))(dict(file), model)
    assert {key: t.shape for key, t in converted.items()} == {key: t.shape for key, t in model.state_dict().items()}


def test_no_layout_is_taken_for_our_own_names():
    keys = on_meta("detr_r50_panoptic").state_dict()
    assert not any(fnmatchcase(key, spec.key) for spec in SPECS["detr_r50"].weights for key in keys)


@pytest.mark.parametrize("convert", [from_facebookresearch, from_transformers])
def test_unknown_names_are_kept_and_counters_of_batches_dropped(convert):
    tensors = {"odd.name": torch.zeros(1), "backbone.0.body.bn1.num_batches_tracked": torch.tensor(3)}
    assert set(convert(tensors, nn.Identity())) == {"odd.name"}


def test_queries_keys_and_values_are_packed_in_this_order():
    at = "model.decoder.layers.3.encoder_attn"
    tensors = {f"{at}.{part}_proj.bias": torch.full((2,), i) for i, part in enumerate("qkv")}
    found = from_transformers(tensors, nn.Identity())
    assert found["decoder.3.cross_attention.qkv.bias"].tolist() == [0, 0, 1, 1, 2, 2]
    del tensors[f"{at}.k_proj.bias"]
    assert set(from_transformers(tensors, nn.Identity())) == {
        "decoder.3.cross_attention.q_proj.bias",
        "decoder.3.cross_attention.v_proj.bias",
    }


def test_a_detector_inside_a_panoptic_model_has_the_same_names():
    detector, panoptic = on_meta("detr_r50").state_dict(), on_meta("detr_r50_panoptic").state_dict()
    assert set(detector) < set(panoptic)
    assert {key.split(".")[0] for key in set(panoptic) - set(detector)} == {"attention_map", "mask_head"}


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.published])
def test_published_numbers_are_there(name):
    spec = SPECS[name]
    for variant in spec.published[1:]:
        assert published.of(spec.published[0], variant)
