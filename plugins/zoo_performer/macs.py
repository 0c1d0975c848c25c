"""The MACs of Performers by hand, without torch: linear layers, projections onto features, and their products."""

from __future__ import annotations

from zoo_performer import CHUNK, tokens


def attention(n: int, d: int, heads: int, features: int, causal: bool = False) -> int:
    """Return the MACs of one attention layer and its projections: 4 n d^2 + 4 n m d + 2 n m h, and more if causal.

    A head turns n queries and n keys into m features (2 n m d_h), then makes and reads the sums of features times
    [value, 1] (2 n m (d_h + 1)). A causal chunk of c tokens also has its own c x c products, with the features (c^2 m)
    and with [value, 1] (c^2 (d_h + 1)).
    """
    head = d // heads
    m = features or head
    project = 2 * n * m * head if features else 0
    squares = (n // CHUNK) * CHUNK**2 + (n % CHUNK) ** 2 if causal else 0
    products = 2 * n * m * (head + 1) + squares * (m + head + 1)
    return 4 * n * d**2 + heads * (project + products)


def closed_form(
    size: int,
    width: int,
    depth: int,
    heads: int,
    ff_width: int,
    features: int,
    kernel: str,
    feature_norm: str,
    feature_seed: int,
    causal: bool,
    vocab_size: int,
    dropout: float,
) -> int:
    """Return the MACs of one text: attention and feed-forward layers."""
    feed_forward = 2 * size * width * ff_width
    return depth * (attention(size, width, heads, features, causal) + feed_forward)


def closed_form_vision(
    size: int | tuple[int, int],
    num_classes: int,
    patch_size: int,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: float,
    features: int,
    kernel: str,
    feature_norm: str,
    feature_seed: int,
) -> int:
    """Return the MACs of one image: the patch convolution, attention and MLPs, the classifier."""
    n, d = tokens(size, patch_size), width
    patches = (n - 1) * d * 3 * patch_size**2
    mlp = 2 * n * d * int(mlp_ratio * d)
    return patches + depth * (attention(n, d, heads, features) + mlp) + d * num_classes
