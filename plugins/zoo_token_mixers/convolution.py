"""Convolution over the tokens, stride 1 and zeros around: along the sequence, or over a grid (H, W).

    plain       out_i = sum_j W_j x_(i + j)           W_j (C, C): k n d^2
    depthwise   out_i = sum_j w_j * x_(i + j)         w_j (C,): k n d, no channel meets another
    separable   depthwise, then a plain one of k = 1  k n d + n d^2
    dilated     out_i = sum_j W_j x_(i + dilation j)  k n d^2, further apart

j runs from -(k // 2) to k // 2. All have biases.
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo import ZooError
from zoo_token_mixers.window import reach


class Convolution1d(nn.Module):
    """Convolutions along the sequence."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens: (B, N, C) -> (B, N, C)."""
        mixed: Tensor = self.layers(x.transpose(1, 2))  # (B, C, N)
        return mixed.transpose(1, 2)


class Convolution2d(nn.Module):
    """A convolution over a grid (H, W) in row-major order."""

    def __init__(self, grid: tuple[int, int], layer: nn.Module) -> None:
        super().__init__()
        self.grid = grid
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens: (B, N, C) -> (B, N, C), N = H W."""
        mixed: Tensor = self.layer(x.transpose(1, 2).reshape(*x.shape[::2], *self.grid))  # (B, C, H, W)
        return mixed.flatten(2).transpose(1, 2)


# -- built by name: kernels are odd, ZooError otherwise --------------------------------------------------------


def conv1d(size: int, width: int, kernel_size: int) -> nn.Module:
    """Return a plain convolution; it takes any number of tokens."""
    return Convolution1d(nn.Conv1d(width, width, kernel_size, padding=reach(kernel_size, "the kernel_size of conv1d")))


def depthwise_conv(size: int, width: int, kernel_size: int) -> nn.Module:
    """Return a depthwise convolution; it takes any number of tokens."""
    padding = reach(kernel_size, "the kernel_size of depthwise_conv")
    return Convolution1d(nn.Conv1d(width, width, kernel_size, padding=padding, groups=width))


def separable_conv(size: int, width: int, kernel_size: int) -> nn.Module:
    """Return a depthwise and a pointwise convolution; it takes any number of tokens."""
    padding = reach(kernel_size, "the kernel_size of separable_conv")
    depthwise = nn.Conv1d(width, width, kernel_size, padding=padding, groups=width)
    return Convolution1d(depthwise, nn.Conv1d(width, width, 1))


def dilated_conv(size: int, width: int, kernel_size: int, dilation: int) -> nn.Module:
    """Return a convolution whose taps are ``dilation`` tokens apart; it takes any number of tokens."""
    if isinstance(dilation, bool) or not isinstance(dilation, int) or dilation < 1:
        raise ZooError(f"the dilation of dilated_conv is {dilation!r}; expected a whole number >= 1")
    padding = dilation * reach(kernel_size, "the kernel_size of dilated_conv")
    return Convolution1d(nn.Conv1d(width, width, kernel_size, padding=padding, dilation=dilation))


def widening(level: int, size: int, kernel_size: int, dilation: int) -> dict[str, int]:
    """Return the options in a stack with dilations 1, k, k^2, ... below N, and from 1 again."""
    steps = 1
    while kernel_size > 1 and kernel_size**steps < size:
        steps += 1
    return {"kernel_size": kernel_size, "dilation": kernel_size ** (level % steps)}


def conv2d(size: tuple[int, int], width: int, kernel_size: int) -> nn.Module:
    """Return a plain convolution over a grid."""
    padding = reach(kernel_size, "the kernel_size of conv2d")
    return Convolution2d(size, nn.Conv2d(width, width, kernel_size, padding=padding))


def depthwise_conv2d(size: tuple[int, int], width: int, kernel_size: int) -> nn.Module:
    """Return a depthwise convolution over a grid."""
    padding = reach(kernel_size, "the kernel_size of depthwise_conv2d")
    return Convolution2d(size, nn.Conv2d(width, width, kernel_size, padding=padding, groups=width))
