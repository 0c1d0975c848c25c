"""ResNet, the convolutional baseline: four variants of the paper and a small one for two cores. Wraps torchvision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import ModelSpec, Recipe, hookimpl, image_classifier

# 600,000 steps, with two falls of the rate to a tenth; torchvision's 90 epochs fall after 30 and 60.
OWN = Recipe(
    "own",
    kind="classification",
    batch_size=256,
    learning_rate=0.1,
    weight_decay=1e-4,
    optimizer="sgd",
    optimizer_options={"momentum": 0.9},
    schedule="step",
    decay_at=1 / 3,
    augment={"mirror": True, "shift": 4},
    source="He et al. 2016, Section 3.4; random crops are small shifts here",
)
# What is the same in every variant. The shape of a variant is its options, so each is also an axis of a suite.
COMMON: dict[str, Any] = {
    "recipes": (OWN,),
    "family": "resnet",
    "build": "zoo_resnet.model:build",
    "closed_form": "zoo_resnet.macs:closed_form",
    "paper": "https://arxiv.org/abs/1512.03385",
    "licence": "BSD-3-Clause",
}
V1_5 = "ResNet v1.5: a bottleneck strides in its 3x3 convolution, the paper in its first 1x1"


def resnet(
    name: str,
    block: str,
    stages: str,
    *published: str,
    default: int = 224,
    num_classes: int = 1000,
    notes: str = "",
) -> ModelSpec:
    """Return the spec of one variant: blocks of a kind (basic, bottleneck), so many in each of four stages."""
    return ModelSpec(
        name,
        options={"num_classes": num_classes, "block": block, "stages": stages},
        published=("ResNet", *published) if published else (),
        notes=notes,
        **COMMON,
        **image_classifier(default),  # any size is legal, as torchvision says of its weights: the pooling is global
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    """Yield ResNet-18 to ResNet-152 (paper, Table 1) and ``resnet_nano``."""
    yield resnet("resnet18", "basic", "2-2-2-2", "resnet18_*")
    yield resnet(
        "resnet50", "bottleneck", "3-4-6-3", "resnet50_*", "timm resnet50*", "torchvision resnet50.*", notes=V1_5
    )
    yield resnet(
        "resnet101", "bottleneck", "3-4-23-3", "resnet101_*", "timm resnet101*", "torchvision resnet101.*", notes=V1_5
    )
    yield resnet(
        "resnet152", "bottleneck", "3-8-36-3", "resnet152_*", "timm resnet152*", "torchvision resnet152.*", notes=V1_5
    )
    notes = "ResNet-10, not a variant of the paper: one basic block a stage, 4.9 M parameters but few MACs at 32px"
    yield resnet("resnet_nano", "basic", "1-1-1-1", default=32, num_classes=10, notes=notes)
