"""What operators are and do besides multiplying matrices: free, pointwise or material, and FLOPs an element."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

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
_pack_padded_sequence _pad_packed_sequence
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
embedding embedding_dense_backward gather index index_select index_put index_put_ _index_put_impl_ index_fill
index_fill_ index_add index_add_ index_copy index_copy_ _unsafe_index _unsafe_index_put _unsafe_masked_index
masked_fill masked_fill_ masked_scatter masked_scatter_ masked_select scatter scatter_ scatter_add scatter_add_
scatter_reduce scatter_reduce_ take put put_ nonzero nonzero_static repeat_interleave isin bucketize searchsorted
native_dropout cumsum cumprod logcumsumexp bernoulli bernoulli_
rand rand_like randn randn_like randint randint_like randperm normal normal_
normal_functional uniform uniform_ random random_ exponential exponential_ rrelu_with_noise multinomial gelu_
hardswish hardswish_ threshold_ rsub floor_divide where _prelu_kernel _add_relu glu polar
native_layer_norm_backward native_group_norm_backward native_batch_norm_backward cudnn_batch_norm_backward
miopen_batch_norm_backward batch_norm_backward _fused_rms_norm_backward _weight_norm_interface_backward
_softmax_backward_data _log_softmax_backward_data _masked_softmax_backward native_dropout_backward
log_sigmoid_backward glu_backward _prelu_kernel_backward rrelu_with_noise_backward max_pool2d_with_indices_backward
max_pool3d_with_indices_backward mkldnn_max_pool2d_backward mkldnn_adaptive_avg_pool2d_backward avg_pool2d_backward
avg_pool3d_backward _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward adaptive_max_pool2d_backward
adaptive_max_pool3d_backward upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward
_upsample_nearest_exact1d_backward _upsample_nearest_exact2d_backward _upsample_nearest_exact3d_backward
upsample_linear1d_backward upsample_bilinear2d_backward upsample_bicubic2d upsample_bicubic2d_backward
_upsample_bilinear2d_aa _upsample_bilinear2d_aa_backward _upsample_bicubic2d_aa _upsample_bicubic2d_aa_backward
upsample_trilinear3d_backward select_backward slice_backward unfold_backward reflection_pad1d_backward
reflection_pad2d_backward reflection_pad3d_backward replication_pad1d_backward replication_pad2d_backward
replication_pad3d_backward nll_loss_forward nll_loss_backward nll_loss2d_forward nll_loss2d_backward
"""
NEGLIGIBLE = frozenset(_NEGLIGIBLE.split())
# Torch asks these of tensor subclasses only; its own counter leaves them alone too.
_QUERIES = """
sym_is_contiguous is_contiguous is_strides_like_format is_non_overlapping_and_dense size sym_size stride
sym_stride storage_offset sym_storage_offset numel sym_numel dim
"""
QUERIES = frozenset(_QUERIES.split())
# FLOPs an element, at the very most, of operators that may matter: sorting n values takes 2 log2 n comparisons each.
_SORTS = "sort topk kthvalue median nanmedian mode msort argsort unique_dim _unique2 unique_consecutive"
BOUNDS = MappingProxyType({f"aten.{name}": 64 for name in _SORTS.split(" ")})


def is_free(func: torch._ops.OpOverload) -> bool:
    """Tell whether an operator computes nothing."""
    return bool(func.is_view) or (func.namespace == "aten" and func._overloadpacket.__name__ in FREE)


def is_material(func: torch._ops.OpOverload) -> bool:
    """Tell whether an operator may matter beside the MACs: neither free, nor pointwise, nor known as negligible."""
    if is_free(func) or torch.Tag.pointwise in func.tags:
        return False
    return func.namespace != "aten" or func._overloadpacket.__name__ not in NEGLIGIBLE


# -- FLOPs an element ----------------------------------------------------------------------------------------

# Of an operator: FLOPs for each element that it reads (of its first tensor), and for each that it writes.
Weight = tuple[float, float]
_NOTHING: Weight = (0, 0)
_WRITTEN: Weight = (0, 1)


def _table(*rows: tuple[Weight, str]) -> Mapping[str, Weight]:
    return MappingProxyType({f"aten.{name}": weight for weight, names in rows for name in names.split()})


