"""What NVIDIA's management library knows of a GPU, and what of it spoils a measurement.

Every answer may be unknown: drivers and containers refuse a lot. It opens no CUDA context, so the parent may ask.
Clocks are in MHz, energy in joules, temperature in degrees Celsius.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.environment import first_visible

# Why a clock is lower than it could be, by bit (nvml.h, nvmlClocksEventReason*).
REASONS = {
    0x1: "idle",
    0x2: "clocks set by an application",
    0x4: "power cap (software)",
    0x8: "hardware slowdown",
    0x10: "in step with other GPUs",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake",
    0x100: "clocks set for a display",
}
# What spoils a measurement. A power cap does not: at it a card in a data centre runs under full load, today and
# tomorrow, where heat is of the moment.
HELD_DOWN = frozenset({"hardware slowdown", "thermal (software)", "thermal (hardware)", "power brake"})
THROTTLING = HELD_DOWN | {"power cap (software)"}
LEAST_CLOCK = 0.75  # of the highest: nvbench's threshold


@dataclass(frozen=True)
class Reading:
    """A GPU at one moment; None is unknown. ``processes`` are those that compute on it."""

    sm_clock: int | None = None
    full_clock: int | None = None
    reasons: tuple[str, ...] | None = None
    temperature: int | None = None
    processes: tuple[int, ...] | None = None

    def held_down(self) -> set[str]:
        """Return by what heat or hardware the clock is held down."""
        return set(self.reasons or ()) & HELD_DOWN

    def low_clock(self) -> bool:
        """Tell whether the clock is low for no reason that will last, such as a power cap."""
        known = self.sm_clock is not None and self.full_clock is not None
        low = known and self.sm_clock < LEAST_CLOCK * self.full_clock  # type: ignore[operator]
        return low and not set(self.reasons or ()) - {"idle"}


def spoiled(before: Reading, after: Reading) -> set[str]:
    """Return what spoils samples that were taken between two readings; empty when nothing is known to.

    A clock is judged when the GPU has just worked: one that waits for work may lower it, and the next call raises it.
    """
    held = before.held_down() | after.held_down()
    return held or ({f"SM clock below {LEAST_CLOCK:.0%} of the highest"} if after.low_clock() else set())


def conditions(readings: Sequence[Reading], own: Callable[[], set[int]]) -> dict[str, Any]:
    """Sum up readings: clocks from lowest to highest, the highest temperature, reasons, and how many ``foreign``.

    ``own`` returns the processes that are none of a stranger's. What was never told is None.
    """

    def told(name: str) -> list[Any]:
        return [value for value in (getattr(reading, name) for reading in readings) if value is not None]

    clocks, processes = told("sm_clock"), told("processes")
    seen = {pid for pids in processes for pid in pids}
    return {
        "sm_clock": [min(clocks), max(clocks)] if clocks else None,
        "full_clock": max(told("full_clock"), default=None),
        "temperature": max(told("temperature"), default=None),
        "reasons": sorted({text for reasons in told("reasons") for text in reasons} - {"idle"}),
        "foreign": len(seen - own()) if processes else None,
    }


def merged(seen: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return several conditions as one: the widest span of clocks, the most of the others, every reason."""

    def told(name: str) -> list[Any]:
        return [found[name] for found in seen if found[name] is not None]

    clocks = [clock for span in told("sm_clock") for clock in span]
    return {
        "sm_clock": [min(clocks), max(clocks)] if clocks else None,
        **{name: max(told(name), default=None) for name in ("full_clock", "temperature", "foreign")},
        "reasons": sorted({reason for reasons in told("reasons") for reason in reasons}),
    }


@dataclass(frozen=True)
class Gpu:
    """One GPU, by its handle. A method returns None where the library gives no answer."""

    library: Any
    handle: Any

    @classmethod
    def open(cls, index: int = 0, library: Any = None, uuid: str = "") -> Gpu | None:
        """Open a GPU by its UUID, by its index where that is not known; None without library, driver or GPU."""
        if library is None:
            try:
                library = importlib.import_module("pynvml")
            except ImportError:
                return None
        try:
            library.nvmlInit()
            if uuid:
                with contextlib.suppress(library.NVMLError):
                    return cls(library, library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}"))
            return cls(library, library.nvmlDeviceGetHandleByIndex(index))
        except library.NVMLError:
            return None

    @classmethod
    def first(cls, library: Any = None) -> Gpu | None:
        """Open the GPU that CUDA takes for its first, as CUDA_VISIBLE_DEVICES says."""
        visible = first_visible()
        uuid = visible if visible.startswith("GPU-") else ""
        return cls.open(int(visible) if visible.isdigit() else 0, library, uuid)

    def ask(self, function: str, *arguments: Any) -> Any:
        """Return what a function of the library says, or None."""
        try:
            return getattr(self.library, function)(self.handle, *arguments)
        except (self.library.NVMLError, AttributeError):
            return None

    def sm_clock(self) -> int | None:
        """The clock of the multiprocessors now."""
        found: int | None = self.ask("nvmlDeviceGetClockInfo", self.library.NVML_CLOCK_SM)
        return found

    def full_clock(self) -> int | None:
        """The highest clock of the multiprocessors."""
        found: int | None = self.ask("nvmlDeviceGetMaxClockInfo", self.library.NVML_CLOCK_SM)
        return found

    def reasons(self) -> tuple[str, ...] | None:
        """Why the clock is lower than it could be; empty when nothing holds it down."""
        bits = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # the name before driver 535
            bits = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if bits is None else tuple(text for bit, text in REASONS.items() if bits & bit)

    def throttling(self) -> tuple[str, ...] | None:
        """The reasons that somebody can do something about."""
        reasons = self.reasons()
        return None if reasons is None else tuple(text for text in reasons if text in THROTTLING)

    def processes(self) -> tuple[int, ...] | None:
        """The processes that compute on the GPU."""
        running = self.ask("nvmlDeviceGetComputeRunningProcesses")
        return None if running is None else tuple(sorted({int(p.pid) for p in running}))

    def foreign(self) -> tuple[int, ...] | None:
        """Processes that compute on the GPU, less this one."""
        running = self.processes()
        return None if running is None else tuple(pid for pid in running if pid != os.getpid())

    def read(self) -> Reading:
        """Return the GPU at this moment, asked by a process that computes on it.

        A list of processes in which that one is missing is of another namespace, a container's host: it says nothing.
        """
        processes = self.processes()
        known = processes is not None and os.getpid() in processes
        clocks, found = (self.sm_clock(), self.full_clock()), processes if known else None
        return Reading(*clocks, self.reasons(), self.temperature(), found)

    def temperature(self) -> int | None:
        """The GPU's temperature."""
        found: int | None = self.ask("nvmlDeviceGetTemperature", self.library.NVML_TEMPERATURE_GPU)
        return found

    def energy(self) -> float | None:
        """Joules since the driver was loaded."""
        millijoules = self.ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000

    def used(self) -> int | None:
        """Bytes of memory in use, by whomever."""
        info = self.ask("nvmlDeviceGetMemoryInfo")
        return None if info is None else int(info.used)

    def free(self) -> int | None:
        """Bytes of memory that nobody uses."""
        info = self.ask("nvmlDeviceGetMemoryInfo")
        return None if info is None else int(info.free)
