"""``device: cuda`` from the suite to the table, in worker processes whose GPU computes on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_cuda
import pytest
from gpu import on_gpu

from zoo import store
from zoo.record import CaseRecord, Value

PLUGIN = """
import fake_cuda, torch
from torch import nn
from zoo import ModelSpec, hookimpl, image_classifier
from zoo.metrics import driver

fake_cuda.install({make})

class Model(nn.Module):
    # Queues 50 kernels; each takes the host and the device so many nanoseconds.
    def __init__(self, host, device):
        super().__init__()
        self.host, self.device, self.linear = host, device, nn.Linear(3, 10)

    def forward(self, x):
        for _ in range(50):
            fake_cuda.launch(self.host, self.device)
        return self.linear(x.mean(dim=(2, 3)))

class Hungry(Model):
    def forward(self, x):
        if x.device.type == "cpu" and not isinstance(x, torch._subclasses.FakeTensor):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 200 GiB.")
        return super().forward(x)

class Attends(Model):
    def forward(self, x):
        y = x.view(len(x), 3, 64, 16)
        y = nn.functional.scaled_dot_product_attention(y, y, y)
        return super().forward(x) + y.mean()

def slow_host(size): return Model(20_000, 10_000)
def slow_device(size): return Model(10_000, 20_000)
def hungry(size): return Hungry(1, 1)
def attends(size): return Attends(10_000, 20_000)

@hookimpl
def zoo_models():
    for build in (slow_host, slow_device, hungry, attends):
        yield ModelSpec(build.__name__, build=build, **image_classifier(default=32))
"""

FINE = {
    "workers": True,
    "nvmlDeviceGetClockInfo": 1980,
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlDeviceGetCurrentClocksEventReasons": 0,
    "nvmlDeviceGetTemperature": 40,
}
Found = dict[tuple[str, str], Value]


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite_file: Callable[[str], Path], zoo: Any) -> Any:
    """Return a function that runs models on the fake device, and returns the command and the values."""
    tests = str(Path(__file__).parent)
    machine = tmp_path / "machine"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(machine), tests, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PATH", os.pathsep.join([str(machine), os.environ["PATH"]]))
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")

    def run(
        models: str, metrics: str, axes: str = "", make: str = "fake_cuda.FakeCuda", more: str = "", **answers: Any
    ) -> tuple[Any, Found]:
        fake_cuda.write_machine(machine, **answers)
        (tmp_path / "faked.py").write_text(PLUGIN.format(make=make))
        axes = f"{{device: cuda, size: 32, threads: 1{axes}}}"
        group = f"{{models: [{models}], axes: {axes}, metrics: [{metrics}]}}"
        path = suite_file(f"schema: 1\ngroups:\n  - {group}\n{more}")
        done = zoo("run", str(path), "--plugin", "faked.py", "--models", models.replace(" ", ""))
        assert done.returncode == 0, done.stderr
        found: Found = {}
        for record in store.load(tmp_path / "runs" / "mine").records:
            assert isinstance(record, CaseRecord)
            found |= {(name_of(record), name): value for name, value in record.metrics.items()}
        return done, found

    return run


def name_of(record: CaseRecord) -> str:
    """Return the model, its mode unless that is inference, and its backend."""
    parts = (record.case.model, record.case.mode, record.case.attention_backend)
    return " ".join(part for part in parts if part and part != "inference")


TABLE = """\
tables:
  - {title: Times, columns: [model, latency, latency_graph]}
