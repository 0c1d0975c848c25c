"""Texts to translate: numbers to English words and dates to ISO 8601, generated; any pair of text files of your own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import Metric, Recipe, TaskSpec, hookimpl

HELD_OUT = {"test": "", "held_out": "_held_out"}
COMMON: dict[str, Any] = {
    "kind": "translation",
    "evaluate": "zoo.scores.text:translation",
    "metrics": (
        Metric("exact_match", higher_is_better=True, interval="wilson"),
        Metric("bleu", higher_is_better=True, interval="bootstrap"),
    ),
    "recipes": (
        Recipe(
            "equal",
            steps=1500,
            batch_size=64,
            learning_rate=2e-3,
            weight_decay=0.01,
            optimizer_options={"beta1": 0.9, "beta2": 0.98},
            warmup=0.1,
            clip=1.0,
        ),
    ),
    "model_options": {"vocab_size": 256},
}


@hookimpl
def zoo_tasks() -> Iterator[TaskSpec]:
    """Yield the tasks. BLEU is sacrebleu's, 0 to 100, on characters as they are."""
    yield TaskSpec(
        "numbers",
        data="zoo_translation.corpus:load_numbers",
        tests=HELD_OUT,
        description="numbers up to 999,999 in digits to English words, 20,000 to train on and 500 others to test; "
        "held out are 500 from 500,000 to 599,999, of which training shows none",
        licence="Apache-2.0",
        **COMMON,
    )
    yield TaskSpec(
        "dates",
        data="zoo_translation.corpus:load_dates",
        tests=HELD_OUT,
        description="dates in several written forms to ISO 8601, 20,000 to train on and 500 others to test; "
        "held out are 500 of the years 1970 to 1979, of which training shows none",
        licence="Apache-2.0",
        **COMMON,
    )
    yield TaskSpec(
        "text-pairs",
        data="zoo_translation.files:load_files",
        path="?",
        description="two text files a split in one folder, such as train.en and train.de, of as many lines",
        **COMMON,
    )
