"""Parameters and buffers of a module, each element counted once however often it is shared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Params:
    """What a module holds: elements, and ``bytes`` of the storage behind parameters and buffers."""

    total: int
    trainable: int
    by_dtype: dict[str, int]
    buffers: int
    bytes: int


def count(module: nn.Module) -> Params:
    """Count a module's elements, on any device. Tied tensors count once, as one object or as one storage."""
    parameters = list(module.parameters())
    dtypes = sorted({str(p.dtype) for p in parameters})
    by_dtype = {d.removeprefix("torch."): elements(p for p in parameters if str(p.dtype) == d) for d in dtypes}
    return Params(
        total=sum(by_dtype.values()),
        trainable=elements(p for p in parameters if p.requires_grad),
        by_dtype=by_dtype,
        buffers=elements(module.buffers()),
        bytes=storage_bytes([*parameters, *module.buffers()]),
    )


def elements(tensors: Iterable[Tensor]) -> int:
    """Return how many different elements some tensors have between them."""
    ranges: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for tensor in tensors:
        start, length = int(tensor.storage_offset()), _extent(tensor)
        if length:
            ranges[tensor.untyped_storage()._cdata].append((start, start + length))
    return sum(_union(spans) for spans in ranges.values())


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the storages behind some tensors, each storage once."""
    sizes = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        sizes[storage._cdata] = storage.nbytes()
    return sum(sizes.values())


def _extent(tensor: Tensor) -> int:
    """Return how many places of its storage a tensor spans; an expanded axis spans one."""
    if tensor.numel() == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _union(spans: list[tuple[int, int]]) -> int:
    """Return the length of the union of half-open ranges."""
    covered, end = 0, -1
    for low, high in sorted(spans):
        covered += max(0, high - max(low, end))
        end = max(end, high)
    return covered
