"""Parameters and buffers of a module, each element counted once however often it is shared, and what is stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.errors import ZooError


@dataclass(frozen=True)
class Params:
    """What a module holds: elements, and ``bytes`` of the storage behind parameters and buffers.

    ``persistent_buffers`` are those of the buffers that a checkpoint has; ``checkpoint`` are its bytes, up to headers.
    """

    total: int
    trainable: int
    by_dtype: dict[str, int]
    buffers: int
    bytes: int
    persistent_buffers: int
    checkpoint: int

    def weight_bytes(self, dtype: str) -> int:
        """Return the bytes of the parameters when all that are floating-point numbers are stored as ``dtype``.

        ``"int8"`` is one byte for each, without scales. ZooError when torch has no such dtype.
        """
        chosen = _dtype(dtype)
        stored = {name: chosen if _dtype(name).is_floating_point else _dtype(name) for name in self.by_dtype}
        return sum(n * stored[name].itemsize for name, n in self.by_dtype.items())


def count(module: nn.Module) -> Params:
    """Count a module's elements, on any device. Tied tensors count once, as one object or as one storage."""
    parameters = list(module.parameters())
    saved = [t for t in module.state_dict(keep_vars=True).values() if isinstance(t, Tensor)]
    kept = {id(t) for t in saved}
    dtypes = sorted({str(p.dtype) for p in parameters})
    by_dtype = {d.removeprefix("torch."): elements(p for p in parameters if str(p.dtype) == d) for d in dtypes}
    return Params(
        total=sum(by_dtype.values()),
        trainable=elements(p for p in parameters if p.requires_grad),
        by_dtype=by_dtype,
        buffers=elements(module.buffers()),
        bytes=storage_bytes([*parameters, *module.buffers()]),
        persistent_buffers=elements(b for b in module.buffers() if id(b) in kept),
        checkpoint=storage_bytes(saved),
    )


def _dtype(name: str) -> torch.dtype:
    """Return a dtype by its name."""
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ZooError(f"torch has no dtype {name!r}; expected one such as float32, bfloat16, float16 or int8")
    return found


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
