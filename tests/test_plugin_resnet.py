"""The ResNet plugin: exact parameters and MACs of every variant, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import zoo_resnet
from models import build, closed_form, macs, on_meta, params

from zoo import ModelSpec, ZooError, published

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in zoo_resnet.zoo_models()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # counted apart from this code, off timm 1.0.31; ResNet-18 off the weights of torchvision
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_parameters_are_exact_and_the_same_at_every_size(name, expected):
    assert params(on_meta(name)) == params(on_meta(name, 384)) == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("resnet18", 1.814), ("resnet50", 4.089), ("resnet101", 7.801), ("resnet152", 11.514)]
)
def test_macs_by_hand_are_those_published(name, expected):
    assert round(closed_form(name) / 1e9, 3) == expected


@pytest.mark.parametrize("size", [32, 97, 224, "64x100px"])  # 97 is odd at the first halving, 100 at the third
@pytest.mark.parametrize("name", SPECS)
def test_macs_by_hand_are_those_counted(name, size):
    shape = SPECS[name].size(size).pair
    assert macs(on_meta(name, size), 1, 3, *shape) == closed_form(name, size)


def test_every_option_changes_the_model():
    usual = str(on_meta("resnet_nano"))
    others = {"num_classes": 7, "block": "bottleneck", "stages": "1-2-1-1"}
    assert set(others) == set(SPECS["resnet_nano"].knobs)
    for option, value in others.items():
        model = on_meta("resnet_nano", **{option: value})
        assert str(model) != usual
        assert macs(model, 1, 3, 32, 32) == closed_form("resnet_nano", **{option: value})


def test_the_conv_baselines_of_sasa_are_a_matter_of_stages():
    # ResNet-26 and -38 of the SASA paper, recounted: 13.70 M parameters and 2.34 GMACs, 19.63 M and 3.22
    for stages, millions, giga in (("1-2-4-1", 13.70, 2.34), ("2-3-5-2", 19.63, 3.22)):
        assert round(params(on_meta("resnet50", stages=stages)) / 1e6, 2) == millions
        assert round(closed_form("resnet50", stages=stages) / 1e9, 2) == giga


@pytest.mark.parametrize("size", [1, 8, 16, 32, "24x40px"])
def test_nano_classifies_images_of_several_sizes(size):
    shape = SPECS["resnet_nano"].size(size).pair
    with torch.no_grad():
        logits = build("resnet_nano", size)(torch.randn(2, 3, *shape))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_a_length_is_not_a_size_of_a_resnet():
    with pytest.raises(ZooError, match="512tok is a sequence length; expected a resolution such as 224px"):
        build("resnet50", "512tok")


@pytest.mark.parametrize("stages", ["3-4-6", "3-4-6-0", "3,4,6,3", "a-b-c-d"])
def test_stages_that_are_no_resnet_are_refused(stages):
    with pytest.raises(ZooError, match="expected four block counts such as 3-4-6-3"):
        build("resnet50", stages=stages)


def test_an_unknown_block_is_refused_with_the_known_ones():
    with pytest.raises(ZooError, match="no block 'wide'; its blocks: basic, bottleneck"):
        build("resnet50", block="wide")


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.published])
def test_published_numbers_are_there(name):
    assert published.of(*SPECS[name].published)
