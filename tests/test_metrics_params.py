"""Parameters are counted once each, on any device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.metrics import params

DEVICES = pytest.mark.parametrize("device", ["cpu", "meta"])


@DEVICES
def test_counts_elements_dtypes_and_bytes(device: str) -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)).to(device)
    net[0].bias.requires_grad_(False)
    found = params.count(net)
    assert found.total == 8 * 4 + 4 + 4 + 4
    assert found.trainable == found.total - 4
    assert found.by_dtype == {"float32": found.total}
    assert found.buffers == 4 + 4 + 1  # running mean and variance, and the number of batches
    assert found.bytes == 4 * found.total + 4 * 8 + 8  # that number is an int64


@DEVICES
def test_mixed_dtypes_are_told_apart(device: str) -> None:
    net = nn.Sequential(nn.Linear(8, 4, bias=False), nn.Linear(4, 2, bias=False).bfloat16()).to(device)
    found = params.count(net)
    assert found.by_dtype == {"bfloat16": 8, "float32": 32}
    assert found.bytes == 2 * 8 + 4 * 32


@DEVICES
def test_one_parameter_in_two_places_counts_once(device: str) -> None:
    net = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)).to(device)
    net[1].weight = net[0].weight
    assert params.count(net) == params.Params(40, 40, {"float32": 40}, 0, 160)


@DEVICES
def test_two_parameters_on_one_storage_count_once(device: str) -> None:
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False)).to(device)
    net[1].weight = nn.Parameter(net[0].weight.detach().T)
    assert params.count(net).total == 24
    assert params.count(net).bytes == 96


@DEVICES
def test_two_slices_of_one_storage_both_count(device: str) -> None:
    flat = torch.zeros(10, device=device)
    net = nn.Module()
    net.a, net.b = nn.Parameter(flat[:6]), nn.Parameter(flat[4:])  # 4 and 5 are shared
    assert params.count(net).total == 10
    assert params.count(net).bytes == 40


def test_an_expanded_buffer_counts_what_it_stores() -> None:
    net = nn.Module()
    net.register_buffer("row", torch.zeros(1, 5).expand(7, 5))
    assert params.count(net).buffers == 5
    assert params.count(net).bytes == 20


def test_a_module_without_parameters() -> None:
    assert params.count(nn.ReLU()) == params.Params(0, 0, {}, 0, 0)
