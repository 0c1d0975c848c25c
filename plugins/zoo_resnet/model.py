"""ResNet (He et al. 2015): stages of convolutions, each block added to what it was given.

Wraps torchvision's ResNet (BSD-3-Clause). What that fixes, beside the paper:

1. A bottleneck strides in its 3x3 convolution ("v1.5"), not in its first 1x1: 4.1 instead of 3.8 GMACs for ResNet-50.
2. He initialisation by fan-out; the last norm of a block does not start at zero.

    image (B, 3, H, W)
      -> 7x7 convolution of stride 2, norm, ReLU, 3x3 max-pool of stride 2    (B, 64, H/4, W/4)
      -> four stages of 64, 128, 256, 512 planes, the last three halve        (B, 512 e, H/32, W/32)
         e = 1 for basic blocks (3x3, 3x3), 4 for bottlenecks (1x1, 3x3, 1x1)
      -> mean over the positions, linear                                      (B, num_classes)
"""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from zoo_resnet.macs import read_block, read_stages

BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


def build(size: int | tuple[int, int], num_classes: int, block: str, stages: str) -> nn.Module:
    """Return a ResNet; ``size`` changes nothing in it. ZooError when ``block`` or ``stages`` cannot be read."""
    model: nn.Module = ResNet(BLOCKS[read_block(block)], read_stages(stages), num_classes=num_classes)
    return model
