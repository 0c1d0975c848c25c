"""SASA: ResNets of stand-alone self-attention, with either stem, and their layer. Our own implementation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import Cost, FlopFormula, LayerSpec, ModelSpec, Recipe, hookimpl, image_classifier

PAPER = "https://arxiv.org/abs/1906.05909"
DEPTHS = {26: "1-2-4-1", 38: "2-3-5-2", 50: "3-4-6-3"}


def tokens(size: int | tuple[int, int], **options: object) -> int:
    """Return how many tokens an image becomes: the pixels of the first map, a quarter of its height and width."""
    height, width = (size, size) if isinstance(size, int) else size
    return (height // 4) * (width // 4)


# 130 epochs of ImageNet, of which 10 warm up.
OWN = Recipe(
    "own",
    kind="classification",
    batch_size=4096,
    learning_rate=1.6,
    weight_decay=1e-4,
    optimizer="sgd",
    optimizer_options={"momentum": 0.9, "nesterov": True},
    warmup=10 / 130,
    augment={"mirror": True, "shift": 4},
    source="Ramachandran et al. 2019, Section 4.1; the weight decay is ResNet's, and there is no moving average",
)
# What is the same in every variant. The shape of a variant is its options, so each is also an axis of a suite.
COMMON: dict[str, Any] = {
    "recipes": (OWN,),
    "family": "sasa",
    "build": "zoo_sasa.model:build",
    "closed_form": "zoo_sasa.macs:closed_form",
    "paper": PAPER,
    "licence": "Apache-2.0",
}


def sasa(
    name: str,
    stages: str,
    stem: str,
    *published: str,
    default: int = 224,
    num_classes: int = 1000,
    kernel_size: int = 7,
    heads: int = 8,
    width: int = 64,
    notes: str = "",
) -> ModelSpec:
    """Return the spec of one variant; ``published`` are globs of its names in the published numbers."""
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "stages": stages,
        "stem": stem,
        "groups": "aaaa",
        "kernel_size": kernel_size,
        "heads": heads,
        "content": True,
        "borders": "zero",
        "mixtures": 4,
        "width": width,
    }
    return ModelSpec(
        name,
        options=options,
        published=("SASA", *published) if published else (),
        notes=notes,
        **COMMON,
        **image_classifier(default, multiple_of=32, minimum=32, tokens=tokens),  # so that every pooling is exact
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    """Yield SASA-26, -38 and -50 with either stem (paper, Table 1), and ``sasa_nano``."""
    more: dict[str, tuple[str, ...]] = {
        "sasa50": ("ResNet-50 stem spatially aware values",),
        "sasa50_conv_stem": (
            "ResNet-50 conv groups [[]-] *",
            "ResNet-50 conv-stem k=7x7",
            "ResNet-50 pos.enc relative",
            "ResNet-50 q^T k + q^T r",
        ),
    }
    for depth, stages in DEPTHS.items():
        for name, stem, row in (
            (f"sasa{depth}", "attention", "Full Attention"),
            (f"sasa{depth}_conv_stem", "conv", "Conv-stem + Attention"),
        ):
            yield sasa(name, stages, stem, f"ResNet-{depth} {row}", *more.get(name, ()))
    yield sasa(
        "sasa_nano",
        "1-1-1-1",
        "conv",
        default=32,
        num_classes=10,
        kernel_size=5,
        heads=4,
        width=16,
        notes="not a variant of the paper: small enough for two cores",
    )


@hookimpl
def zoo_layers() -> Iterator[LayerSpec]:
    """Yield the attention over the k x k neighbourhood (paper, Section 2.2)."""
    yield LayerSpec(
        "sasa",
        build="zoo_sasa.attention:build",
        options={"kernel_size": 7, "heads": 8},
        grid=True,
        cost=Cost(projection="3 n d^2", mixing="3 n k^2 d"),
        symbols={"k": "kernel_size"},
        heads="heads",
        sequential="O(1)",
        path_length="O(sqrt(n)/k)",
        paper=PAPER,
        licence="Apache-2.0",
        notes="the mixing is q . k, q . r and the sum of values, each counted over the whole neighbourhood; "
        "what lies outside the map is zero and costs as much as what lies inside",
    )


@hookimpl
def zoo_flop_formulas() -> Iterator[FlopFormula]:
    """Yield what counts the operator: the MACs of the paper's formula, not of the way it is run; and its memory."""
    for pass_, operator in ("forward", "local_attention"), ("backward", "local_attention_backward"):
        yield FlopFormula(f"zoo_sasa::{operator}", macs=f"zoo_sasa.macs:{operator}", memory=f"zoo_sasa.local:{pass_}")
