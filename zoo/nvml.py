"""What NVIDIA's management library knows of a GPU. Every answer may be unknown: drivers and containers refuse a lot.

It opens no CUDA context, so the parent may ask. Clocks are in MHz, energy in joules, temperature in degrees Celsius.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Reasons for a lower clock that spoil a measurement, by their bit (nvml.h, nvmlClocksEventReason*). Being idle, and
# clocks set by an application, do not.
THROTTLING = {
    0x4: "power cap (software)",
    0x8: "hardware slowdown",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake",
}


@dataclass(frozen=True)
class Gpu:
    """One GPU, by its handle. A method returns None where the library gives no answer."""

    library: Any
    handle: Any

    @classmethod
    def open(cls, index: int = 0, library: Any = None, uuid: str = "") -> Gpu | None:
        """Open a GPU by its index, or by ``uuid``; None without the library, the driver or the GPU."""
        if library is None:
            try:
                library = importlib.import_module("pynvml")
            except ImportError:
                return None
        try:
            library.nvmlInit()
            if uuid:
                return cls(library, library.nvmlDeviceGetHandleByUUID(uuid))
            return cls(library, library.nvmlDeviceGetHandleByIndex(index))
        except library.NVMLError:
            return None

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

    def throttling(self) -> tuple[str, ...] | None:
        """Why the clock is lower than it could be; empty when nothing holds it down."""
        bits = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # the name before driver 535
            bits = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if bits is None else tuple(text for bit, text in THROTTLING.items() if bits & bit)

    def foreign(self, own: Callable[[], set[int]] = lambda: {os.getpid()}) -> tuple[int, ...] | None:
        """Processes that compute on the GPU and are not ``own``."""
        running = self.ask("nvmlDeviceGetComputeRunningProcesses")
        return None if running is None else tuple(sorted({int(p.pid) for p in running} - own()))

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
