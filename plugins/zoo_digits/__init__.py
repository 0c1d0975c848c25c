"""digits: 8x8 images of handwritten digits that ship with scikit-learn. A real task for two cores, no download."""

from __future__ import annotations

from collections.abc import Iterator

from zoo import Metric, Recipe, TaskSpec, hookimpl


@hookimpl
def zoo_tasks() -> Iterator[TaskSpec]:
    """Yield the classification of digits."""
    yield TaskSpec(
        "digits",
        kind="classification",
        data="zoo_digits.data:load",
        evaluate="zoo.data:top1",
        metrics=(Metric("top1", higher_is_better=True, interval="wilson"),),
        recipes=(Recipe("quick", steps=300, batch_size=48, learning_rate=2e-3, warmup_steps=30),),
        model_options={"num_classes": 10},
        description="1,797 grey 8x8 images of handwritten digits, 1,437 to train on and 360 to test on; "
        "the writers of the test images wrote training images too, so a score says nothing of new writers",
        source="Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, "
        "https://doi.org/10.24432/C50P49; its test set, as scikit-learn ships it (load_digits)",
        licence="CC-BY-4.0",
    )
