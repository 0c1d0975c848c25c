"""Count the multiply-accumulates of one forward pass, and name every operator that is not in the count.

The counter sees operators as torch runs them. On the meta device nothing is computed and attention falls apart into
products, so that is where to count; on a CPU or GPU the fused operators have formulas of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from zoo.metrics import formulas
from zoo.spec import resolve

# The sum of a product, element by element: a contraction that no matrix product carries out (local attention).
CONTRACTION = "mul+sum"

# Nothing is computed: allocation, filling, copying, moving, and questions about a tensor.
_FREE = """
empty empty_like empty_permuted empty_strided new_empty new_empty_strided zeros zeros_like new_zeros ones
ones_like new_ones full full_like new_full fill fill_ zero zero_ scalar_tensor eye arange range linspace
logspace tril_indices triu_indices _efficientzerotensor resize_ set_ detach detach_ alias lift lift_fresh
lift_fresh_copy clone _lazy_clone copy copy_ _to_copy _pin_memory _unsafe_view _reshape_copy cat stack _stack
_chunk_cat block_diag repeat roll flip rot90 constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
replication_pad1d replication_pad2d replication_pad3d tril tril_ triu triu_ diag_embed pixel_shuffle
pixel_unshuffle channel_shuffle complex unsafe_split unsafe_split_with_sizes split_with_sizes_copy unbind_copy
im2col transpose_ t_ squeeze_ unsqueeze_ as_strided_ select_scatter slice_scatter diagonal_scatter
as_strided_scatter _local_scalar_dense _assert_async _assert_scalar _assert_tensor_metadata
_functional_assert_async _functional_assert_scalar _linalg_check_errors _print record_stream
_has_same_storage_numel is_same_size is_pinned _use_cudnn_rnn_flatten_weight _cudnn_rnn_flatten_weight
mkldnn_reorder_conv2d_weight mkldnn_reorder_conv3d_weight
"""
FREE = frozenset(_FREE.split())
# A few operations an element: reductions, normalisations, softmax, pooling, resampling, indexing, random numbers.
_NEGLIGIBLE = """
sum nansum mean prod amax amin max min aminmax argmax argmin all any count_nonzero std std_mean var var_mean
norm native_norm linalg_vector_norm logsumexp trace _is_all_true _is_any_true dist native_layer_norm
native_group_norm native_batch_norm cudnn_batch_norm miopen_batch_norm _fused_rms_norm _batch_norm_no_update
_batch_norm_with_update _native_batch_norm_legit _native_batch_norm_legit_no_training
_native_batch_norm_legit_functional _weight_norm_interface renorm _softmax _log_softmax _safe_softmax
_masked_softmax log_sigmoid_forward _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d
adaptive_max_pool3d avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices mkldnn_max_pool2d
mkldnn_max_pool3d mkldnn_adaptive_avg_pool2d fractional_max_pool2d fractional_max_pool3d max_unpool2d
max_unpool3d col2im upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
_upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d
embedding gather index index_select index_put index_put_ _index_put_impl_ index_fill index_fill_ index_add
index_add_ index_copy index_copy_ _unsafe_index _unsafe_index_put _unsafe_masked_index masked_fill masked_fill_
masked_scatter masked_scatter_ masked_select scatter scatter_ scatter_add scatter_add_ scatter_reduce
scatter_reduce_ take put put_ nonzero nonzero_static repeat_interleave isin bucketize searchsorted
native_dropout bernoulli bernoulli_ rand rand_like randn randn_like randint randint_like randperm normal normal_
normal_functional uniform uniform_ random random_ exponential exponential_ rrelu_with_noise multinomial gelu_
hardswish hardswish_ threshold_ rsub floor_divide where _prelu_kernel _add_relu glu polar
"""
NEGLIGIBLE = frozenset(_NEGLIGIBLE.split())
# Torch asks these of tensor subclasses only; its own counter leaves them alone too.
_QUERIES = """
sym_is_contiguous is_contiguous is_strides_like_format is_non_overlapping_and_dense size sym_size stride
sym_stride storage_offset sym_storage_offset numel sym_numel dim
"""
QUERIES = frozenset(_QUERIES.split())


@dataclass(frozen=True)
class UncountedOp:
    """An operator that computes and is in no count.

    ``elements`` are those of its results over all calls (of the products, for ``mul+sum``). ``material`` ones may
    matter beside the MACs; the others do a few operations an element.
    """

    name: str
    calls: int
    elements: int
    material: bool


@dataclass(frozen=True)
class Count:
    """MACs of one forward pass of a whole batch, also by operator; ``flops_fft`` are in none of them."""

    macs: int
    flops_fft: int
    by_op: dict[str, int]
    uncounted: tuple[UncountedOp, ...]


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
    counter = _Counter(custom or {})
    with _evaluating(module), torch.no_grad(), counter:
        module(*args, **(kwargs or {}))
    return counter.result()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode, and each of its parts back in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@dataclass
class _Tally:
    """Calls and elements of one uncounted operator."""

    material: bool
    calls: int = 0
    elements: int = 0


@dataclass
class _Sums:
    """What a counter has seen so far."""

    macs: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    fft: int = 0
    uncounted: dict[str, _Tally] = field(default_factory=dict)

    def leave_out(self, name: str, elements: int, material: bool) -> None:
        """Note a call that is in no count."""
        tally = self.uncounted.setdefault(name, _Tally(material))
        tally.calls += 1
        tally.elements += elements


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator that torch dispatches, takes composite ones apart, and counts or names the rest."""

    # Without this torch refuses to run flex_attention and its like under a mode.
    supports_higher_order_operators = True

    def __init__(self, custom: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sums = _Sums()
        self.macs_of = formulas.table() | _resolved(custom)
        self.fft_of = formulas.fft_table()
        self.products = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and put it where it belongs."""
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.HigherOrderOperator):
            out = func(*args, **kwargs)
            self.note(func, str(func), args, kwargs, out)
            return out
        packet = func._overloadpacket
        if func.namespace == "aten" and packet.__name__ in QUERIES:
            return NotImplemented
        if self.formula(packet) is None and func.namespace != "prim":
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if func.namespace != "prim":
            self.note(packet, str(packet), args, kwargs, out, func)
        return out

    def formula(self, op: Any) -> Callable[..., int] | None:
        """Return what counts an operator: our formula, or torch's halved from FLOPs to MACs."""
        ours = self.macs_of.get(op) or self.fft_of.get(op)
        if ours is not None:
            return partial(_of_shapes, ours)
        theirs = flop_registry.get(op)
        return None if theirs is None else lambda args, kwargs, out: theirs(*args, **kwargs, out_val=out) // 2

    def note(self, op: Any, name: str, args: Any, kwargs: Any, out: Any, func: Any = None) -> None:
        """Count a call, or name it as uncounted."""
        formula = self.formula(op)
        ragged = any(isinstance(t, Tensor) and t.is_nested for t in tree_leaves((args, kwargs, out)))
        if formula is None or ragged:
            self.note_uncounted(name, args, out, func, ragged and formula is not None)
        elif op in self.fft_of:
            self.sums.fft += formula(args, kwargs, out)
        else:
            self.sums.macs[name] += formula(args, kwargs, out)

    def note_uncounted(self, name: str, args: Any, out: Any, func: Any, countable: bool) -> None:
        """Name a call that has no formula (or one that cannot be applied), unless it computes nothing."""
        material = countable or func is None or _is_material(func)
        if not countable and func is not None and _is_free(func):
            return
        elements = sum(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor) and not t.is_nested)
        self.sums.leave_out(name, elements, material)
        if name in ("aten.mul", "aten.mul_"):
            self.remember_product(args, out)
        elif name == "aten.sum" and args[0] in self.products:
            self.sums.leave_out(CONTRACTION, args[0].numel(), material=True)

    def remember_product(self, args: Any, out: Any) -> None:
        """Remember the product of two tensors (scaling by a number is none), in case it is summed next."""
        if all(isinstance(t, Tensor) and t.numel() > 1 for t in args[:2]):
            self.products[out] = True

    def result(self) -> Count:
        """Return the count so far."""
        uncounted = (UncountedOp(name, t.calls, t.elements, t.material) for name, t in self.sums.uncounted.items())
        return Count(
            macs=sum(self.sums.macs.values()),
            flops_fft=self.sums.fft,
            by_op=dict(self.sums.macs),
            uncounted=tuple(sorted(uncounted, key=lambda op: (not op.material, op.name))),
        )


