"""Performer: a Transformer whose attention is a product of random features, linear in the tokens. Our own code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import Cost, InputSpec, LayerSpec, ModelSpec, SizeRule, hookimpl, image_classifier

VOCABULARY = 32_000
CHUNK = 128  # tokens that causal attention handles at once


def length(size: int, **options: object) -> int:
    """Return how many tokens a text of ``size`` tokens has."""
    return size


def tokens(size: int | tuple[int, int], patch_size: int, **options: object) -> int:
    """Return how many tokens an image becomes: its patches and the class token."""
    height, width = (size, size) if isinstance(size, int) else size
    return (height // patch_size) * (width // patch_size) + 1


# What is the same in every variant. The shape of a variant is its options, so each is also an axis of a suite.
COMMON: dict[str, Any] = {
    "family": "performer",
    "paper": "https://arxiv.org/abs/2009.14794",
    "licence": "Apache-2.0",
}
SMALL = "small enough for two cores"


def favor(kernel: str, features: int) -> dict[str, Any]:
    """Return the options of FAVOR+ with their defaults; ``features=0`` is the ReLU kernel without a projection."""
    return {"features": features, "kernel": kernel, "feature_norm": "chi", "feature_seed": 0}


def text(
    name: str, kernel: str, *published: str, width: int = 512, depth: int = 6, features: int = 256, notes: str = ""
) -> ModelSpec:
    """Return the spec of an encoder of texts, of which ``published`` are globs of its published numbers."""
    options = {
        "width": width,
        "depth": depth,
        "heads": width // 64 if width > 64 else 4,
        "ff_width": 4 * width,
        **favor(kernel, features),
        "causal": False,
        "vocab_size": VOCABULARY,
        "dropout": 0.1,
    }
    return ModelSpec(
        name,
        build="zoo_performer.model:build",
        closed_form="zoo_performer.macs:closed_form",
        options=options,
        input=InputSpec("tokens", "sequence_length", tokens=length, params={"vocab_size": "vocab_size"}),
        sizes=SizeRule("512tok"),
        output={"hidden": "batch tokens width"},
        published=("Performer", *published) if published else (),
        notes=notes,
        **COMMON,
    )


def vision(
    name: str,
    patch_size: int,
    width: int,
    depth: int,
    heads: int,
    features: int,
    default: int,
    num_classes: int,
    notes: str = "",
) -> ModelSpec:
    """Return the spec of a ViT with FAVOR+ instead of attention."""
    options = {
        "num_classes": num_classes,
        "patch_size": patch_size,
        "width": width,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": 4.0,
        **favor("relu", features),
    }
    return ModelSpec(
        name,
        build="zoo_performer.model:build_vision",
        closed_form="zoo_performer.macs:closed_form_vision",
        options=options,
        notes=f"not the paper's image model: a ViT with FAVOR+ instead of attention{notes}",
        **COMMON,
        **image_classifier(
            default, multiple_of="patch_size", tokens=tokens, rebuilds="position embeddings are built for the size"
        ),
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    """Yield the paper's default size (Appendix A) with both kernels, the vision variants, and a small one of each."""
    others = "the paper's accuracies are of other sizes (36 layers on proteins, ImageNet64) and are not quoted here"
    yield text("performer_base", "relu", "paper defaults", notes=others)
    yield text("performer_base_softmax", "softmax", "paper defaults", notes=others)
    small = f"not a variant of the paper: {SMALL}"
    yield text("performer_nano", "relu", width=64, depth=4, features=64, notes=small)
    yield vision("performer_vision_b16", 16, 768, 12, 12, 256, 224, 1000)
    yield vision("performer_vision_nano", 4, 64, 4, 4, 64, 32, 10, notes=f", {SMALL}")


@hookimpl
def zoo_layers() -> Iterator[LayerSpec]:
    """Yield FAVOR+ in both directions, and causal in chunks of tokens."""
    options: dict[str, Any] = {"features": 256, "heads": 8, "kernel": "relu"}
    yield LayerSpec(
        "favor",
        build="zoo_performer.model:build_layer",
        cost=Cost(projection="4 n d^2", mixing="4 n m d + 2 n m h"),
        symbols={"m": "features", "h": "heads"},
        sequential="O(1)",
        path_length="O(1)",
        heads="heads",
        options=options,
        **COMMON,
    )
    yield LayerSpec(
        "favor_causal",
        build="zoo_performer.model:build_causal_layer",
        cost=Cost(projection="4 n d^2", mixing="4 n m d + 2 n m h + c n m h + c n d + c n h"),
        symbols={"m": "features", "h": "heads", "c": "chunk"},
        sequential="O(n)",
        path_length="O(1)",
        heads="heads",
        causal=True,
        multiple_of="chunk",
        options={**options, "chunk": CHUNK},
        notes="N is a multiple of chunk, whose cost is declared; 196 patches take chunk=49",
        **COMMON,
    )
