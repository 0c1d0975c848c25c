"""Named conventions against arithmetic, and against fvcore itself."""

from __future__ import annotations

import pytest
import torch
from models import Lambda
from torch import nn

import zoo
from zoo.metrics import CONVENTIONS, CONVERTIBLE, audit, macs


def count(what, *shapes):
    module = what if isinstance(what, nn.Module) else Lambda(what)
    return macs.count(module.to("meta"), [torch.ones(shape, device="meta") for shape in shapes])


def test_every_convention_is_described():
    assert set(CONVERTIBLE) <= set(CONVENTIONS)


def test_a_convolution_with_batch_norm_and_relu_in_every_convention():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    found, products, elements = count(net, (1, 3, 16, 16)), 16 * 16 * 9 * 3 * 8, 16 * 16 * 8
    assert found.total("mac") == products
    assert found.total("flop") == 2 * products
    assert found.total("flop+elementwise") == 2 * products + (2 + 1) * elements
    assert found.total("detr2020") == products + (4 + 1) * elements
    assert found.total("fvcore") == products + 2 * elements


def test_softmax_is_five_an_element_and_layer_norm_only_fvcores_and_ours():
    net = nn.Sequential(nn.LayerNorm(8), nn.Softmax(-1))
    found = count(net, (5, 8))
    assert [found.total(c) for c in CONVERTIBLE] == [0, 0, 2 * 5 * 40, 5 * 40, 5 * 40]


def test_dropout_is_in_detr2020_though_nothing_is_dropped():
    assert count(nn.Dropout(0.1), (5, 8)).total("detr2020") == 40
    assert count(nn.Dropout(0.1), (5, 8)).total("flop+elementwise") == 0


def test_a_fourier_transform_is_in_the_elementwise_convention_alone():
    found = count(lambda x: torch.fft.rfft(x).real, (3, 64))
    assert found.total("mac") == found.total("flop") == 0
    assert found.total("flop+elementwise") == found.flops_fft == 3 * 2.5 * 64 * 6


@pytest.mark.parametrize("name", ["vit_nano", "mixer_nano", "resnet18", "swin_nano", "vit_s16", "detr_nano"])
def test_the_convention_fvcore_is_what_fvcore_prints(name):
    found = zoo.profile(name)
    args, _ = found.subject.inputs(torch.device("meta"))
    theirs = audit.audit(found.subject.on_meta().eval(), args).shipped
    assert found.count.total("fvcore") == theirs.macs


def test_activations_of_a_resnet_are_those_that_are_published():
    assert round(zoo.profile("resnet50").activations / 1e6, 1) == 11.1  # timm's benchmark files, by fvcore


def test_what_is_bounded_may_be_called_negligible():
    sorted_once = count(lambda a, b: (a @ b).sort(-1).values, (64, 512), (512, 64))
    # 64 x 64 values and as many indices, 64 FLOPs each at most, beside 2 x 64 x 512 x 64
    assert sorted_once.at_most_uncounted() == pytest.approx(64 * 2 * 64 * 64 / (2 * 64 * 512 * 64))
    assert count(torch.linalg.svdvals, (5, 8)).at_most_uncounted() is None
    assert count(nn.ReLU(), (5, 8)).at_most_uncounted() == 0