def _resolved(custom: Mapping[str, str]) -> dict[Any, Callable[..., int]]:
    """Look up custom operators and their formulas; one that is not defined in this process is not called here."""
    found = {}
    for name, code in custom.items():
        namespace, _, op = name.partition("::")
        packet = getattr(getattr(torch.ops, namespace), op, None)
        if packet is not None:
            found[packet] = resolve(code)
    return found


def _of_shapes(formula: Callable[..., int], args: Any, kwargs: Any, out: Any) -> int:
    """Apply a formula to arguments and result with their shapes in place of tensors."""
    first = out[0] if isinstance(out, tuple | list) else out
    args, kwargs = tree_map(lambda x: tuple(x.shape) if isinstance(x, Tensor) else x, (args, dict(kwargs)))
    kwargs.pop("out", None)
    return formula(*args, **kwargs, out=tuple(first.shape))


def _is_free(func: Any) -> bool:
    """Tell whether an operator computes nothing."""
    return bool(func.is_view) or (func.namespace == "aten" and func._overloadpacket.__name__ in FREE)


def _is_material(func: Any) -> bool:
    """Tell whether an operator may matter beside the MACs: neither free, nor pointwise, nor known as negligible."""
    if _is_free(func) or torch.Tag.pointwise in func.tags:
        return False
    return func.namespace != "aten" or func._overloadpacket.__name__ not in NEGLIGIBLE
