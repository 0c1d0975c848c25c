"""How fast a machine could be at best: a count against two ceilings, FLOP/s and bytes/s (Williams et al. 2009)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zoo.metrics.counts import Count, Kernel


@dataclass(frozen=True)
class Ceilings:
    """What a machine does at most: FLOP/s in matrix products, and bytes/s to and from memory, both above zero."""

    flops: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """FLOPs a byte from which on arithmetic is what limits."""
        return self.flops / self.bandwidth


@dataclass(frozen=True)
class Bounds:
    """Least seconds for a count on a machine.

    ``flop_bound``: all FLOPs of products and transforms at the ceiling, memory for free. ``fused_bound``: each product,
    transform, norm and reduction is a kernel that reads its inputs and writes its outputs once, attention among them;
    everything pointwise and every copy happens on the way. ``eager_bound``: every operator pays for its own traffic.
    A kernel takes the longer of its arithmetic and its traffic.
    """

    flop_bound: float
    fused_bound: float
    eager_bound: float


def bounds(count: Count, ceilings: Ceilings) -> Bounds:
    """Return the least seconds that a count takes."""
    return Bounds(
        flop_bound=(2 * count.macs + count.flops_fft) / ceilings.flops,
        fused_bound=_seconds((kernel for kernel in count.kernels if kernel.fused), ceilings),
        eager_bound=_seconds(count.kernels, ceilings),
    )


def intensity(count: Count) -> float:
    """Return FLOPs a byte: of all operators, each with its own traffic."""
    return sum(kernel.calls * kernel.flops for kernel in count.kernels) / max(1, count.bytes)


def fused_bytes(count: Count) -> int:
    """Return the bytes behind ``fused_bound``: each product, transform, norm and reduction reads and writes once."""
    return sum(kernel.calls * kernel.bytes for kernel in count.kernels if kernel.fused)


def _seconds(kernels: Iterable[Kernel], ceilings: Ceilings) -> float:
    """Add up what each kernel takes at least."""
    return sum(k.calls * max(k.flops / ceilings.flops, k.bytes / ceilings.bandwidth) for k in kernels)
