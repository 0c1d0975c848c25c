"""The metrics. Each module takes a module and an input, and knows no registry, suite or store.

``METRICS`` is the one table that says how each is called, which phase of a case yields it, and how it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoo.spec import Metric

# A phase is what one worker process does: metrics of one phase share a process, a death takes no other phase along.
# static: on the meta device; memory: with an allocator set for it; speed: timed; task: trained and evaluated.
Phase = Literal["static", "memory", "speed", "task"]
PHASES: tuple[Phase, ...] = ("static", "memory", "speed", "task")


@dataclass(frozen=True)
class HarnessMetric(Metric):
    """A metric that the harness takes of any model."""

    phase: Phase = "static"
    sampled: bool = False
    title: str = ""


METRICS: dict[str, HarnessMetric] = {
    m.name: m
    for m in (
        HarnessMetric("params", title="Params"),
        HarnessMetric("params_trainable", title="Trainable params"),
        HarnessMetric("macs", title="MACs"),
        HarnessMetric("flops", title="FLOPs"),
        HarnessMetric("flops_fft", title="FFT FLOPs"),
        HarnessMetric("uncounted_ops", title="Uncounted ops"),
        HarnessMetric("peak_memory_predicted", "B", title="Peak memory (predicted)"),
        HarnessMetric("peak_memory", "B", phase="memory", title="Peak memory"),
        HarnessMetric("latency", "s", phase="speed", sampled=True, interval="median", title="Latency"),
        HarnessMetric("throughput", "1/s", True, "median", phase="speed", sampled=True, title="Throughput"),
    )
}
