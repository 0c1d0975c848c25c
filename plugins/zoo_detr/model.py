"""DETR (Carion et al. 2020): a convolutional trunk, an encoder, and queries that each answer with a class and a box.

    images (B, 3, H, W), padding (B, H, W)
      -> ResNet with frozen norms                            (B, 2048, h, w)    h = H / 32, rounded up (DC5: H / 16)
      -> 1x1 convolution, cells as tokens                    (B, N, d)          N = h w
      -> encoder x {self-attention; FFN}                     = memory (B, N, d)
    queries (Q, d), learned
      -> decoder x {self-attention; attention to memory; FFN}  (B, Q, d), from zeros
      -> LN -> linear: logits (B, Q, classes + 1); 3-layer MLP, sigmoid: boxes (B, Q, 4)

Every sublayer is post-norm, LN(x + dropout(sublayer(x))). Positions (sinusoids of a cell, the learned vector of a
query) are added to what queries and keys are made of, in every layer, and never to values.

Written from the paper, with facebookresearch/detr (Apache-2.0, commit 29901c5) as reference, so that its checkpoints
load and its counts are met. What is different:

1. Attention is F.scaled_dot_product_attention on a packed projection; no map of weights is averaged and thrown away.
2. A frozen norm is one fused operator, not a product and a sum of whole feature maps.
3. Without a mask there is no padding, and none is masked. The original always makes a mask.
4. Positions are computed in float32 at least and in float64 for a model in float64, boxes given in float32 at least:
   bfloat16 has steps of four pixels in 1066.
5. Without a checkpoint the last norm of each of n residual blocks starts at 1/sqrt(n), not at 1: activations of random
   weights would grow past float16.
6. The trunk can be narrower (``trunk_width``), shallower (``stages``), and less of it frozen (``frozen``).
7. With ``blank_padding`` an image in a padded batch is exactly what it is alone.
8. With ``norm="batch"`` the norms of the trunk learn, as one that is not pretrained needs.

As in the original, and no accident: the heads read every layer of the decoder in inference too (0.08 of the 81.25
GMACs of DETR-R50), and the trunk does not know of padding unless it is told. What convolutions make of the zeros beside
an image leaks back into it, and the last cells may lie half outside, so an image in a padded batch is near what it is
alone, not equal to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from zoo import ZooError
from zoo_detr.boxes import wide
from zoo_detr.macs import EXPANSION, PARTS, read_block, read_stages

BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}
EPS = 1e-5  # of the frozen norms
MAX_PERIOD = 10_000
Outputs = dict[str, Any]


# -- trunk ---------------------------------------------------------------------------------------------------


class FrozenNorm(nn.Module):
    """Batch norm whose statistics and affine map are all fixed: buffers, not parameters."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift each channel of (B, C, h, w)."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=EPS)


NORMS: dict[str, Callable[[int], nn.Module]] = {"frozen": FrozenNorm, "batch": nn.BatchNorm2d}


