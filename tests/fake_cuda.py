"""A CUDA device that computes on the CPU, under a clock of its own, which :func:`launch` advances.

``install`` puts it in the place of the real one, in the process that calls it; ``write_machine`` writes the rest of a
machine with a GPU: what stands for NVIDIA's library and for ``nvidia-smi``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from zoo.metrics import ceilings, driver, speed
from zoo.metrics.roofline import Ceilings
from zoo.nvml import Gpu, Reading

QUEUE = 1000  # launches that are queued at most; then the host waits


@dataclass
class Clock:
    """The host's time, when the device will have done all it was given, and its work so far; nanoseconds."""

    now: int = 0
    done: int = 0
    work: int = 0
    pending: deque[int] = field(default_factory=deque)

    def launch(self, host: int, device: int) -> None:
        """Let the host queue work for the device."""
        self.now += host
        if len(self.pending) >= QUEUE:
            self.now = max(self.now, self.pending.popleft())
        self.done = max(self.done, self.now) + device
        self.work += device
        self.pending.append(self.done)


CLOCK = Clock()


def launch(host: int, device: int) -> None:
    """Queue one kernel, which takes the host and the device so many nanoseconds."""
    CLOCK.launch(host, device)


@dataclass
class Event:
    """A mark of the device's time."""

    at: int = 0

    def record(self) -> None:
        """Note when the device comes here."""
        self.at = max(CLOCK.now, CLOCK.done)

    def elapsed_time(self, end_event: Event) -> float:
        """Return milliseconds."""
        return (end_event.at - self.at) / 1e6


class FakeCuda(driver.Driver):
    """A device whose captures fail where it is ``broken``. NVML is asked as of a real one."""

    device = torch.device("cpu")

    def __init__(self, broken: str = "") -> None:
        self.broken, self.gpu = broken, Gpu.open(uuid="0")

    def synchronize(self) -> None:
        """Let the time pass that the device needs."""
        CLOCK.now = max(CLOCK.now, CLOCK.done)
        CLOCK.pending.clear()

    def events(self, count: int) -> list[driver.Pair]:
        """Return new events."""
        return [(Event(), Event()) for _ in range(count)]

    def capture(self, call: driver.Call) -> driver.Call:
        """Call once to see what the device does for it. A replay takes the host a microsecond."""
        if self.broken:
            raise driver.Unsupported(f"cannot be captured: {self.broken}")
        before = CLOCK.work
        call()
        work = CLOCK.work - before
        return lambda: launch(1000, work)

    def reset_peaks(self) -> tuple[int, int]:
        """Return what is held, and by workspaces."""
        return 1 << 20, 32 << 20

    def peaks(self) -> dict[str, int]:
        """Return sizes in the order that they have on a device."""
        return {"allocated": 3 << 20, "reserved": 4 << 20, "driver": 500 << 20}

    def watch(self) -> Reading | None:
        """Ask NVML."""
        return self.gpu.read() if self.gpu else Reading()


def install(make: Callable[[], driver.Driver] = FakeCuda) -> None:
    """Make it the CUDA device of this process, of 1 TFLOP/s and 100 GB/s."""
    setattr(driver, "Cuda", make)  # noqa: B010
    setattr(speed, "perf_counter_ns", lambda: CLOCK.now)  # noqa: B010
    setattr(ceilings, "measure", lambda device, dtype: Ceilings(1e12, 1e11))  # noqa: B010


# A list answers one call after the other, its last item all that follow; what is missing is not supported.
PYNVML = """
import json, os, psutil
from types import SimpleNamespace

ANSWERS = json.loads({answers!r})
NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

class NVMLError(Exception):
    pass

def nvmlInit():
    pass

def nvmlDeviceGetHandleByUUID(uuid):
    return uuid

def nvmlDeviceGetHandleByIndex(index):
    return index

def nvmlDeviceGetMemoryInfo(handle):
    return SimpleNamespace(free=2**30, used=2**30)

def nvmlDeviceGetComputeRunningProcesses(handle):
    # All workers that are alive are their server's children.
    workers = [process.pid for process in psutil.Process().parent().children()] if ANSWERS.get("workers") else []
    return [SimpleNamespace(pid=pid) for pid in {{os.getpid(), *workers, *ANSWERS.get("others", [])}}]

def answer(name):
    if name not in ANSWERS:
        raise NVMLError("not supported")
    found = ANSWERS[name]
    if isinstance(found, list):
        found = found.pop(0) if len(found) > 1 else found[0]
    return found

def __getattr__(name):
    if name.startswith("nvmlDeviceGet"):
        return lambda *arguments: answer(name)
    raise AttributeError(name)
"""


def write_machine(folder: Path, **answers: Any) -> None:
    """Write ``pynvml`` with its answers, and an ``nvidia-smi`` that knows the GPU's name, into a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "pynvml.py").write_text(PYNVML.format(answers=json.dumps(answers)))
    command = folder / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'NVIDIA Fake 1'\n")
    command.chmod(0o755)
