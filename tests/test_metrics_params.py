"""Parameters are counted once each, on any device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from zoo.errors import ZooError
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
    assert params.count(net) == params.Params(40, 40, {"float32": 40}, 0, 160, 0, 160)


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
    assert params.count(nn.ReLU()) == params.Params(0, 0, {}, 0, 0, 0, 0)


# -- what is stored ------------------------------------------------------------------------------------------


class Stored(nn.Module):
    """Weights of which two are one, and buffers of which one is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 64)
        self.norm = nn.BatchNorm1d(64)
        self.head = nn.Linear(64, 1000, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("table", torch.zeros(500, 64))
        self.register_buffer("mask", torch.zeros(300, 300, dtype=torch.bool), persistent=False)


CHECKPOINT = 4 * (64_000 + 2 * 64 + 2 * 64 + 32_000) + 8  # weights, norm, its statistics, table, batches seen


@DEVICES
def test_a_checkpoint_has_shared_weights_once_and_persistent_buffers_only(device: str) -> None:
    with torch.device(device):
        found = params.count(Stored())
    assert found.checkpoint == CHECKPOINT
    assert found.persistent_buffers == 2 * 64 + 1 + 32_000
    assert found.buffers == found.persistent_buffers + 90_000
    assert found.bytes == CHECKPOINT + 90_000


def test_a_checkpoint_is_as_large_as_its_file(tmp_path: Path) -> None:
    net, file = Stored(), tmp_path / "weights"
    torch.save(net.state_dict(), file)
    assert file.stat().st_size == pytest.approx(CHECKPOINT, rel=0.01)
    save_model(net, str(file))
    assert file.stat().st_size == pytest.approx(CHECKPOINT, rel=0.01)


@pytest.mark.parametrize(("dtype", "each"), [("float32", 4), ("bfloat16", 2), ("float16", 2), ("int8", 1)])
def test_weights_in_another_dtype(dtype: str, each: int) -> None:
    assert params.count(Stored()).weight_bytes(dtype) == each * (64_000 + 2 * 64)


def test_weights_that_are_no_floating_point_numbers_keep_their_dtype() -> None:
    net = nn.Linear(8, 4)
    net.codes = nn.Parameter(torch.zeros(10, dtype=torch.int16), requires_grad=False)
    net.phases = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    assert params.count(net).weight_bytes("int8") == 36 + 2 * 10 + 8 * 3


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ZooError, match="torch has no dtype 'float12'; expected one such as float32"):
        params.count(nn.Linear(1, 1)).weight_bytes("float12")
