"""What a device must offer to be measured, and the two that do. Nothing else in the harness asks ``torch.cuda``.

A test puts a driver of its own in the place of ``Cuda``: one that computes on the CPU, and has a clock and a script.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol

import torch

from zoo.nvml import Gpu, Reading

Call = Callable[[], Any]
# Calls before a capture, as torch's documentation has it: libraries make their workspaces in them.
BEFORE_CAPTURE = 3


class Unsupported(Exception):
    """Something that this machine or this torch cannot do."""


class Event(Protocol):
    """A mark in the queue of a device."""

    def record(self) -> None:
        """Queue the mark."""

    def elapsed_time(self, end_event: Any) -> float:
        """Return the milliseconds from this mark to a later one, when both have been passed."""


Pair = tuple[Event, Event]


class Driver:
    """A device that has done its work when a call returns, and says nothing of itself; others override this."""

    device: torch.device
    # What AdamW must be told before a step of it can be captured.
    capturable: Mapping[str, Any] = MappingProxyType({})

    def synchronize(self) -> None:
        """Wait until the device has done its work."""

    def events(self, count: int) -> list[Pair]:
        """Return pairs of events that are ready to be recorded; an empty list where there are none."""
        return []

    def capture(self, call: Call) -> Call:
        """Return what replays a call as a CUDA graph. Unsupported, with the reason, where it cannot be captured."""
        raise Unsupported(f"a CUDA graph needs a CUDA device, and this is the {self.device.type.upper()}")

    def limit_memory(self, allowed: int) -> None:
        """Let tensors take so many bytes at most; an allocation past that fails. The CPU's limit is the process's."""

    def reset_peaks(self) -> tuple[int, int]:
        """Give unused memory back and begin to count anew; return the bytes of tensors and of libraries' workspaces."""
        raise Unsupported(f"the allocator of the {self.device.type.upper()} keeps no peaks")

    def peaks(self) -> dict[str, int]:
        """Return bytes since the reset: ``allocated`` and ``reserved`` at most, and ``driver``, in use by whomever."""
        raise Unsupported(f"the allocator of the {self.device.type.upper()} keeps no peaks")

    def mark(self) -> Call:
        """Return what waits for all that is queued by now, and for nothing that is queued later."""
        return self.synchronize

    @cached_property
    def gpu(self) -> Gpu | None:
        """NVIDIA's management library's view of the device; None for one that it does not know."""
        return None

    def watch(self) -> Reading | None:
        """Return what the device says of itself now; None for one that says nothing."""
        return None


class Cpu(Driver):
    """The processor."""

    device = torch.device("cpu")


class Cuda(Driver):
    """The current CUDA device of NVIDIA's. Unsupported without one."""

    capturable = MappingProxyType({"capturable": True})

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise Unsupported("this machine, or this build of torch, has no CUDA device")
        if torch.version.hip:
            raise Unsupported("this build of torch is for ROCm, on which nobody has measured yet")
        self.device = torch.device("cuda")
        self.pairs: list[Pair] = []

    def synchronize(self) -> None:
        """Wait until all streams of the device are done."""
        torch.cuda.synchronize()

    def event(self) -> Event:
        """Return an event that tells the time."""
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def events(self, count: int) -> list[Pair]:
        """Return pairs of events. Each was recorded once, for torch makes an event when it is recorded first."""
        while len(self.pairs) < count:
            pair = self.event(), self.event()
            for event in pair:
                event.record()
            self.pairs.append(pair)
        return self.pairs[:count]

    def capture(self, call: Call) -> Call:
        """Capture a call after a few on a side stream, as torch's documentation asks; the replay is one launch."""
        gc.collect()  # a graph of autograd that is left over from an eager call belongs to another stream
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(BEFORE_CAPTURE):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except Exception as error:
            first = first_cause(error)
            if isinstance(first, torch.OutOfMemoryError):
                raise first from None
            told = (str(first).strip() or type(first).__name__).splitlines()[0]
            raise Unsupported(f"cannot be captured: {told}") from error
        return graph.replay

    def limit_memory(self, allowed: int) -> None:
        """Limit what the allocator may reserve; context and libraries come on top."""
        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))

    def reset_peaks(self) -> tuple[int, int]:
        """Empty the allocator's cache, and cuBLAS's workspaces in it, which the next product makes again."""
        gc.collect()
        with_workspaces = torch.cuda.memory_allocated()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        return held, with_workspaces - held

    def peaks(self) -> dict[str, int]:
        """Read the allocator's marks, and what the driver has given away: context and other processes included."""
        free, total = torch.cuda.mem_get_info()
        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return {"allocated": allocated, "reserved": reserved, "driver": total - free}

    def mark(self) -> Call:
        """Return the waiting for an event behind what is queued."""
        event: Any = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        wait: Call = event.synchronize
        return wait

    @cached_property
    def gpu(self) -> Gpu | None:
        """NVML's view of the device, by its UUID: CUDA_VISIBLE_DEVICES gives it another index."""
        index = torch.cuda.current_device()
        return Gpu.open(index, uuid=str(getattr(torch.cuda.get_device_properties(index), "uuid", "")))

    def watch(self) -> Reading | None:
        """Read clocks, temperature and processes; each is unknown where NVML does not tell."""
        return self.gpu.read() if self.gpu else Reading()


def first_cause(error: BaseException) -> BaseException:
    """Return the error that started it all: one in a capture makes ending the capture fail, too."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def driver_of(name: str | None) -> Driver:
    """Return the driver of ``cpu`` or ``cuda``. Unsupported when there is no such device."""
    return Cuda() if name == "cuda" else Cpu()