# One FLOP for each element that is written, unless the operator is here. Norms and softmax as fvcore and TensorFlow's
# profiler have them; a pool reads each element about once.
FLOPS = _table(
    (
        (1, 0),
        "sum nansum mean prod amax amin max min aminmax argmax argmin all any count_nonzero norm native_norm "
        "linalg_vector_norm logsumexp trace dist _is_all_true _is_any_true avg_pool1d avg_pool2d avg_pool3d "
        "_adaptive_avg_pool2d _adaptive_avg_pool3d max_pool2d_with_indices max_pool3d_with_indices "
        "adaptive_max_pool2d adaptive_max_pool3d mkldnn_max_pool2d mkldnn_max_pool3d cumsum cumprod logcumsumexp",
    ),
    ((3, 0), "std std_mean var var_mean"),
    (
        (0, 5),
        "_softmax _log_softmax _safe_softmax _masked_softmax native_layer_norm native_group_norm _fused_rms_norm "
        "_native_batch_norm_legit _batch_norm_with_update _native_batch_norm_legit_functional",
    ),
    (
        (0, 2),
        "native_batch_norm cudnn_batch_norm miopen_batch_norm _batch_norm_no_update native_dropout "
        "_native_batch_norm_legit_no_training upsample_linear1d",
    ),
    ((0, 4), "upsample_bilinear2d _upsample_bilinear2d_aa"),
    ((0, 8), "upsample_trilinear3d"),
    ((0, 16), "upsample_bicubic2d _upsample_bicubic2d_aa"),
    (
        _NOTHING,
        "embedding gather index index_select index_put index_put_ _index_put_impl_ index_fill index_fill_ index_copy "
        "index_copy_ _unsafe_index _unsafe_index_put _unsafe_masked_index masked_fill masked_fill_ masked_scatter "
        "masked_scatter_ masked_select scatter scatter_ take put put_ nonzero nonzero_static repeat_interleave isin "
        "where bernoulli bernoulli_ rand rand_like randn randn_like randint randint_like randperm normal normal_ "
        "normal_functional uniform uniform_ random random_ exponential exponential_ upsample_nearest1d "
        "upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
        "_upsample_nearest_exact3d bitwise_not logical_not embedding_dense_backward dropout adaptive_avg_pool2d",
    ),
)
# What a compiler leaves as kernels of their own among these: norms, reductions, pools, look-ups, resampling. Batch norm
# of inference is folded into the convolution before it, and everything else is computed on the way.
_KERNELS = """
sum nansum mean prod amax amin max min argmax argmin std std_mean var var_mean norm linalg_vector_norm logsumexp
_softmax _log_softmax _safe_softmax _masked_softmax native_layer_norm native_group_norm _fused_rms_norm
native_layer_norm_backward native_group_norm_backward _softmax_backward_data native_batch_norm_backward
avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d max_pool2d_with_indices
max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d cumsum cumprod embedding gather index index_select
sort topk scatter scatter_add upsample_nearest2d upsample_bilinear2d upsample_bicubic2d im2col col2im
"""
KERNELS = frozenset(f"aten.{name}" for name in _KERNELS.split())
# What the counter behind DETR's tables adds to its MACs (Carion et al. 2020, 0.A.3.2; its authors' published script):
# everything that is not here it leaves out, layer norm and pooling among it.
DETR2020 = _table(
    (_WRITTEN, "add add_ mul mul_ sub sub_ div div_ floor_divide relu relu_ sigmoid log sin cos pow dropout"),
    ((1, 0), "sum cumsum"),
    ((0, 2), "rsqrt"),
    ((0, 5), "_softmax _safe_softmax"),
    (
        (0, 4),
        "native_batch_norm cudnn_batch_norm _native_batch_norm_legit_no_training _batch_norm_no_update "
        "_native_batch_norm_legit",
    ),
)
# What fvcore 0.1.5 adds to its MACs as it is shipped.
FVCORE = _table(
    ((0, 5), "native_layer_norm native_group_norm"),
    ((0, 2), "_native_batch_norm_legit_no_training native_batch_norm cudnn_batch_norm _batch_norm_no_update"),
    ((1, 0), "adaptive_avg_pool2d"),
    ((0, 4), "upsample_bilinear2d"),
    (_WRITTEN, "upsample_nearest2d"),
)
# And what it does not see: it has no handle for these, or torch takes them apart where it does not look.
_UNSEEN = """
scaled_dot_product_attention lstm gru rnn_tanh rnn_relu aten.baddbmm aten.addbmm aten.mv aten.dot aten.vdot
aten.addmv aten.addr aten._cdist_forward mul+sum
"""
UNSEEN_BY_FVCORE = frozenset(_UNSEEN.split())


def flops(name: str, read: int, written: int, weights: Mapping[str, Weight] = FLOPS, default: Weight = _WRITTEN) -> int:
    """Return the FLOPs of an operator that read and wrote so many elements."""
    of_read, of_written = weights.get(name, default)
    return round(of_read * read + of_written * written)
