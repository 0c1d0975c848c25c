"""The Transformer (Vaswani et al. 2017): an encoder that reads a source, a decoder that writes a target.

Written from the paper:

    source ids (B, n)                               target ids (B, k)
      -> embedding * sqrt(d) + sinusoids              -> the same embedding * sqrt(d) + sinusoids
      -> N x {self-attention; FFN}                    -> N x {causal self-attention; attention to the memory; FFN}
      = memory (B, n, d)                              -> embedding matrix, transposed: logits (B, k, vocabulary)

Every sublayer is post-norm, LN(x + dropout(sublayer(x))), and nothing is normalised after the last layer of a stack.

Where the paper leaves a choice, or is not followed:

1. Attention projects without biases, as Section 3.2.2 writes it (``attention_bias`` adds them); the FFN has them.
2. Dropout is where Section 5.4 puts it: after each sublayer and on the sums of embeddings and positions.
   ``inner_dropout`` also drops attention weights and hidden units of the FFN, which public code does.
3. LayerNorm has eps 1e-5, as torch's. Matrices start Glorot-uniform, each of a packed projection by itself,
   embeddings from N(0, 1/d), biases at zero. None of this is in the paper.
4. Sinusoids alternate sine and cosine as in Section 3.5; some public code puts all sines first.
5. Query, key and value are one matrix product, key and value of the memory another.

With ``attention_bias``, ``final_norm`` and ``inner_dropout`` = ``dropout`` the two stacks compute what
``torch.nn.Transformer(..., batch_first=True)`` computes; ``zoo_transformer.weights`` brings its weights over.
Decoding token by token is in ``zoo_transformer.decode``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import ZooError

KeyValue = tuple[Tensor, Tensor]  # keys and values, each (B, h, tokens, d_h)


# -- layers --------------------------------------------------------------------------------------------------


def linear(inputs: int, outputs: int, bias: bool = True, packed: int = 1) -> nn.Linear:
    """Return a linear layer that starts Glorot-uniform, each of its ``packed`` matrices by itself; biases at zero."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    for matrix in layer.weight.detach().chunk(packed):
        nn.init.xavier_uniform_(matrix)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def split_heads(x: Tensor, packed: int, heads: int) -> tuple[Tensor, ...]:
    """Take a packed projection apart, without a copy: (B, n, packed * d) -> ``packed`` times (B, h, n, d_h)."""
    return x.view(*x.shape[:2], packed, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def positions(n: int, width: int, start: int = 0, device: torch.device | None = None) -> Tensor:
    """Return sinusoids (n, d) of positions ``start``, ``start`` + 1, ...: sine in even channels, cosine in odd ones.

    In float64, so that late positions are as exact as early ones. Computed where they are used: there is no table, so
    no longest text and nothing to keep.
    """
    at = torch.arange(start, start + n, dtype=torch.float64, device=device)
    channels = torch.arange(0, width, 2, dtype=torch.float64, device=device)
    angles = at[:, None] * torch.exp(channels * (-math.log(10_000) / width))  # (n, d / 2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class Past:
    """Keys and values of the tokens that one layer has seen, in memory that is set aside once for ``capacity``."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self.kept: Tensor | None = None  # keys, values: (2, B, h, capacity, d_h)

    def append(self, keys: Tensor, values: Tensor) -> KeyValue:
        """Add (B, h, n, d_h) behind what is there, and return all of it, without a copy."""
        if self.kept is None:
            self.kept = keys.new_empty(2, *keys.shape[:2], self.capacity, keys.shape[-1])
        start, self.length = self.length, self.length + keys.shape[2]
        self.kept[0, :, :, start : self.length] = keys
        self.kept[1, :, :, start : self.length] = values
        return self.kept[0, :, :, : self.length], self.kept[1, :, :, : self.length]

    def reorder(self, rows: Tensor) -> None:
        """Let row i of the batch go on from what row ``rows[i]`` has seen."""
        if self.kept is not None:
            seen = self.kept[:, :, :, : self.length]
            seen.copy_(seen.index_select(1, rows))


class Attention(nn.Module):
    """Self-attention in ``heads`` heads, with query, key and value from one product."""

    def __init__(self, width: int, heads: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = linear(width, 3 * width, bias, packed=3)
        self.out = linear(width, width, bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False, past: Past | None = None) -> Tensor:
        """Attend within x (B, n, d); ``mask`` (B, 1, 1, n) is true where a token may be seen.

        With a ``past``, x is the one token that comes next, (B, 1, d), and sees all that came before.
        """
        q, k, v = split_heads(self.qkv(x), 3, self.heads)
        if past is not None:
            k, v = past.append(k, v)
        dropout = self.dropout if self.training else 0.0
        heads = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)  # (B, h, n, d_h)
        mixed: Tensor = self.out(heads.transpose(1, 2).flatten(2))
        return mixed


class CrossAttention(nn.Module):
    """Attention from the target to the memory, with key and value from one product."""

    def __init__(self, width: int, heads: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = linear(width, width, bias)
        self.key_value = linear(width, 2 * width, bias, packed=2)
        self.out = linear(width, width, bias)

    def keys_values(self, memory: Tensor) -> KeyValue:
        """Project the memory (B, n, d), once for all tokens of a target."""
        keys, values = split_heads(self.key_value(memory), 2, self.heads)
        return keys, values

    def forward(self, x: Tensor, memory: Tensor | KeyValue, mask: Tensor | None = None) -> Tensor:
        """Attend from x (B, k, d) to the memory (B, n, d), or to what :meth:`keys_values` made of it.

        x may have more rows, (B * beams, 1, d): those of one source are then queries side by side, and their memory
        is neither copied nor read twice.
        """
        k, v = memory if isinstance(memory, tuple) else self.keys_values(memory)
        queries = self.query(x).reshape(k.shape[0], -1, x.shape[-1])
        (q,) = split_heads(queries, 1, self.heads)
        dropout = self.dropout if self.training else 0.0
        heads = F.scaled_dot_product_attention(q, k, v, mask, dropout)  # (B, h, k, d_h)
        mixed: Tensor = self.out(heads.transpose(1, 2).reshape(x.shape))
        return mixed


class FeedForward(nn.Module):
    """max(0, x W1 + b1) W2 + b2, the same for every token (Section 3.3)."""

    def __init__(self, width: int, ff_width: int, dropout: float) -> None:
        super().__init__()
        self.expand = linear(width, ff_width)
        self.contract = linear(ff_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map each token: (B, n, d) -> (B, n, d)."""
        hidden = F.relu(self.expand(x), inplace=True)  # (B, n, ff)
        out: Tensor = self.contract(self.dropout(hidden))
        return out


class EncoderLayer(nn.Module):
    """x = LN(x + attention(x)); x = LN(x + FFN(x))."""

    def __init__(self, width: int, heads: int, ff_width: int, bias: bool, dropout: float, inner_dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, bias, inner_dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, ff_width, inner_dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix source tokens (B, n, d)."""
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        out: Tensor = self.norm(x + self.dropout(self.feed_forward(x)))
        return out


class DecoderLayer(nn.Module):
    """x = LN(x + causal attention(x)); x = LN(x + attention(x, memory)); x = LN(x + FFN(x))."""

    def __init__(self, width: int, heads: int, ff_width: int, bias: bool, dropout: float, inner_dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, bias, inner_dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.cross = CrossAttention(width, heads, bias, inner_dropout)
        self.cross_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, ff_width, inner_dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, memory: Tensor | KeyValue, mask: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        """Mix target tokens (B, k, d) with those before them and with the memory, which ``mask`` (B, 1, 1, n) covers.

        With a ``past``, x is the one token that comes next, (B, 1, d).
        """
        x = self.attention_norm(x + self.dropout(self.attention(x, causal=past is None, past=past)))
        x = self.cross_norm(x + self.dropout(self.cross(x, memory, mask)))
        out: Tensor = self.norm(x + self.dropout(self.feed_forward(x)))
        return out


# -- model ---------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """A stack of encoder layers, and the norm that the paper does not have."""

    def __init__(self, layers: list[EncoderLayer], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Turn embedded source tokens (B, n, d) into the memory (B, n, d)."""
        for layer in self.layers:
            x = layer(x, mask)
        memory: Tensor = self.norm(x)
        return memory


class Decoder(nn.Module):
    """A stack of decoder layers, and the norm that the paper does not have."""

    def __init__(self, layers: list[DecoderLayer], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Turn embedded target tokens (B, k, d) into what predicts the token after each, (B, k, d)."""
        for layer in self.layers:
            x = layer(x, memory, mask)
        out: Tensor = self.norm(x)
        return out


class Transformer(nn.Module):
    """Encoder and decoder around one embedding matrix, which also gives the logits (Section 3.4)."""

    def __init__(self, embedding: nn.Embedding, encoder: Encoder, decoder: Decoder, dropout: float) -> None:
        super().__init__()
        self.width = embedding.embedding_dim
        self.embedding = embedding
        self.encoder = encoder
        self.decoder = decoder
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(embedding.weight, std=self.width**-0.5)

    def forward(self, source: Tensor, target: Tensor, source_padding: Tensor | None = None) -> Tensor:
        """Return logits (B, k, vocabulary) of the token after each of ``target`` (B, k), given ``source`` (B, n).

        Both are int64 ids. ``source_padding`` (B, n) is true where a source is padded, which no token then sees; a
        source has at least one token. A target is padded behind its end, where no earlier token looks, and the logits
        there mean nothing.
        """
        mask = visible(source_padding)
        memory = self.encode(source, mask)
        return self.logits(self.decoder(self.embed(target), memory, mask))

    def encode(self, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read source ids (B, n): the memory (B, n, d). ``mask`` is what :func:`visible` returns."""
        memory: Tensor = self.encoder(self.embed(source), mask)
        return memory

    def embed(self, ids: Tensor, start: int = 0) -> Tensor:
        """Embed ids (B, n) that stand at positions ``start``, ``start`` + 1, ...: (B, n, d)."""
        x = self.embedding(ids) * math.sqrt(self.width)
        embedded: Tensor = self.dropout(x + positions(ids.shape[1], self.width, start, ids.device).to(x.dtype))
        return embedded

    def logits(self, x: Tensor) -> Tensor:
        """Score the vocabulary for each token: (B, n, d) -> (B, n, vocabulary)."""
        return F.linear(x, self.embedding.weight)


def visible(padding: Tensor | None) -> Tensor | None:
    """Return the attention mask (B, 1, 1, n) of padding (B, n): true where a token may be seen. None for no padding."""
    return None if padding is None else ~padding[:, None, None, :]


# -- built by name -------------------------------------------------------------------------------------------


def build(
    size: int | tuple[int, int],
    vocab_size: int,
    width: int,
    heads: int,
    encoder_depth: int,
    decoder_depth: int,
    ff_width: int,
    dropout: float,
    inner_dropout: float,
    attention_bias: bool,
    final_norm: bool,
) -> nn.Module:
    """Return a Transformer, the same for every size. ZooError when the heads do not divide the width."""
    if heads < 1 or width % 2 or width % heads:
        raise ZooError(f"a Transformer of width {width} cannot have {heads} heads: expected an even multiple of them")
    shape = (width, heads, ff_width, attention_bias, dropout, inner_dropout)
    encoder = [EncoderLayer(*shape) for _ in range(encoder_depth)]
    decoder = [DecoderLayer(*shape) for _ in range(decoder_depth)]
    norms = [nn.LayerNorm(width) if final_norm else nn.Identity() for _ in range(2)]
    embedding = nn.Embedding(vocab_size, width)
    return Transformer(embedding, Encoder(encoder, norms[0]), Decoder(decoder, norms[1]), dropout)
