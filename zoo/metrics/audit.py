"""fvcore as a second counter: what it finds as it is shipped, with handles for what it misses, and why we differ.

fvcore reads a TorchScript trace, where torch's dispatcher is what :mod:`zoo.metrics.macs` watches: two ways to the same
number. A trace needs no values, so this works on the meta device too, at any size.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import fvcore
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from zoo.errors import ZooError
from zoo.metrics import handles, macs, meta
from zoo.metrics.counts import Count

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it scripts a loss of its own when it is imported, which newer torch deprecates
    from fvcore.nn import FlopCountAnalysis

aten = torch.ops.aten
SEED = 0


# -- what is found -------------------------------------------------------------------------------------------


class Untraceable(ZooError):
    """A call that fvcore cannot look at, with the reason."""


@dataclass(frozen=True)
class Second:
    """What a counter finds in a whole batch: by operator, with the calls of those that it does not count.

    ``failure`` says why there is no count.
    """

    by_op: Mapping[str, int]
    uncounted: Mapping[str, int]
    flops_fft: int = 0
    failure: str = ""

    @property
    def macs(self) -> int | None:
        """The sum; None when it failed."""
        return None if self.failure else sum(self.by_op.values())


@dataclass(frozen=True)
class Reason:
    """Why the counters differ: ``macs`` is how much more ours has for it."""

    text: str
    macs: int


@dataclass(frozen=True)
class Audit:
    """Both counts of one call.

    ``reasons`` are the differences between fvcore with handles and as shipped, one for each operator. With
    ``unexplained``, by which ours differs from fvcore with handles, they add up to ours less fvcore's as shipped.
    """

    ours: Count
    shipped: Second
    handled: Second
    reasons: tuple[Reason, ...]
    unexplained: int

    def as_data(self) -> dict[str, Any]:
        """Return plain data: three counts of the same form, the reasons, and what is left unexplained."""
        uncounted = {op.name.removeprefix("aten."): op.calls for op in self.ours.uncounted}
        counts = {
            "ours": Second(self.ours.by_op, uncounted, self.ours.flops_fft),
            "shipped": self.shipped,
            "handled": self.handled,
        }
        return {
            "convention": "mac",
            "fvcore": fvcore.__version__,
            **{name: {"macs": count.macs, **vars(count)} for name, count in counts.items()},
            "reasons": [vars(reason) for reason in self.reasons],
            "unexplained": self.unexplained,
        }


def audit(
    module: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    custom: Mapping[str, str] | None = None,
) -> Audit:
    """Count one forward pass in inference with both counters, on the device that module and inputs are on.

    ``custom`` is as in :func:`zoo.metrics.macs.count`. Untraceable when fvcore cannot follow the call at all.
    """
    call = _Call(module, args, kwargs or {})
    handled = _counted(call, handles.handles(custom or {}))
    try:
        shipped = _counted(call, {})
    except Untraceable as error:
        shipped = Second({}, {}, failure=str(error))
    ours = macs.count(module, args, kwargs, custom)
    reasons = () if shipped.failure else tuple(_reasons(shipped, handled))
    return Audit(ours, shipped, handled, reasons, ours.macs - sum(handled.by_op.values()))


def audit_model(
    build: Callable[[], nn.Module],
    make_inputs: Callable[[torch.dtype, torch.device, torch.Generator | None], tuple[Sequence[Any], Mapping[str, Any]]],
    custom: Mapping[str, str],
    device: str = "meta",
) -> Audit:
    """Build a model and its inputs on a device, with a fixed seed, and audit it."""
    place: AbstractContextManager[object] = meta.on_meta() if device == "meta" else torch.device(device)
    with torch.random.fork_rng(devices=[]), place:
        torch.manual_seed(SEED)
        module = build()
    generator = None if device == "meta" else torch.Generator(device).manual_seed(SEED)
    return audit(module, *make_inputs(torch.float32, torch.device(device), generator), custom)


# -- why -----------------------------------------------------------------------------------------------------

# fvcore's own handle reports another name than its operator has.
NAMES = {"_convolution": "conv"}
# What fvcore adds that is no multiply-accumulate, in its FLOPs.
ADDED = {
    "layer_norm": "5 FLOPs an element, 4 without weights",
    "group_norm": "5 FLOPs an element, 4 without weights",
    "instance_norm": "5 FLOPs an element, 4 without weights",
    "batch_norm": "2 FLOPs an element, 1 without weights",
    "adaptive_avg_pool2d": "1 FLOP an element",
    "upsample_nearest2d": "1 FLOP an element",
    "upsample_bilinear2d": "4 FLOPs an element",
}
OTHERWISE = {
    "einsum": "it rounds to four digits, and takes the cheapest order",
    "matmul": "it overlooks what the second factor alone has of a batch",
}
MISSED = {
    handles.CONTRACTION: "products that are summed",
    "_convolution_mode": "a convolution padded by name",
}


def _reasons(shipped: Second, handled: Second) -> Iterator[Reason]:
    """Yield a reason for each operator on which the two differ, the largest first."""
    shares = Counter(handled.by_op)
    shares.subtract(shipped.by_op)
    for op, share in sorted(shares.items(), key=lambda item: -abs(item[1])):
        if share:
            yield Reason(_told(op, shipped, handled), share)


def _told(op: str, shipped: Second, handled: Second) -> str:
    """Say why an operator counts otherwise."""
    if not handled.by_op.get(op):
        return f"fvcore counts {op}" + (f": {ADDED[op]}" if op in ADDED else "")
    if shipped.by_op.get(op):
        return f"fvcore counts {op} otherwise" + (f": {OTHERWISE[op]}" if op in OTHERWISE else "")
    calls = sum(n for name, n in shipped.uncounted.items() if name.rpartition("::")[2] == op)
    what = f" ({MISSED[op]})" if op in MISSED else f" ({calls} calls)" if calls > 1 else ""
    return f"fvcore does not count {op}{what}"


# -- tracing -------------------------------------------------------------------------------------------------


class _Call(nn.Module):
    """A call of a module as one from tensors to tensors: a trace takes nothing else."""

    def __init__(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.module = module
        self.leaves, self.structure = tree_flatten((tuple(args), dict(kwargs)))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors of the call."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, Tensor))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Call the module, and return the tensors of what it returns."""
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        args, kwargs = tree_unflatten(leaves, self.structure)
        return tuple(leaf for leaf in tree_leaves(self.module(*args, **kwargs)) if isinstance(leaf, Tensor))


