"""FNet (Lee-Thorp et al. 2021): attention replaced by Re(FFT over the tokens of FFT over the channels).

Written from the paper, structured as the JAX original (google-research/f_net) and its port in transformers
(modeling_fnet.py), both Apache-2.0, so that their weights map one to one (see weights.py).

    token ids (B, N), types of token (B, N)
      -> word + position + type embeddings, LN, linear, dropout     (B, N, d)
      -> depth x {x = LN(x + mixing(x)); x = LN(x + FFN(x))}        (B, N, d)      mixing: Re FFT2; in the last layers
      -> token 0, linear, tanh                                      (B, d)         of the hybrid self-attention

What is different:

1. No padding mask: the Fourier transform cannot leave padding out, and the original has one for the attention of the
   hybrid only. The heads of pre-training are an option.
2. The transform is always the FFT, never a product with DFT matrices.
3. Biases start at zero (the JAX original draws those of the expanding layer and of attention from N(0, 0.02) too), and
   the projection of the embeddings from N(0, 0.02) like all other weights (there from LeCun's).
4. Attention has heads of 64 channels, as many as BERT of that width: the original has 12, for its width of 768.

:class:`FNetVision` is not the paper's: see there.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import ZooError
from zoo_fnet import VOCABULARY, patches

KINDS = 4  # types of token: the paper pre-trains with four segments
HEAD_WIDTH = 64  # channels of a head of attention
Norm = Literal["backward", "ortho"]


# -- layers --------------------------------------------------------------------------------------------------


def fourier_mix(x: Tensor, norm: Norm = "backward") -> Tensor:
    """Return the real part of the 2-D Fourier transform over tokens and channels: (B, N, d) -> (B, N, d), same dtype.

    Computed in float32 (float64 stays) whatever autocast says: FFTs know no bfloat16, and float16 only where N and d
    are powers of two. Not scaled (``"backward"``), the largest terms grow with N and d and may pass float16's 65,504.
    """
    device = x.device.type
    cast = torch.amp.is_autocast_available(device)
    with torch.autocast(device, enabled=False) if cast else nullcontext():
        wide = x if x.dtype == torch.float64 else x.float()
        mixed: Tensor = torch.fft.fft2(wide, dim=(-2, -1), norm=norm)  # complex
    return mixed.real.to(x.dtype)


class Fourier(nn.Module):
    """:func:`fourier_mix` as a module without parameters: (B, N, d) -> (B, N, d)."""

    def __init__(self, norm: Norm = "backward") -> None:
        super().__init__()
        self.norm: Norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens and channels."""
        return fourier_mix(x, self.norm)

    def extra_repr(self) -> str:
        """Show what is not a parameter."""
        return f"norm={self.norm}"


class Attention(nn.Module):
    """Self-attention, with dropout on its weights and none on its output: (B, N, d) -> (B, N, d)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens, in each head by itself."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, h, N, d / h)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)  # (B, h, N, d / h)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def extra_repr(self) -> str:
        """Show what is not a parameter."""
        return f"heads={self.heads}, dropout={self.dropout}"


class Embeddings(nn.Module):
    """Word + position + type, normalised and projected: (B, N) ids -> (B, N, d)."""

    def __init__(self, width: int, max_positions: int, dropout: float) -> None:
        super().__init__()
        self.word = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(max_positions, width)
        self.kind = nn.Embedding(KINDS, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.projection = nn.Linear(width, width)  # "hidden_mapping_in" of the JAX original
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        """Embed token ids and their types, both (B, N) int64."""
        positions = self.position.weight[: ids.shape[1]]  # (N, d)
        x = self.norm(self.word(ids) + self.kind(kinds) + positions)  # (B, N, d)
        embedded: Tensor = self.dropout(self.projection(x))
        return embedded


class Layer(nn.Module):
    """One encoder layer, post-norm: x = LN(x + mixing(x)); x = LN(x + FFN(x))."""

    def __init__(self, mixing: nn.Module, width: int, ff_width: int, dropout: float) -> None:
        super().__init__()
        self.mixing = mixing
        self.mixing_norm = nn.LayerNorm(width, eps=1e-12)
        self.expand = nn.Linear(width, ff_width)
        self.contract = nn.Linear(ff_width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens, then the channels of each: (B, N, d) -> (B, N, d)."""
        x = self.mixing_norm(x + self.mixing(x))  # neither dropout nor a scale behind the mixing
        h = F.gelu(self.expand(x), approximate="tanh")  # (B, N, ff)
        mixed: Tensor = self.norm(x + self.dropout(self.contract(h)))
        return mixed


