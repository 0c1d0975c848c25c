"""The MACs of an MLP-Mixer by hand, without torch: linear layers and the patch convolution, nothing else multiplies."""

from __future__ import annotations

from zoo_mixer import tokens


def closed_form(
    size: int | tuple[int, int],
    num_classes: int,
    patch_size: int,
    width: int,
    depth: int,
    token_ratio: float,
    channel_ratio: float,
) -> int:
    """Return the MACs of one image: linear in the number of tokens, for D_S does not grow with it."""
    n, d = tokens(size, patch_size), width
    patches = n * d * 3 * patch_size**2
    token_mlp = 2 * n * d * int(token_ratio * d)
    channel_mlp = 2 * n * d * int(channel_ratio * d)
    return patches + depth * (token_mlp + channel_mlp) + d * num_classes
