"""What the harness adds to a call: ``python tests/overhead.py`` prints a table.

A bare loop, which reads the clock once before and once after, and the harness's loop, which reads it around every call,
run in turn, A B B A, in one process. What counts is what a sample, the number that is kept, has on top of a call; what
the loop takes as a whole is beside it. A no-op and a wait of a millisecond, which have no noise of their own, show the
nanoseconds; a model of a millisecond shows the share.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from time import perf_counter_ns

import torch
from torch import nn

from zoo.metrics.driver import driver_of
from zoo.metrics.speed import time_calls
from zoo.statistics import ratio_of

GROUPS, ROUNDS = 80, 40


def bare(call: Callable[[], object], n: int) -> float:
    """Return nanoseconds a call of the least that a loop can be."""
    start = perf_counter_ns()
    for _ in range(n):
        call()
    return (perf_counter_ns() - start) / n


def harness(call: Callable[[], object], n: int) -> tuple[float, float]:
    """Return nanoseconds a call of the harness's samples, and of its loop, all that it does included."""
    synchronize = driver_of("cpu").synchronize
    start = perf_counter_ns()
    samples = time_calls(call, n, synchronize)
    took = perf_counter_ns() - start
    return sum(samples) / n, took / n


def wait() -> None:
    """Take a millisecond."""
    end = perf_counter_ns() + 1_000_000
    while perf_counter_ns() < end:
        pass


def compared(name: str, call: Callable[[], object], n: int) -> str:
    """Return one line of the table: what a call takes, and what a sample and the harness's loop have on top of it."""
    bare(call, n), harness(call, n)
    alone, samples, loops = [], [], []
    for _ in range(GROUPS):
        of_samples, of_loops = [], []
        for _ in range(ROUNDS):
            a, b, c, d = bare(call, n), harness(call, n), harness(call, n), bare(call, n)
            alone.append((a + d) / 2)
            of_samples.append((b[0] + c[0]) / (a + d))
            of_loops.append((b[1] + c[1]) / (a + d))
        samples.append(of_samples)
        loops.append(of_loops)
    least = statistics.median(alone)
    cells = [f"{least:,.0f}"]
    for found in (ratio_of(samples), ratio_of(loops)):
        share, low, high = (value - 1 for value in (found.value, *found.interval))
        cells.append(f"{share * least:+,.0f} ({share:+.2%} [{low:+.2%}, {high:+.2%}])")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    gc.freeze()  # as the server does from which workers are forked
    print("| call | bare loop (ns) | a sample has on top (ns) | the loop has on top (ns) |")
    print("| :--- | ---: | ---: | ---: |")
    print(compared("no-op", lambda: None, 2_000))
    print(compared("a wait of a millisecond", wait, 4))
    model, x = nn.Sequential(*(nn.Linear(512, 512) for _ in range(4))).eval(), torch.randn(64, 512)
    with torch.inference_mode():
        print(compared("four linear layers", lambda: model(x), 4))


if __name__ == "__main__":
    main()
