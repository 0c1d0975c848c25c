"""The MACs of a Transformer by hand, without torch: linear layers, attention products, the scores of the vocabulary."""

from __future__ import annotations


def closed_form(
    size: int | tuple[int, int],
    vocab_size: int,
    width: int,
    heads: int,
    encoder_depth: int,
    decoder_depth: int,
    ff_width: int,
    **others: object,
) -> int:
    """Return the MACs of one pair of n source and k target tokens; a number N is N + N.

    A causal mask saves nothing here: the products of masked pairs count as the others do. The number of heads,
    biases, norms and dropout do not change the count.
    """
    n, k = (size, size) if isinstance(size, int) else size
    d = width
    encoder = attention(n, n, d) + 2 * n * d * ff_width
    decoder = attention(k, k, d) + attention(k, n, d) + 2 * k * d * ff_width
    return encoder_depth * encoder + decoder_depth * decoder + k * d * vocab_size


def attention(queries: int, keys: int, d: int) -> int:
    """Return the MACs of attention with its projections: query and output, key and value, the two products."""
    return 2 * queries * d**2 + 2 * keys * d**2 + 2 * queries * keys * d