"""


def test_a_suite_on_a_gpu_from_end_to_end(cuda: Any, tmp_path: Path, zoo: Any) -> None:
    metrics = "macs, peak_memory, latency, throughput, latency_graph, percent_of_bound"
    _, found = cuda("slow_host, slow_device", metrics, more=TABLE, **FINE, others=[4242])
    # 50 kernels: the slower side takes 50 x 20 us, and the other is ahead or behind by one kernel.
    host, device = found["slow_host", "latency"], found["slow_device", "latency"]
    assert (host.value, device.value) == (pytest.approx(1.01e-3), pytest.approx(1.01e-3))
    assert (host.detail["host_seconds"], device.detail["host_seconds"]) == (1e-3, 0.5e-3)
    assert host.detail["launch_bound"]
    assert "launch_bound" not in device.detail
    assert found["slow_host", "throughput"].value == pytest.approx(1000, rel=0.02)
    assert found["slow_host", "throughput"].detail["launch_bound"]
    # A replay leaves the device's work alone: 50 x 10 us, and a microsecond to launch it.
    assert found["slow_host", "latency_graph"].value == pytest.approx(0.501e-3)
    assert found["slow_host", "latency_graph"].convention == "replayed CUDA graph"
    assert found["slow_device", "latency_graph"].value == pytest.approx(1.001e-3)
    assert host.detail["conditions"] == {
        "sm_clock": [1980, 1980],
        "full_clock": 1980,
        "temperature": 40,
        "reasons": [],
        "foreign": 1,
    }
    memory = found["slow_host", "peak_memory"]
    assert (memory.value, memory.convention) == (3 << 20, "cuda allocator")
    assert {"reserved", "driver", "held", "workspaces"} <= set(memory.detail)
    assert memory.detail["predicted"] > 3 * 32 * 32 * 4, "at least the image"
    assert found["slow_host", "percent_of_bound"].status == "ok"
    results = store.load(tmp_path / "runs" / "mine")
    (machine,) = results.machines.values()
    assert machine.slug == "fake-1"
    assert machine.environment["gpu"] == "NVIDIA Fake 1"
    assert machine.environment["allocator"] == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    assert machine.environment["settings"]["cudnn_benchmark"] is False
    table = zoo("table", str(tmp_path / "mine.yaml"), "--format", "markdown").stdout
    assert "launch-bound: the host takes as long" in table
    assert "another process computed on the GPU meanwhile" in table
    assert "fake-1: NVIDIA Fake 1" in table


def test_every_mode_is_captured(cuda: Any) -> None:
    _, found = cuda("slow_device", "latency_graph", ", mode: [forward_backward, training]", **FINE)
    for mode in ("forward_backward", "training"):
        assert found[f"slow_device {mode}", "latency_graph"].value == pytest.approx(1.001e-3)


def test_a_failing_capture_leaves_the_other_times_and_a_driver_that_is_silent_is_unknown(cuda: Any) -> None:
    make = "lambda: fake_cuda.FakeCuda('it waits for the device')"
    _, found = cuda("slow_device", "latency_graph, latency, latency_p90", make=make)
    graph = found["slow_device", "latency_graph"]
    assert (graph.status, graph.reason) == ("unsupported", "cannot be captured: it waits for the device")
    assert found["slow_device", "latency"].status == found["slow_device", "latency_p90"].status == "ok"
    unknown = {**dict.fromkeys(("sm_clock", "full_clock", "temperature")), "reasons": [], "foreign": 0}
    assert found["slow_device", "latency"].detail["conditions"] == unknown


@pytest.mark.slow
def test_throttled_requests_are_taken_again_and_a_gpu_that_stays_hot_has_no_number(cuda: Any) -> None:
    name = "nvmlDeviceGetCurrentClocksEventReasons"
    _, found = cuda("slow_device", "latency", **{**FINE, name: [*[0] * 5, 0x40, 0]})
    assert found["slow_device", "latency"].detail["discarded"] == {"requests": 1, "reasons": ["thermal (hardware)"]}
    done, found = cuda("slow_host", "latency", **{**FINE, name: 0x40})
    assert found["slow_host", "latency"].status == "unsupported"
    assert "the GPU was held down in all of" in done.stderr


def test_out_of_memory_is_oom_in_every_phase(cuda: Any) -> None:
    _, found = cuda("hungry", "macs, peak_memory, latency", **FINE)
    assert found["hungry", "macs"].status == "ok"
    for metric in ("peak_memory", "latency"):
        assert found["hungry", metric].status == "oom"
        assert "Tried to allocate 200 GiB" in found["hungry", metric].reason


def test_a_backend_that_cannot_run_is_a_status_and_auto_is_no_value(cuda: Any) -> None:
    axes = ", attention_backend: [auto, flash, math, cudnn]"
    _, found = cuda("attends, slow_device", "latency", axes, **FINE)
    status = {name: value.status for (name, _), value in found.items()}
    fine = {"attends", "attends flash", "attends math", "slow_device", "slow_device math"}
    refused = {"attends cudnn", "slow_device flash", "slow_device cudnn"}
    assert status == {**dict.fromkeys(fine, "ok"), **dict.fromkeys(refused, "unsupported")}
    assert "No viable backend" in found["attends cudnn", "latency"].reason
    assert "no attention that torch could run as flash" in found["slow_device flash", "latency"].reason


def test_memory_that_is_allowed_is_the_gpus(cuda: Any) -> None:
    _, found = cuda("slow_device", "largest_batch", **FINE)
    largest = found["slow_device", "largest_batch"]
    # A GiB is free, of which nine tenths may be used; an image of 32 px is 12 KiB.
    assert largest.detail["predicted"] < 2**30 * 0.9 / (3 * 32 * 32 * 4)


def test_two_models_are_compared_on_a_gpu(cuda: Any, tmp_path: Path, zoo: Any) -> None:
    cuda("slow_device", "params", **FINE)
    asked = ["--plugin", "faked.py", "--set", "device=cuda", "--budget", "1", "--metric", "latency_graph"]
    done = zoo("compare", "slow_device", "slow_host", *asked)
    assert done.returncode == 0, done.stderr
    (record,) = store.load(tmp_path / "runs" / "compare").comparisons
    assert record.ratio == pytest.approx(0.501 / 1.001, rel=1e-3)
    assert record.verdict == "faster"
    assert record.watched[0][0]["conditions"]["sm_clock"] == [1980, 1980]
    assert {len(of_set) for of_set in record.watched} == {3}
    # Three workers are on the GPU at once, and none is a stranger.
    assert all(told["conditions"]["foreign"] == 0 for of_set in record.watched for told in of_set)


CHATTY = """
from torch import nn
from zoo import ModelSpec, hookimpl, image_classifier

