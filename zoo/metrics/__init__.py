"""The metrics. Each module takes a module and an input, and knows no registry, suite or store.

``METRICS`` is the one table that says how each is called, which phase of a case yields it, and how it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from zoo.spec import Metric

# A phase is what one worker process does: metrics of one phase share a process, a death takes no other phase along.
# static: on the meta device; memory: with an allocator set for it; speed: timed; task: trained and evaluated.
Phase = Literal["static", "memory", "speed", "task"]
PHASES: tuple[Phase, ...] = ("static", "memory", "speed", "task")


@dataclass(frozen=True)
class HarnessMetric(Metric):
    """A metric that the harness takes of any model.

    It is ``sampled``, or ``derived`` from one that is, or, with ``ratio_of``, its ratio to the group's baseline.
    """

    phase: Phase = "static"
    sampled: bool = False
    derived: bool = False
    ratio_of: str = ""
    whole: bool = False  # told with all its digits
    probed: bool = False  # in fresh processes, with batch sizes of its own
    title: str = ""


# Bytes by which a process's high-water mark may be too low: of known buffers up to 85 pages were missing.
LATE = 350 * 1024
# How a value was counted or measured, in the words of a table's footer. A value stores the name.
CONVENTIONS = {
    "shared once": "a shared tensor counts once",
    "mac": "multiply-accumulates of one sample",
    "flop": "two for each multiply-accumulate, of one sample",
    "flop+elementwise": "two for each multiply-accumulate, one for each element that a pointwise operator writes or "
    "a reduction reads, five for softmax and norms, 5 n log2 n for Fourier transforms; of one sample",
    "detr2020": "as DETR's authors counted: one for each multiply-accumulate, one an element for sums, products, ReLU "
    "and dropout, four for batch norm, five for softmax, none for layer norm and pools; of one sample",
    "fvcore": "what fvcore 0.1.5 prints: one for each multiply-accumulate that it sees, five an element for layer "
    "norm, two for batch norm, none for attention that is one operator; of one sample",
    "5 n log2 n": "5 n log2 n for a complex Fourier transform, of one sample; in no count of MACs",
    "products": "elements that convolutions, linear layers and matrix products write, of one sample",
    "local exponent": "the slope of the logarithm of a cost by that of n",
    "all pairs": "the tokens squared, which attention of each to each would compare",
    "longest chain": "the most operators of a forward pass that each wait for the one before; a product of matrices is "
    "one, a recurrence one and more for each step",
    "layers times chain": "layers, stacked, until every token depends on every other or, where it looks back only, on "
    "every earlier one, by the Jacobian, times the longest chain of operators in one of them",
    "material": "calls of operators that are in no count and may matter",
    "fake tensors": "weights, inputs, an optimiser's state and what torch would allocate; nothing is run",
    "VmHWM": "weights, inputs, an optimiser's state, and the process's high-water mark of one call above them",
    "tried": "the largest that ran within the memory that is allowed, of at most three that were tried from the "
    "predicted one on; the case's own batch size has no part in it",
    "knee": "the smallest whose throughput is within 2 % of the best, of at most three powers of two that were tried "
    "from the predicted one on, each in a fresh process; the case's own batch size has no part in it",
    "cuda allocator": "the most that torch held at once",
    "synchronised each call": "one call, waited for",
    "replayed CUDA graph": "one call, captured once as a CUDA graph, replayed and waited for",
    "queued calls": "calls queued one after the other",
    "beside the baseline": "to the group's baseline, side by side in sets of fresh processes unless a note says "
    "otherwise; the baseline's own row says what it differs from itself, which is no difference",
    "nvml": "what NVIDIA's counter of the GPU rose by, memory and board with it, over windows of 5 s or more of queued "
    "calls; an idle machine's share is not taken off",
    "rapl": "what the counters of the processor's packages rose by, over windows of 5 s or more of calls: all that ran "
    "there is in it, memory and the rest of the machine are not; an idle machine's share is not taken off",
    "fused bound": "least time of its products, norms and reductions, each reading and writing memory once, on what "
    "this machine did at most in a matrix product and a copy; over the time that it takes",
    "measured ceiling": "FLOPs of products and transforms a second, over what this machine did at most in a product",
    "first call": "the first call of a compiled model, nothing cached, less a call afterwards",
    "p90": "nine calls in ten take no longer; of 64 calls or more",
    "p99": "99 calls in a hundred take no longer; of 662 calls or more",
}

# Those of them that a count can be told in.
Convention = Literal["mac", "flop", "flop+elementwise", "detr2020", "fvcore"]
CONVERTIBLE: tuple[Convention, ...] = get_args(Convention)

# What the interval of a number is of that several processes gave.
BETWEEN = "mean over fresh processes"

METRICS: dict[str, HarnessMetric] = {
    m.name: m
    for m in (
        HarnessMetric("params", title="Params"),
        HarnessMetric("params_trainable", title="Trainable params"),
        HarnessMetric("macs", title="MACs"),
        HarnessMetric("flops", title="FLOPs"),
        HarnessMetric("flops_fft", title="FFT FLOPs"),
        HarnessMetric("uncounted_ops", title="Uncounted ops"),
        HarnessMetric("activations", title="Activations"),
        HarnessMetric("tokens", whole=True, title="Tokens"),
        HarnessMetric("pairs", title="Pairs of tokens"),
        HarnessMetric("sequential_operations", title="Sequential operations"),
        HarnessMetric("path_length", title="Longest path"),
        HarnessMetric("peak_memory_predicted", "B", title="Peak memory (predicted)"),
        HarnessMetric("peak_memory", "B", phase="memory", title="Peak memory"),
        HarnessMetric("largest_batch", "1", True, phase="memory", probed=True, title="Largest batch"),
        HarnessMetric(
            "latency", "s", phase="speed", sampled=True, interval="median within one process", title="Latency"
        ),
        HarnessMetric(
            "throughput", "1/s", True, "median within one process", phase="speed", sampled=True, title="Throughput"
        ),
        HarnessMetric("latency_ratio", "1", False, BETWEEN, phase="speed", ratio_of="latency", title="Latency ratio"),
        HarnessMetric(
            "throughput_ratio", "1", True, BETWEEN, phase="speed", ratio_of="throughput", title="Throughput ratio"
        ),
        HarnessMetric(
            "latency_graph",
            "s",
            phase="speed",
            sampled=True,
            interval="median within one process",
            title="Latency (CUDA graph)",
        ),
        HarnessMetric("compile_time", "s", phase="speed", title="Compile time"),
        HarnessMetric("energy", "J", interval="geometric mean of windows", phase="speed", title="Energy a sample"),
        HarnessMetric("throughput_knee", phase="speed", probed=True, title="Batch at the knee"),
        HarnessMetric("latency_p90", "s", phase="speed", derived=True, title="Latency, p90"),
        HarnessMetric("latency_p99", "s", phase="speed", derived=True, title="Latency, p99"),
        HarnessMetric("percent_of_bound", "%", True, phase="speed", derived=True, title="Of the fused bound"),
        HarnessMetric("mfu", "%", True, phase="speed", derived=True, title="MFU"),
    )
}


def is_timed(metric: str) -> bool:
    """Tell whether a metric is sampled, or is a ratio of what is."""
    return metric in METRICS and (METRICS[metric].sampled or bool(METRICS[metric].ratio_of))


def follows(metric: str) -> bool:
    """Tell whether a metric is had from another, and not measured."""
    return metric in METRICS and (METRICS[metric].derived or bool(METRICS[metric].ratio_of))
