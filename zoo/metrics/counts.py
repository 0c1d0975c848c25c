"""What a count is: operators with their MACs, kernels with their bytes, modules; numbers only, in named conventions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from zoo.metrics import Convention, operators


@dataclass(frozen=True)
class UncountedOp:
    """An operator that computes and is in no count.

    ``elements`` are those of its results over all calls (of a pointwise one, of its first result). ``material`` ones
    may matter beside the MACs; the others do a few operations an element.
    """

    name: str
    calls: int
    elements: int
    material: bool


@dataclass(frozen=True)
class Op:
    """All calls of one operator: MACs, FLOPs of Fourier transforms, and elements read (first tensor) and written."""

    name: str
    calls: int = 0
    macs: int = 0
    flops_fft: int = 0
    read: int = 0
    written: int = 0
    kind: Literal["product", "transform", "pointwise", "material", "free"] = "pointwise"


@dataclass(frozen=True)
class Kernel:
    """Calls of one operator that cost the same: MACs, FLOPs of all it does, and bytes of its tensors, in and out.

    ``fused`` ones a good compiler leaves as kernels: products, transforms, norms and reductions. The others (pointwise
    work, copies) it computes on the way.
    """

    name: str
    calls: int
    macs: int
    flops: int
    bytes: int
    fused: bool


@dataclass(frozen=True)
class Part:
    """What one module did, its children's work included: ``name`` as its parent calls it, ``""`` for the whole."""

    name: str
    type: str
    macs: int = 0
    flops_fft: int = 0
    activations: int = 0
    params: int = 0
    by_op: Mapping[str, int] = field(default_factory=dict)
    children: tuple[Part, ...] = ()

    def walk(self, depth: int | None = None, path: str = "") -> Iterator[tuple[str, Part]]:
        """Yield (dotted path, part) of this part and of those below it, ``depth`` levels down."""
        yield path, self
        if depth is None or depth > 0:
            for child in self.children:
                below = None if depth is None else depth - 1
                yield from child.walk(below, f"{path}.{child.name}".lstrip("."))


@dataclass(frozen=True)
class Count:
    """What one pass of a whole batch computes. ``flops_fft`` are in no count of MACs.

    ``activations`` are the elements that products write (of convolutions, linear layers and matrix products), as
    RegNet's authors and fvcore count them. ``places`` says by module and operator where forward did it: MACs, FLOPs of
    Fourier transforms, activations; :func:`tree` makes a tree of them.
    """

    ops: tuple[Op, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    places: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return sum(op.macs for op in self.ops)

    @property
    def flops_fft(self) -> int:
        """FLOPs of Fourier transforms."""
        return sum(op.flops_fft for op in self.ops)

    @property
    def flops_elementwise(self) -> int:
        """FLOPs of everything that is neither a product nor a transform, as far as it is known."""
        return sum(operators.flops(op.name, op.read, op.written) for op in self.ops if op.kind == "pointwise")

    @property
    def activations(self) -> int:
        """Elements that products write."""
        return sum(op.written for op in self.ops if op.kind == "product")

    @property
    def bytes(self) -> int:
        """Bytes that operators read and write, each operator on its own."""
        return sum(kernel.calls * kernel.bytes for kernel in self.kernels)

    @property
    def by_op(self) -> dict[str, int]:
        """MACs of each operator that has any."""
        return {op.name: op.macs for op in self.ops if op.kind == "product"}

    @property
    def uncounted(self) -> tuple[UncountedOp, ...]:
        """Operators that compute and are no products or transforms, material ones first."""
        found = [
            UncountedOp(op.name, op.calls, op.written, op.kind == "material")
            for op in self.ops
            if op.kind in ("pointwise", "material")
        ]
        return tuple(sorted(found, key=lambda op: (not op.material, op.name)))

    def at_most_uncounted(self) -> float | None:
        """Return how much the material uncounted operators may add at most, as a share of all FLOPs; None: unknown."""
        material = [op for op in self.ops if op.kind == "material"]
        if any(op.name not in operators.BOUNDS for op in material):
            return None
        most = sum(operators.BOUNDS[op.name] * op.written for op in material)
        return most / max(1, 2 * self.macs + self.flops_fft) if most else 0.0

    def total(self, convention: Convention) -> int:
        """Return the count in a named convention, see :data:`zoo.metrics.CONVENTIONS`."""
        if convention == "mac":
            return self.macs
        if convention == "flop":
            return 2 * self.macs
        if convention == "flop+elementwise":
            return 2 * self.macs + self.flops_fft + self.flops_elementwise
        if convention == "detr2020":
            return self.macs + self._added(operators.DETR2020)
        seen = sum(op.macs for op in self.ops if op.name not in operators.UNSEEN_BY_FVCORE)
        return seen + self._added(operators.FVCORE)

    def _added(self, weights: Mapping[str, operators.Weight]) -> int:
        """Return what operators add that have a weight."""
        return sum(operators.flops(op.name, op.read, op.written, weights, (0, 0)) for op in self.ops)


@dataclass(frozen=True)
class Step:
    """The counts of a training step: forward in training mode, and backward to every parameter."""

    forward: Count
    backward: Count