class Trunk(nn.Module):
    """A ResNet without its classifier, of torchvision's blocks and with torchvision's names."""

    def __init__(
        self,
        block: str,
        stages: str,
        width: int,
        dilation: bool,
        blank_padding: bool = False,
        norm: str = "frozen",
    ) -> None:
        super().__init__()
        self.block, self.channels, self.blank_padding = block, width, blank_padding
        self.norm = NORMS[norm]
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = self.norm(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        depths = read_stages(stages)
        self.layer1 = self.stage(width, depths[0], stride=1)
        self.layer2 = self.stage(2 * width, depths[1], stride=2)
        self.layer3 = self.stage(4 * width, depths[2], stride=2)
        self.layer4 = self.stage(8 * width, depths[3], stride=1 if dilation else 2, dilation=2 if dilation else 1)
        self.start(sum(depths))

    def stage(self, planes: int, depth: int, stride: int, dilation: int = 1) -> nn.Sequential:
        """Build the blocks of one stage. The first one never dilates: its input lies as close as ever."""
        out = planes * EXPANSION[self.block]
        shortcut = None
        if stride != 1 or self.channels != out:
            shortcut = nn.Sequential(nn.Conv2d(self.channels, out, 1, stride, bias=False), self.norm(out))
        make = BLOCKS[self.block]
        blocks = [make(self.channels, planes, stride, shortcut, norm_layer=self.norm)]
        self.channels = out
        blocks += [make(out, planes, dilation=dilation, norm_layer=self.norm) for _ in range(depth - 1)]
        return nn.Sequential(*blocks)

    def start(self, blocks: int) -> None:
        """Draw weights: He's, by fan-out. The last norm of each of n blocks starts at 1/sqrt(n)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        last = "bn3" if self.block == "bottleneck" else "bn2"
        for name, norm in self.named_modules():
            if name.endswith(f".{last}"):
                nn.init.constant_(norm.weight, blocks**-0.5)

    def freeze(self, parts: int) -> None:
        """Stop training the first ``parts`` of stem, stage 1, ... stage 4."""
        for part in (self.conv1, self.layer1, self.layer2, self.layer3, self.layer4)[:parts]:
            part.requires_grad_(False)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Return the feature maps of the four stages, (B, c, h, w) each, at strides 4, 8, 16 and 32 (DC5: 16)."""
        with self.blanked(mask) if mask is not None and self.blank_padding else nullcontext():
            return self.look(images)

    @contextmanager
    def blanked(self, mask: Tensor) -> Iterator[None]:
        """Let what looks beyond its own pixel see zeros where ``mask`` (B, H, W) says padding, as beside an image."""

        def blank(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            return (args[0].masked_fill(covered(mask, *args[0].shape[-2:])[:, None], 0),)

        wide = [
            m for m in self.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d) and m.kernel_size not in (1, (1, 1))
        ]
        handles = [module.register_forward_pre_hook(blank) for module in wide]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def look(self, images: Tensor) -> list[Tensor]:
        """Run stem and stages."""
        if images.device.type == "cpu":
            images = images.contiguous(memory_format=torch.channels_last)  # what oneDNN's convolutions are faster in
        x = self.maxpool(F.relu(self.bn1(self.conv1(images)), inplace=True))
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps


# -- positions and padding -----------------------------------------------------------------------------------


def positions(height: int, width: int, channels: int, padding: Tensor | None, like: Tensor) -> Tensor:
    """Return the position of every cell, (1 or B, N, d): half the channels for its row, half for its column.

    Rows and columns are counted from 1 to the last that is not padding (B, h, w), and brought to 0 .. 2 pi.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    if padding is None:
        rows = torch.arange(1, height + 1, dtype=dtype, device=like.device).view(1, -1, 1)
        columns = torch.arange(1, width + 1, dtype=dtype, device=like.device).view(1, 1, -1)
    else:
        rows, columns = (~padding).cumsum(1, dtype=dtype), (~padding).cumsum(2, dtype=dtype)
    grid = (rows.shape[0], height, width, channels // 2)
    y = sinusoids(rows / (rows[:, -1:, :] + 1e-6) * 2 * math.pi, channels // 2).expand(grid)
    x = sinusoids(columns / (columns[:, :, -1:] + 1e-6) * 2 * math.pi, channels // 2).expand(grid)
    return torch.cat((y, x), dim=-1).flatten(1, 2).to(like.dtype)


def sinusoids(at: Tensor, channels: int) -> Tensor:
    """Return sines in even channels and cosines in odd ones, of periods from 2 pi to 10,000 times that: (..., c)."""
    powers = torch.arange(0, channels, 2, dtype=at.dtype, device=at.device) / channels
    angles = at[..., None] / MAX_PERIOD**powers
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


def covered(mask: Tensor, height: int, width: int) -> Tensor:
    """Return a mask (B, H, W) at the size of a feature map: padding is what an image alone would have no cell for.

    An image of n pixels has n / 2 cells, rounded up, after each layer of stride 2.
    """
    sides = (~mask).any(2).sum(1), (~mask).any(1).sum(1)  # (B,) both
    inside = []
    for side, whole, cells in zip(sides, mask.shape[1:], (height, width), strict=True):
        while whole > cells:
            side, whole = (side + 1) // 2, (whole + 1) // 2
        inside.append(torch.arange(cells, device=mask.device) < side[:, None])
    return ~(inside[0][:, :, None] & inside[1][:, None])


def shrink(mask: Tensor, height: int, width: int) -> Tensor:
    """Return a mask (B, H, W) at the size of a feature map: each cell is the nearest pixel."""
    return F.interpolate(mask[None].float(), size=(height, width))[0].bool()


# -- layers --------------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """What the decoder attends to: keys are made of the tokens with their positions, values without, (B, N, d)."""

    with_positions: Tensor
    tokens: Tensor


class Attention(nn.Module):
    """LN(x + dropout(attention)) in ``heads`` heads; one packed projection for query, key and value."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.weights_dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        for linear in (self.qkv, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, pos: Tensor, memory: Memory | None = None, seen: Tensor | None = None) -> Tensor:
        """Let x (B, n, d) at ``pos`` attend to itself, or to ``memory``, where ``seen`` (B, 1, 1, N) is true."""
        if memory is None:
            q, k = self.project(x + pos, 0, 2).chunk(2, dim=-1)
            v = self.project(x, 2, 3)
        else:
            q = self.project(x + pos, 0, 1)
            k = self.project(memory.with_positions, 1, 2)
            v = self.project(memory.tokens, 2, 3)
        dropout = self.weights_dropout if self.training else 0.0
        q, k, v = self.split(q), self.split(k), self.split(v)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)  # (B, h, n, d_h)
        out: Tensor = self.norm(x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2))))
        return out

    def project(self, x: Tensor, first: int, last: int) -> Tensor:
        """Apply some of the three packed projections: (B, n, d) -> (B, n, (last - first) d)."""
        rows = slice(first * x.shape[-1], last * x.shape[-1])
        return F.linear(x, self.qkv.weight[rows], self.qkv.bias[rows])

    def split(self, x: Tensor) -> Tensor:
        """Split channels into heads: (B, n, d) -> (B, h, n, d_h)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """LN(x + dropout(W2 relu(W1 x))), each token by itself."""

    def __init__(self, width: int, ff_width: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(width, ff_width)
        self.contract = nn.Linear(ff_width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.expand.weight)
        nn.init.xavier_uniform_(self.contract.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map each token: (B, n, d) -> (B, n, d)."""
        hidden = self.dropout(F.relu(self.expand(x), inplace=True))  # (B, n, ff)
        out: Tensor = self.norm(x + self.dropout(self.contract(hidden)))
        return out


