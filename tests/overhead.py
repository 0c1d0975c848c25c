"""What the harness adds to a call: ``python tests/overhead.py`` prints a table.

A bare loop, which reads the clock once before and once after, and the harness's loop, which reads it around every call,
run in turn, A B B A, in one process. A no-op shows the nanoseconds, a model of a millisecond the share.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter_ns

import torch
from torch import nn

from zoo.metrics.driver import driver_of
from zoo.metrics.speed import time_calls

ROUNDS = 200


def bare(call: Callable[[], object], n: int) -> float:
    """Return nanoseconds a call of the least that a loop can be."""
    start = perf_counter_ns()
    for _ in range(n):
        call()
    return (perf_counter_ns() - start) / n


def harness(call: Callable[[], object], n: int) -> float:
    """Return nanoseconds a call of the harness's loop, all that it does included."""
    synchronize = driver_of("cpu").synchronize
    start = perf_counter_ns()
    time_calls(call, n, synchronize)
    return (perf_counter_ns() - start) / n


def compared(name: str, call: Callable[[], object], n: int) -> str:
    """Return one line of the table: medians over rounds of the two loops and of their difference."""
    bare(call, n), harness(call, n)
    times = []
    for _ in range(ROUNDS):
        a, b, c, d = bare(call, n), harness(call, n), harness(call, n), bare(call, n)
        times.append(((a + d) / 2, (b + c) / 2))
    alone, added = (statistics.median(t) for t in (next(zip(*times, strict=True)), [b - a for a, b in times]))
    return f"| {name} | {n} | {alone:,.0f} | {added:+,.0f} | {added / alone:+.3%} |"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| call | calls a round | bare loop (ns) | the harness adds (ns) | share |")
    print("| :--- | ---: | ---: | ---: | ---: |")
    print(compared("no-op", lambda: None, 10_000))
    model, x = nn.Sequential(*(nn.Linear(512, 512) for _ in range(4))).eval(), torch.randn(64, 512)
    with torch.inference_mode():
        print(compared("four linear layers", lambda: model(x), 20))


if __name__ == "__main__":
    main()
