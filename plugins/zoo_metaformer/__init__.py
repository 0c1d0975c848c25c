"""MetaFormer: one backbone that takes any registered layer as its token mixer, with everything else equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import InputSpec, ModelSpec, SizeRule, hookimpl, image_classifier

# What is the same in every variant. The shape of a variant is its options, so each is also an axis of a suite.
COMMON: dict[str, Any] = {
    "family": "metaformer",
    "layer_options": ("mixer",),
    "paper": "https://arxiv.org/abs/2111.11418",
    "licence": "Apache-2.0",
}
REBUILDS = "position embeddings are built for the size"
NORM = "a Fourier transform should keep the norm, 'fourier:norm=ortho', as there is none behind it"


def grid(size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Return how many patches an image has, down and across."""
    height, width = (size, size) if isinstance(size, int) else size
    return height // patch_size, width // patch_size


def patches(size: int | tuple[int, int], patch_size: int, **options: object) -> int:
    """Return how many tokens an image becomes: its patches, there is no class token."""
    rows, columns = grid(size, patch_size)
    return rows * columns


def metaformer(
    name: str, mixer: str, patch_size: int, width: int, depth: int, default: int, num_classes: int, notes: str
) -> ModelSpec:
    """Return the spec of one variant, with the mixer that it has unless told otherwise."""
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "mixer": mixer,
        "patch_size": patch_size,
        "width": width,
        "depth": depth,
        "mlp_ratio": 4.0,
        "positions": True,
    }
    return ModelSpec(
        name,
        build="zoo_metaformer.model:build",
        closed_form="zoo_metaformer.macs:closed_form",
        options=options,
        notes=f"not a variant of the paper: {notes}; mixer is any layer, as 'sasa:kernel_size=5+heads=4'; {NORM}",
        **COMMON,
        **image_classifier(default, multiple_of="patch_size", tokens=patches, rebuilds=REBUILDS),
    )


def metaformer_text(name: str, mixer: str, width: int, depth: int, default: int, notes: str) -> ModelSpec:
    """Return the spec of a classifier of token sequences, with the mixer that it has unless told otherwise."""
    options: dict[str, Any] = {
        "vocab_size": 32,
        "num_classes": 10,
        "mixer": mixer,
        "width": width,
        "depth": depth,
        "mlp_ratio": 4.0,
        "positions": True,
    }
    return ModelSpec(
        name,
        build="zoo_metaformer.text:build",
        closed_form="zoo_metaformer.macs:closed_form_text",
        options=options,
        input=InputSpec("tokens", "sequence_length", params={"vocab_size": "vocab_size"}),
        sizes=SizeRule(f"{default}tok", rebuilds=REBUILDS),
        adapters={"sequence_classification": "zoo.adapters:SequenceClassifier"},
        output={"": "batch num_classes"},
        notes=f"not the paper's: {notes}; mixer is any layer that needs no grid, as 'favor:features=64'; {NORM}; "
        "token 0 is padding, which mixers see and the mean at the end leaves out",
        **COMMON,
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    """Yield a backbone with the shape of ViT-S, a small one, and a small one of token sequences."""
    yield metaformer(
        "metaformer_s16", "self_attention:heads=6", 16, 384, 12, 224, 1000, "ViT-S/16 with the mean of the patches"
    )
    yield metaformer("metaformer_nano", "self_attention", 4, 64, 4, 32, 10, "small enough for two cores")
    yield metaformer_text(
        "metaformer_text_nano", "self_attention", 64, 2, 256, "sequences of tokens, and small enough for two cores"
    )
