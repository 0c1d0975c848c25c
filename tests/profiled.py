"""What torch's CPU allocator hands out in a call, by its profiler."""

from __future__ import annotations

from collections.abc import Callable

import torch


def peak_of_allocations(call: Callable[[], object]) -> int:
    """Return the maximum of the running sum of what is allocated and freed in a second call, in bytes."""
    call()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
