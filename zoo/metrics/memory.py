"""Peak memory of a call, measured in a process prepared for that, and the training step whose memory is of interest.

Measured is what the system saw, scratch space of libraries included; what torch would allocate is predicted in
:mod:`zoo.metrics.predicted_memory`. All sizes are in bytes.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from zoo.errors import ZooError
from zoo.metrics import params
from zoo.metrics.driver import Driver

Inputs = tuple[Sequence[Any], Mapping[str, Any]]
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Loss = Callable[[Any], Tensor]

LEARNING_RATE = 1e-3

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_THRESHOLD = 16 * 1024
# Below this the kernel's lateness is more than a hundredth; so many more calls are made then, each with so many more
# pages held. Five pages and the 32 that the kernel adds up at once have no common divisor.
SMALL, SHIFTS, SHIFT = 32 * 1024 * 1024, 16, 5
# The high-water mark is this near to the resident size when it has just been cleared.
CLEARED = 4 * 1024 * 1024


class Unmeasurable(ZooError):
    """A peak that cannot be had here, with the reason."""


def storage_bytes(module: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> int:
    """Return the bytes of the storages of parameters, buffers and inputs, each storage once."""
    inputs = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
    return params.storage_bytes([*module.parameters(), *module.buffers(), *inputs])


# -- a step of training --------------------------------------------------------------------------------------

make_adamw = partial(torch.optim.AdamW, lr=LEARNING_RATE)
# The optimisers that a step may end with, as torch makes them on the CPU.
OPTIMIZERS: Mapping[str, MakeOptimizer | None] = MappingProxyType(
    {
        "none": None,
        "sgd": partial(torch.optim.SGD, lr=LEARNING_RATE),
        "sgd_momentum": partial(torch.optim.SGD, lr=LEARNING_RATE, momentum=0.9),
        "adam": partial(torch.optim.Adam, lr=LEARNING_RATE),
        "adamw": make_adamw,
    }
)


def make_optimizer(module: nn.Module, optimizer: str | MakeOptimizer) -> torch.optim.Optimizer | None:
    """Return the optimiser of a module's trainable parameters; None for ``"none"``. ZooError when there is no such."""
    if isinstance(optimizer, str) and optimizer not in OPTIMIZERS:
        raise ZooError(f"there is no optimiser {optimizer!r}; expected {', '.join(OPTIMIZERS)}, or a function")
    make = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    trained = [p for p in module.parameters() if p.requires_grad]
    return make(trained) if make is not None and trained else None


def state_bytes(optimizer: torch.optim.Optimizer | None) -> int:
    """Return the bytes of what an optimiser keeps between steps."""
    state = optimizer.state if optimizer is not None else {}
    return params.storage_bytes(t for t in tree_leaves(list(state.values())) if isinstance(t, Tensor))


def stand_in_loss(output: Any) -> Tensor:
    """Return the sum of all that has a gradient in an output: it takes a copy, then a gradient as large as the output.

    ZooError when nothing in the output has a gradient.
    """
    ends = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not ends:
        raise ZooError("no output has a gradient, so there is no training step")
    return torch.stack([(end * 1).sum().float() for end in ends]).sum()


def train_step(
    module: nn.Module, inputs: Inputs, optimizer: torch.optim.Optimizer | None, loss: Loss = stand_in_loss
) -> None:
    """Run forward, backward and the optimiser, and set the gradients to None. ``loss`` is a function of the output."""
    args, kwargs = inputs
    loss(module(*args, **kwargs)).backward()  # type: ignore[no-untyped-call]
    if optimizer is not None:
        optimizer.step()
    module.zero_grad()


# -- measured ------------------------------------------------------------------------------------------------


def prepare_allocator() -> bool:
    """Make glibc give large blocks back to the system as soon as they are freed; False where that cannot be had.

    Without it freed blocks are used again unseen, and a second call seems to need no memory. To be done once, early,
    in a process of its own.
    """
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is None or not hasattr(_libc(), "gnu_get_libc_version"):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)) and bool(mallopt(M_TRIM_THRESHOLD, MMAP_THRESHOLD))


def measure_peak(call: Callable[[], object]) -> int:
    """Return the bytes that a call needs at most, above what is resident before it and its results included.

    The process must be prepared by :func:`prepare_allocator`. The call is made three times; the first, which loads
    libraries, is not measured. Unmeasurable without Linux's /proc.

    The kernel adds up a process's pages late, some dozens at once on each core, so its mark may be too low by
    :data:`zoo.metrics.LATE`. How many are missing depends on how many there were: a small peak is the highest of more
    calls, with some more pages held before each.
    """
    call()
    found = [_transient(call) for _ in range(2)]
    if max(found) < SMALL:
        with ExitStack() as held:
            for _ in range(SHIFTS):
                pages = held.enter_context(mmap.mmap(-1, SHIFT * mmap.PAGESIZE))
                pages[:] = b"1" * len(pages)
                found.append(_transient(call))
    return max(found)


def _transient(call: Callable[[], object]) -> int:
    """Return by how much one call raises the resident size at most."""
    gc.collect()
    _trim()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise Unmeasurable(
            f"peak memory cannot be measured: /proc/self/clear_refs is not to be had ({error})"
        ) from error
    resident, high = _status("VmRSS"), _status("VmHWM")
    if high - resident > CLEARED:
        raise Unmeasurable("peak memory cannot be measured: this system does not clear its high-water mark")
    call()
    return max(0, _status("VmHWM") - resident)


def _status(name: str) -> int:
    """Return a size in bytes from /proc/self/status."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError as error:
        raise Unmeasurable(f"peak memory cannot be measured: /proc/self/status is not to be had ({error})") from error
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise Unmeasurable(f"peak memory cannot be measured: /proc/self/status has no {name}")


def _trim() -> None:
    """Give freed memory back to the system, where the C library can."""
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _libc() -> ctypes.CDLL:
    """Return the C library of this process."""
    return ctypes.CDLL(None)


def peak_on_device(call: Callable[[], object], driver: Driver) -> dict[str, int]:
    """Return the peak bytes of a call on a device whose allocator keeps count, weights and inputs included.

    ``allocated`` is what tensors took, ``reserved`` what the allocator took from the device for them, ``driver`` what
    is in use on the device, by the context and by other processes too, ``held`` what tensors took before the call, and
    ``workspaces`` what cuBLAS keeps in the allocator, which is in the first three. The first call, which loads
    libraries and picks kernels, is not measured.
    """
    call()
    driver.synchronize()
    held, workspaces = driver.reset_peaks()
    call()
    driver.synchronize()
    return {**driver.peaks(), "held": held, "workspaces": workspaces}
