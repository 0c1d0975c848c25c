"""The ViT plugin: exact parameters and MACs of every variant, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import zoo_vit
from models import build, closed_form, macs, on_meta, params

from zoo import ModelSpec, ZooError, published
from zoo.spec import resolve

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in zoo_vit.zoo_models()}


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


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.published])
def test_published_numbers_are_there(name):
    assert published.of(*SPECS[name].published)
