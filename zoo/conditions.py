"""What goes on beside a measurement: which cores are idle, and what others and the host take of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

SPENT_ON = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
WORKING = ("user", "nice", "system", "irq", "softirq")
# What spoils a measurement: cores that others keep busy, and the share of all cores' time that the host takes.
MUCH_BUSY, MUCH_STEAL = 0.25, 0.02
WATCHED = 0.05  # seconds; the kernel counts in hundredths
STAT = Path("/proc/stat")
TOPOLOGY = Path("/sys/devices/system/cpu")
Ticks = Mapping[int | None, Mapping[str, int]]


def read_ticks(text: str) -> Ticks:
    """Return what /proc/stat says that each core has spent, by what on; under None all of them together."""
    found: dict[int | None, dict[str, int]] = {}
    for line in text.splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu"):
            spent = dict(zip(SPENT_ON, map(int, numbers), strict=False))
            found[int(name[3:]) if name[3:] else None] = dict.fromkeys(SPENT_ON, 0) | spent
    return found


def ticks() -> Ticks:
    """Return what each core has spent; nothing where the kernel does not say."""
    try:
        return read_ticks(STAT.read_text())
    except OSError:
        return {}


def choose_cores(threads: int) -> tuple[int, ...]:
    """Return as many cores as there are threads, each of its own as far as they go, the idlest first.

    All that this process may use where there is no choice. Threads that share one core's two halves, or are moved
    about, take other times than threads that are not.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if threads >= len(allowed):
        return tuple(allowed)
    before = ticks()
    time.sleep(WATCHED)
    after = ticks()
    idle = {n: after[n]["idle"] - before[n]["idle"] if n in before and n in after else 0 for n in allowed}
    # The last ones first where all are as idle: interrupts go to the first.
    ordered = sorted(allowed, key=lambda n: (-idle[n], -n))
    firsts = {siblings(n): n for n in reversed(ordered)}
    return tuple(sorted(ordered, key=lambda n: firsts[siblings(n)] != n)[:threads])


def siblings(core: int) -> str:
    """Return what the halves of a physical core have in common; the core's own number where the kernel does not say."""
    try:
        return (TOPOLOGY / f"cpu{core}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(core)


def cpu_seconds() -> float:
    """Return the processor time of this process and of all that it ever started, compilers of compilers included."""
    import psutil

    process = psutil.Process()
    times = [process.cpu_times()]
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # one that has ended is in the times of who waited for it
            times.append(child.cpu_times())
    return float(sum(t.user + t.system + t.children_user + t.children_system for t in times))


@dataclass(frozen=True)
class Watch:
    """What the cores do from a moment on, beside this process and all that it starts."""

    cores: tuple[int, ...]  # that are used for the measurement
    before: Ticks = field(default_factory=ticks)
    spent: float = field(default_factory=cpu_seconds)
    began: float = field(default_factory=time.monotonic)

    def seen(self) -> dict[str, Any]:
        """Return the cores that were used, how many others kept busy, the host's share of them, and the load."""
        after, spent, elapsed = ticks(), cpu_seconds() - self.spent, time.monotonic() - self.began
        used = {n: after[n] for n in os.sched_getaffinity(0) if n in self.before and n in after}
        found: dict[str, Any] = {"cores": list(self.cores), "load": round(os.getloadavg()[0], 2)}
        if used and elapsed > WATCHED:
            gone = {what: sum(now[what] - self.before[n][what] for n, now in used.items()) for what in SPENT_ON}
            busy = sum(gone[what] for what in WORKING) / os.sysconf("SC_CLK_TCK")
            found["others"] = round(max(0.0, busy - spent) / elapsed, 2)
            found["steal"] = round(gone["steal"] / max(1, sum(gone.values())), 4)
        return found


def mean_of(seen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return several conditions as one: all cores that were used, and the means of the rest."""
    return joined(seen, lambda values: round(fmean(values), 4))


def worst_of(seen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return several conditions as one: all cores that were used, and the most of the rest."""
    return joined(seen, max)


def joined(seen: Sequence[Mapping[str, Any]], of: Callable[[list[float]], float]) -> dict[str, Any]:
    """Return several conditions as one: all cores that were used, and of the rest what ``of`` makes of the values."""
    found: dict[str, Any] = {"cores": sorted({core for c in seen for core in c.get("cores", ())})}
    for name in ("others", "steal", "load", "noise"):
        if values := [c[name] for c in seen if name in c]:
            found[name] = of(values)
    return found
