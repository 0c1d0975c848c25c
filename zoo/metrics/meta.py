"""The meta device without its slow parts: building without filling nothing, calling without asking for known shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# What fills a tensor in place and leaves its shape alone; on the meta device it changes nothing at all. Torch works out
# there what the result would look like, which takes longer than all the rest of building a model.
_FILLING = """
add_ bernoulli_ clamp_ copy_ div_ erfinv_ exponential_ fill_ log_normal_ mul_ normal_ random_ sub_ uniform_ zero_
"""
FILLING = frozenset(
    [getattr(Tensor, name) for name in _FILLING.split()]
    + [getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
)


class _Unfilled(TorchFunctionMode):
    """Leaves out the filling of tensors on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor that was to be filled, or call the function."""
        kwargs = kwargs or {}
        if func in FILLING:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


# -- calling -------------------------------------------------------------------------------------------------


def _like(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(x)


def _itself(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _sum_like(x: Tensor, y: Any, **__: Any) -> Tensor | None:
    """Shape of x + y, where it is that of x."""
    if isinstance(y, Tensor):
        tail = x.shape[x.ndim - y.ndim :]
        if y.dtype != x.dtype or y.ndim > x.ndim or any(n not in (1, m) for n, m in zip(y.shape, tail, strict=True)):
            return None
    return torch.empty_like(x)


def _addmm(_: Tensor, a: Tensor, b: Tensor, **__: Any) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def _batch_norm(x: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(x), x.new_empty(x.shape[1]), x.new_empty(x.shape[1])


def _layer_norm(x: Tensor, normalized: list[int], *_: Any) -> tuple[Tensor, ...]:
    kept = [*x.shape[: x.ndim - len(normalized)], *[1] * len(normalized)]
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(kept), x.new_empty(kept)


def _group_norm(x: Tensor, _: Any, __: Any, n: int, c: int, hw: int, groups: int, *___: Any) -> Any:
    if not x.is_contiguous() and not (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return None
    return torch.empty_like(x), x.new_empty(n, groups), x.new_empty(n, groups)


aten = torch.ops.aten
# Where most of the time goes that torch spends on shapes: it works these out in Python.
SHAPES: dict[Any, Callable[..., Any]] = {
    aten.gelu.default: _like,
    aten.silu.default: _like,
    aten.relu.default: _like,
    aten.sigmoid.default: _like,
    aten.add.Tensor: _sum_like,
    aten.sub.Tensor: _sum_like,
    aten.mul.Tensor: _sum_like,
    aten.addmm.default: _addmm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten._native_batch_norm_legit.no_stats: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.add_.Tensor: _itself,
    aten.mul_.Tensor: _itself,
    aten.hardswish_.default: _itself,
    aten.hardtanh_.default: _itself,
    aten.relu_.default: _itself,
    aten.silu_.default: _itself,
}


class KnownShapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers the commonest operators on the meta device with empty tensors of the shape that they return.

    Without gradients only. What it knows is float32 or the like; all else is left to torch.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return an operator's empty result, or have torch work it out."""
        kwargs = kwargs or {}
        known = SHAPES.get(func)
        if known is None or not _is_plain(args[0]):
            return func(*args, **kwargs)
        out = known(*args, **kwargs)
        return func(*args, **kwargs) if out is None else out


def _is_plain(x: Any) -> bool:
    """Tell whether the first argument of an operator is a tensor of numbers on the meta device, and not ragged."""
    return isinstance(x, Tensor) and x.is_meta and x.is_floating_point() and not x.is_nested


# -- building ------------------------------------------------------------------------------------------------


@contextmanager
def on_meta() -> Iterator[None]:
    """Have everything that is built inside on the meta device: shapes only, nothing is allocated or drawn."""
    with torch.device("meta"), _Unfilled():
        yield
