"""What a machine does at most, measured: matrix products, and a copy to and from memory.

The best of several sides and calls is kept: a ceiling is what was reached once, not what is usual. Random numbers, as
zeros take less power and run faster than any model could.
"""

from __future__ import annotations

import torch

from zoo.metrics.driver import Call, Driver
from zoo.metrics.roofline import Ceilings
from zoo.metrics.speed import take, time_calls

# Of square matrices; a GPU needs larger ones to fill it.
SIDES = {"cpu": (512, 1024, 1536, 2048), "cuda": (4096, 6144, 8192)}
COPIED = {"cpu": 2**28, "cuda": 2**31}  # bytes, far more than a cache holds
SECONDS = 0.3  # for each side, and for the copy


def measure(driver: Driver, dtype: torch.dtype) -> Ceilings:
    """Return FLOP/s in products of ``dtype``, and bytes/s of a copy, read and written both counted."""
    flops = max(_product(side, driver, dtype) for side in SIDES[driver.device.type])
    return Ceilings(flops, _copy(driver))


def _product(side: int, driver: Driver, dtype: torch.dtype) -> float:
    """Return FLOP/s of a product of two square matrices."""
    a, b = (torch.randn(side, side, device=driver.device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / _fastest(lambda: torch.mm(a, b, out=out), driver)


def _copy(driver: Driver) -> float:
    """Return bytes/s of a copy."""
    source = torch.randn(COPIED[driver.device.type] // 4, device=driver.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), driver)


def _fastest(call: Call, driver: Driver) -> float:
    """Return the seconds of the fastest of some calls, five at least, by the device's own clock where it has one."""
    _, first = time_calls(call, 2, driver.synchronize)  # one before it loads the library
    times = take(call, max(5, min(1000, int(SECONDS * 1e9 / max(first, 1)))), 1, driver)
    return min(times.device or times.host) / 1e9
