"""The implementation of scaled dot product attention that a case asks for: that one runs, or nothing does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.metrics.driver import Unsupported

BACKENDS = MappingProxyType(
    {
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "math": SDPBackend.MATH,
    }
)


@contextlib.contextmanager
def only(backend: str) -> Iterator[None]:
    """Allow one backend. Torch's own fast path of nn.MultiheadAttention, which chooses for itself, is off meanwhile."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(BACKENDS[backend]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the names of the fused attention operators that are called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator and note its name."""
        if "_scaled_dot_product_" in str(func) and "attention_math" not in str(func):
            self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def check_backend(backend: str, forward: Callable[[], object]) -> None:
    """Run a model once under its backend. Unsupported when no attention of it ran on that backend, or any on another.

    ``math`` is products and a softmax, as are models that have no fused attention at all.
    """
    # In inference mode torch shows an operator whole, not the kernel that it chooses.
    with Seen() as seen, torch.no_grad():
        forward()
    fused = [name for name in seen.names if f"_scaled_dot_product_{backend}_attention" in name]
    if len(fused) < len(seen.names):
        raise Unsupported(f"attention ran as {', '.join(sorted(seen.names))}, not as {backend}")
    if backend != "math" and not fused:
        raise Unsupported(f"the model calls no attention that torch could run as {backend}")
