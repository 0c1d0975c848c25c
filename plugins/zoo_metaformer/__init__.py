"""MetaFormer: one backbone that takes any registered layer as its token mixer, with everything else equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import ModelSpec, hookimpl, image_classifier


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
        family="metaformer",
        build="zoo_metaformer.model:build",
        closed_form="zoo_metaformer.macs:closed_form",
        options=options,
        layer_options=("mixer",),
        paper="https://arxiv.org/abs/2111.11418",
        licence="Apache-2.0",
        notes=f"not a variant of the paper: {notes}; mixer is any layer, as 'sasa:kernel_size=5+heads=4'; "
        "a Fourier transform should keep the norm, 'fourier:norm=ortho', as there is none behind it",
        **image_classifier(
            default, multiple_of="patch_size", tokens=patches, rebuilds="position embeddings are built for the size"
        ),
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    """Yield a backbone with the shape of ViT-S, and a small one."""
    yield metaformer(
        "metaformer_s16", "self_attention:heads=6", 16, 384, 12, 224, 1000, "ViT-S/16 with the mean of the patches"
    )
    yield metaformer("metaformer_nano", "self_attention", 4, 64, 4, 32, 10, "small enough for two cores")
