"""Time a call. The timed loops hold nothing but the call, the synchronisation and the clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import Any

import torch

Call = Callable[[], Any]


def synchronizer(device: torch.device) -> Call:
    """Return what waits until a device has done its work: nothing on the CPU, which is done when a call returns."""
    if device.type == "cuda":
        return partial(torch.cuda.synchronize, device)
    return _nothing


def _nothing() -> None:
    """Wait for nothing."""


def time_calls(call: Call, n: int, synchronize: Call) -> list[int]:
    """Return the nanoseconds of ``n`` calls, each waited for before the next begins."""
    times = [0] * n
    synchronize()
    for i in range(n):
        start = perf_counter_ns()
        call()
        synchronize()
        times[i] = perf_counter_ns() - start
    return times


def time_windows(call: Call, n: int, calls: int, synchronize: Call) -> list[int]:
    """Return the nanoseconds of ``n`` windows of ``calls`` calls that are queued and waited for at the end."""
    times = [0] * n
    synchronize()
    for i in range(n):
        start = perf_counter_ns()
        for _ in range(calls):
            call()
        synchronize()
        times[i] = perf_counter_ns() - start
    return times


def calls_per_window(call: Call, synchronize: Call, at_least_ns: int = 10_000_000) -> int:
    """Return how many queued calls make a window of at least that long. The first call, a cold one, is not timed."""
    call()
    calls = 1
    while True:
        (took,) = time_windows(call, 1, calls, synchronize)
        if took >= at_least_ns:
            return calls
        # A tenth more than the last window promises, and never a leap that one odd window could make too long.
        wanted = math.ceil(1.1 * calls * at_least_ns / max(took, 1))
        calls = max(calls + 1, min(wanted, 10 * calls))


def marker(device: torch.device) -> Callable[[], Call]:
    """Return what marks the end of what is queued; a mark waits for that, and for nothing that is queued later."""
    if device.type != "cuda":
        return lambda: _nothing

    def mark() -> Call:
        event: Any = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        wait: Call = event.synchronize
        return wait

    return mark
