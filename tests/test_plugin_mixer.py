"""The MLP-Mixer plugin: exact parameters and MACs of every variant, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import zoo_mixer
from models import build, closed_form, macs, on_meta, params

from zoo import ModelSpec, ZooError, published
from zoo.spec import resolve

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in zoo_mixer.zoo_models()}


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


def test_a_size_that_cuts_patches_is_refused_with_those_that_do_not():
    with pytest.raises(ZooError, match=r"230px is not legal: expected a multiple of 14.*224px or 238px"):
        build("mixer_h14", 230)
