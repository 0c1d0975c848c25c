"""Time a call. The timed loops hold nothing but the call, the synchronisation and the clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter_ns

from zoo.metrics.driver import Call, Driver, Pair


@dataclass(frozen=True)
class Times:
    """Nanoseconds of each sample: ``host`` until it was waited for, and of a device that has a queue two more.

    ``queued`` is until one call that found the queue empty had returned, ``device`` from an event before the sample to
    one behind it. In a window of many calls the queue fills up, and queueing takes as long as the device does.
    """

    host: list[int]
    queued: Sequence[int] = ()
    device: Sequence[int] = ()


def take(call: Call, n: int, calls: int, driver: Driver) -> Times:
    """Return the times of ``n`` samples of ``calls`` calls, each waited for before the next begins."""
    events = driver.events(n)
    if events:
        alone = time_between(call, 1, events[:1], driver.synchronize).queued if calls > 1 else ()
        times = time_between(call, calls, events, driver.synchronize)
        return replace(times, queued=alone or times.queued)
    if calls > 1:
        return Times(time_windows(call, n, calls, driver.synchronize))
    return Times(time_calls(call, n, driver.synchronize))


def time_between(call: Call, calls: int, events: Sequence[Pair], synchronize: Call) -> Times:
    """Return the times of one sample for each pair of events.

    The first event is recorded before the clock starts, the second while the device works, so a user's time holds
    neither; only where the host is slower than the device does it hold the microsecond of the second.
    """
    host, queued = [0] * len(events), [0] * len(events)
    synchronize()
    for i in range(len(events)):
        before, behind = events[i]
        before.record()
        start = perf_counter_ns()
        for _ in range(calls):
            call()
        queued[i] = perf_counter_ns() - start
        behind.record()
        synchronize()
        host[i] = perf_counter_ns() - start
    return Times(host, queued, [round(1e6 * before.elapsed_time(behind)) for before, behind in events])


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
