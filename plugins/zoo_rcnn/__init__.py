"""Faster R-CNN, the detector that DETR is compared with: three of its variants and a small one. Wraps torchvision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import InputSpec, ModelSpec, SizeRule, WeightSpec, hookimpl

TORCHVISION = WeightSpec(
    "torchvision",
    key="roi_heads.box_head.fc6.weight",
    convert="zoo_rcnn.weights:from_torchvision",
    source="torchvision's detection models; fasterrcnn_resnet50_fpn COCO_V1 is for norm_eps=0",
    licence="BSD-3-Clause",
    preprocess={"mean": 0.0, "std": 1.0, "short_side": 800, "longest_side": 1333},  # the model normalises by itself
)
DATA_DEPENDENT = "its proposals depend on the weights and the image, and each of them passes through the box head"
SKIPS = {
    "output": "it returns a list of one dictionary an image, with as many boxes as it finds",
    "batched": "it returns a list of one dictionary an image, with as many boxes as it finds",
    "gradients": "in training it needs the boxes to learn from, and returns losses",
}
# Of 91 classes none passes the threshold of 0.05 when all are about as likely.
UNTRAINED = {**SKIPS, "every_input": "it finds nothing without weights that were trained, and nothing has no gradient"}
NOTES = (
    "classes count the background, which is class 0; the model normalises images itself, they are in [0, 1]; "
    "with random weights few boxes pass its threshold, which makes the last step faster than with trained ones"
)
# What is the same in every variant. The shape of a variant is its options, so each is also an axis of a suite.
COMMON: dict[str, Any] = {
    "family": "faster_rcnn",
    "input": InputSpec("images", "resolution", params={"channels": 3}),
    "weights": (TORCHVISION,),
    "adapters": {"detection": "zoo_rcnn.adapter:Detection"},
    "paper": "https://arxiv.org/abs/1506.01497",
    "licence": "BSD-3-Clause",
    "data_dependent": DATA_DEPENDENT,
}


def sizes(default: str) -> SizeRule:
    """Return the rule of sizes: any of at least 32 pixels."""
    return SizeRule(default, min=32, pads="images are padded to multiples of 32 pixels, at the right and the bottom")


def fpn(
    name: str,
    block: str,
    stages: str,
    *published: str,
    default: str = "800x1066px",
    notes: str = "",
    **others: Any,
) -> ModelSpec:
    """Return the spec of one variant with a feature pyramid; ``published`` are globs of its published names.

    ``others`` are options in which it differs from those of the paper's tables.
    """
    options: dict[str, Any] = {
        "num_classes": 91,
        "block": block,
        "stages": stages,
        "channels": 256,
        "hidden": 1024,
        "anchor_size": 32,
        "trainable_layers": 3,
        "norm_eps": 1e-5,
        "trunk_width": 64,
        "norm": "frozen",
        "proposals": 1000,
        "rois": 512,
        **others,
    }
    return ModelSpec(
        name,
        build="zoo_rcnn.model:build_fpn",
        options=options,
        sizes=sizes(default),
        published=("Faster R-CNN", *published) if published else (),
        skips=UNTRAINED if options["num_classes"] > 20 else SKIPS,
        notes=f"{notes}; {NOTES}" if notes else NOTES,
        **COMMON,
    )


def dc5(name: str, stages: str, *published: str) -> ModelSpec:
    """Return the spec of a variant whose last stage is dilated instead of strided, without a pyramid."""
    options: dict[str, Any] = {
        "num_classes": 91,
        "stages": stages,
        "hidden": 1024,
        "anchor_size": 32,
        "trainable_layers": 3,
        "norm_eps": 1e-5,
    }
    return ModelSpec(
        name,
        build="zoo_rcnn.model:build_dc5",
        options=options,
        sizes=sizes("800x1066px"),
        published=("Faster R-CNN", *published),
        skips=UNTRAINED,
        notes=NOTES,
        **COMMON,
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    """Yield the three of DETR's Table 1 (Carion et al. 2020) and ``faster_rcnn_nano``."""
    torchvision = "torchvision fasterrcnn_resnet50_fpn.COCO_V1"
    yield fpn("faster_rcnn_r50_fpn", "bottleneck", "3-4-6-3", "FPN", "FPN+", "R50-FPN *", torchvision)
    yield fpn("faster_rcnn_r101_fpn", "bottleneck", "3-4-23-3", "R101-FPN", "R101-FPN+", "R101-FPN *")
    yield dc5("faster_rcnn_r50_dc5", "3-4-6-3", "DC5", "DC5+", "R50-DC5 *")
    yield fpn(
        "faster_rcnn_nano",
        "basic",
        "1-1-1-1",
        default="128px",
        num_classes=11,
        channels=32,
        hidden=128,
        anchor_size=8,
        trainable_layers=5,
        trunk_width=16,
        norm="batch",
        proposals=100,
        rois=64,
        notes="not a variant of the paper: a narrow ResNet-10, all trained, and anchors for small images, small enough "
        "for two cores",
    )
