"""ViT (Dosovitskiy et al. 2020): an image cut into patches, read by a Transformer encoder.

Wraps timm's VisionTransformer (Apache-2.0). What that fixes, beside the paper and its JAX code:

1. GELU is exact (the JAX code has the tanh approximation); LayerNorm has eps 1e-6 as there.
2. Weights start from a truncated normal of 0.02, not Xavier.
3. The head is one linear layer on the class token: the paper's fine-tuning head.

    image (B, 3, H, W)
      -> patches, a convolution of kernel and stride P         (B, n, d)        n = (H / P) (W / P)
      -> class token in front, + learned position embeddings   (B, n + 1, d)
      -> depth x {x + attention(LN(x)); x + MLP(LN(x))}        (B, n + 1, d)
      -> LN, token 0, linear                                   (B, num_classes)
"""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from zoo import ZooError


def build(
    size: int | tuple[int, int],
    num_classes: int,
    patch_size: int,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: float,
) -> nn.Module:
    """Return a ViT for images of ``size``; ZooError when the width does not divide into the heads."""
    if heads < 1 or width % heads:
        raise ZooError(f"a ViT of width {width} cannot have {heads} heads: the width must be a multiple of the heads")
    model: nn.Module = VisionTransformer(
        img_size=size,
        patch_size=patch_size,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_ratio,
    )
    return model
