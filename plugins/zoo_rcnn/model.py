"""Faster R-CNN (Ren et al. 2015) as DETR's Table 1 compares it: on a ResNet with a feature pyramid, or dilated (DC5).

Wraps torchvision's FasterRCNN (BSD-3-Clause); a model has the names of torchvision's own. What the wrapping fixes,
beside the Detectron2 models that the table prints:

1. Norms of the trunk are frozen and no parameters. Its stem and first stage are frozen too (``trainable_layers=3``), as
   in Detectron2 and in torchvision with trained weights: such a model is to be given weights. ``trainable_layers=5``
   trains all of the trunk, which is what one without weights needs.
2. ResNet v1.5: a bottleneck strides in its 3x3 convolution, Detectron2's in its first 1x1.
3. Class 0 is the background; Detectron2 has it last.
4. An image of the size that the model is built for is computed as it is, padded to multiples of 32. torchvision scales
   all others to the short side of that size, or less where their long side would pass its long side: a model built for
   800x1333px scales as torchvision's default does.
5. Under autocast boxes have its dtype: in bfloat16 they are rounded to 2 pixels from 256 on, to 4 from 512 on.
6. The trunk can be narrower (``trunk_width``) and its norms can learn (``norm="batch"``), as those of one that is not
   pretrained need; fewer ``proposals`` can be kept, and fewer of them (``rois``) learned from.

    list of images (3, H, W) in [0, 1]
      -> normalised, scaled, padded to one batch              (B, 3, H', W')
      -> ResNet, pyramid                                      5 x (B, 256, H'/s, W'/s), s = 4, 8, 16, 32, 64
         or ResNet with a dilated last stage                  (B, 2048, H'/16, W'/16)
      -> proposals: 3x3 convolution, for each of 3 anchors (DC5: 15) a place a score and a box; the best 1000 boxes
      -> each of them: RoIAlign to 7 x 7, two linear layers, scores of the classes and a box for each
      -> boxes of a score over 0.05 that no better one of their class overlaps, at most 100 an image
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from zoo import ZooError

BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}
NORMS = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d}
PLANES = (64, 128, 256, 512)
STAGES = ("layer1", "layer2", "layer3", "layer4")
PARTS = ("conv1", "bn1", "relu", "maxpool", *STAGES)  # of a ResNet, without its pooling and classifier
FROM_THE_END = ("layer4", "layer3", "layer2", "layer1", "conv1")  # which of them train
ROI_SIDE = 7  # features a side of a proposal
RATIOS = (0.5, 1.0, 2.0)  # height to width of an anchor
# Proposals of a single feature map that are kept before those that overlap are left out; a pyramid has 1000 a level.
DC5_PROPOSALS = {"rpn_pre_nms_top_n_train": 12_000, "rpn_pre_nms_top_n_test": 6_000}

Side = int | tuple[int, int]


# -- trunks --------------------------------------------------------------------------------------------------


class NarrowResNet(ResNet):  # type: ignore[misc]
    """torchvision's ResNet with ``width`` channels behind its stem instead of 64, all stages narrower by as much."""

    def __init__(self, width: int, block: type[BasicBlock | Bottleneck], stages: list[int], **options: Any) -> None:
        self.width = width
        super().__init__(block, stages, **options)
        if width != PLANES[0]:
            self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.bn1 = self._norm_layer(width)

    def _make_layer(self, block: Any, planes: int, *args: Any, **options: Any) -> nn.Sequential:
        if planes == PLANES[0]:  # the first stage, on what the stem gives
            self.inplanes = self.width
        stage: nn.Sequential = super()._make_layer(block, planes * self.width // PLANES[0], *args, **options)
        return stage


def make_trunk(
    block: str,
    stages: str,
    trainable_layers: int,
    norm_eps: float,
    dilated: bool = False,
    width: int = PLANES[0],
    norm: str = "frozen",
) -> nn.Module:
    """Return a ResNet, of whose five parts the last ``trainable_layers`` train."""
    if block not in BLOCKS:
        raise ZooError(f"a ResNet has no block {block!r}; its blocks: {', '.join(BLOCKS)}")
    if not 0 <= trainable_layers <= len(FROM_THE_END):
        raise ZooError(f"trainable_layers={trainable_layers} is not legal: a trunk has from 0 to {len(FROM_THE_END)}")
    if norm not in NORMS:
        raise ZooError(f"norm={norm!r} is not legal: a trunk has one of {', '.join(NORMS)}")
    if width < 1:
        raise ZooError(f"trunk_width={width} is not legal: expected at least 1 channel")
    trunk: nn.Module = NarrowResNet(
        width,
        BLOCKS[block],
        read_stages(stages),
        norm_layer=partial(NORMS[norm], eps=norm_eps),
        replace_stride_with_dilation=[False, False, dilated],
    )
    for name, parameter in trunk.named_parameters():
        parameter.requires_grad_(name.partition(".")[0] in FROM_THE_END[:trainable_layers])
    return trunk


def read_stages(stages: str) -> list[int]:
    """Read how many blocks each of the four stages has, from ``"3-4-6-3"``. ZooError when it says anything else."""
    depths = [int(depth) if depth.isascii() and depth.isdigit() else 0 for depth in str(stages).split("-")]
    if len(depths) != len(STAGES) or 0 in depths:
        raise ZooError(f"stages={stages!r} is not the shape of a ResNet; expected four block counts such as 3-4-6-3")
    return depths


class LastStage(nn.Module):
    """A ResNet up to its last stage, as the only level of features: (B, 3, H, W) -> {"0": (B, 2048, H/16, W/16)}."""

    def __init__(self, trunk: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(OrderedDict((name, trunk.get_submodule(name)) for name in PARTS))
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the features."""
        return {"0": self.body(images)}


# -- built by name -------------------------------------------------------------------------------------------


def build_fpn(
    size: Side,
    num_classes: int,
    block: str,
    stages: str,
    channels: int,
    hidden: int,
    anchor_size: int,
    trainable_layers: int,
    norm_eps: float,
    trunk_width: int,
    norm: str,
    proposals: int,
    rois: int,
) -> nn.Module:
    """Return a Faster R-CNN with a pyramid of ``channels``; anchors double from ``anchor_size`` pixels with each level.

    At most ``proposals`` of an image are kept, twice as many in training, where ``rois`` of them are learned from.
    ZooError when ``block``, ``stages``, ``trainable_layers``, ``trunk_width`` or ``norm`` cannot be.
    """
    trunk = make_trunk(block, stages, trainable_layers, norm_eps, width=trunk_width, norm=norm)
    levels = [str(level) for level in range(len(STAGES))]
    inputs = [trunk_width * 2**level * BLOCKS[block].expansion for level in range(len(STAGES))]
    pyramid = BackboneWithFPN(trunk, dict(zip(STAGES, levels, strict=True)), inputs, channels)
    anchors = AnchorGenerator(tuple((side,) for side in sides(anchor_size)), (RATIOS,) * 5)
    kept = {f"rpn_{when}_nms_top_n_train": 2 * proposals for when in ("pre", "post")}
    kept |= {f"rpn_{when}_nms_top_n_test": proposals for when in ("pre", "post")}
    return detector(size, pyramid, levels, anchors, num_classes, hidden, **kept, box_batch_size_per_image=rois)


def build_dc5(
    size: Side, num_classes: int, stages: str, hidden: int, anchor_size: int, trainable_layers: int, norm_eps: float
) -> nn.Module:
    """Return a Faster R-CNN on the last, dilated stage of a ResNet; anchors of all sides are at each of its places.

    ZooError when ``stages`` or ``trainable_layers`` cannot be.
    """
    trunk = make_trunk("bottleneck", stages, trainable_layers, norm_eps, dilated=True)
    features = LastStage(trunk, PLANES[-1] * Bottleneck.expansion)
    anchors = AnchorGenerator((sides(anchor_size),), (RATIOS,))
    return detector(size, features, ["0"], anchors, num_classes, hidden, **DC5_PROPOSALS)


def sides(anchor_size: int) -> tuple[int, ...]:
    """Return the sides of the anchors in pixels: five, each twice the one before."""
    return tuple(anchor_size * 2**i for i in range(5))


def detector(
    size: Side,
    features: BackboneWithFPN | LastStage,
    levels: list[str],
    anchors: Any,
    num_classes: int,
    hidden: int,
    **counts: int,
) -> nn.Module:
    """Return torchvision's detector on features: with ``size`` as its scale, and a head of two linear layers."""
    short, long = sorted((size, size) if isinstance(size, int) else size)
    model: nn.Module = FasterRCNN(
        features,
        min_size=short,
        max_size=long,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(levels, ROI_SIDE, sampling_ratio=2),
        box_head=TwoMLPHead(features.out_channels * ROI_SIDE**2, hidden),
        box_predictor=FastRCNNPredictor(hidden, num_classes),
        **counts,
    )
    return model
