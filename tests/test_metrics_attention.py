"""Attention runs on the backend that a case asks for, or there is no number."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gpu import on_gpu
from torch import Tensor, nn

from zoo.metrics.attention import BACKENDS, check_backend, only
from zoo.metrics.driver import Unsupported


def attend(mask: Tensor | None = None) -> Tensor:
    """Call attention."""
    x = torch.ones(1, 2, 8, 16)
    return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)


@pytest.mark.parametrize("backend", ["flash", "math"])
def test_what_the_cpu_has_runs(backend: str) -> None:
    with only(backend):
        check_backend(backend, attend)


@pytest.mark.parametrize("backend", ["efficient", "cudnn"])
def test_what_the_cpu_lacks_is_never_another_in_its_place(backend: str) -> None:
    with only(backend), pytest.raises(RuntimeError, match="No viable backend"):
        check_backend(backend, attend)


def test_a_model_without_attention_runs_on_no_backend() -> None:
    with only("flash"), pytest.raises(Unsupported, match="no attention that torch could run as flash"):
        check_backend("flash", lambda: torch.ones(2) + 1)


def test_attention_that_was_allowed_elsewhere_is_seen() -> None:
    with pytest.raises(Unsupported, match=r"attention ran as .*flash.*, not as math"):
        check_backend("math", attend)


@pytest.mark.parametrize("backend", ["flash", "math"])
def test_the_fast_path_of_multihead_attention_does_not_choose_for_itself(backend: str) -> None:
    module, x = nn.MultiheadAttention(32, 2, batch_first=True).eval(), torch.ones(1, 8, 32)
    assert torch.backends.mha.get_fastpath_enabled()
    with only(backend):
        check_backend(backend, lambda: module(x, x, x, need_weights=False))
        assert not torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


@on_gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_gpu_every_backend_runs_or_is_refused(backend: str) -> None:
    x = torch.randn(2, 4, 64, 64, device="cuda", dtype=torch.bfloat16)
    with only(backend):
        check_backend(backend, lambda: F.scaled_dot_product_attention(x, x, x))
        single = x.float()
        if backend in ("flash", "cudnn"):
            with pytest.raises(RuntimeError, match="No available kernel"):
                check_backend(backend, lambda: F.scaled_dot_product_attention(single, single, single))
