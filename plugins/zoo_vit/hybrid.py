"""Hybrid ViT (Dosovitskiy et al. 2020, Section 3.1): a ViT that reads the last map of a ResNet instead of patches.

    image (B, 3, H, W)
      -> root: convolution 7 x 7 / 2, group norm, ReLU, max pool 3 x 3 / 2   (B, c/4, H/4, W/4)
      -> stages of bottleneck units; all but the first halve the sides        (B, 2^(s-1) c, H/P, W/P)
      -> linear map of each cell                                              (B, n, d)      n = (H / P) (W / P)
      -> as a ViT, see :mod:`zoo_vit.model`

    unit: ReLU(x + GN(conv 1x1(ReLU(GN(conv 3x3(ReLU(GN(conv 1x1(x)))))))), with the stride in the 3 x 3

R50+B/16 moves the units of the fourth stage into the third (3-4-9) and so has P = 16; R50+L/32 has the four stages of a
ResNet-50 (3-4-6-3) and P = 32. Kernels are standardised (Qiao et al. 2019) and padding is TensorFlow's SAME.

Wraps timm's ResNetV2, HybridEmbed and VisionTransformer (Apache-2.0). What differs from the JAX code
(google-research/vision_transformer, vit_jax/models_resnet.py), beside what :mod:`zoo_vit.model` says:

1. Group norm has eps 1e-5, not 1e-6; kernels are divided by sqrt(var + 1e-8), not by std + 1e-5.

The last norm of a unit starts at zero, as there: a new unit passes its shortcut on.
"""

from __future__ import annotations

from functools import partial

from timm.layers import HybridEmbed, StdConv2dSame
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from zoo import ZooError
from zoo_vit import per_stage

GROUPS = 32


def build(
    size: int | tuple[int, int],
    num_classes: int,
    stages: str,
    trunk_width: int,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: float,
) -> nn.Module:
    """Return a hybrid ViT for images of ``size``; ``stages`` are the units of each stage, joined by hyphens.

    ``trunk_width`` is the number of channels after the first stage. ZooError when it does not divide into the groups of
    the norms, or the width into the heads.
    """
    if heads < 1 or width % heads:
        raise ZooError(f"a ViT of width {width} cannot have {heads} heads: the width must be a multiple of the heads")
    model: nn.Module = VisionTransformer(
        img_size=size,
        patch_size=1,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_ratio,
        embed_layer=partial(HybridEmbed, backbone=trunk(per_stage(stages), trunk_width)),
    )
    return model


def trunk(units: tuple[int, ...], width: int) -> nn.Module:
    """Return the ResNet without its classifier: (B, 3, H, W) -> (B, 2^(s-1) width, H/P, W/P)."""
    if width % (4 * GROUPS):
        raise ZooError(f"trunk_width is {width}; expected a multiple of {4 * GROUPS}: four times {GROUPS} groups")
    resnet: nn.Module = ResNetV2(
        layers=units,
        channels=tuple(width << stage for stage in range(len(units))),
        stem_chs=width // 4,
        num_classes=0,
        global_pool="",
        preact=False,
        stem_type="same",
        conv_layer=partial(StdConv2dSame, eps=1e-8),
    )
    return resnet
