"""What operators hold while they run is what torch's profiler sees of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from profiled import peak_of_allocations
from torch import Tensor

from zoo.metrics import scratch

aten = torch.ops.aten
# oneDNN's own scratch, some tens of kilobytes for each thread, is not followed.
NOT_FOLLOWED = 80 * 1024


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Run on one thread, and put back how many there were."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def held_and_real(func: Any, *args: Any) -> tuple[int, int]:
    """Return what an operator is said to hold, and what it does hold."""
    with torch.no_grad():
        out = func(*args)
        return scratch.held(func, args, out), peak_of_allocations(lambda: func(*args))


# x, weight, stride, padding, groups, channels last
CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, int, int, bool]] = {
    "3x3": ((4, 32, 32, 32), (48, 32, 3, 3), 1, 1, 1, False),
    "odd channels": ((4, 24, 32, 32), (40, 24, 3, 3), 1, 1, 1, False),
    "stride": ((4, 64, 32, 32), (96, 64, 3, 3), 2, 1, 1, False),
    "pointwise": ((4, 64, 32, 32), (96, 64, 1, 1), 1, 0, 1, False),
    "pointwise with stride": ((4, 64, 32, 32), (96, 64, 1, 1), 2, 0, 1, False),
    "stem": ((4, 3, 64, 64), (64, 3, 7, 7), 2, 3, 1, False),
    "large patches": ((4, 3, 128, 128), (192, 3, 16, 16), 16, 0, 1, False),
    "depthwise": ((4, 64, 32, 32), (64, 1, 3, 3), 1, 1, 64, False),
    "groups": ((4, 64, 32, 32), (64, 32, 3, 3), 1, 1, 2, False),
    "one pixel": ((16, 512, 1, 1), (512, 512, 3, 3), 1, 1, 1, False),
    "one dimension": ((16, 64, 64), (96, 64, 3), 1, 1, 1, False),
    "three dimensions": ((2, 32, 8, 16, 16), (48, 32, 3, 3, 3), 1, 1, 1, False),
    "transposed input": ((16, 64, 64), (96, 64, 3), 1, 1, 1, False),
    "small": ((1, 16, 16, 16), (16, 16, 3, 3), 1, 1, 1, False),
    "small, channels last": ((1, 128, 6, 6), (128, 128, 3, 3), 1, 1, 1, True),
    "channels last": ((4, 64, 32, 32), (96, 64, 3, 3), 1, 1, 1, True),
    "channels last with stride": ((4, 64, 32, 32), (96, 64, 3, 3), 2, 1, 1, True),
    "channels last, pointwise with stride": ((4, 64, 32, 32), (96, 64, 1, 1), 2, 0, 1, True),
    "channels last, depthwise": ((4, 64, 32, 32), (64, 1, 3, 3), 1, 1, 64, True),
}


def convolution(name: str) -> tuple[Tensor, Tensor, list[Any]]:
    """Return the input, the weight and the other arguments of a convolution."""
    x_shape, weight_shape, stride, padding, groups, channels_last = CONVOLUTIONS[name]
    n = len(x_shape) - 2
    x = torch.randn(x_shape)
    if name == "transposed input":
        x = x.mT.contiguous().mT
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x, torch.randn(weight_shape), [[stride] * n, [padding] * n, [1] * n, False, [0] * n, groups]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution(name: str) -> None:
    x, weight, how = convolution(name)
    held, real = held_and_real(aten.convolution.default, x, weight, None, *how)
    assert held == pytest.approx(real, rel=0.01, abs=NOT_FOLLOWED)


@pytest.mark.parametrize("of_input", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_gradients_of_a_convolution(name: str, of_input: bool) -> None:
    x, weight, how = convolution(name)
    grad = torch.randn_like(aten.convolution.default(x, weight, None, *how))
    if of_input and x.shape[1] == 3:
        pytest.skip("images have no gradient")
    held, real = held_and_real(aten.convolution_backward.default, grad, x, weight, None, *how, [of_input, True, False])
    assert held == pytest.approx(real, rel=0.01, abs=NOT_FOLLOWED)


def transposed(*shape: int) -> Tensor:
    """Return a tensor whose last two dimensions lie the other way round."""
    return torch.randn(shape).mT.contiguous().mT


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [100, 300, 900])
def test_flash_attention(n: int, dtype: torch.dtype, threads: int) -> None:
    torch.set_num_threads(threads)
    q = torch.randn(1, 4, n, 64, dtype=dtype)
    forward = aten._scaled_dot_product_flash_attention_for_cpu.default
    held, real = held_and_real(forward, q, q, q)
    assert held == real
    out, sums = forward(q, q, q)
    backward = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    held, real = held_and_real(backward, torch.randn_like(q), q, q, q, out, sums, 0.0, False)
    assert held == real


def normed(x: Tensor) -> tuple[Tensor, ...]:
    """Return what the gradient of a layer norm needs beside x."""
    ones = torch.ones(64)
    _, mean, scale = aten.native_layer_norm.default(x, [64], ones, ones, 1e-5)
    return mean, scale, ones, ones


CALLS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "layer norm": lambda: (aten.native_layer_norm.default, transposed(8, 99, 64), [64], *[torch.ones(64)] * 2, 1e-5),
    "gradient of layer norm": lambda: (
        *(
            aten.native_layer_norm_backward.default,
            torch.randn(8, 99, 64),
            x := transposed(8, 99, 64),
            [64],
            *normed(x),
        ),
        [True] * 3,
    ),
    "softmax": lambda: (aten._softmax.default, transposed(8, 99, 64), -1, False),
    "safe softmax": lambda: (aten._safe_softmax.default, torch.randn(8, 99, 64), -1),
    "roll": lambda: (aten.roll.default, torch.randn(8, 99, 64), [1, 2], [1, 2]),
    "roll along one": lambda: (aten.roll.default, torch.randn(8, 99, 64), [1], [1]),
}


@pytest.mark.parametrize("name", CALLS)
def test_norms_and_copies(name: str) -> None:
    held, real = held_and_real(*CALLS[name]())
    result = 0 if held else real  # an operator without scratch has nothing to say
    assert held == pytest.approx(real - result, abs=8)


@pytest.mark.parametrize("layouts", [(False, False), (True, True), (True, False)])
def test_the_gradient_of_batch_norm(layouts: tuple[bool, bool]) -> None:
    x, grad = (
        torch.randn(8, 64, 16, 16).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        for last in layouts
    )
    ones = torch.ones(64)
    _, mean, scale = aten.native_batch_norm.default(x, ones, ones, None, None, True, 0.1, 1e-5)
    held, real = held_and_real(
        *(aten.native_batch_norm_backward.default, grad, x, ones, None, None, mean, scale, True, 1e-5, [True] * 3)
    )
    assert held == pytest.approx(real, abs=4096)
