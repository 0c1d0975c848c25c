"""Long sequences to classify, after Long Range Arena (Tay et al. 2021): ListOps, images pixel by pixel, texts as bytes.

The size of a case is the length of its sequences: 128 to 1,024 tokens of ListOps are four tasks of four difficulties,
64 to 4,096 pixels the same digits ever larger.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import Metric, Recipe, TaskSpec, hookimpl

ARENA = "https://arxiv.org/abs/2011.04006"
EQUAL = Recipe("equal", steps=2000, batch_size=32, learning_rate=1e-3, warmup=0.1, clip=1.0)
COMMON: dict[str, Any] = {
    "kind": "sequence_classification",
    "evaluate": "zoo.scores.classification:top1",
    "metrics": (Metric("top1", higher_is_better=True, interval="wilson"),),
    "recipes": (EQUAL, Recipe("quick", steps=300, batch_size=32, learning_rate=1e-3, warmup=0.1, clip=1.0)),
}


@hookimpl
def zoo_tasks() -> Iterator[TaskSpec]:
    """Yield the tasks."""
    yield TaskSpec(
        "listops",
        data="zoo_long.listops:load",
        model_options={"vocab_size": 16, "num_classes": 10},
        description="nested operations on lists of digits, as long as the case and more than half; 10,000 to train on, "
        "1,000 to test; a constant answer is right in a sixth of them",
        source=f"rules of Nangia and Bowman 2018, https://arxiv.org/abs/1804.06028, as {ARENA} sets them",
        licence="Apache-2.0",
        **COMMON,
    )
    yield TaskSpec(
        "pixel-digits",
        data="zoo_long.pixels:load",
        model_options={"vocab_size": 257, "num_classes": 10},
        description="handwritten digits as a sequence of grey levels, a token a pixel; 1,437 to train on, 360 to test",
        source="scikit-learn's digits, https://doi.org/10.24432/C50P49",
        licence="CC-BY-4.0",
        **COMMON,
    )
    yield TaskSpec(
        "byte-texts",
        data="zoo_long.texts:load_file",
        describe="zoo_long.texts:describe",
        path="?",
        description="texts as bytes: a table of label and text (.csv, .tsv), or folders as IMDb's",
        **COMMON,
    )