class Chatty(nn.Module):
    def forward(self, x):
        x = x.mean(dim=(2, 3))
        for _ in range(500):
            x = x + 1
        return x

def chatty(size): return Chatty()

@hookimpl
def zoo_models():
    yield ModelSpec("chatty", build=chatty, **image_classifier(default=32))
"""


def test_on_the_cpu_a_graph_is_unsupported_and_what_is_left_of_a_call_without_a_batch_is_told(
    suite_file: Any, tmp_path: Path, zoo: Any
) -> None:
    (tmp_path / "chatty.py").write_text(CHATTY)
    models = "chatty, vit_nano, vit_b16, transformer_nano"
    group = f"{{models: [{models}], axes: {{threads: 1}}, metrics: [latency_graph, latency]}}"
    path = suite_file(f"schema: 1\ngroups:\n  - {group}\n")
    assert zoo("run", str(path), "--plugin", "chatty.py", "--models", models.replace(" ", "")).returncode == 0
    found = {r.case.model: r.metrics for r in store.load(tmp_path / "runs" / "mine").records}
    for values in found.values():
        assert values["latency_graph"].reason == "a CUDA graph needs a CUDA device, and this is the CPU"
    details = {model: values["latency"].detail for model, values in found.items()}
    share = {m: d["host_seconds"] / found[m]["latency"].value for m, d in details.items() if "host_seconds" in d}
    # A few operators on three numbers are all overhead; a base model at 224 px has next to none.
    assert share["vit_b16"] < 0.05 < share["vit_nano"] < share["chatty"] < 1.5
    assert details["chatty"]["launch_bound"]
    assert "launch_bound" not in details["vit_b16"]
    assert "host_seconds" not in details["transformer_nano"], "it takes no batch of none"


@on_gpu
def test_on_a_gpu_a_suite_measures_everything(suite_file: Any, tmp_path: Path, zoo: Any) -> None:
    metrics = "latency, throughput, latency_graph, peak_memory, mfu"
    axes = "{device: cuda, size: 224, batch_size: [1, 64], dtype: bfloat16, mode: [inference, training]}"
    path = suite_file(f"schema: 1\ngroups:\n  - {{models: [vit_b16], axes: {axes}, metrics: [{metrics}]}}\n")
    done = zoo("run", str(path), timeout=500)
    assert done.returncode == 0, done.stderr
    for record in store.load(tmp_path / "runs" / "mine").records:
        for name, value in record.metrics.items():
            assert value.status == "ok", (record.case.id, name, value.reason)
        if "latency" in record.metrics:
            latency = record.metrics["latency"]
            assert 0 < latency.detail["host_seconds"] < latency.value
            assert 0 < latency.detail["device_seconds"] < 1.1 * latency.value
            # Of training the captured AdamW keeps its steps on the device, which is more work.
            more = 1.15 if record.case.mode == "training" else 1.05
            assert record.metrics["latency_graph"].value < more * latency.value


WAITS = """
from torch import nn
from zoo import ModelSpec, hookimpl, image_classifier

class Waits(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 10)

    def forward(self, x):
        y = self.linear(x.mean(dim=(2, 3)))
        return y * 2 if not y.is_meta and float(y.sum()) > 0 else y

def waits(size): return Waits()

@hookimpl
def zoo_models():
    yield ModelSpec("waits", build=waits, **image_classifier(default=32))
"""


@on_gpu
def test_on_a_gpu_a_model_that_waits_for_the_device_has_a_latency_and_no_graph(
    suite_file: Any, tmp_path: Path, zoo: Any
) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    axes, metrics = "{device: cuda, size: 32}", "[latency_graph, latency, throughput]"
    path = suite_file(f"schema: 1\ngroups:\n  - {{models: [waits], axes: {axes}, metrics: {metrics}}}\n")
    done = zoo("run", str(path), "--plugin", "waits.py", "--models", "waits")
    assert done.returncode == 0, done.stderr
    found = {name: v for r in store.load(tmp_path / "runs" / "mine").records for name, v in r.metrics.items()}
    assert (found["latency"].status, found["throughput"].status) == ("ok", "ok")
    assert found["latency_graph"].status == "unsupported"
    assert found["latency_graph"].reason.startswith("cannot be captured")
