"""The MACs of a ViT by hand, without torch: linear layers, the patch convolution and the two attention products."""

from __future__ import annotations

from zoo_vit import tokens


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
    projections = 4 * n * d**2  # query, key, value, output
    attention = 2 * n**2 * d  # scores, weighted sum of values
    mlp = 2 * n * d * int(mlp_ratio * d)
    return patches + depth * (projections + attention + mlp) + d * num_classes