def _counted(call: _Call, added: Mapping[str, handles.Handle]) -> Second:
    """Let fvcore count a call, with some handles in place of its own or beside them."""
    on_meta = any(t.is_meta for t in (*call.parameters(), *call.tensors))
    mode: AbstractContextManager[object] = _TracedConvolutions() if on_meta else nullcontext()  # type: ignore[no-untyped-call]
    with _as_found(call), warnings.catch_warnings(), torch.no_grad(), mode:
        warnings.simplefilter("ignore")
        analysis = FlopCountAnalysis(call.eval(), call.tensors)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.set_op_handle(**added)
        try:
            by_op = {NAMES.get(op, op): round(n) for op, n in analysis.by_operator().items()}
        except Exception as error:  # a handle's assertion, or anything that a model does under a trace
            told = " ".join(str(error).split())[:200]
            raise Untraceable(f"fvcore fails: {type(error).__name__}" + (f": {told}" if told else "")) from error
        fft = by_op.pop(handles.FFT, 0)
        unsupported = {str(op).removeprefix("aten::"): n for op, n in analysis.unsupported_ops().items()}
        return Second({op: n for op, n in by_op.items() if n}, unsupported, fft)


@contextmanager
def _as_found(module: nn.Module) -> Iterator[None]:
    """Put back modes, and take off the hooks that fvcore leaves on a module when a trace fails."""
    before = [(part, part.training, {*part._forward_hooks, *part._forward_pre_hooks}) for part in module.modules()]
    try:
        yield
    finally:
        for part, training, known in before:
            part.training = training
            for hooks in (part._forward_hooks, part._forward_pre_hooks):
                for key in hooks.keys() - known:
                    del hooks[key]


class _TracedConvolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets convolutions on the meta device be traced.

    What a trace shows of a convolution is the ``_convolution`` that it calls. On the meta device it calls none, and its
    own checks of sizes fail under a trace, which makes tensors of them. So here it does call ``_convolution``, and that
    computes the shape untraced.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator."""
        if func is aten._convolution.default:
            return aten.convolution.default(*args[:9])
        if func is aten.convolution.default and torch._C._get_tracing_state():
            with self, torch._C._PreserveDispatchKeyGuard():
                torch._C._dispatch_tls_set_dispatch_key_excluded("Tracer", False)
                return aten._convolution.default(*args, False, False, False, False)
        return func(*args, **(kwargs or {}))
