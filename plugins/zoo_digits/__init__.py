"""Real handwritten digits, which ship with scikit-learn: to classify, and to find in scenes. No download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import COCO_BOXES, PANOPTIC_QUALITY, Metric, Recipe, TaskSpec, hookimpl

SOURCE = (
    "Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, "
    "https://doi.org/10.24432/C50P49; its test set, as scikit-learn ships it (load_digits)"
)
DIGITS = "1,797 grey 8x8 images of handwritten digits, 1,437 to train on and 360 to test on"
WRITERS = "the writers of the test images wrote training images too, so a score says nothing of new writers"
COMMON: dict[str, Any] = {"source": SOURCE, "licence": "CC-BY-4.0", "mirror": False}


@hookimpl
def zoo_tasks() -> Iterator[TaskSpec]:
    """Yield the classification of digits."""
    yield TaskSpec(
        "digits",
        kind="classification",
        data="zoo_digits.data:load",
        evaluate="zoo.scores.classification:top1",
        metrics=(Metric("top1", higher_is_better=True, interval="wilson"),),
        recipes=(
            Recipe("quick", steps=300, batch_size=48, learning_rate=2e-3, warmup_steps=30),
            Recipe(
                "equal",
                epochs=40,
                batch_size=48,
                learning_rate=2e-3,
                warmup=0.1,
                clip=1.0,
                augment={"shift": 1},
            ),
        ),
        model_options={"num_classes": 10},
        description=f"{DIGITS}; {WRITERS}",
        **COMMON,
    )
    detection = Recipe(
        "equal",
        seconds=1500,  # a step of one detector takes several times as long as one of another
        batch_size=16,
        learning_rate=1e-3,
        weight_decay=1e-4,
        warmup=0.05,
        clip=1.0,
        losses={"class*": 5.0},  # a trunk that is not pretrained learns to find digits long before it can read them
    )
    quick = Recipe("quick", steps=200, batch_size=8, learning_rate=5e-4, weight_decay=1e-4, warmup=0.1, clip=0.1)
    scenes = (
        "real digits of 16 to 112 pixels in scenes of 128, with clutter and overlap: 16,000 scenes to train on and "
        "200 to test, of digits that no scene of the other split has"
    )
    yield TaskSpec(
        "digit-scenes",
        kind="detection",
        data="zoo_digits.scenes:load",
        evaluate="zoo.scores.detection:coco_boxes",
        metrics=COCO_BOXES,
        recipes=(detection, quick),
        model_options={"num_classes": 11},
        description=scenes,
        **COMMON,
    )
    yield TaskSpec(
        "digit-scenes-panoptic",
        kind="panoptic",
        data="zoo_digits.scenes:load",
        evaluate="zoo.scores.panoptic:panoptic_quality",
        metrics=PANOPTIC_QUALITY,
        recipes=(detection, quick),
        model_options={"num_classes": 13},
        settings={"last_thing": 10},
        description=f"{scenes}; clutter and background are stuff",
        **COMMON,
    )
