"""Count what a module computes, forward and backward, and name every operator that is not in the count.

The counter sees operators as torch runs them, and functions that torch would take apart as they are called. On the meta
device nothing is computed, so that is where to count; on a CPU or GPU fused operators have formulas of their own, and
the count is the same.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from zoo.metrics import formulas, operators, params, whole
from zoo.metrics.counts import Count, Kernel, Op, Part, Step
from zoo.spec import resolve

# What a matrix product would do, written element by element (local attention, linear attention by cumulative sums): a
# product of which a factor is repeated along an axis, summed over an axis that both factors have.
CONTRACTION = "mul+sum"
SUMS = frozenset({"aten.sum", "aten.mean", "aten.cumsum"})
PRODUCTS = frozenset({"aten.mul", "aten.mul_"})

# -- counting ------------------------------------------------------------------------------------------------


def count(
    module: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    custom: Mapping[str, str] | None = None,
) -> Count:
    """Count one forward pass in inference, on the device that module and inputs are on.

    ``custom`` maps the names of a plugin's own operators (``"mine::attention"``) to import strings of their formulas.
    The module runs in eval mode and without gradients; the mode of every part of it is put back, whatever happens.
    """
    counter = _Counter(custom or {}, module)
    with _mode(module, training=False), torch.no_grad(), counter.watching():
        module(*args, **(kwargs or {}))
    return counter.result()


def count_step(
    module: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    custom: Mapping[str, str] | None = None,
) -> Step:
    """Count a forward pass in training mode, and the gradients of all parameters and inputs that require one.

    Gradients start at every floating-point tensor of the output. No ``.grad`` is touched.
    """
    counter = _Counter(custom or {}, module)
    given = tree_leaves((args, kwargs or {}))
    wanted = [t for t in [*module.parameters(), *given] if isinstance(t, Tensor) and t.requires_grad and t.is_leaf]
    with _mode(module, training=True), torch.enable_grad(), counter.watching():
        out = module(*args, **(kwargs or {}))
        forward = counter.result()
        ends = [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.requires_grad]
        counter.start_over()
        if ends and wanted:
            torch.autograd.grad(ends, wanted, [torch.ones_like(end) for end in ends], allow_unused=True)
        backward = counter.result()
    return Step(forward, backward)


@contextmanager
def _mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put a module in training or eval mode, and each of its parts back in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, was in modes:
            part.training = was


class _Row:
    """What is known of one operator so far."""

    __slots__ = ("calls", "flops_fft", "kind", "macs", "read", "written")

    def __init__(self, kind: Any) -> None:
        self.kind, self.calls, self.macs, self.flops_fft, self.read, self.written = kind, 0, 0, 0, 0, 0


class _Sums:
    """What a counter has seen in one pass: by operator, by kernel, and by module and operator."""

    def __init__(self) -> None:
        self.rows: dict[str, _Row] = {}
        self.kernels: Counter[tuple[str, int, int, int, bool]] = Counter()
        self.places: dict[str, dict[str, list[int]]] = {}  # module -> operator -> MACs, FFT FLOPs, activations

    def row(self, name: str, kind: Any) -> _Row:
        """Return the row of an operator."""
        if name not in self.rows:
            self.rows[name] = _Row(kind)
        return self.rows[name]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator that torch dispatches, takes composite ones apart, and counts or names the rest."""

    # Without this torch refuses to run flex_attention and its like under a mode.
    supports_higher_order_operators = True

    def __init__(self, custom: Mapping[str, str] = MappingProxyType({}), module: nn.Module | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sums = _Sums()
        self.macs_of = formulas.table() | _resolved(custom)
        self.fft_of = formulas.fft_table()
        self.whole = whole.readers()
        # Products that may be summed: their storage, and where in it lie the axes along which both factors vary.
        self.products: dict[int, tuple[weakref.ref[torch.UntypedStorage], list[tuple[int, int]]]] = {}
        self.kinds: dict[Any, str] = {}
        self.composite: dict[Any, bool] = {}
        self.quiet = False
        self.module = module
        self.names = {id(part): name for name, part in module.named_modules()} if module is not None else {}
        self.stack = [""]

    # what is watched

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch operators, functions and modules."""
        with ExitStack() as stack:
            for handle in (
                register_module_forward_pre_hook(self.enter),
                register_module_forward_hook(self.leave, always_call=True),
            ):
                stack.callback(handle.remove)
            stack.enter_context(_eager_flex_attention())
            stack.enter_context(_no_fast_path())
            stack.enter_context(_Functions(self))
            stack.enter_context(self)
            yield

    def enter(self, part: nn.Module, _: Any) -> None:
        """Note that a module has been called."""
        if id(part) in self.names:
            self.stack.append(self.names[id(part)])

    def leave(self, part: nn.Module, *_: Any) -> None:
        """Note that it has returned."""
        if id(part) in self.names and len(self.stack) > 1:
            self.stack.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and put it where it belongs."""
        kwargs = kwargs or {}
        if self.quiet:
            return func(*args, **kwargs)
        if isinstance(func, torch._ops.HigherOrderOperator):
            out = func(*args, **kwargs)
            self.note(func, str(func), args, kwargs, out)
            return out
        packet = func._overloadpacket
        if func.namespace == "aten" and packet.__name__ in operators.QUERIES:
            return NotImplemented
        if self.composite.get(func, True) and self.formula(packet) is None and func.namespace != "prim":
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
            self.composite[func] = False
        out = func(*args, **kwargs)
        if func.namespace != "prim":
            self.note(packet, str(packet), args, kwargs, out, func)
        return out

    def call(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Count a function as one, and run it unseen, or not at all on the meta device."""
        ragged = any(t.is_nested for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        call = None if ragged else self.whole[func](*args, **kwargs)
        if call is None:
            return func(*args, **kwargs)
        at = self.stack[-1]
        on_meta = call.tensors[0].device.type == "meta"
        outer, self.quiet = self.quiet, True
        try:
            if on_meta:
                out: Any = whole.StandIn.apply(call, self.add_gradients, *call.tensors)
                out = out[0] if len(out) == 1 else out
            else:
                out = func(*args, **kwargs)
        finally:
            self.quiet = outer
        first = out[0] if isinstance(out, tuple) else out
        moved = sum(_bytes(t) for t in {id(t): t for t in (*call.tensors, *tree_leaves(out))}.values())
        extra = 0
        for name, elements in call.pointwise:
            row = self.sums.row(name, "pointwise")
            row.calls, row.read, row.written = row.calls + 1, row.read + elements, row.written + elements
            extra += operators.flops(name, elements, elements)
        self.add(call.name, "product", call.macs, 0, call.tensors[0].numel(), first.numel(), at)
        self.sums.kernels[call.name, call.macs, 2 * call.macs + extra, moved, True] += 1
        return out

    def add_gradients(self, name: str, macs: int) -> None:
        """Count the gradients of a function that was not run."""
        self.add(name, "product", macs, 0, 0, 0, "")
        self.sums.kernels[name, macs, 2 * macs, 0, True] += 1

    # where it belongs

    def formula(self, op: Any) -> Callable[..., int | None] | None:
        """Return what counts an operator: our formula, or torch's halved from FLOPs to MACs."""
        ours = self.macs_of.get(op) or self.fft_of.get(op)
        if ours is not None:
            return partial(_of_shapes, ours)
        theirs = flop_registry.get(op)
        return None if theirs is None else lambda args, kwargs, out: theirs(*args, **kwargs, out_val=out) // 2

    def note(self, op: Any, name: str, args: Any, kwargs: Any, out: Any, func: Any = None) -> None:
        """Count a call, or name it as uncounted."""
        if func is not None and func.is_view:
            return
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        ragged = any(t.is_nested for t in (*given, *made))
        formula = self.formula(op)
        counted = None if formula is None or ragged else formula(args, kwargs, out)
        moved = sum(_bytes(t) for t in {id(t): t for t in (*given, *made)}.values())
        if counted is not None:
            fourier = op in self.fft_of
            macs, fft = (0, counted) if fourier else (counted, 0)
            kind = "transform" if fourier else "product"
            self.add(name, kind, macs, fft, given[0].numel(), made[0].numel(), self.stack[-1])
            self.sums.kernels[name, macs, 2 * macs + fft, moved, True] += 1
            return
        kind = self.kind(func) if formula is None else "material"
        read = given[0].numel() if given and not ragged else 0
        written = 0 if ragged else sum(t.numel() for t in (made[:1] if kind == "pointwise" else made))
        self.add(name, kind, 0, 0, read, written, None)
        macs = 0 if ragged else self.contraction(name, args, out)
        flops = operators.flops(name, read, written) if kind == "pointwise" else 0
        self.sums.kernels[name, macs, flops, moved, name in operators.KERNELS or macs > 0] += 1

    def kind(self, func: Any) -> str:
        """Tell what an operator without a formula is: free, pointwise, or material; remembered."""
        if func not in self.kinds:
            free, material = func is not None and operators.is_free(func), func is None or operators.is_material(func)
            self.kinds[func] = "free" if free else "material" if material else "pointwise"
        return self.kinds[func]

    def add(self, name: str, kind: Any, macs: int, fft: int, read: int, written: int, at: str | None) -> None:
        """Add a call to the row of its operator and, if it is counted, to the module it happened in."""
        row = self.sums.row(name, kind)
        row.calls += 1
        row.macs += macs
        row.flops_fft += fft
        row.read += read
        row.written += written
        if at is not None:
            place = self.sums.places.setdefault(at, {}).setdefault(name, [0, 0, 0])
            place[0] += macs
            place[1] += fft
            place[2] += written if kind == "product" else 0

    def contraction(self, name: str, args: Any, out: Any) -> int:
        """Count a sum of products and return its MACs; remember a product."""
        if name in PRODUCTS and all(isinstance(t, Tensor) and t.numel() > 1 for t in args[:2]):
            self.remember(args[0], args[1], out)
        if name in SUMS and self.products:
            return self.summed(args[0], args[1] if len(args) > 1 else None, out)
        return 0

    def remember(self, a: Tensor, b: Tensor, product: Tensor) -> None:
        """Remember a product of which a factor is repeated along an axis, in case it is summed."""
        if product.numel() > min(_elements(a), _elements(b)):
            axes = [n for n in range(product.dim()) if _varies(a, product, n) and _varies(b, product, n)]
            storage = product.untyped_storage()
            self.products[storage._cdata] = (weakref.ref(storage), [_reach(product, n) for n in axes])

    def summed(self, product: Tensor, axes: Any, out: Tensor) -> int:
        """Count a sum over a product (or a view of it), if it runs over an axis along which both factors vary."""
        known = self.products.get(product.untyped_storage()._cdata)
        if known is None or known[0]() is None:
            return 0
        over = range(product.dim()) if axes is None else [axes] if isinstance(axes, int) else axes
        reaches = [_reach(product, axis) for axis in over]
        if not any(low < end and start < high for low, high in reaches for start, end in known[1]):
            return 0
        del self.products[product.untyped_storage()._cdata]
        macs = int(product.numel())
        self.add(CONTRACTION, "product", macs, 0, macs, out.numel(), self.stack[-1])
        return macs

    # what came of it

    def start_over(self) -> None:
        """Forget what was counted."""
        self.sums, self.products, self.stack = _Sums(), {}, [""]

    def result(self) -> Count:
        """Return the count so far."""
        ops = (Op(name, r.calls, r.macs, r.flops_fft, r.read, r.written, r.kind) for name, r in self.sums.rows.items())
        kernels = (
            Kernel(name, calls, macs, flops, moved, fused)
            for (name, macs, flops, moved, fused), calls in self.sums.kernels.items()
        )
        return Count(tuple(ops), tuple(kernels), self.sums.places)


def tree(module: nn.Module, found: Count) -> Part:
    """Return what each part of a module did in a count of it; a part that is used twice stands where it is first."""
    return _part(module, "", "", found.places, set())


def _part(module: nn.Module, name: str, path: str, places: Mapping[str, Any], seen: set[int]) -> Part:
    """Return a module with its children."""
    seen.add(id(module))
    below = [(n, child) for n, child in module.named_children() if id(child) not in seen]
    children = tuple(_part(child, n, f"{path}.{n}".lstrip("."), places, seen) for n, child in below)
    by_op: Counter[str] = Counter({op: row[0] for op, row in places.get(path, {}).items() if row[0]})
    for child in children:
        by_op.update(child.by_op)
    own = list(places.get(path, {}).values())
    return Part(
        name=name,
        type=type(module).__name__,
        macs=sum(row[0] for row in own) + sum(child.macs for child in children),
        flops_fft=sum(row[1] for row in own) + sum(child.flops_fft for child in children),
        activations=sum(row[2] for row in own) + sum(child.activations for child in children),
        params=params.elements(module.parameters()),
        by_op=dict(by_op),
        children=children,
    )


@contextmanager
def _eager_flex_attention() -> Iterator[None]:
    """Let flex_attention run without being compiled, which a dispatch mode forbids, and on the meta device too."""
    flex = sys.modules.get("torch.nn.attention.flex_attention")
    wanted = {"_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG": True, "_validate_device": lambda *_: None}
    before = {name: getattr(flex, name) for name in wanted if hasattr(flex, name)}
    try:
        for name in before:
            setattr(flex, name, wanted[name])
        yield
    finally:
        for name, value in before.items():
            setattr(flex, name, value)


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Keep torch's encoder from turning a padded batch into a ragged one: padding is counted as tokens are."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Functions(TorchFunctionMode):
    """Sees the functions that are counted as one, and those that other conventions count and operators do not show."""

    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, whole or as it is."""
        kwargs = kwargs or {}
        if func in self.counter.whole:
            return self.counter.call(func, *args, **kwargs)
        if (func is F.dropout and not dropped(*args, **kwargs)) or func is F.adaptive_avg_pool2d:
            self.counter.add(f"aten.{func.__name__}", "pointwise", 0, 0, args[0].numel(), args[0].numel(), None)
        if func is F.multi_head_attention_forward:  # a mode is off inside of what it sees
            attend = partial(self.counter.call, F.scaled_dot_product_attention)
            with patch.object(F, "scaled_dot_product_attention", attend):
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def dropped(_x: Tensor, _p: float = 0.5, training: bool = True, **_: Any) -> bool:
    """Tell whether a call of dropout drops anything."""
    return training


def _resolved(custom: Mapping[str, str]) -> dict[Any, Callable[..., int | None]]:
    """Look up custom operators and their formulas; one that is not defined in this process is not called here."""
    found = {}
    for name, code in custom.items():
        namespace, _, op = name.partition("::")
        packet = getattr(getattr(torch.ops, namespace), op, None)
        if packet is not None:
            found[packet] = resolve(code)
    return found


def _of_shapes(formula: formulas.Formula, args: Any, kwargs: Any, out: Any) -> int | None:
    """Apply a formula to arguments and result with their shapes in place of tensors."""
    first = next(t for t in tree_leaves(out) if isinstance(t, Tensor))  # a gradient that is not wanted is None
    named = {name: _shapes(value) for name, value in kwargs.items() if name != "out"}
    return formula(*_shapes(args), **named, out=tuple(first.shape))


def _shapes(value: Any) -> Any:
    """Return a value with the shapes of tensors in their place."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, tuple | list):
        return tuple(_shapes(item) for item in value)
    return value


def _bytes(tensor: Tensor) -> int:
    """Return the bytes that reading or writing a tensor once moves; an expanded axis is read once."""
    return 0 if tensor.is_nested else _elements(tensor) * tensor.element_size()


def _elements(tensor: Tensor) -> int:
    """Return the number of elements without expanded axes."""
    if tensor.layout is not torch.strided:
        return tensor.numel()
    return prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size)


def _varies(factor: Tensor, product: Tensor, axis: int) -> bool:
    """Tell whether a factor of a product has values of its own along an axis of it."""
    own = axis - product.dim() + factor.dim()
    return own >= 0 and factor.shape[own] > 1 and factor.stride(own) != 0


def _reach(tensor: Tensor, axis: int) -> tuple[int, int]:
    """Return the range of strides, in elements of the storage, that an axis runs over."""
    return tensor.stride(axis), tensor.stride(axis) * tensor.shape[axis]
