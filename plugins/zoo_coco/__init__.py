"""Objects to find in images of your own, in COCO's format or PASCAL VOC's: boxes, and panoptic maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import COCO_BOXES, PANOPTIC_QUALITY, Recipe, TaskSpec, hookimpl

RECIPES = (
    Recipe("equal", epochs=12, batch_size=16, learning_rate=1e-4, weight_decay=1e-4, warmup=0.02, clip=0.1),
    Recipe("quick", steps=200, batch_size=4, learning_rate=1e-4, weight_decay=1e-4, warmup=0.1, clip=0.1),
)
COMMON: dict[str, Any] = {"path": "?", "recipes": RECIPES}


@hookimpl
def zoo_tasks() -> Iterator[TaskSpec]:
    """Yield detection and panoptic segmentation; each is of a folder that you have."""
    yield TaskSpec(
        "coco",
        kind="detection",
        data="zoo_coco.data:load_detection",
        describe="zoo_coco.files:describe",
        evaluate="zoo.scores.detection:coco_boxes",
        metrics=COCO_BOXES,
        description="boxes in COCO's format (annotations/instances_val2017.json beside val2017, and other layouts) or "
        "PASCAL VOC's; tested on what COCO calls val, by its twelve numbers",
        **COMMON,
    )
    yield TaskSpec(
        "coco-panoptic",
        kind="panoptic",
        data="zoo_coco.data:load_panoptic",
        describe="zoo_coco.files:describe_panoptic",
        evaluate="zoo.scores.panoptic:panoptic_quality",
        metrics=PANOPTIC_QUALITY,
        description="panoptic maps in COCO's format: annotations/panoptic_val2017.json beside its folder of PNGs",
        **COMMON,
    )
