"""DETR's panoptic models (Carion et al. 2020, Section 4.4): a mask for every query, on top of the detector.

    queries (B, Q, d), memory (B, N, d)
      -> attention scores of every query in each head, softmax over heads and cells together   (B, Q, heads, h, w)
      -> beside the projected feature map, for every query                                     (B Q, d + heads, h, w)
      -> 3x3 convolution, GroupNorm, ReLU, twice                                               (B Q, d / 2, h, w)
      -> three times: enlarged to the next finer map of the trunk, that map added (1x1),
         3x3 convolution, GroupNorm, ReLU                                                      (B Q, d / 16, H/4, W/4)
      -> 3x3 convolution: masks (B, Q, H / 4, W / 4), as logits

Written beside facebookresearch/detr (Apache-2.0, commit 29901c5), whose checkpoints load. The detector inside keeps the
names it has in ``zoo_detr.model``. What is different: GroupNorm has as many groups as channels where those are fewer
than 8, for models that are narrower than the published ones.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import ZooError
from zoo_detr.model import Detr, Outputs, Trunk, build_trunk, check

GROUPS = 8
FINER = 3  # how many maps of the trunk are added, the coarsest first


class AttentionMap(nn.Module):
    """Where each query looks, one map a head; unlike in attention, the heads share one softmax."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        for linear in (self.query, self.key):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, memory: Tensor, padding: Tensor | None) -> Tensor:
        """Return maps (B, Q, heads, N) that sum to 1 for each query; ``padding`` (B, N) is true where there is none."""
        q: Tensor = self.split(self.query(queries) * self.scale)
        k = self.split(self.key(memory))
        scores = (q @ k.mT).transpose(1, 2)  # (B, Q, heads, N)
        if padding is not None:
            scores = scores.masked_fill(padding[:, None, None], -torch.inf)
        return scores.flatten(2).softmax(-1).view(scores.shape)

    def split(self, x: Tensor) -> Tensor:
        """Split channels into heads: (B, n, d) -> (B, heads, n, d_h)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class MaskHead(nn.Module):
    """Convolutions that turn attention maps into masks, step by step at the sizes of the trunk's maps."""

    def __init__(self, width: int, heads: int, trunk: list[int]) -> None:
        super().__init__()
        channels = [width + heads, width + heads, width // 2, width // 4, width // 8, width // 16]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))
        self.norms = nn.ModuleList(nn.GroupNorm(min(GROUPS, c), c) for c in channels[1:])
        self.adapters = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(trunk, channels[2:5], strict=True))
        self.out = nn.Conv2d(channels[-1], 1, 3, padding=1)
        for conv in (*self.convs, *self.adapters, self.out):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor, attention: Tensor, finer: list[Tensor]) -> Tensor:
        """Return mask logits (B, Q, H, W) at the size of the finest map.

        ``x`` (B, d, h, w) is the same for all queries, ``attention`` (B, Q, heads, h, w) is not; ``finer`` are maps of
        the trunk (B, c, h', w'), the coarsest first.
        """
        batch, queries = attention.shape[:2]
        shared = x[:, None].expand(-1, queries, -1, -1, -1)
        y = torch.cat((shared, attention), dim=2).flatten(0, 1)  # (B Q, d + heads, h, w)
        steps = list(zip(self.convs, self.norms, strict=True))
        for conv, norm in steps[:-FINER]:
            y = F.relu(norm(conv(y)), inplace=True)
        for (conv, norm), adapter, trunk in zip(steps[-FINER:], self.adapters, finer, strict=True):
            side = adapter(trunk)[:, None]  # (B, 1, c, h', w')
            y = F.interpolate(y, size=side.shape[-2:], mode="nearest")
            y = (y.view(batch, queries, *y.shape[1:]) + side).flatten(0, 1)
            y = F.relu(norm(conv(y)), inplace=True)
        masks: Tensor = self.out(y).view(batch, queries, *y.shape[-2:])
        return masks


class PanopticDetr(Detr):
    """The detector with a mask for every query."""

    def __init__(self, trunk: Trunk, num_classes: int, queries: int, width: int, heads: int, *rest: Any) -> None:
        super().__init__(trunk, num_classes, queries, width, heads, *rest)
        finer = [trunk.channels // 2**i for i in range(1, FINER + 1)]
        self.attention_map = AttentionMap(width, heads)
        self.mask_head = MaskHead(width, heads, finer)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Outputs:
        """Detect and segment: what the detector returns, and ``masks`` (B, Q, H / 4, W / 4), rounded up, as logits.

        Masks are of the last layer of the decoder only, and cover the images with their padding.
        """
        seen = self.look(images, mask)
        padding = None if seen.padding is None else seen.padding.flatten(1)
        attention = self.attention_map(seen.hidden[-1], seen.memory, padding)
        attention = attention.view(*attention.shape[:3], *seen.projected.shape[-2:])
        masks = self.mask_head(seen.projected, attention, seen.maps[-2::-1])
        return {**self.read(seen.hidden), "masks": masks}


def build(
    size: int | tuple[int, int],
    num_classes: int,
    queries: int,
    width: int,
    heads: int,
    encoder_layers: int,
    decoder_layers: int,
    ff_width: int,
    dropout: float,
    block: str,
    stages: str,
    trunk_width: int,
    dilation: bool,
    frozen: int,
    aux: bool,
    blank_padding: bool,
    norm: str,
) -> nn.Module:
    """Return a panoptic model, the same for every size. ZooError when its options do not fit together."""
    check(width, heads, decoder_layers)
    if (width % 128 and width not in (16, 32, 64)) or (width + heads) % GROUPS:
        raise ZooError(
            f"a mask head cannot have width {width} and {heads} heads: expected 16, 32, 64 or a multiple of 128, "
            f"and a sum of both that is a multiple of {GROUPS}"
        )
    trunk = build_trunk(block, stages, trunk_width, dilation, frozen, blank_padding, norm)
    return PanopticDetr(
        trunk, num_classes, queries, width, heads, encoder_layers, decoder_layers, ff_width, dropout, aux
    )