class EncoderLayer(nn.Module):
    """Self-attention of the cells, then the FFN."""

    def __init__(self, width: int, heads: int, ff_width: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.feed_forward = FeedForward(width, ff_width, dropout)

    def forward(self, x: Tensor, pos: Tensor, seen: Tensor | None) -> Tensor:
        """Mix cells (B, N, d) that ``seen`` (B, 1, 1, N) says are not padding."""
        out: Tensor = self.feed_forward(self.attention(x, pos, seen=seen))
        return out


class DecoderLayer(nn.Module):
    """Self-attention of the queries, attention to the memory, then the FFN."""

    def __init__(self, width: int, heads: int, ff_width: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads, dropout)
        self.cross_attention = Attention(width, heads, dropout)
        self.feed_forward = FeedForward(width, ff_width, dropout)

    def forward(self, x: Tensor, pos: Tensor, memory: Memory, seen: Tensor | None) -> Tensor:
        """Mix queries (B, Q, d), whose positions are the learned ones (Q, d), with each other and with the memory."""
        x = self.self_attention(x, pos)
        out: Tensor = self.feed_forward(self.cross_attention(x, pos, memory, seen))
        return out


class BoxHead(nn.Module):
    """Three linear layers with ReLU between them, then a sigmoid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, out) for out in (width, width, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Read boxes (..., 4) off queries (..., d): centre and size, as fractions of the image."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        boxes: Tensor = self.layers[-1](x)
        return wide(boxes).sigmoid()


# -- model ---------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """All that one pass over images leaves behind; the mask head of the panoptic models reads more than the queries."""

    maps: list[Tensor]  # of the four stages of the trunk, (B, c, h, w)
    projected: Tensor  # the last of them with d channels, (B, d, h, w)
    memory: Tensor  # (B, N, d)
    padding: Tensor | None  # (B, h, w), true where the last map shows padding
    hidden: Tensor  # the queries after each layer of the decoder, normalised, (L, B, Q, d)


class Detr(nn.Module):
    """The detector."""

    def __init__(
        self,
        trunk: Trunk,
        num_classes: int,
        queries: int,
        width: int,
        heads: int,
        encoder_layers: int,
        decoder_layers: int,
        ff_width: int,
        dropout: float,
        aux: bool,
    ) -> None:
        super().__init__()
        self.aux = aux
        self.trunk = trunk
        self.project = nn.Conv2d(trunk.channels, width, 1)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, ff_width, dropout) for _ in range(encoder_layers))
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.decoder = nn.ModuleList(DecoderLayer(width, heads, ff_width, dropout) for _ in range(decoder_layers))
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, num_classes + 1)  # the last one is "no object"
        self.boxes = BoxHead(width)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Outputs:
        """Detect objects in images (B, 3, H, W); ``mask`` (B, H, W), boolean, is true where an image is padded.

        Returns ``logits`` (B, Q, classes + 1) and ``boxes`` (B, Q, 4), centre x, centre y, width and height as
        fractions of the image without its padding. In training, or with the option ``aux``, also ``aux``: the same of
        each earlier layer of the decoder, a list of such dictionaries. An image that is all padding gives NaN.
        """
        return self.read(self.look(images, mask).hidden)

    def look(self, images: Tensor, mask: Tensor | None) -> Seen:
        """Run trunk, encoder and decoder."""
        maps = self.trunk(images, mask)
        projected = self.project(maps[-1])
        height, width = projected.shape[-2:]
        resized = covered if self.trunk.blank_padding else shrink
        padding = None if mask is None else resized(mask, height, width)
        seen = None if padding is None else ~padding.flatten(1)[:, None, None]  # (B, 1, 1, N)
        x = projected.flatten(2).transpose(1, 2)  # (B, N, d)
        pos = positions(height, width, x.shape[-1], padding, like=x)
        for layer in self.encoder:
            x = layer(x, pos, seen)
        hidden = torch.stack(list(self.decode(Memory(x + pos, x), seen)))
        return Seen(maps, projected, x, padding, self.norm(hidden))

    def decode(self, memory: Memory, seen: Tensor | None) -> Iterator[Tensor]:
        """Yield the queries (B, Q, d) after each layer of the decoder."""
        x = torch.zeros_like(self.queries).expand(len(memory.tokens), -1, -1)
        for layer in self.decoder:
            x = layer(x, self.queries, memory, seen)
            yield x

    def read(self, hidden: Tensor) -> Outputs:
        """Read classes and boxes off the queries after each layer, (L, B, Q, d)."""
        each = [
            {"logits": logits, "boxes": boxes}
            for logits, boxes in zip(self.classes(hidden), self.boxes(hidden), strict=True)
        ]
        outputs: Outputs = each[-1]
        return {**outputs, "aux": each[:-1]} if self.training or self.aux else outputs


# -- built by name -------------------------------------------------------------------------------------------


def build(
    size: int | tuple[int, int],
    num_classes: int,
    queries: int,
    width: int,
    heads: int,
    encoder_layers: int,
    decoder_layers: int,
    ff_width: int,
    dropout: float,
    block: str,
    stages: str,
    trunk_width: int,
    dilation: bool,
    frozen: int,
    aux: bool,
    blank_padding: bool,
    norm: str,
) -> nn.Module:
    """Return a detector, the same for every size. ZooError when its options do not fit together."""
    check(width, heads, decoder_layers)
    trunk = build_trunk(block, stages, trunk_width, dilation, frozen, blank_padding, norm)
    return Detr(trunk, num_classes, queries, width, heads, encoder_layers, decoder_layers, ff_width, dropout, aux)


def build_trunk(
    block: str, stages: str, width: int, dilation: bool, frozen: int, blank_padding: bool, norm: str
) -> Trunk:
    """Return a trunk with its first ``frozen`` parts not trained. ZooError when its options do not fit together."""
    if dilation and read_block(block) == "basic" and read_stages(stages)[-1] > 1:
        raise ZooError(
            "torchvision's basic blocks cannot dilate: expected dilation=False, bottleneck blocks, or one block in the "
            "last stage, which only does not stride"
        )
    if not 0 <= frozen <= len(PARTS):
        raise ZooError(f"frozen={frozen} is not a number of parts of the trunk: expected 0 to {len(PARTS)}")
    if norm not in NORMS:
        raise ZooError(f"norm={norm!r} is not legal: a trunk has one of {', '.join(NORMS)}")
    trunk = Trunk(read_block(block), stages, width, dilation, blank_padding, norm)
    trunk.freeze(frozen)
    return trunk


def check(width: int, heads: int, decoder_layers: int) -> None:
    """Raise ZooError when encoder and decoder cannot be built."""
    if heads < 1 or width % heads or width % 4:
        raise ZooError(f"a DETR of width {width} cannot have {heads} heads: expected a multiple of them and of 4")
    if decoder_layers < 1:
        raise ZooError(f"a DETR cannot have {decoder_layers} decoder layers: expected at least 1")
