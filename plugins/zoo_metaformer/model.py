"""MetaFormer (Yu et al. 2022): a Transformer encoder whose attention may be any mixer of tokens.

    image (B, 3, H, W)
      -> patches, a convolution of kernel and stride P         (B, n, d)        n = (H / P) (W / P)
      -> + learned position embeddings, unless positions=False
      -> depth x {x + mixer(LN(x)); x + MLP(LN(x))}            (B, n, d)
      -> LN, mean of the tokens, linear                        (B, num_classes)

The mixer is a registered layer with its own initialisation; everything else is the same whatever it is, down to the
random numbers: what is common is drawn first.

What differs from the paper, so that mixers of every kind fit and nothing but them differs:

1. One resolution throughout, as in ViT, not four stages.
2. Learned position embeddings, for mixers that do not see where a token is. The paper's pooling has none.
3. LayerNorm over the channels of each token, not over all of an image; no LayerScale, no stochastic depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import BadSize, Size, SizeRule, create_layer, layer_spec, read_layer
from zoo_metaformer import grid


class Block(nn.Module):
    """Pre-norm: x = x + mixer(LN(x)); x = x + MLP(LN(x))."""

    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.mixer: nn.Module = nn.Identity()  # the place of the mixer, which is drawn last
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, mlp_width)
        self.contract = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens, then the channels of each: (B, n, d) -> (B, n, d)."""
        x = x + self.mixer(self.norm1(x))
        out: Tensor = x + self.contract(F.gelu(self.expand(self.norm2(x))))
        return out


class MetaFormer(nn.Module):
    """A classifier of images with ``depth`` mixers, each from a call of ``mixer``."""

    def __init__(
        self,
        n: int,
        num_classes: int,
        mixer: Callable[[], nn.Module],
        patch_size: int,
        width: int,
        depth: int,
        mlp_width: int,
        positions: bool,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch_size, patch_size)
        self.position = nn.Parameter(torch.empty(1, n, width)) if positions else None
        self.blocks = nn.ModuleList(Block(width, mlp_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        self.apply(init_weights)
        if self.position is not None:
            nn.init.trunc_normal_(self.position, std=0.02)
        for block in self.blocks:
            block.mixer = mixer()

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, 3, H, W): logits (B, num_classes)."""
        x = self.patches(images).flatten(2).transpose(1, 2)  # (B, n, d)
        if self.position is not None:
            x = x + self.position
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x).mean(dim=1))
        return logits


def init_weights(module: nn.Module) -> None:
    """Draw the weights of linear layers from N(0, 0.02), cut at two; biases start at zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


# -- built by name -------------------------------------------------------------------------------------------


def build(
    size: int | tuple[int, int],
    num_classes: int,
    mixer: str,
    patch_size: int,
    width: int,
    depth: int,
    mlp_ratio: float,
    positions: bool,
) -> nn.Module:
    """Return a MetaFormer for images of ``size`` with a layer as mixer, ``"sasa"`` or ``"sasa:kernel_size=5+heads=4"``.

    ZooError when there is no such layer or option, or when the layer cannot take the patches or the width.
    """
    name, options = read_layer(mixer)
    check_windows(name, options, size, patch_size)
    tokens = grid(size, patch_size)
    make = partial(create_layer, name, tokens, width, **options)
    return MetaFormer(math.prod(tokens), num_classes, make, patch_size, width, depth, int(mlp_ratio * width), positions)


def check_windows(mixer: str, options: Mapping[str, Any], size: int | tuple[int, int], patch_size: int) -> None:
    """Say in pixels which sizes a mixer takes whose windows must divide the grid; the host would say it in patches."""
    spec = layer_spec(mixer)
    step = spec.step(spec.with_options(options))
    if not spec.grid:
        return
    rule = SizeRule(f"{patch_size}px", "step")
    try:
        rule.check(Size((size,) if isinstance(size, int) else size, "px"), {"step": step * patch_size})
    except BadSize as error:
        what = f"the mixer {mixer} works on windows of {step}x{step} patches of {patch_size}px"
        raise BadSize(f"{what}: {error}") from None
