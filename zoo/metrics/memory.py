"""Peak memory of one forward pass: predicted without running it, and measured in a process prepared for that.

Predicted is what torch's allocator would hand out, on the CPU; measured is what the system saw, scratch space of
libraries included. Both count bytes.
"""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from zoo.errors import ZooError
from zoo.metrics import params

Inputs = tuple[Sequence[Any], Mapping[str, Any]]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_THRESHOLD = 64 * 1024
# The high-water mark is this near to the resident size when it has just been cleared.
CLEARED = 4 * 1024 * 1024


class Unmeasurable(ZooError):
    """A peak that cannot be had here, with the reason."""


def storage_bytes(module: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> int:
    """Return the bytes of the storages of parameters, buffers and inputs, each storage once."""
    inputs = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
    return params.storage_bytes([*module.parameters(), *module.buffers(), *inputs])


# -- predicted -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """Bytes: the peak of a forward pass, and the weights and inputs that are in it."""

    peak: int
    weights: int
    inputs: int


def predict_peak(build: Callable[[], nn.Module], make_inputs: Callable[[torch.device], Inputs]) -> Prediction:
    """Predict the peak of running a module without gradients on the CPU, weights and inputs included.

    The module is built on the meta device and fake tensors are allocated and freed in place of real ones, so that no
    memory is used. To what torch's operators return is added what the larger ones are known to hold meanwhile
    (convolutions, torch's fused encoder layer); the scratch of a fused LSTM, of LAPACK and of flash attention is not.
    Unmeasurable when sizes depend on the values of the inputs.
    """
    with torch.device("meta"):
        module = build()
    mode, tracker = fake_tensor.FakeTensorMode(allow_fallback_kernels=False), _Tracker()
    held = _make_fake(module, mode)
    try:
        with mode, torch.no_grad(), tracker:
            args, kwargs = make_inputs(torch.device("cpu"))
            weights = storage_bytes(module)
            inputs = storage_bytes(module, args, kwargs) - weights
            tracker.start([*held, *tree_leaves((args, kwargs))])
            module(*args, **kwargs)
    except (fake_tensor.DynamicOutputShapeException, fake_tensor.DataDependentOutputException) as error:
        raise Unmeasurable(f"peak memory depends on the values of the inputs: {error} gives no size") from error
    except fake_tensor.UnsupportedOperatorException as error:
        raise Unmeasurable(f"peak memory cannot be predicted: {error} does not run on fake tensors") from error
    return Prediction(tracker.peak, weights, inputs)


def _make_fake(module: nn.Module, mode: fake_tensor.FakeTensorMode) -> list[Tensor]:
    """Put fake tensors on the CPU in place of all tensors that a module holds, sharing what these share; return them.

    A module that is built of fake tensors from the start cannot be converted with ``Module.to``.
    """
    fakes: dict[int, tuple[Tensor, Tensor]] = {}

    def fake(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in fakes:
            fakes[id(value)] = value, _fake(value, mode)
        return fakes[id(value)][1]

    for part in module.modules():
        for name, value in list(vars(part).items()):
            if name != "_modules" and any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
                vars(part)[name] = tree_map(fake, value)
    return [made for _, made in fakes.values()]


def _fake(tensor: Tensor, mode: fake_tensor.FakeTensorMode) -> Tensor:
    """Return the fake of one tensor on the CPU, a parameter of a parameter."""
    device = torch.device("cpu")
    made = fake_tensor.FakeTensor(mode, tensor.detach().to("meta"), device)
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


class _Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are alive, by identity, so that views share; finalizers take the dead ones off."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self.known: set[int] = set()

    def start(self, held: Sequence[Any]) -> None:
        """Begin to look for the peak, with what is held already."""
        self.add(held)
        self.peak = self.live

    def add(self, values: Sequence[Any]) -> None:
        """Take up the storages of tensors."""
        for value in values:
            if not isinstance(value, Tensor):
                continue
            storage = value.untyped_storage()
            if storage._cdata in self.known:
                continue
            self.known.add(storage._cdata)
            self.live += storage.nbytes()
            weakref.finalize(storage, self.drop, storage._cdata, storage.nbytes()).atexit = False

    def drop(self, key: int, size: int) -> None:
        """Take off a storage that has been freed."""
        self.known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and note what it holds at most, its results among it."""
        before = self.live
        out = func(*args, **(kwargs or {}))
        self.add(tree_leaves(out))
        self.peak = max(self.peak, self.live, before + _within(func, args, out))
        return out


def _within(func: Any, args: Any, out: Any) -> int:
    """Return the bytes that an operator is known to hold at most while it runs, its results included; 0 if unknown."""
    if func is torch.ops.aten.convolution.default:
        return _within_convolution(out, *args)
    if func is torch.ops.aten._native_multi_head_attention.default:
        weights = len(args) < 11 or bool(args[10])
        return _within_attention(args[0], args[1], args[4], len(args) > 9 and args[9] is not None, weights)
    if func is torch.ops.aten._transformer_encoder_layer_fwd.default:
        return _within_encoder_layer(*args)
    return 0


def _within_attention(query: Tensor, key: Tensor, heads: int, masked: bool, weights: bool) -> int:
    """Follow torch's fused self-attention (B, N, C): projections, their copy by head, scores, mixture, projection.

    Source: aten/src/ATen/native/transformers/attention.cpp, and the profiler's allocations.
    """
    x = query.nbytes
    scores = query.shape[0] * heads * query.shape[1] * key.shape[1] * query.element_size()
    # Scores that are to be returned live on beside the projection, and their mean over heads; others are freed before.
    projecting = max(5 * x + scores, 4 * x + scores + scores // heads) if weights else 5 * x
    return max(6 * x, 3 * x + scores * (2 if masked else 1), projecting)


def _within_encoder_layer(x: Tensor, _width: int, heads: int, *args: Any) -> int:
    """Follow torch's fused encoder layer (B, N, C): attention, then two linear layers, with what is kept across them.

    Source: aten/src/ATen/native/transformers/transformer.cpp, and the profiler's allocations.
    """
    norm_first, up = bool(args[5]), args[11]
    masked = len(args) > 15 and args[15] is not None
    hidden = x.nbytes // x.shape[-1] * int(up.shape[0])
    kept = x.nbytes if norm_first else 0
    return kept + max(_within_attention(x, x, heads, masked, weights=False), 2 * x.nbytes + hidden)


def _within_convolution(out: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    """Follow a convolution on the CPU: copies into oneDNN's blocked layout and back, or unfolded columns.

    The choice of kernel is torch's; the layout is oneDNN's on a machine with AVX-512 (blocks of 16 channels), read off
    the profiler's allocations. Another machine may copy a little less.
    """
    bias, stride, padding, dilation, transposed, output_padding, groups = rest
    backend = torch._C._select_conv_backend(
        x, weight, bias=bias, stride=stride, padding=padding, dilation=dilation, transposed=transposed,
        output_padding=output_padding, groups=groups, bias_sizes=None
    )  # fmt: skip
    if backend.name in ("Slow2d", "Slow3d"):
        pointwise = prod(weight.shape[2:]) == 1 and set(stride) == {1} and set(padding) == {0}
        columns = 0 if pointwise else out.shape[0] * prod(weight.shape[1:]) * prod(out.shape[2:]) * out.element_size()
        return out.nbytes + columns
    # Torch has no name for oneDNN's transposed convolution.
    if not (backend.name.startswith("Mkldnn") or (transposed and backend.name == "???")):
        return 0
    if x.dim() > 3 and out.stride(1) == 1 and out.shape[1] > 1:  # channels last: nothing is rearranged but the weight
        return out.nbytes + weight.nbytes * (1 if weight.stride(1) == 1 else 2)
    copy = _blocked(x) if _rearranged(x.shape[1], groups) else 0
    rearranging = copy + _padded_weight(weight, groups) + _blocked(out)
    return max(rearranging, _blocked(out) + out.nbytes * (2 if transposed else 1))


def _rearranged(channels: int, groups: int) -> bool:
    """Tell whether oneDNN copies the input into blocks: not when it has few channels, or odd groups."""
    if groups == 1:
        return channels >= 16
    return groups == channels or channels // groups % 8 == 0


def _blocked(x: Tensor) -> int:
    """Return the bytes of (B, C, ...) with the channels padded to blocks of 16."""
    return x.nbytes // x.shape[1] * _padded(x.shape[1])


def _padded_weight(weight: Tensor, groups: int) -> int:
    """Return the bytes of a weight (O, I, ...) in blocks; few input channels, and groups, are not padded."""
    if groups > 1 or weight.shape[1] < 16:
        return weight.nbytes // weight.shape[0] * _padded(weight.shape[0])
    return weight.nbytes // (weight.shape[0] * weight.shape[1]) * _padded(weight.shape[0]) * _padded(weight.shape[1])


def _padded(channels: int) -> int:
    """Return the next multiple of 16."""
    return -(-channels // 16) * 16


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
    """
    call()
    return int(median(_transient(call) for _ in range(2)))


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


def peak_on_cuda(call: Callable[[], object], device: torch.device) -> dict[str, int]:
    """Return the peak bytes of a call on a CUDA device, weights and inputs included.

    ``allocated`` is what tensors took, ``reserved`` what the allocator took from the device for them. The first call,
    which loads libraries and picks kernels, is not measured.
    """
    call()
    torch.cuda.synchronize(device)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return {
        "allocated": torch.cuda.max_memory_allocated(device),
        "reserved": torch.cuda.max_memory_reserved(device),
    }
