"""What a device is asked for: events and host time on the same calls, graphs, peaks, and itself as NVML sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import fake_cuda
import pytest
import torch
from gpu import on_gpu
from torch import nn

from zoo.metrics import memory, speed
from zoo.metrics.driver import Cpu, Cuda, Unsupported, driver_of
from zoo.nvml import Gpu, Reading


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> fake_cuda.FakeCuda:
    """A device under a fresh clock."""
    clock = fake_cuda.Clock()
    monkeypatch.setattr(fake_cuda, "CLOCK", clock)
    monkeypatch.setattr(speed, "perf_counter_ns", lambda: clock.now)
    return fake_cuda.FakeCuda()


def kernels(count: int, host: int, device: int) -> Callable[[], None]:
    """Return a call of so many kernels."""

    def call() -> None:
        for _ in range(count):
            fake_cuda.launch(host, device)

    return call


def test_of_each_call_three_times_are_taken(cuda: fake_cuda.FakeCuda) -> None:
    times = speed.take(kernels(10, 5, 20), 3, 1, cuda)
    # The host queues for 10 x 5 ns; the device begins after the first 5 ns and works for 10 x 20 ns.
    assert times == speed.Times(host=[205] * 3, queued=[50] * 3, device=[205] * 3)


def test_a_window_is_timed_whole_and_queueing_on_an_empty_queue(cuda: fake_cuda.FakeCuda) -> None:
    times = speed.take(kernels(10, 5, 20), 2, 500, cuda)
    assert times.host == times.device == [5 + 500 * 10 * 20] * 2
    assert times.queued == [50]  # in the window the queue is full after 100 calls, and queueing takes 200 ns


def test_a_host_that_is_slower_than_the_device_sets_the_pace(cuda: fake_cuda.FakeCuda) -> None:
    times = speed.take(kernels(10, 20, 5), 2, 100, cuda)
    assert times.host == [100 * 200 + 5] * 2
    assert times.queued == [200]


def test_the_cpu_tells_host_time_alone() -> None:
    times = speed.take(lambda: None, 5, 1, Cpu())
    assert (len(times.host), times.queued, times.device) == (5, (), ())
    assert len(speed.take(lambda: None, 2, 3, Cpu()).host) == 2


def test_the_cpu_has_no_graphs_no_peaks_and_no_watch() -> None:
    cpu = driver_of("cpu")
    with pytest.raises(Unsupported, match="a CUDA graph needs a CUDA device, and this is the CPU"):
        cpu.capture(lambda: None)
    for ask in (cpu.reset_peaks, cpu.peaks):
        with pytest.raises(Unsupported, match="keeps no peaks"):
            ask()
    assert cpu.watch() is None


# -- CUDA, with every function of torch that it calls in the place of the real one -----------------------------


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of what is called of ``torch.cuda``, in order."""
    called: list[str] = []

    def note(name: str, answer: Any = None) -> Callable[..., Any]:
        return lambda *_, **__: called.append(name) or answer

    stream = SimpleNamespace(wait_stream=note("wait"))
    answers = {
        "is_available": True,
        "Stream": stream,
        "current_stream": stream,
        "stream": nullcontext(),
        "CUDAGraph": SimpleNamespace(replay=note("replay")),
        "graph": nullcontext(),
        "memory_allocated": 1,
        "max_memory_allocated": 3,
        "max_memory_reserved": 4,
        "mem_get_info": (10, 16),
        "current_device": 0,
        "get_device_properties": SimpleNamespace(uuid="abc"),
        **dict.fromkeys(("synchronize", "empty_cache", "reset_peak_memory_stats")),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, note(name, answer))
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", note("clear_workspaces"), raising=False)
    monkeypatch.setattr(
        torch.cuda, "Event", lambda enable_timing: SimpleNamespace(record=note(f"event {enable_timing}"))
    )
    return called


def test_without_a_gpu_cuda_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unsupported, match="has no CUDA device"):
        driver_of("cuda")


