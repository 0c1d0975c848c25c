"""Attention in shifted windows (Liu et al. 2021, Section 3.2): a map cut into windows, each attending to itself.

    map (B, H, W, C)
      -> padded with zeros to whole windows               (B, H', W', C)
      -> rolled back by the shift, cut                    (B windows, m^2, C)
      -> softmax(q k^T / sqrt(d_h) + bias + mask) v       (B windows, m^2, C)
      -> put together, rolled forth, padding cut off      (B, H, W, C)

``bias`` is learned, one number a head and relative position. ``mask`` is -100 (not minus infinity, as in the authors'
code) between tokens that only the roll made neighbours, else 0. Tokens of padding are not masked; they are zeros
before the projection, so their keys and values are its bias.

The window's attention itself is timm's (Apache-2.0, after the authors' code, MIT).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from zoo import ZooError

BARRIER = -100.0


def attend_in_windows(x: Tensor, attention: nn.Module, shift: tuple[int, int], mask: Tensor | None) -> Tensor:
    """Apply ``attention`` within the windows of a map that is shifted by ``shift``: (B, H, W, C) -> (B, H, W, C).

    ``attention`` is timm's WindowAttention, ``mask`` (windows, m^2, m^2) is that of :func:`shift_mask`, None without a
    shift.
    """
    height, width = x.shape[1:3]
    window: tuple[int, int] = attention.window_size  # type: ignore[assignment]
    below, right = -height % window[0], -width % window[1]
    if below or right:
        x = F.pad(x, (0, 0, 0, right, 0, below))  # before the roll: else the mask lies beside the seam
    if any(shift):
        x = x.roll((-shift[0], -shift[1]), (1, 2))
    x = join(attention(cut(x, window), mask=mask), window, x.shape)
    if any(shift):
        x = x.roll(shift, (1, 2))
    return x[:, :height, :width]


def cut(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut a map into windows, row by row: (B, H, W, C) -> (B H/h W/w, h w, C)."""
    b, height, width, c = x.shape
    h, w = window
    x = x.view(b, height // h, h, width // w, w, c).transpose(2, 3)
    return x.reshape(-1, h * w, c)


def join(windows: Tensor, window: tuple[int, int], shape: torch.Size) -> Tensor:
    """Put windows back together to a map (B, H, W, C) of ``shape``: undoes :func:`cut`."""
    b, height, width, c = shape
    h, w = window
    x = windows.view(b, height // h, width // w, h, w, c).transpose(2, 3)
    return x.reshape(shape)


def shift_mask(size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """Return what is added to the scores after a roll by ``shift``: (windows, m^2, m^2), 0 or -100.

    ``size`` is that of the padded map. The last window of a rolled side holds two regions, from both its ends.
    """
    regions = []
    for length, side, moved in zip(size, window, shift, strict=True):
        place = torch.arange(length)
        regions.append((place >= length - side).long() + (place >= length - moved).long())
    labels = 3 * regions[0][:, None] + regions[1]  # (H, W)
    of_window = cut(labels[None, :, :, None], window).squeeze(2)  # (windows, m^2)
    apart = of_window[:, :, None] != of_window[:, None, :]
    return apart.to(torch.get_default_dtype()) * BARRIER


class ShiftedWindows(nn.Module):
    """Attention in windows of a grid of tokens, shifted by half a window or not."""

    mask: Tensor | None

    def __init__(self, size: tuple[int, int], width: int, window: int, heads: int, shift: bool) -> None:
        super().__init__()
        self.size = size
        sides = (min(size[0], window), min(size[1], window))
        down, across = (window // 2 if shift and side > window else 0 for side in size)
        self.shift = down, across
        self.attention = WindowAttention(width, heads, window_size=sides)
        padded = (size[0] + -size[0] % sides[0], size[1] + -size[1] % sides[1])
        mask = shift_mask(padded, sides, self.shift) if any(self.shift) else None
        self.register_buffer("mask", mask, persistent=False)
        for linear in (self.attention.qkv, self.attention.proj):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of each window: (B, H W, C) -> (B, H W, C), row by row."""
        x = x.reshape(len(x), *self.size, -1)
        return attend_in_windows(x, self.attention, self.shift, self.mask).flatten(1, 2)


def build(size: tuple[int, int], width: int, window: int, heads: int, shift: bool) -> nn.Module:
    """Return the layer for a grid of ``size``; ZooError when the width does not divide into the heads."""
    if width % heads:
        raise ZooError(f"windows of width {width} cannot have {heads} heads: the width must be a multiple of the heads")
    return ShiftedWindows(size, width, window, heads, shift)


def alternating(level: int, size: int, window: int, heads: int, shift: bool) -> dict[str, int | bool]:
    """Return the options of the layer in a stack, where every second one is shifted."""
    return {"window": window, "heads": heads, "shift": shift and level % 2 == 1}
