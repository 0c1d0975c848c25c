"""FNet: a Transformer encoder whose attention is a Fourier transform without parameters. Our own implementation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import Cost, InputSpec, LayerSpec, ModelSpec, SizeRule, WeightSpec, hookimpl, image_classifier

VOCABULARY = 32_000


def length(size: int, **options: object) -> int:
    """Return how many tokens a text of ``size`` tokens has."""
    return size


def patches(size: int | tuple[int, int], patch_size: int, **options: object) -> int:
    """Return how many tokens an image becomes: its patches, there is no class token."""
    height, width = (size, size) if isinstance(size, int) else size
    return (height // patch_size) * (width // patch_size)


# What is the same in every variant. The shape of a variant is its options, so each is also an axis of a suite.
COMMON: dict[str, Any] = {
    "family": "fnet",
    "paper": "https://arxiv.org/abs/2105.03824",
    "licence": "Apache-2.0",
}
FFT = "the Fourier transforms multiply too and are no MACs: see flops_fft"
TRANSFORMERS = WeightSpec(
    "transformers",
    key="*encoder.layer.*.fourier.output.LayerNorm.weight",
    convert="zoo_fnet.weights:from_transformers",
    source="google/fnet-base and google/fnet-large on the Hugging Face Hub, and what transformers saves",
    licence="Apache-2.0",
)


def text(
    name: str,
    width: int,
    depth: int,
    default: int,
    longest: int,
    attention_layers: int = 0,
    published: tuple[str, ...] = (),
    notes: str = "",
) -> ModelSpec:
    """Return the spec of an encoder of texts; ``longest`` is how many positions it has embeddings for."""
    options: dict[str, Any] = {
        "width": width,
        "depth": depth,
        "ff_ratio": 4,
        "attention_layers": attention_layers,
        "max_positions": longest,
        "dropout": 0.1,
        "pretraining_heads": False,
    }
    return ModelSpec(
        name,
        build="zoo_fnet.model:build",
        closed_form="zoo_fnet.macs:closed_form",
        options=options,
        input=InputSpec("tokens", "sequence_length", tokens=length, params={"vocab_size": VOCABULARY}),
        sizes=SizeRule(f"{default}tok", max="max_positions"),
        output={"hidden": "batch tokens width", "pooled": "batch width"},
        weights=() if attention_layers else (TRANSFORMERS,),  # transformers has no hybrid
        published=("FNet", *published) if published else (),
        notes=f"{notes}; {FFT}" if notes else FFT,
        **COMMON,
    )


def vision(
    name: str, patch_size: int, width: int, depth: int, default: int, num_classes: int, notes: str = ""
) -> ModelSpec:
    """Return the spec of a ViT that mixes its patches as FNet does."""
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "patch_size": patch_size,
        "width": width,
        "depth": depth,
        "mlp_ratio": 4.0,
    }
    return ModelSpec(
        name,
        build="zoo_fnet.model:build_vision",
        closed_form="zoo_fnet.macs:closed_form_vision",
        options=options,
        notes=f"not the paper's: a ViT with Fourier mixing instead of attention{notes}; {FFT}",
        **COMMON,
        **image_classifier(
            default, multiple_of="patch_size", tokens=patches, rebuilds="position embeddings are built for the size"
        ),
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    """Yield FNet-Base, FNet-Large and the hybrid (paper, Section 4), the vision variants, and a small one of each."""
    yield text("fnet_base", 768, 12, 512, 512, published=("Base*",))
    yield text("fnet_large", 1024, 24, 512, 512, published=("Large*",))
    hybrid = "self-attention in place of the Fourier transform in the last two layers"
    yield text("fnet_hybrid_base", 768, 12, 512, 512, attention_layers=2, notes=hybrid)
    yield text("fnet_hybrid_large", 1024, 24, 512, 512, attention_layers=2, notes=hybrid)
    small = "not a variant of the paper: small enough for two cores"
    yield text("fnet_nano", 64, 4, 128, 4096, notes=small)
    yield vision("fnet_vision_b16", 16, 768, 12, 224, 1000)
    yield vision("fnet_vision_nano", 4, 64, 4, 32, 10, notes=", small enough for two cores")


@hookimpl
def zoo_layers() -> Iterator[LayerSpec]:
    """Yield the mixing alone: the real part of a Fourier transform over tokens and channels."""
    yield LayerSpec(
        "fourier",
        build="zoo_fnet.model:build_layer",
        cost=Cost(fft="5 n d log2(n) + 5 n d log2(d)"),
        options={"norm": "backward"},
        sequential="O(1)",
        path_length="O(1)",
        family="fnet",
        paper=COMMON["paper"],
        licence=COMMON["licence"],
        notes="no MACs and no parameters; norm=ortho keeps the norm, for a backbone that has no LayerNorm behind it",
    )
