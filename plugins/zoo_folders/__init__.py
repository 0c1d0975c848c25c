"""Image folders of your own to classify: ``folder:PATH``, CIFAR as torchvision reads it, ImageNet with ReaL labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import Metric, Recipe, TaskSpec, hookimpl

TOP1 = Metric("top1", higher_is_better=True, interval="wilson")
TOP5 = Metric("top5", higher_is_better=True, interval="wilson")
AUGMENT = {"mirror": True, "shift": 4}
RECIPES = (
    Recipe("equal", epochs=30, batch_size=128, learning_rate=1e-3, warmup=0.05, clip=1.0, augment=AUGMENT),
    Recipe("quick", steps=200, batch_size=128, learning_rate=1e-3, warmup=0.1, clip=1.0, augment=AUGMENT),
)
COMMON: dict[str, Any] = {
    "kind": "classification",
    "path": "?",
    "evaluate": "zoo.scores.classification:top1_top5",
    "metrics": (TOP1, TOP5),
    "recipes": RECIPES,
}


@hookimpl
def zoo_tasks() -> Iterator[TaskSpec]:
    """Yield the tasks; each is of a folder that you have."""
    yield TaskSpec(
        "folder",
        data="zoo_folders.images:load",
        describe="zoo_folders.files:describe",
        description="images in one folder a class, in folders train and test (or val), such as ImageNet's",
        **COMMON,
    )
    for classes in (10, 100):
        yield TaskSpec(
            f"cifar{classes}",
            data=f"zoo_folders.images:load_cifar{classes}",
            model_options={"num_classes": classes},
            description=f"CIFAR-{classes}, the Python version, unpacked: 50,000 images of 32 pixels and 10,000 to test",
            source="Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
            **COMMON,
        )
    yield TaskSpec(
        "imagenet-real",
        data="zoo_folders.images:load_real",
        describe="zoo_folders.files:describe",
        description="ImageNet's validation images in folders by class, with real.json beside train and val: an image "
        "may have several right labels, and one that has none is left out",
        source="Beyer et al. 2020, Are we done with ImageNet?, https://arxiv.org/abs/2006.07159",
        **{**COMMON, "evaluate": "zoo.scores.classification:any_of", "metrics": (TOP1,)},
    )
