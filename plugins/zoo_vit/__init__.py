"""ViT, the Vision Transformer: seven variants of the paper and a small one for two cores. Wraps timm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import ModelSpec, hookimpl, image_classifier


def tokens(size: int | tuple[int, int], patch_size: int, **options: object) -> int:
    """Return how many tokens an image becomes: its patches and the class token."""
    height, width = (size, size) if isinstance(size, int) else size
    return (height // patch_size) * (width // patch_size) + 1


# What is the same in every variant. The shape of a variant is its options, so each is also an axis of a suite.
COMMON: dict[str, Any] = {
    "family": "vit",
    "build": "zoo_vit.model:build",
    "closed_form": "zoo_vit.macs:closed_form",
    "paper": "https://arxiv.org/abs/2010.11929",
    "licence": "Apache-2.0",
}


def vit(
    name: str,
    patch_size: int,
    width: int,
    depth: int,
    heads: int,
    *published: str,
    default: int = 224,
    num_classes: int = 1000,
    notes: str = "",
) -> ModelSpec:
    """Return the spec of one variant; ``published`` are globs of its names in the published numbers."""
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "patch_size": patch_size,
        "width": width,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": 4.0,
    }
    return ModelSpec(
        name,
        options=options,
        published=("ViT", *published) if published else (),
        notes=notes,
        **COMMON,
        **image_classifier(
            default, multiple_of="patch_size", tokens=tokens, rebuilds="position embeddings are built for the size"
        ),
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    """Yield ViT-Ti to ViT-H (paper, Table 1; Ti and S are later work) and ``vit_nano``."""
    yield vit("vit_ti16", 16, 192, 12, 3, "timm vit_tiny_patch16_*")
    yield vit("vit_s16", 16, 384, 12, 6, "timm vit_small_patch16_*")
    yield vit("vit_b16", 16, 768, 12, 12, "*B/16*", "ViT-B_16*", "timm vit_base_patch16_*", "torchvision vit_b_16.*")
    yield vit("vit_b32", 32, 768, 12, 12, "*B/32*", "ViT-B_32*", "timm vit_base_patch32_*", "torchvision vit_b_32.*")
    yield vit("vit_l16", 16, 1024, 24, 16, "*L/16*", "ViT-L_16*", "timm vit_large_patch16_*", "torchvision vit_l_16.*")
    yield vit("vit_l32", 32, 1024, 24, 16, "*L/32*", "ViT-L_32*", "timm vit_large_patch32_*", "torchvision vit_l_32.*")
    yield vit("vit_h14", 14, 1280, 32, 16, "*H/14*", "timm vit_huge_patch14_*", "torchvision vit_h_14.*")
    notes = "not a variant of the paper: small enough for two cores"
    yield vit("vit_nano", 4, 64, 4, 4, default=32, num_classes=10, notes=notes)
