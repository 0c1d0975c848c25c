"""Attention to all tokens, and to a window around each (Vaswani et al. 2017, Sections 3.2 and 4).

    x (B, N, C) -> queries, keys, values (B, N, C) each -> heads -> softmax(q k^T / sqrt(d_h)) v -> output (B, N, C)

What is different:

1. The projections have biases, as in ViT, and the same modules in both layers, so that one's weights fit the other.
2. Table 1 only mentions restricted attention ("a neighborhood of size r ... centered around the respective output
   position"). Here a window that passes a border is clipped, not shifted.

Restricted attention computes the r products of each token and no more: n r d MACs for the scores and n r d for the
mixture, not n^2 masked ones. In one dimension the windows are overlapping views of the keys and values, and nothing is
copied forward; backward, and in two dimensions a row of the window at a time, r copies are made. It is exact and of the
right order, and slower than a fused kernel: each token's product is one small matrix by a vector.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_token_mixers.window import reach


class SelfAttention(nn.Module):
    """Every token attends to every token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens: (B, N, C) -> (B, N, C)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, N, d_h) each
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class RestrictedAttention(nn.Module):
    """Every token of a grid (H, W) attends to a window (rows, columns) of odd sides with itself in the middle."""

    inside: Tensor

    def __init__(self, width: int, heads: int, grid: tuple[int, int], window: tuple[int, int]) -> None:
        super().__init__()
        self.heads, self.grid, self.window = heads, grid, window
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.register_buffer("inside", inside(grid, window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens: (B, N, C) -> (B, N, C), N = H W."""
        n, batch = x.shape[1], x.shape[0]
        # Tokens first: then token, sample and head are one axis whose stride the windows of a row share.
        q, k, v = self.qkv(x.transpose(0, 1)).chunk(3, dim=-1)  # (N, B, C) each
        q = q.reshape(n * batch * self.heads, 1, -1)  # (N B h, 1, d_h)
        scores = torch.cat([torch.bmm(q, keys) for keys in self.windows(k)], dim=-1)  # (N B h, 1, r)
        scores = (scores * q.shape[-1] ** -0.5).unflatten(0, (n, -1))
        weights = scores.masked_fill(~self.inside[:, None, None], -torch.inf).softmax(dim=-1).flatten(0, 1)
        mixed = torch.zeros_like(q)
        for part, values in zip(weights.split(self.window[1], dim=-1), self.windows(v), strict=True):
            mixed = mixed + torch.bmm(part, values.transpose(1, 2))  # (N B h, 1, d_h)
        out: Tensor = self.out(mixed.view(n, batch, -1).transpose(0, 1))
        return out

    def windows(self, x: Tensor) -> Iterator[Tensor]:
        """Yield what each token sees, a row of its window at a time: (N, B, C) -> (N B h, d_h, columns)."""
        rows, columns = self.window
        border = (columns // 2, columns // 2, rows // 2, rows // 2)
        padded = F.pad(x.reshape(*self.grid, *x.shape[1:]), (0, 0, 0, 0, *border))
        by_head = padded.view(*padded.shape[:3], self.heads, -1)  # (H + rows - 1, W + columns - 1, B, h, d_h)
        view = by_head.unfold(1, columns, 1)  # (H + rows - 1, W, B, h, d_h, columns)
        for row in range(rows):
            yield view[row : row + self.grid[0]].flatten(0, 3)  # a view where H is 1, else a copy


def inside(grid: tuple[int, int], window: tuple[int, int]) -> Tensor:
    """Tell which places of each token's window lie on the grid: (H W, rows * columns), both in row-major order."""
    seen = [
        torch.arange(side)[:, None] + torch.arange(length) - length // 2  # place j of token i's window: (side, length)
        for side, length in zip(grid, window, strict=True)
    ]
    rows, columns = ((at >= 0) & (at < side) for at, side in zip(seen, grid, strict=True))
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2).flatten(0, 1)


# -- built by name -------------------------------------------------------------------------------------------


def self_attention(size: int, width: int, heads: int) -> nn.Module:
    """Return attention to all tokens; it takes any number of them."""
    return SelfAttention(width, heads)


def restricted_attention(size: int, width: int, heads: int, window: int) -> nn.Module:
    """Return attention to the ``window`` nearest of ``size`` tokens. ZooError unless the window is odd."""
    reach(window, "the window of restricted_attention")
    return RestrictedAttention(width, heads, (1, size), (1, window))


def restricted_attention_2d(size: tuple[int, int], width: int, heads: int, window: int) -> nn.Module:
    """Return attention to a square of side ``window`` on a grid (H, W). ZooError unless the window is odd."""
    reach(window, "the window of restricted_attention_2d")
    return RestrictedAttention(width, heads, size, (window, window))
