"""Least times from arithmetic, and traffic of operators from their shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from models import Lambda
from torch import nn

from zoo.metrics import macs, roofline
from zoo.metrics.roofline import Ceilings


def count(what, *shapes):
    module = what if isinstance(what, nn.Module) else Lambda(what)
    return macs.count(module.to("meta"), [torch.ones(shape, device="meta") for shape in shapes])


def test_a_linear_layer_reads_input_weight_and_bias_and_writes_output():
    found = count(nn.Linear(8, 3), (5, 8))
    assert found.bytes == 4 * (5 * 8 + 8 * 3 + 3 + 5 * 3)
    assert roofline.intensity(found) == pytest.approx(2 * 5 * 8 * 3 / found.bytes)


def test_a_kernel_takes_the_longer_of_arithmetic_and_traffic():
    found = count(nn.Linear(8, 3), (5, 8))
    slow_memory = roofline.bounds(found, Ceilings(flops=1e12, bandwidth=1e3))
    slow_arithmetic = roofline.bounds(found, Ceilings(flops=1e3, bandwidth=1e12))
    assert slow_memory.fused_bound == pytest.approx(found.bytes / 1e3)
    assert slow_arithmetic.fused_bound == slow_arithmetic.flop_bound == pytest.approx(240 / 1e3)


def test_pointwise_work_is_free_when_it_is_fused():
    plain, more = count(nn.Linear(8, 3), (5, 8)), count(nn.Sequential(nn.Linear(8, 3), nn.ReLU()), (5, 8))
    machine = Ceilings(1e12, 1e3)
    assert roofline.bounds(more, machine).fused_bound == roofline.bounds(plain, machine).fused_bound
    added = roofline.bounds(more, machine).eager_bound - roofline.bounds(plain, machine).eager_bound
    assert added == pytest.approx(2 * 4 * 15 / 1e3)  # ReLU reads 15 values and writes 15


def test_fused_bytes_are_those_of_the_fused_bound_where_memory_limits():
    found = count(nn.Sequential(nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 2)), (5, 8))
    # Two products, each with input, weight, bias and output; the ReLU between them moves nothing.
    assert roofline.fused_bytes(found) == 4 * ((5 * 8 + 8 * 3 + 3 + 5 * 3) + (5 * 3 + 3 * 2 + 2 + 5 * 2))
    bound = roofline.bounds(found, Ceilings(flops=1e12, bandwidth=1e3)).fused_bound
    assert bound == pytest.approx(roofline.fused_bytes(found) / 1e3)


def test_fused_attention_never_writes_its_scores():
    q = (2, 4, 16, 8)
    whole = count(F.scaled_dot_product_attention, q, q, q)
    assert whole.bytes == 4 * 4 * 2 * 4 * 16 * 8  # q, k, v and the output


def test_an_expanded_tensor_is_read_once():
    assert count(lambda x: x.expand(100, 8) + 1.0, (1, 8)).bytes == 4 * (8 + 800)


def test_bounds_come_in_order():
    found = count(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), (2, 16, 32))
    at = roofline.bounds(found, Ceilings(172e9, 12.5e9))
    assert 0 < at.flop_bound <= at.fused_bound <= at.eager_bound


def test_the_ridge_is_where_both_take_as_long():
    assert Ceilings(789e12, 4.3e12).ridge == pytest.approx(183.5, abs=0.1)
