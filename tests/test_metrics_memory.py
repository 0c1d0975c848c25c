"""What a call needs at most, measured, and the training step whose memory is of interest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from gpu import on_gpu
from torch import nn

from zoo.errors import ZooError
from zoo.metrics import LATE, memory
from zoo.metrics.driver import driver_of

F32 = 4
SIZES = (64, 256, 1024, 4096, 16384)  # KiB

# -- a step of training --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "kept"),
    # Adam keeps two moments of each of 32 + 4 parameters, and how many steps it made of both tensors.
    [("none", 0), ("sgd", 0), ("sgd_momentum", 32 + 4), ("adam", 2 * 36 + 2), ("adamw", 2 * 36 + 2)],
)
def test_an_optimisers_state_is_counted(optimizer: str, kept: int) -> None:
    layer = nn.Linear(8, 4)
    made = memory.make_optimizer(layer, optimizer)
    assert memory.state_bytes(made) == 0
    memory.train_step(layer, ((torch.randn(2, 8),), {}), made)
    assert memory.state_bytes(made) == F32 * kept


def test_a_step_trains_and_leaves_no_gradient() -> None:
    layer = nn.Linear(8, 4, bias=False)
    before = layer.weight.detach().clone()
    x = torch.ones(2, 8)
    memory.train_step(layer, ((), {"input": x}), memory.make_optimizer(layer, lambda p: torch.optim.SGD(p, lr=0.5)))
    # The sum of all outputs has the gradient 2 for each weight: both samples are ones.
    assert torch.equal(layer.weight, before - 0.5 * 2)
    assert layer.weight.grad is None


def test_a_loss_of_ones_own_is_taken() -> None:
    layer = nn.Linear(8, 4, bias=False)
    before = layer.weight.detach().clone()
    step = memory.make_optimizer(layer, "sgd")
    memory.train_step(layer, ((torch.ones(2, 8),), {}), step, loss=lambda out: 0 * out.sum())
    assert torch.equal(layer.weight, before)


def test_the_stand_in_loss_reaches_every_output_with_a_gradient() -> None:
    a, b = torch.ones(3, requires_grad=True), torch.ones(2, dtype=torch.float64, requires_grad=True)
    memory.stand_in_loss({"a": [a], "b": b, "ids": torch.ones(2, dtype=torch.long), "name": "x"}).backward()
    assert torch.equal(a.grad, torch.ones(3))
    assert torch.equal(b.grad, torch.ones(2, dtype=torch.float64))
    with pytest.raises(ZooError, match="no output has a gradient"):
        memory.stand_in_loss(torch.ones(3))


def test_an_unknown_optimiser_names_the_known_ones() -> None:
    with pytest.raises(ZooError, match=r"no optimiser 'lion'; expected none, sgd, sgd_momentum, adam, adamw, or a"):
        memory.make_optimizer(nn.Linear(1, 1), "lion")


def test_nothing_to_train_has_no_optimiser() -> None:
    assert memory.make_optimizer(nn.ReLU(), "adamw") is None
    assert memory.make_optimizer(nn.Linear(2, 2).requires_grad_(False), "sgd") is None


# -- measured ------------------------------------------------------------------------------------------------

CHILD = """
import json, torch
from zoo.metrics import memory
assert memory.prepare_allocator()
torch.set_num_threads(1)
x = torch.ones(16 << 20)  # 64 MiB

def call():
    temporary = x + 1
    return temporary[:1].clone()

def nothing():
    pass

def in_parts():
    return sum(float((part + 1).sum()) for part in x.split(1 << 20))  # 4 MiB at a time

print(json.dumps([memory.measure_peak(f) for f in (call, nothing, in_parts)]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_measured_peak_is_what_was_touched() -> None:
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    whole, nothing, in_parts = json.loads(child.stdout)
    assert whole == pytest.approx(64 << 20, rel=0.05)
    assert nothing < 1 << 20
    assert in_parts == pytest.approx(4 << 20, abs=1 << 20)


def test_without_proc_the_reason_is_said() -> None:
    with (
        mock.patch.object(memory.Path, "write_text", side_effect=FileNotFoundError("no such file")),
        pytest.raises(memory.Unmeasurable, match="clear_refs is not to be had"),
    ):
        memory.measure_peak(lambda: None)
    with (
        mock.patch.object(memory.Path, "write_text"),
        mock.patch.object(memory.Path, "read_text", return_value="VmRSS: 10 kB\nVmHWM: 99999 kB\n"),
        pytest.raises(memory.Unmeasurable, match="does not clear"),
    ):
        memory.measure_peak(lambda: None)
    with (
        mock.patch.object(memory.Path, "write_text"),
        mock.patch.object(memory.Path, "read_text", return_value="VmRSS: 10 kB\n"),
        pytest.raises(memory.Unmeasurable, match="has no VmHWM"),
    ):
        memory.measure_peak(lambda: None)


def test_without_glibc_the_allocator_is_not_prepared() -> None:
    with mock.patch.object(memory, "_libc", return_value=object()):
        assert memory.prepare_allocator() is False


def test_storage_bytes_counts_each_storage_once() -> None:
    layer, x = nn.Linear(4, 4, bias=False), torch.zeros(8, 4)
    assert memory.storage_bytes(layer) == F32 * 16
    assert memory.storage_bytes(layer, (x, {"again": x[:2]}), {"mask": torch.zeros(8)}) == F32 * (16 + 32 + 8)
    assert memory.storage_bytes(layer, (layer.weight,)) == F32 * 16


BUFFERS = """
import json, os, sys, torch
from zoo.metrics import memory

assert memory.prepare_allocator()
threads, *sizes = map(int, sys.argv[1:])
torch.set_num_threads(threads)
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

def touched(kib):
    torch.empty(kib << 10, dtype=torch.uint8).fill_(1)

print(json.dumps([memory.measure_peak(lambda: touched(kib)) for kib in sizes]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_small_peak_is_that_of_a_known_buffer_but_for_what_the_kernel_counts_late(threads: int) -> None:
    given = [str(threads), *map(str, SIZES)]
    done = subprocess.run([sys.executable, "-c", BUFFERS, *given], capture_output=True, text=True, check=True)
    for kib, found in zip(SIZES, json.loads(done.stdout), strict=True):
        assert -LATE < found - (kib << 10) < LATE / 2, kib


@on_gpu
def test_cuda_peak_of_a_known_temporary() -> None:
    x = torch.ones(16 << 20, device="cuda")
    found = memory.peak_on_device(lambda: (x + 1)[:1].clone(), driver_of("cuda"))
    # What else this process holds is held before and after.
    assert found["held"] >= 64 << 20
    assert found["allocated"] - found["held"] == pytest.approx(64 << 20, rel=0.05)
    assert found["allocated"] <= found["reserved"] <= found["driver"]