def test_rocm_is_refused(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    with pytest.raises(Unsupported, match="ROCm"):
        Cuda()


def test_events_are_made_once_and_before_anything_is_timed(log: list[str]) -> None:
    cuda = Cuda()
    first = cuda.events(2)
    assert log.count("event True") == 4
    assert cuda.events(1) == first[:1]
    assert log.count("event True") == 4


def test_a_capture_comes_after_calls_on_a_side_stream(log: list[str]) -> None:
    replay = Cuda().capture(lambda: log.append("call"))
    assert log[log.index("stream") :] == [
        "stream",
        *["call"] * 3,
        "current_stream",
        "wait",
        "CUDAGraph",
        "graph",
        "call",
    ]
    replay()
    assert log[-1] == "replay"


class FailingGraph:
    """A capture that fails at its end, as torch's does after an error within."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def __enter__(self) -> None:
        self.log.append("capturing")

    def __exit__(self, *_: object) -> None:
        raise RuntimeError("capture was invalidated")


def test_a_capture_that_fails_says_what_went_wrong_first(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: FailingGraph(log))

    def call() -> None:
        if log[-1] == "capturing":
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    with pytest.raises(Unsupported) as caught:
        Cuda().capture(call)
    assert str(caught.value) == "cannot be captured: operation not permitted when stream is capturing"


def test_a_capture_without_memory_is_out_of_memory(log: list[str]) -> None:
    def call() -> None:
        if log[-1] == "graph":
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Cuda().capture(call)


def test_memory_that_ends_in_a_capture_is_out_of_memory_whatever_the_end_of_it_says(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: FailingGraph(log))

    def call() -> None:
        if log[-1] == "capturing":
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        Cuda().capture(call)


def test_an_error_without_words_is_told_by_its_name(log: list[str]) -> None:
    def call() -> None:
        if log[-1] == "graph":
            raise AssertionError

    with pytest.raises(Unsupported, match="cannot be captured: AssertionError"):
        Cuda().capture(call)


def test_peaks_are_those_of_the_second_call(log: list[str]) -> None:
    found = memory.peak_on_device(lambda: log.append("call"), Cuda())
    assert found == {"allocated": 3, "reserved": 4, "driver": 16 - 10, "held": 1, "workspaces": 0}
    emptied = ["memory_allocated", "clear_workspaces", "empty_cache", "reset_peak_memory_stats", "memory_allocated"]
    assert log[1:10] == ["call", "synchronize", *emptied, "call", "synchronize"]


def test_nvml_is_asked_by_the_uuid(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened = mock.Mock(return_value=None)
    monkeypatch.setattr(Gpu, "open", opened)
    assert Cuda().watch() == Reading()
    opened.assert_called_once_with(0, uuid="abc")


# -- a real GPU ------------------------------------------------------------------------------------------------


@on_gpu
def test_on_a_gpu_the_three_times_fit_together() -> None:
    cuda, x = driver_of("cuda"), torch.randn(4096, 4096, device="cuda")
    times = speed.take(lambda: x @ x, 20, 1, cuda)
    # 2 x 4096^3 FLOPs take a hundred microseconds at the very least, and queueing some ten.
    for queued, device, host in zip(times.queued, times.device, times.host, strict=True):
        assert 0 < queued < host
        assert 1e5 < device < 1.2 * host
    window = speed.take(lambda: x @ x, 2, 50, cuda)
    assert min(window.device) > 20 * min(times.device)


@on_gpu
@pytest.mark.parametrize("training", [False, True])
def test_on_a_gpu_a_replay_does_what_the_call_does(training: bool) -> None:
    cuda = driver_of("cuda")
    with torch.device("cuda"):
        module, x = nn.Linear(64, 64), torch.randn(8, 64)
    if not training:
        out = torch.zeros(8, 64, device="cuda")
        with torch.inference_mode():
            replay = cuda.capture(lambda: out.copy_(module(x)))
            out.zero_()
            replay()
            cuda.synchronize()
            assert torch.allclose(out, module(x))
        return
    before = module.weight.detach().clone()
    optimizer = memory.make_optimizer(module, lambda p: memory.make_adamw(p, **cuda.capturable))
    replay = cuda.capture(lambda: memory.train_step(module, ((x,), {}), optimizer))
    captured = module.weight.detach().clone()
    replay()
    cuda.synchronize()
    assert not torch.equal(before, captured)
    assert not torch.equal(captured, module.weight)


@on_gpu
def test_on_a_gpu_nvml_knows_this_process_and_the_clock() -> None:
    cuda = driver_of("cuda")
    torch.ones(8, device="cuda")
    reading = cuda.watch()
    assert reading is not None
    assert reading.sm_clock is None or 100 < reading.sm_clock <= (reading.full_clock or 10_000)
