"""Predicted peaks add up by hand and agree with torch's profiler; measured ones see what is really touched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from models import Lambda
from torch import Tensor, nn

from zoo.metrics import memory

F32 = 4
Make = Callable[[torch.device], tuple[tuple[Any, ...], dict[str, Any]]]


def images(*shape: int) -> Make:
    """Return what makes one float32 input."""
    return lambda device: ((torch.zeros(shape, device=device),), {})


# -- predicted, by hand --------------------------------------------------------------------------------------


def test_a_chain_of_linear_layers_holds_two_neighbours() -> None:
    widths = [8, 64, 32, 128, 16]
    chain = lambda: nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))  # noqa: E731
    found = memory.predict_peak(chain, images(10, 8))
    weights = F32 * sum(a * b + b for a, b in pairwise(widths))
    inputs = F32 * 10 * 8
    # Most is held while the third layer turns 32 columns into 128: nothing but weights and input beside these two.
    assert found == memory.Prediction(weights + inputs + F32 * 10 * (32 + 128), weights, inputs)


def test_an_input_that_stays_in_use_counts_once() -> None:
    found = memory.predict_peak(lambda: Lambda(lambda x: x + x.view(-1).view(10, 8)), images(10, 8))
    assert found == memory.Prediction(F32 * (80 + 80), 0, F32 * 80)


def test_an_operation_in_place_takes_nothing() -> None:
    found = memory.predict_peak(lambda: Lambda(lambda x: x.relu_().t()[0]), images(10, 8))
    assert found.peak == found.inputs == F32 * 80


def test_scores_of_attention_as_two_products_are_held() -> None:
    found = memory.predict_peak(lambda: Lambda(lambda x: (x @ x.mT).softmax(-1) @ x), images(1, 100, 8))
    # The scores and their softmax are alive at once, then the softmax and the mixture, which is smaller.
    assert found.peak == F32 * (100 * 8 + 2 * 100 * 100)


def test_tied_weights_and_tensors_that_are_not_registered_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
            self.b.weight = self.a.weight
            self.c = nn.Parameter(self.a.weight.detach().T)
            self.tables = [torch.zeros(8)]

        def forward(self, x: Tensor) -> Tensor:
            x = self.b(self.a(x))
            return (x @ self.c).add_(self.tables[0])

    found = memory.predict_peak(Tied, images(10, 8))
    assert found.weights == F32 * 64
    assert found.peak == F32 * (64 + 8 + 80 + 2 * 80)


def test_a_module_that_is_converted_while_built() -> None:
    found = memory.predict_peak(lambda: nn.Linear(8, 8).to(torch.float64).to(torch.float32), images(10, 8))
    assert found.peak == F32 * (72 + 80 + 80)


def test_a_large_prediction_takes_no_memory() -> None:
    found = memory.predict_peak(lambda: nn.Linear(1 << 20, 1 << 20, bias=False), images(1, 1 << 20))
    assert found.weights == F32 << 40  # four terabytes


def test_sizes_that_depend_on_values_are_refused() -> None:
    with pytest.raises(memory.Unmeasurable, match=r"values of the inputs.*nonzero"):
        memory.predict_peak(lambda: Lambda(torch.nonzero), images(10, 8))


# -- predicted, against the profiler -------------------------------------------------------------------------


def profiled_peak(module: nn.Module, *args: Tensor) -> int:
    """Return the running sum's maximum of what torch's CPU allocator hands out in one call."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.no_grad():
        module(*args)
        with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
            module(*args)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def encoder(norm_first: bool) -> nn.Module:
    """Two of torch's encoder layers, which run fused in inference."""
    layers = (nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, norm_first=norm_first) for _ in range(2))
    return nn.Sequential(*layers).eval()


def conv_net() -> nn.Module:
    """A convolutional net with a stem, a depthwise and a pointwise layer."""
    layers = (
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 64, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    return nn.Sequential(*layers).eval()


class SelfAttention(nn.Module):
    """Torch's attention with its weights returned."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Any:
        return self.attention(x, x, x, need_weights=self.need_weights)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: encoder(norm_first=False), (4, 128, 64)),
        (lambda: encoder(norm_first=True), (4, 128, 64)),
        (lambda: SelfAttention(False).eval(), (4, 128, 64)),
        (lambda: SelfAttention(True).eval(), (4, 128, 64)),
        (conv_net, (4, 3, 64, 64)),
        (lambda: nn.Conv2d(16, 16, 3, padding=1).eval(), (1, 16, 16, 16)),  # small enough for unfolded columns
        (lambda: nn.Linear(64, 64).eval(), (128, 64)),
    ],
)
def test_prediction_agrees_with_the_profiler(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    module, x = build(), torch.randn(shape)
    fused = "aten::_transformer_encoder_layer_fwd"
    layers = [m for m in module.modules() if isinstance(m, nn.TransformerEncoderLayer)]
    if layers and not torch._C._dispatch_has_kernel_for_dispatch_key(fused, "Meta"):
        pytest.skip("this torch cannot run its fused encoder layer on fake tensors, and the prediction says so")
    predicted = memory.predict_peak(build, images(*shape))
    real = memory.storage_bytes(module, (x,)) + profiled_peak(module, x)
    assert predicted.peak == pytest.approx(real, rel=0.01)


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


def test_cuda_peak_is_reset_after_the_first_call() -> None:
    device, log = torch.device("cuda", 0), []
    names = ["synchronize", "empty_cache", "reset_peak_memory_stats", "max_memory_allocated", "max_memory_reserved"]
    with mock.patch.multiple(
        torch.cuda, **{n: mock.Mock(side_effect=lambda *_, n=n: log.append(n) or 7) for n in names}
    ):
        assert memory.peak_on_cuda(lambda: log.append("call"), device) == {"allocated": 7, "reserved": 7}
    assert log == ["call", *names[:3], "call", "synchronize", *names[3:]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_cuda_peak_of_a_known_temporary() -> None:
    device = torch.device("cuda", 0)
    x = torch.ones(16 << 20, device=device)
    found = memory.peak_on_cuda(lambda: (x + 1)[:1].clone(), device)
    assert found["allocated"] == pytest.approx(128 << 20, rel=0.05)
    assert found["reserved"] >= found["allocated"]
