"""The MACs of FNet by hand, without torch: linear layers and attention. The Fourier transforms are counted apart."""

from __future__ import annotations

from zoo_fnet import VOCABULARY, patches


def closed_form(
    size: int,
    width: int,
    depth: int,
    ff_ratio: int,
    attention_layers: int,
    max_positions: int,
    dropout: float,
    pretraining_heads: bool,
) -> int:
    """Return the MACs of one text: projection of the embeddings, feed-forward and attention layers, pooler, heads."""
    n, d = size, width
    heads = n * d**2 + n * d * VOCABULARY + 2 * d if pretraining_heads else 0
    feed_forward = 2 * n * d * ff_ratio * d
    attention = 4 * n * d**2 + 2 * n**2 * d  # query, key, value, output; scores, weighted sum of values
    return n * d**2 + depth * feed_forward + attention_layers * attention + d**2 + heads


def closed_form_vision(
    size: int | tuple[int, int], num_classes: int, patch_size: int, width: int, depth: int, mlp_ratio: float
) -> int:
    """Return the MACs of one image: the patch convolution, the MLPs, the classifier."""
    n, d = patches(size, patch_size), width
    mlp = 2 * n * d * int(mlp_ratio * d)
    return n * d * 3 * patch_size**2 + depth * mlp + d * num_classes
