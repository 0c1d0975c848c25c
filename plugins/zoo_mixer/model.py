"""MLP-Mixer (Tolstikhin et al. 2021): MLPs across the tokens take turns with MLPs across the channels.

Wraps timm's MlpMixer (Apache-2.0). What that fixes, beside the paper and its JAX code:

1. GELU is exact (the JAX code has the tanh approximation); LayerNorm has eps 1e-6 as there.
2. Weights start from Xavier, not LeCun normal; the head starts at zero in both.
3. A model is built for one resolution: the paper's way to a larger one (Appendix C) is not there.

    image (B, 3, H, W)
      -> patches, a convolution of kernel and stride P         (B, n, d)        n = (H / P) (W / P)
      -> depth x {x + tokenMLP(LN(x)^T)^T; x + channelMLP(LN(x))}               widths n -> D_S -> n and d -> D_C -> d
      -> LN, mean of the tokens, linear                        (B, num_classes)
"""

from __future__ import annotations

from timm.layers import Mlp
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor, nn


class TokenMlp(nn.Module):
    """The token mixing of a block, alone: (B, n, d) -> (B, n, d), the same MLP n -> D_S -> n for every channel."""

    def __init__(self, n: int, hidden: int) -> None:
        super().__init__()
        self.mlp_tokens = Mlp(n, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of each channel."""
        mixed: Tensor = self.mlp_tokens(x.transpose(1, 2))  # (B, d, n)
        return mixed.transpose(1, 2)


def build(
    size: int | tuple[int, int],
    num_classes: int,
    patch_size: int,
    width: int,
    depth: int,
    token_ratio: float,
    channel_ratio: float,
) -> nn.Module:
    """Return an MLP-Mixer for images of ``size``; D_S and D_C are ``token_ratio`` and ``channel_ratio`` times d."""
    model: nn.Module = MlpMixer(
        img_size=size,
        patch_size=patch_size,
        num_classes=num_classes,
        embed_dim=width,
        num_blocks=depth,
        mlp_ratio=(token_ratio, channel_ratio),
    )
    return model


def build_layer(size: int, width: int, hidden: int) -> nn.Module:
    """Return the token mixing of ``size`` tokens alone; ``width`` changes nothing in it."""
    return TokenMlp(size, hidden)
