"""Performer (Choromanski et al. 2020): a Transformer with FAVOR+ instead of softmax attention.

    ids (B, N)
      -> embedding x sqrt(d) + sinusoidal positions                       (B, N, d)    any N
      -> depth x {x = LN(x + FAVOR+(x)); x = LN(x + FFN(x))}              (B, N, d)

FAVOR+ itself, and how it differs from the JAX original, is in ``attention.py``. The paper says "regular Transformer"
of the rest and no more; what that is here, and is a choice of ours:

1. The encoder of Vaswani et al. (2017): post-norm, ReLU, sinusoidal positions (interleaved), dropout on embeddings and
   on what each sublayer adds; none on attention, which has no weights to drop. Linear layers have biases.
2. No heads of pre-training. ``causal`` makes it the trunk of a decoder-only language model.
3. Each layer has a projection of its own, which its heads share.

:class:`PerformerVision` is not the paper's image model (which reads pixels, one by one, causally): see there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import ZooError
from zoo_performer import CHUNK, tokens
from zoo_performer.attention import Favor

# -- layers --------------------------------------------------------------------------------------------------


class FavorAttention(nn.Module):
    """Multi-head self-attention by FAVOR+, with its four projections: (B, N, d) -> (B, N, d)."""

    def __init__(self, width: int, heads: int, favor: Favor) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.favor = favor
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the tokens (B, N, d); ``mask`` (B, N) is False at padding."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, h, N, d_h)
        attended = self.favor(q, k, v, mask).transpose(1, 2).flatten(2)  # (B, N, d)
        out: Tensor = self.out(attended)
        return out


class Layer(nn.Module):
    """One encoder layer, post-norm: x = LN(x + FAVOR+(x)); x = LN(x + FFN(x))."""

    def __init__(self, attention: FavorAttention, width: int, ff_width: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.norm1 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, ff_width)
        self.contract = nn.Linear(ff_width, width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mix the tokens, then the channels of each: (B, N, d) -> (B, N, d)."""
        x = self.norm1(x + self.dropout(self.attention(x, mask)))
        h = F.relu(self.expand(x))  # (B, N, ff)
        out: Tensor = self.norm2(x + self.dropout(self.contract(h)))
        return out


class VisionBlock(nn.Module):
    """One block of ViT, pre-norm, with FAVOR+: x = x + FAVOR+(LN(x)); x = x + MLP(LN(x))."""

    def __init__(self, attention: FavorAttention, width: int, mlp_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = attention
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, mlp_width)
        self.contract = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens, then the channels of each: (B, N, d) -> (B, N, d)."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.contract(F.gelu(self.expand(self.norm2(x))))
        return out


def sinusoids(n: int, width: int, device: torch.device) -> Tensor:
    """Return positions (n, width), float32: sin(p / 10000^(2i / width)) in channel 2i, cos of it in channel 2i + 1."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000) / width))
    angles = torch.arange(n, device=device)[:, None] * rates  # (n, width / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


# -- models --------------------------------------------------------------------------------------------------


class Performer(nn.Module):
    """The encoder of a text."""

    def __init__(
        self, attentions: list[FavorAttention], width: int, ff_width: int, vocab_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(attention, width, ff_width, dropout) for attention in attentions)
        self.apply(init_weights)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Encode token ids (B, N) int64; ``mask`` (B, N) bool is False at padding, which no token sees.

        Returns ``hidden`` (B, N, d), the tokens after the last layer; those at padding have no meaning.
        """
        x: Tensor = self.embedding(ids)  # (B, N, d)
        width = x.shape[-1]
        x = self.dropout(x * math.sqrt(width) + sinusoids(ids.shape[1], width, ids.device).to(x.dtype))
        for layer in self.layers:
            x = layer(x, mask)
        return {"hidden": x}

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draw the random features of every layer anew."""
        redraw(self, generator)


class PerformerVision(nn.Module):
    """A ViT with FAVOR+ instead of attention: class token, learned positions, GELU. Not the paper's image model.

    The number of tokens is small in such a model: below 2 m of them, FAVOR+ multiplies more than exact attention.
    """

    def __init__(
        self,
        attentions: list[FavorAttention],
        n: int,
        num_classes: int,
        patch_size: int,
        width: int,
        mlp_width: int,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, n, width))
        self.blocks = nn.ModuleList(VisionBlock(attention, width, mlp_width) for attention in attentions)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        self.apply(init_vision_weights)
        nn.init.normal_(self.class_token, std=0.02)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, 3, H, W): logits (B, num_classes)."""
        x = self.patches(images).flatten(2).transpose(1, 2)  # (B, n - 1, d)
        x = torch.cat([self.class_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1) + self.position  # (B, n, d)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draw the random features of every block anew."""
        redraw(self, generator)


def redraw(model: nn.Module, generator: torch.Generator | None) -> None:
    """Draw the random features of every FAVOR+ in a model anew."""
    for module in model.modules():
        if isinstance(module, Favor):
            module.redraw(generator)


def init_weights(module: nn.Module) -> None:
    """Draw linear layers by Glorot's rule and embeddings from N(0, 1 / d); biases start at zero."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def init_vision_weights(module: nn.Module) -> None:
    """Draw the weights of linear layers from N(0, 0.02); biases start at zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


# -- built by name -------------------------------------------------------------------------------------------


def attentions(
    depth: int,
    width: int,
    heads: int,
    features: int,
    kernel: str,
    feature_norm: str,
    feature_seed: int,
    causal: bool = False,
    chunk: int = CHUNK,
) -> list[FavorAttention]:
    """Return ``depth`` attention layers; their features are drawn one after the other from ``feature_seed``."""
    if heads < 1 or width % heads:
        message = f"a Performer of width {width} cannot have {heads} heads"
        raise ZooError(f"{message}: the width must be a multiple of the heads")
    generator = torch.Generator("cpu").manual_seed(feature_seed)
    head = width // heads
    favors = (Favor(head, features, kernel, causal, feature_norm, generator, chunk) for _ in range(depth))
    return [FavorAttention(width, heads, favor) for favor in favors]


def build(
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
) -> nn.Module:
    """Return a Performer for texts of any length: nothing in it depends on ``size``."""
    layers = attentions(depth, width, heads, features, kernel, feature_norm, feature_seed, causal)
    return Performer(layers, width, ff_width, vocab_size, dropout)


def build_vision(
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
) -> nn.Module:
    """Return a Performer for images of ``size``."""
    layers = attentions(depth, width, heads, features, kernel, feature_norm, feature_seed)
    return PerformerVision(layers, tokens(size, patch_size), num_classes, patch_size, width, int(mlp_ratio * width))


def build_layer(size: int, width: int, features: int, heads: int, kernel: str) -> nn.Module:
    """Return one attention layer of any length. ZooError without random features, which its cost is about."""
    return one_layer(width, features, heads, kernel, causal=False, chunk=CHUNK)


def build_causal_layer(size: int, width: int, features: int, heads: int, kernel: str, chunk: int) -> nn.Module:
    """Return one causal attention layer of any length. ZooError without random features, which its cost is about."""
    return one_layer(width, features, heads, kernel, causal=True, chunk=chunk)


def one_layer(width: int, features: int, heads: int, kernel: str, causal: bool, chunk: int) -> nn.Module:
    """Return one attention layer, with features of seed 0."""
    if features < 1:
        raise ZooError(f"a layer of FAVOR+ cannot have {features} random features; expected at least 1")
    return attentions(1, width, heads, features, kernel, "chi", 0, causal, chunk)[0]
