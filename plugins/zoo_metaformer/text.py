"""A MetaFormer of token sequences: the same blocks as for images, between an embedding and a classifier.

    token ids (B, n), 0 is padding
      -> embedding + learned position embeddings, unless positions=False     (B, n, d)
      -> depth x {x + mixer(LN(x)); x + MLP(LN(x))}                          (B, n, d)
      -> LN, mean of the tokens that are no padding, linear                  (B, num_classes)

Mixers and MLPs see padding as they see any token, as in Long Range Arena (Tay et al. 2021): few mixers could leave it
out, a Fourier transform for one, and everything but the mixer is to be equal. Only the mean leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from zoo import BadSize, create_layer, layer_spec, list_layers, read_layer
from zoo_metaformer.model import Block, init_weights

PADDING = 0


class TextMetaFormer(nn.Module):
    """A classifier of sequences of ``n`` tokens with ``depth`` mixers, each from a call of ``mixer``."""

    def __init__(
        self,
        n: int,
        vocab_size: int,
        num_classes: int,
        mixer: Callable[[], nn.Module],
        width: int,
        depth: int,
        mlp_width: int,
        positions: bool,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.position = nn.Parameter(torch.empty(1, n, width)) if positions else None
        self.blocks = nn.ModuleList(Block(width, mlp_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        self.apply(init_weights)
        for table in (self.embedding.weight, self.position):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)
        for block in self.blocks:
            block.mixer = mixer()

    def forward(self, tokens: Tensor) -> Tensor:
        """Classify token ids (B, n), int64: logits (B, num_classes). A sequence of padding alone has a mean of zero."""
        x: Tensor = self.embedding(tokens)  # (B, n, d)
        if self.position is not None:
            x = x + self.position
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(mean(self.norm(x), tokens == PADDING))
        return logits


def mean(x: Tensor, padding: Tensor) -> Tensor:
    """Return the mean of the tokens (B, n, d) where ``padding`` (B, n) is false: (B, d)."""
    total = x.masked_fill(padding[:, :, None], 0.0).sum(dim=1)
    return total / (~padding).sum(dim=1, keepdim=True).clamp(min=1)


# -- built by name -------------------------------------------------------------------------------------------


def build(
    size: int,
    vocab_size: int,
    num_classes: int,
    mixer: str,
    width: int,
    depth: int,
    mlp_ratio: float,
    positions: bool,
) -> nn.Module:
    """Return a MetaFormer for sequences of ``size`` tokens with a layer as mixer, ``"favor:heads=4"``.

    ZooError when there is no such layer or option, when the layer needs a grid, or cannot take the length or the width.
    """
    name, options = read_layer(mixer)
    check_sequence(name)
    make = partial(create_layer, name, size, width, **options)
    return TextMetaFormer(size, vocab_size, num_classes, make, width, depth, int(mlp_ratio * width), positions)


def check_sequence(mixer: str) -> None:
    """Say that a layer on a grid mixes no text; the host would take a square number of tokens for a grid."""
    if layer_spec(mixer).grid:
        others = ", ".join(name for name in list_layers() if not layer_spec(name).grid)
        raise BadSize(f"the mixer {mixer} needs tokens on a grid, and a sequence is none; expected one of {others}")
