"""Swin, attention in shifted windows: six variants of the paper, a small one, and its layer. Wraps timm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import Cost, LayerSpec, ModelSpec, Recipe, SizeRule, WeightSpec, ZooError, hookimpl, image_classifier

PAPER = "https://arxiv.org/abs/2103.14030"


def tokens(size: int | tuple[int, int], patch_size: int, **options: object) -> int:
    """Return how many tokens an image becomes: its patches, before they are merged."""
    height, width = (size, size) if isinstance(size, int) else size
    return (height // patch_size) * (width // patch_size)


def per_stage(text: str, what: str) -> tuple[int, ...]:
    """Read one whole number a stage, such as ``2-2-6-2``; ``what`` names the option in the ZooError."""
    numbers = str(text).split("-")
    if not all(number.isdecimal() and int(number) for number in numbers):
        raise ZooError(f"{what} is {text!r}; expected one whole number a stage, such as 2-2-6-2")
    return tuple(map(int, numbers))


# 300 epochs of ImageNet-1K, of which 20 warm up; stochastic depth is the option drop_path.
OWN = Recipe(
    "own",
    kind="classification",
    batch_size=1024,
    learning_rate=1e-3,
    weight_decay=0.05,
    warmup=20 / 300,
    label_smoothing=0.1,
    clip=5.0,
    augment={
        "mirror": True,
        "shift": 4,
        "randaugment": "rand-m9-mstd0.5-inc1",
        "erase": 0.25,
        "mixup": 0.8,
        "cutmix": 1.0,
    },
    source="Liu et al. 2021, Appendix A2.1; random crops are small shifts here",
)
# What is the same in every variant. The shape of a variant is its options, so each is also an axis of a suite.
COMMON: dict[str, Any] = {
    "recipes": (OWN,),
    "family": "swin",
    "build": "zoo_swin.model:build",
    "closed_form": "zoo_swin.macs:closed_form",
    "paper": PAPER,
    "licence": "Apache-2.0",
}
IMAGENET = {"mean": "0.485 0.456 0.406", "std": "0.229 0.224 0.225", "interpolation": "bicubic"}
WEIGHTS = (
    WeightSpec(
        "timm",
        key="head.fc.weight",
        convert="zoo_swin.weights:from_timm",
        source="timm's swin_* models, and what this model saves",
        licence="MIT",
        preprocess=IMAGENET,
    ),
    WeightSpec(
        "swin",
        key="layers.0.downsample.reduction.weight",
        convert="zoo_swin.weights:from_official",
        source="github.com/microsoft/Swin-Transformer",
        licence="MIT",
        preprocess=IMAGENET,
    ),
    WeightSpec(
        "torchvision",
        key="features.1.0.attn.relative_position_bias_table",
        convert="zoo_swin.weights:from_torchvision",
        source="torchvision's swin_t, swin_s and swin_b",
        licence="BSD-3-Clause",
        preprocess=IMAGENET,
    ),
)


def sizes(default: int, patch_size: int, stages: int) -> SizeRule:
    """Return the legal sizes: maps of even sides to merge, and at least two by two tokens in the last stage."""
    step = patch_size * 2 ** (stages - 1)  # pixels of a token of the last stage
    return SizeRule(
        f"{default}px",
        multiple_of=step,
        min=2 * step,
        rebuilds="a window, and its table of relative positions, shrinks to a feature map that is smaller",
        pads=f"feature maps are padded to multiples of the window; multiples of {step} x window pixels need none",
    )


def swin(
    name: str,
    width: int,
    depths: str,
    heads: str,
    *published: str,
    window: int = 7,
    default: int = 224,
    patch_size: int = 4,
    num_classes: int = 1000,
    notes: str = "",
) -> ModelSpec:
    """Return the spec of one variant; ``published`` are globs of its names in the published numbers."""
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "patch_size": patch_size,
        "width": width,
        "depths": depths,
        "heads": heads,
        "window": window,
        "mlp_ratio": 4.0,
        "drop_path": 0.0,
    }
    image = image_classifier(default, tokens=tokens)
    image["sizes"] = sizes(default, patch_size, len(per_stage(depths, "depths")))
    return ModelSpec(
        name,
        options=options,
        weights=WEIGHTS,
        published=("Swin", *published) if published else (),
        notes=notes,
        **COMMON,
        **image,
    )


def other_window(letter: str, window: int) -> list[str]:
    """Say which published rows are of the sibling with the other window, where one name stands for both."""
    if letter not in "BL":
        return []
    size, other = (384, 12) if window == 7 else (224, 7)
    return [f"published rows at {size}x{size} are of the variant with windows of {other}"]


def of_paper(
    letter: str, word: str, width: int, depths: str, heads: str, drop_path: float, window: int = 7, default: int = 224
) -> ModelSpec:
    """Return the spec of Swin-``letter``, which others call ``word``; ``drop_path`` is what its authors train with."""
    mmpretrain = f"swin-{word}*_in1k" if default == 224 else f"swin-{word}*-{default}"
    return swin(
        f"swin_{letter.lower()}" + ("" if window == 7 else f"_w{window}"),
        width,
        depths,
        heads,
        f"Swin-{letter} (*",
        mmpretrain,
        f"timm swin_{word}_*_window{window}_*",
        *([f"torchvision swin_{letter.lower()}.*"] if window == 7 else []),
        window=window,
        default=default,
        notes="; ".join([f"its authors train it with drop_path={drop_path}", *other_window(letter, window)]),
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    """Yield Swin-T to Swin-L (paper, Section 3.3), the two with windows of 12 (Table 1), and ``swin_nano``."""
    yield of_paper("T", "tiny", 96, "2-2-6-2", "3-6-12-24", 0.2)
    yield of_paper("S", "small", 96, "2-2-18-2", "3-6-12-24", 0.3)
    yield of_paper("B", "base", 128, "2-2-18-2", "4-8-16-32", 0.5)
    yield of_paper("L", "large", 192, "2-2-18-2", "6-12-24-48", 0.2)
    yield of_paper("B", "base", 128, "2-2-18-2", "4-8-16-32", 0.5, window=12, default=384)
    yield of_paper("L", "large", 192, "2-2-18-2", "6-12-24-48", 0.2, window=12, default=384)
    yield swin(
        "swin_nano",
        32,
        "2-2-2",
        "1-2-4",
        window=4,
        default=32,
        patch_size=2,
        num_classes=10,
        notes="not a variant of the paper: small enough for two cores",
    )


@hookimpl
def zoo_layers() -> Iterator[LayerSpec]:
    """Yield the attention of a Swin block (paper, Section 3.2)."""
    yield LayerSpec(
        "shifted_windows",
        build="zoo_swin.layer:build",
        options={"window": 7, "heads": 4, "shift": True},
        family="swin",
        grid=True,
        cost=Cost(projection="4 n d^2", mixing="2 n m^2 d"),
        symbols={"m": "window"},
        multiple_of="window",
        heads="heads",
        stack="zoo_swin.layer:alternating",
        sequential="O(1)",
        path_length="O(sqrt(n)/m)",
        paper=PAPER,
        licence="Apache-2.0",
        notes="one attention: two in a row, the first with shift=false, are what Swin repeats; "
        "windows are not shifted along a side that is one window long",
    )
