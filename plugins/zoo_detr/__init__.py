"""DETR, detection as set prediction: the variants of the paper, panoptic ones, a small one. Our own implementation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from zoo import InputSpec, ModelSpec, Recipe, SizeRule, WeightSpec, hookimpl

COCO = 91  # labels are COCO's own ids, 1 to 90, of which 80 are in use
COCO_PANOPTIC = 250  # stuff has ids up to 200; the published checkpoints have this many
DC5 = "DC5: the last stage dilates instead of striding, for four times the tokens"


def tokens(size: int | tuple[int, int], dilation: bool, **options: object) -> int:
    """Return how many tokens the encoder reads: the cells of the last feature map, of 32 pixels (16 dilated)."""
    height, width = (size, size) if isinstance(size, int) else size
    cell = 16 if dilation else 32
    return -(-height // cell) * -(-width // cell)


def layout(id: str, key: str, convert: str, source: str) -> WeightSpec:
    """Return one layout of published checkpoints; all of them are trained on images prepared alike."""
    return WeightSpec(
        id,
        key=key,
        convert=f"zoo_detr.weights:{convert}",
        source=source,
        licence="Apache-2.0",
        preprocess={
            "resize": "short side 800, long side at most 1333",
            "mean": "0.485 0.456 0.406",
            "std": "0.229 0.224 0.225",
        },
    )


# 300 epochs of 64 images; the 500 epochs of the paper's other schedule fall after 400.
OWN = Recipe(
    "own",
    kind="detection",
    batch_size=64,
    learning_rate=1e-4,
    weight_decay=1e-4,
    schedule="step",
    decay_at=2 / 3,
    clip=0.1,
    rates={"trunk.*": 0.1},
    augment={"mirror": True},
    source="Carion et al. 2020, Section 4 and Appendix A.4; random crops and scales are left out",
)
HUGGING_FACE = "facebook/detr-* on the Hugging Face hub"
# What is the same in every variant. The shape of a variant is its options, so each is also an axis of a suite.
COMMON: dict[str, Any] = {
    "family": "detr",
    "input": InputSpec("image", "resolution", tokens=tokens, params={"channels": 3}),
    "weights": (
        layout(
            "facebookresearch",
            "*transformer.decoder.layers.0.multihead_attn.in_proj_weight",
            "from_facebookresearch",
            "the model zoo in the README of github.com/facebookresearch/detr",
        ),
        layout("transformers4", "*decoder.layers.0.encoder_attn.out_proj.weight", "from_transformers", HUGGING_FACE),
        layout("transformers5", "*decoder.layers.0.encoder_attn.o_proj.weight", "from_transformers", HUGGING_FACE),
    ),
    "recipes": (OWN, replace(OWN, kind="panoptic")),
    "paper": "https://arxiv.org/abs/2005.12872",
    "licence": "Apache-2.0",
}
BOXES = {"logits": "batch queries num_classes+1", "boxes": "batch queries 4"}
PUBLISHED_SHAPE: dict[str, Any] = {
    "queries": 100,
    "width": 256,
    "heads": 8,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "ff_width": 2048,
    "dropout": 0.1,
    "block": "bottleneck",
    "stages": "3-4-6-3",
    "trunk_width": 64,
    "dilation": False,
    "frozen": 2,
    "aux": False,
    "blank_padding": False,
    "norm": "frozen",
}
R101 = "3-4-23-3"
NANO: dict[str, Any] = {
    "num_classes": 10,
    "queries": 20,
    "width": 64,
    "heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "ff_width": 256,
    "block": "basic",
    "stages": "1-1-1-1",
    "trunk_width": 16,
    "frozen": 0,
    "norm": "batch",
}


def detector(name: str, *published: str, default: str = "800x1066px", notes: str = "", **options: Any) -> ModelSpec:
    """Return the spec of a detector; ``options`` are those in which it differs from DETR-R50."""
    return ModelSpec(
        name,
        build="zoo_detr.model:build",
        closed_form="zoo_detr.macs:closed_form",
        options={"num_classes": COCO, **PUBLISHED_SHAPE, **options},
        sizes=SizeRule(default, min=32),
        output=BOXES,
        adapters={"detection": "zoo_detr.adapter:Detection"},
        published=("DETR", *published) if published else (),
        notes=notes,
        **COMMON,
    )


def segmenter(name: str, *published: str, notes: str = "", **options: Any) -> ModelSpec:
    """Return the spec of a detector with a mask head; ``options`` are those in which it differs from the R50 one."""
    return ModelSpec(
        name,
        build="zoo_detr.panoptic:build",
        closed_form="zoo_detr.macs:closed_form_panoptic",
        options={"num_classes": COCO_PANOPTIC, **PUBLISHED_SHAPE, **options},
        sizes=SizeRule("800x1066px", min=32),
        output={**BOXES, "masks": "batch queries * *"},
        adapters={"panoptic": "zoo_detr.adapter:Panoptic"},
        published=("DETR panoptic", *published),
        notes=notes,
        **COMMON,
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    """Yield the detectors (paper, Table 1), the panoptic ones (Table 5) and ``detr_nano``."""
    yield detector("detr_r50", "R50", "R50 150ep", "R50 300ep pos.enc*baseline*", "R50 enc6-dec6*")
    yield detector("detr_dc5_r50", "DC5-R50", dilation=True, notes=DC5)
    yield detector("detr_r101", "R101", stages=R101)
    yield detector("detr_dc5_r101", "DC5-R101", stages=R101, dilation=True, notes=DC5)
    yield segmenter("detr_r50_panoptic", "R50")
    yield segmenter("detr_dc5_r50_panoptic", "DC5-R50", dilation=True, notes=DC5)
    yield segmenter("detr_r101_panoptic", "R101", stages=R101)
    yield detector(
        "detr_nano",
        default="128px",
        notes="not a variant of the paper: small enough for two cores, on a trunk of four narrow blocks, all trained",
        **NANO,
    )