class VisionBlock(nn.Module):
    """One block of ViT, pre-norm, with Fourier mixing: x = x + Re FFT2(LN(x)) / sqrt(N d); x = x + MLP(LN(x))."""

    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, mlp_width)
        self.contract = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens, then the channels of each: (B, N, d) -> (B, N, d)."""
        x = x + fourier_mix(self.norm1(x), norm="ortho")
        out: Tensor = x + self.contract(F.gelu(self.expand(self.norm2(x))))
        return out


# -- models --------------------------------------------------------------------------------------------------


class PretrainingHeads(nn.Module):
    """What pre-training predicts (paper, Section 4.1): the masked words, and whether two segments are in order."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(VOCABULARY))
        self.order = nn.Linear(width, 2)

    def forward(self, hidden: Tensor, pooled: Tensor, words: Tensor) -> dict[str, Tensor]:
        """Return logits ``words`` (B, N, V) by the word embeddings (V, d), and ``order`` (B, 2)."""
        x = self.norm(F.gelu(self.transform(hidden), approximate="tanh"))  # (B, N, d)
        return {"words": F.linear(x, words, self.bias), "order": self.order(pooled)}


class FNet(nn.Module):
    """The encoder of a text; its last ``attention_layers`` layers mix by self-attention."""

    def __init__(
        self,
        width: int,
        depth: int,
        ff_width: int,
        attention_layers: int,
        max_positions: int,
        dropout: float,
        pretraining_heads: bool,
    ) -> None:
        super().__init__()
        mixings = [Fourier() for _ in range(depth - attention_layers)]
        attention = [Attention(width, width // HEAD_WIDTH, dropout) for _ in range(attention_layers)]
        self.embeddings = Embeddings(width, max_positions, dropout)
        self.layers = nn.ModuleList(Layer(mixing, width, ff_width, dropout) for mixing in (*mixings, *attention))
        self.pooler = nn.Linear(width, width)
        self.heads = PretrainingHeads(width) if pretraining_heads else None
        self.apply(init_weights)

    def forward(self, ids: Tensor, kinds: Tensor | None = None) -> dict[str, Tensor]:
        """Encode token ids (B, N) int64, of types ``kinds`` (B, N) int64, all 0 when left out.

        Returns ``hidden`` (B, N, d), the tokens after the last layer, and ``pooled`` (B, d), the tanh of a linear map
        of token 0; with the heads of pre-training also their logits ``words`` (B, N, V) and ``order`` (B, 2).
        """
        x: Tensor = self.embeddings(ids, torch.zeros_like(ids) if kinds is None else kinds)  # (B, N, d)
        for layer in self.layers:
            x = layer(x)
        out = {"hidden": x, "pooled": torch.tanh(self.pooler(x[:, 0]))}
        return out | self.heads(**out, words=self.embeddings.word.weight) if self.heads else out


class FNetVision(nn.Module):
    """A ViT with Fourier mixing instead of attention. Not the paper's, which has no image model.

    Three things follow from the mixing: it is scaled to keep the norm ("ortho"), for a pre-norm block has no
    LayerNorm after it; its images have no class token, but the mean of the patches, so that N keeps small factors
    and the FFT its speed (197 is a prime, 196 is not); and a size has its own position embeddings, as in ViT.
    """

    def __init__(self, n: int, num_classes: int, patch_size: int, width: int, depth: int, mlp_width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch_size, patch_size)
        self.position = nn.Parameter(torch.empty(1, n, width))
        self.blocks = nn.ModuleList(VisionBlock(width, mlp_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        self.apply(init_weights)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, 3, H, W): logits (B, num_classes)."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.position  # (B, n, d)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x).mean(dim=1))
        return logits


def init_weights(module: nn.Module) -> None:
    """Draw the weights of linear layers and embeddings from N(0, 0.02); biases start at zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


# -- built by name -------------------------------------------------------------------------------------------


def build(
    size: int,
    width: int,
    depth: int,
    ff_ratio: int,
    attention_layers: int,
    max_positions: int,
    dropout: float,
    pretraining_heads: bool,
) -> nn.Module:
    """Return an FNet for texts of up to ``max_positions`` tokens. ZooError when it cannot have its attention layers."""
    if not 0 <= attention_layers <= depth:
        raise ZooError(f"an FNet of {depth} layers cannot have attention in {attention_layers} of them")
    if attention_layers and width % HEAD_WIDTH:
        raise ZooError(f"an FNet attends with heads of {HEAD_WIDTH} channels; a width of {width} is no multiple")
    return FNet(width, depth, ff_ratio * width, attention_layers, max_positions, dropout, pretraining_heads)


def build_vision(
    size: int | tuple[int, int], num_classes: int, patch_size: int, width: int, depth: int, mlp_ratio: float
) -> nn.Module:
    """Return an FNet for images of ``size``."""
    n = patches(size, patch_size)
    return FNetVision(n, num_classes, patch_size, width, depth, int(mlp_ratio * width))


def build_layer(size: int, width: int, norm: Norm) -> nn.Module:
    """Return the mixing alone; neither ``size`` nor ``width`` changes it. ZooError for an unknown ``norm``."""
    if norm not in get_args(Norm):
        raise ZooError(f"a Fourier transform has no norm {norm!r}; its norms: {', '.join(get_args(Norm))}")
    return Fourier(norm)
