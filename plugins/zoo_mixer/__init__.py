"""MLP-Mixer: the seven variants of the paper and a small one for two cores. Wraps timm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import Cost, LayerSpec, ModelSpec, Recipe, WeightSpec, hookimpl, image_classifier


def tokens(size: int | tuple[int, int], patch_size: int, **options: object) -> int:
    """Return how many tokens an image becomes: its patches, there is no class token."""
    height, width = (size, size) if isinstance(size, int) else size
    return (height // patch_size) * (width // patch_size)


PREPROCESS: dict[str, Any] = {"mean": 0.5, "std": 0.5, "crop": 0.875, "interpolation": "bicubic"}
WEIGHTS = (
    WeightSpec(
        "timm",
        key="blocks.*.mlp_tokens.fc1.weight",
        convert="zoo_mixer.weights:from_timm",
        source="timm/mixer_b16_224.goog_in21k_ft_in1k, timm/mixer_l16_224.goog_in21k_ft_in1k and others of timm",
        licence="Apache-2.0",
        preprocess=PREPROCESS,
    ),
    WeightSpec(
        "jax",
        key="MixerBlock_*/token_mixing/Dense_0/kernel",
        convert="zoo_mixer.weights:from_jax",
        source="npz files of google-research/vision_transformer, made with the tanh approximation of GELU",
        licence="Apache-2.0",
        preprocess=PREPROCESS,
    ),
)
# ImageNet from scratch: 300 epochs, of which 10,000 steps of 94,000 warm up.
OWN = Recipe(
    "own",
    kind="classification",
    batch_size=4096,
    learning_rate=1e-3,
    weight_decay=0.1,
    warmup=0.1,
    clip=1.0,
    augment={"mirror": True, "shift": 4, "randaugment": "rand-m15-n2", "mixup": 0.5},
    source="Tolstikhin et al. 2021, Section 3 and Table 4; the rate falls as a cosine here, not linearly, "
    "random crops are small shifts, and there is no stochastic depth",
)
# What is the same in every variant. The shape of a variant is its options, so each is also an axis of a suite.
COMMON: dict[str, Any] = {
    "recipes": (OWN,),
    "family": "mixer",
    "build": "zoo_mixer.model:build",
    "closed_form": "zoo_mixer.macs:closed_form",
    "weights": WEIGHTS,
    "paper": "https://arxiv.org/abs/2105.01601",
    "licence": "Apache-2.0",
}


def mixer(
    name: str,
    patch_size: int,
    width: int,
    depth: int,
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
        "token_ratio": 0.5,
        "channel_ratio": 4.0,
    }
    return ModelSpec(
        name,
        options=options,
        published=("MLP-Mixer", *published) if published else (),
        notes=notes,
        **COMMON,
        **image_classifier(
            default, multiple_of="patch_size", tokens=tokens, rebuilds="token-mixing MLPs are as wide as the patches"
        ),
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    """Yield Mixer-S to Mixer-H (paper, Table 1) and ``mixer_nano``."""
    notes = "the paper prints parameters without the classifier head"
    yield mixer("mixer_s32", 32, 512, 8, "S/32", "Mixer-S/32 *", "timm mixer_s32_*", notes=notes)
    yield mixer("mixer_s16", 16, 512, 8, "S/16", "Mixer-S/16 *", "timm mixer_s16_*", notes=notes)
    yield mixer("mixer_b32", 32, 768, 12, "B/32", "Mixer-B/32 *", "timm mixer_b32_*", notes=notes)
    yield mixer("mixer_b16", 16, 768, 12, "B/16", "Mixer-B/16 *", "timm mixer_b16_*", notes=notes)
    yield mixer("mixer_l32", 32, 1024, 24, "L/32", "Mixer-L/32 *", "timm mixer_l32_*", notes=notes)
    yield mixer("mixer_l16", 16, 1024, 24, "L/16", "Mixer-L/16 *", "timm mixer_l16_*", notes=notes)
    yield mixer("mixer_h14", 14, 1280, 32, "H/14", "Mixer-H/14 *", "timm mixer_h14_*", notes=notes)
    notes = "not a variant of the paper: small enough for two cores"
    yield mixer("mixer_nano", 4, 64, 5, default=32, num_classes=10, notes=notes)


@hookimpl
def zoo_layers() -> Iterator[LayerSpec]:
    """Yield the token mixing alone: one MLP over the tokens, shared by all channels."""
    yield LayerSpec(
        "token_mlp",
        build="zoo_mixer.model:build_layer",
        cost=Cost(mixing="2 n m d"),
        options={"hidden": 256},
        symbols={"m": "hidden"},
        sequential="O(1)",
        path_length="O(1)",
        family="mixer",
        paper=COMMON["paper"],
        licence=COMMON["licence"],
        notes="linear in n, for m does not grow with it, but the weights are for one n; m is 256 in Mixer-S",
    )
