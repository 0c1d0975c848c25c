"""The MACs of SASA by hand, without torch: a walk over its layers, and the formula that counts the operator."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from zoo import ZooError

GROUPS = 4
EXPANSION = 4
PLACES = 16  # of a block of the attention stem
EMBEDDING = 16  # of its places, to choose among mixtures: the paper does not say
Shape = tuple[int, ...]


def local_attention(
    q: Shape, k: Shape | None, v: Shape, rel_h: Shape, rel_w: Shape, masked: bool, *, out: Shape
) -> int:
    """Return the MACs of the operator: q . k, q . r and the mixture, each over the whole k x k neighbourhood.

    So the formula of the paper counts. What is run differs: products off the band are waste, and q . r takes 2 k terms.
    """
    return prod(q) * rel_h[1] ** 2 * (2 if k is None else 3)


def local_attention_backward(grad: Shape, q: Shape, k: Shape | None, *rest: Any, out: Shape) -> int:
    """Return the MACs of the operator's gradients: of q, k and v, and of the embeddings by every query."""
    return 2 * local_attention(q, k, *rest, out=out)


def closed_form(
    size: int | tuple[int, int],
    num_classes: int,
    stages: str,
    stem: str,
    groups: str,
    kernel_size: int,
    heads: int,
    content: bool,
    borders: str,
    mixtures: int,
    width: int,
) -> int:
    """Return the MACs of one image: the stem, every block with its shortcut, the classifier. Norms are not counted."""
    height, right = (size, size) if isinstance(size, int) else size
    n = height * right // 16
    macs = stem_macs(height * right, read_stem(stem), mixtures, width)
    channels = width
    kinds = read_groups(groups)
    for group, planes, stride in walk(stages, width):
        after = n // stride**2
        if kinds[group] == "c":
            spatial = after * 3**2 * planes**2
        else:  # at full resolution: the pooling comes after it
            parts = 3 if content else 2  # projections, and products with the neighbourhood
            spatial = parts * n * planes**2 + parts * n * kernel_size**2 * planes
        macs += n * channels * planes + spatial + after * planes * EXPANSION * planes
        if stride == 2 or channels != EXPANSION * planes:
            macs += after * channels * EXPANSION * planes  # 1x1 convolution in the shortcut
        n, channels = after, EXPANSION * planes
    return macs + channels * num_classes


def stem_macs(pixels: int, stem: str, mixtures: int, width: int) -> int:
    """Return the MACs of a stem: a 7x7 convolution of stride 2, or attention in blocks of 16 pixels."""
    if stem == "conv":
        return pixels // 4 * 3 * width * 7**2
    projections = pixels * 3 * (2 + mixtures) * width
    mixing = pixels * mixtures * width if mixtures > 1 else 0
    return projections + mixing + 3 * pixels * PLACES * width


def walk(stages: str, width: int) -> Iterator[tuple[int, int, int]]:
    """Yield (group, planes, stride) of every block: the first block of each group but the first one has stride 2."""
    for group, depth in enumerate(read_stages(stages)):
        for index in range(depth):
            yield group, width * 2**group, 2 if group and not index else 1


def read_stages(stages: str) -> list[int]:
    """Read how many blocks each of the four groups has, from ``"3-4-6-3"``. ZooError when it says anything else."""
    depths = [int(depth) if depth.isascii() and depth.isdigit() else 0 for depth in str(stages).split("-")]
    if len(depths) != GROUPS or 0 in depths:
        raise ZooError(f"stages={stages!r} is not the shape of a ResNet; expected four block counts such as 3-4-6-3")
    return depths


def read_groups(groups: str) -> str:
    """Check what each of the four groups has: ``"ccaa"`` is convolutions in two, then attention. ZooError otherwise."""
    if len(str(groups)) != GROUPS or not set(str(groups)) <= set("ac"):
        raise ZooError(
            f"groups is {groups!r}; expected a (attention) or c (convolution) for each of four, such as ccaa"
        )
    return groups


def read_stem(stem: str) -> str:
    """Return the kind of stem. ZooError when there is none of that name."""
    if stem not in ("attention", "conv"):
        raise ZooError(f"stem is {stem!r}; expected attention or conv")
    return stem
