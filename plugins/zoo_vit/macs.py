"""The MACs of a ViT by hand, without torch: linear layers, convolutions and the two attention products."""

from __future__ import annotations

from zoo_vit import per_stage, tokens


def closed_form(
    size: int | tuple[int, int],
    num_classes: int,
    patch_size: int,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: float,
) -> int:
    """Return the MACs of one image. The number of heads does not change them."""
    n, d = tokens(size, patch_size), width
    patches = (n - 1) * d * 3 * patch_size**2
    return patches + depth * layer(n, d, mlp_ratio) + d * num_classes


def layer(n: int, d: int, mlp_ratio: float) -> int:
    """Return the MACs of one encoder layer on ``n`` tokens of width ``d``."""
    projections = 4 * n * d**2  # query, key, value, output
    attention = 2 * n**2 * d  # scores, weighted sum of values
    mlp = 2 * n * d * int(mlp_ratio * d)
    return projections + attention + mlp


def hybrid_closed_form(
    size: int | tuple[int, int],
    num_classes: int,
    stages: str,
    trunk_width: int,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: float,
) -> int:
    """Return the MACs of one image; the standardisation of the kernels does not depend on it and is left out."""
    h, w = (half(side) for side in ((size, size) if isinstance(size, int) else size))
    channels = trunk_width // 4
    total = h * w * channels * 3 * 7**2  # the root's convolution
    h, w = half(h), half(w)  # its pooling
    for stage, blocks in enumerate(per_stage(stages)):
        inner, out = (trunk_width << stage) // 4, trunk_width << stage
        total += h * w * channels * inner  # the first convolution comes before the stride
        if stage:
            h, w = half(h), half(w)
        total += h * w * channels * out  # the shortcut's
        total += h * w * (blocks * (9 * inner**2 + inner * out) + (blocks - 1) * out * inner)
        channels = out
    n, d = h * w + 1, width
    return total + (n - 1) * channels * d + depth * layer(n, d, mlp_ratio) + d * num_classes


def half(side: int) -> int:
    """Return the side of a map after a stride of 2, padded as TensorFlow's SAME."""
    return -(-side // 2)
