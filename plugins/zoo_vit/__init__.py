"""ViT, the Vision Transformer: seven variants, two that read a ResNet's features, a small one of each. Wraps timm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import ModelSpec, Recipe, WeightSpec, ZooError, hookimpl, image_classifier

PAPER = "https://arxiv.org/abs/2010.11929"


def tokens(size: int | tuple[int, int], patch_size: int, **options: object) -> int:
    """Return how many tokens an image becomes: its patches and the class token."""
    height, width = (size, size) if isinstance(size, int) else size
    return (height // patch_size) * (width // patch_size) + 1


def per_stage(stages: str) -> tuple[int, ...]:
    """Read the blocks of each stage of a ResNet, such as ``3-4-6-3``; ZooError unless it is one to four numbers."""
    blocks = str(stages).split("-")
    if len(blocks) > 4 or not all(number.isdecimal() and int(number) for number in blocks):
        raise ZooError(f"stages is {stages!r}; expected the blocks of one to four stages, such as 3-4-6-3")
    return tuple(map(int, blocks))


def stride_of(stages: str) -> int:
    """Return how many pixels a side of a token has: 4 after the root, twice as many after each stage but the first."""
    return 2 << len(per_stage(stages))


def hybrid_tokens(size: int | tuple[int, int], stages: str, **options: object) -> int:
    """Return how many tokens an image becomes: the cells of the ResNet's last map, and the class token."""
    stride = stride_of(stages)
    height, width = (size, size) if isinstance(size, int) else size
    return -(-height // stride) * -(-width // stride) + 1


# ImageNet from scratch: 300 epochs, of which 10,000 steps of 94,000 warm up.
OWN = Recipe(
    "own",
    kind="classification",
    batch_size=4096,
    learning_rate=3e-3,
    weight_decay=0.3,
    warmup=0.1,
    clip=1.0,
    augment={"mirror": True, "shift": 4},
    source="Dosovitskiy et al. 2021, Table 3 and Section 4.1; random crops are small shifts here",
)
# What is the same in every variant. The shape of a variant is its options, so each is also an axis of a suite.
COMMON: dict[str, Any] = {"recipes": (OWN,), "paper": PAPER, "licence": "Apache-2.0"}
REBUILDS = "position embeddings are built for the size"
GOOGLE: dict[str, Any] = {
    "source": "google-research/vision_transformer, without a pre_logits layer (files of pre-training may have one)",
    "licence": "Apache-2.0",
    "preprocess": {"mean": "0.5 0.5 0.5", "std": "0.5 0.5 0.5"},
}
WEIGHTS = (
    WeightSpec(
        "timm",
        key="blocks.0.attn.qkv.weight",
        convert="zoo_vit.weights:from_timm",
        source="timm's vit_* models, whose inputs differ in mean and deviation, and what this model saves",
    ),
    WeightSpec(
        "jax",
        key="*Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel",
        convert="zoo_vit.weights:from_jax",
        **GOOGLE,
    ),
    WeightSpec(
        "torchvision",
        key="encoder.layers.encoder_layer_0.self_attention.in_proj_weight",
        convert="zoo_vit.weights:from_torchvision",
        source="torchvision's vit_b_16, vit_b_32, vit_l_16, vit_l_32 and vit_h_14",
        licence="BSD-3-Clause; its SWAG weights CC-BY-NC-4.0",
        preprocess={"mean": "0.485 0.456 0.406", "std": "0.229 0.224 0.225"},
    ),
)


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
        family="vit",
        build="zoo_vit.model:build",
        closed_form="zoo_vit.macs:closed_form",
        options=options,
        weights=WEIGHTS,
        published=("ViT", *published) if published else (),
        notes=notes,
        **COMMON,
        **image_classifier(default, multiple_of="patch_size", tokens=tokens, rebuilds=REBUILDS),
    )


def hybrid_vit(
    name: str,
    stages: str,
    width: int,
    depth: int,
    heads: int,
    *published: str,
    trunk_width: int = 256,
    default: int = 224,
    num_classes: int = 1000,
    notes: str = "",
) -> ModelSpec:
    """Return the spec of a ViT on a ResNet; ``published`` are globs of its names in the published numbers."""
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "stages": stages,
        "trunk_width": trunk_width,
        "width": width,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": 4.0,
    }
    return ModelSpec(
        name,
        family="hybrid_vit",
        build="zoo_vit.hybrid:build",
        closed_form="zoo_vit.macs:hybrid_closed_form",
        options=options,
        weights=WEIGHTS[:2],
        published=("Hybrid ViT", *published) if published else (),
        notes=notes,
        **COMMON,
        **image_classifier(default, multiple_of=stride_of(stages), tokens=hybrid_tokens, rebuilds=REBUILDS),
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    """Yield ViT-Ti to ViT-H (paper, Table 1; Ti and S are later work), the hybrids, and a small one of each."""
    yield vit("vit_ti16", 16, 192, 12, 3, "timm vit_tiny_patch16_*")
    yield vit("vit_s16", 16, 384, 12, 6, "timm vit_small_patch16_*")
    yield vit("vit_b16", 16, 768, 12, 12, "*B/16*", "ViT-B_16*", "timm vit_base_patch16_*", "torchvision vit_b_16.*")
    yield vit("vit_b32", 32, 768, 12, 12, "*B/32*", "ViT-B_32*", "timm vit_base_patch32_*", "torchvision vit_b_32.*")
    yield vit("vit_l16", 16, 1024, 24, 16, "*L/16*", "ViT-L_16*", "timm vit_large_patch16_*", "torchvision vit_l_16.*")
    yield vit("vit_l32", 32, 1024, 24, 16, "*L/32*", "ViT-L_32*", "timm vit_large_patch32_*", "torchvision vit_l_32.*")
    yield vit("vit_h14", 14, 1280, 32, 16, "*H/14*", "timm vit_huge_patch14_*", "torchvision vit_h_14.*")
    notes = "not a variant of the paper: small enough for two cores"
    yield vit("vit_nano", 4, 64, 4, 4, default=32, num_classes=10, notes=notes)
    yield hybrid_vit("hybrid_vit_b16", "3-4-9", 768, 12, 12, "R50*+ViT-B?16*", "timm vit_base_r50_s16_*")
    yield hybrid_vit("hybrid_vit_l32", "3-4-6-3", 1024, 24, 16, "R50*+ViT-L/32*", "timm vit_large_r50_s32_*")
    small: dict[str, Any] = {"trunk_width": 128, "default": 32, "num_classes": 10, "notes": notes}
    yield hybrid_vit("hybrid_vit_nano", "1-1", 64, 4, 4, **small)
