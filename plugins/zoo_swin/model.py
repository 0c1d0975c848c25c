"""Swin (Liu et al. 2021): a Transformer whose attention stays in windows, shifted in every other block.

    image (B, 3, H, W)
      -> patches, a convolution of kernel and stride P, LN      (B, H/P, W/P, d)
      -> stage 1 of blocks                                      (B, H/P, W/P, d)
      -> 2 x 2 neighbours merged: LN(4 d), linear without bias  (B, H/2P, W/2P, 2 d)
      -> stage 2 of blocks, merged, stage 3, ...                sides halve and the width doubles from stage to stage
      -> LN, mean over the map, linear                          (B, num_classes)

    block: x = x + attention(LN(x)); x = x + MLP(LN(x)), GELU inside; LN with eps 1e-5
    The attention of every second block is shifted by half a window, see :mod:`zoo_swin.layer`.

Wraps timm's SwinTransformer (Apache-2.0, after microsoft/Swin-Transformer, MIT). What differs, from the authors' code
for classification unless said:

1. Maps that are no multiple of the window are padded, as in the authors' code for detection and in torchvision. timm
   pads after the roll, where its mask misses the seam (huggingface/pytorch-image-models#2438, open); here it is before.
2. A window shrinks to a map that is smaller, along each side on its own, and is not shifted there.
3. Stochastic depth is the option ``drop_path``, 0 unless given; the last block has that rate, the first none.
"""

from __future__ import annotations

from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from zoo import BadSize, ZooError
from zoo_swin import per_stage
from zoo_swin.layer import attend_in_windows


class Block(SwinTransformerBlock):  # type: ignore[misc]
    """timm's block, but padded before it is rolled."""

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens within windows, then the channels: (B, H, W, C) -> (B, H, W, C)."""
        mixed = attend_in_windows(self.norm1(x), self.attn, self.shift_size, self.attn_mask)
        x = x + self.drop_path1(mixed)
        out: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return out


def build(
    size: int | tuple[int, int],
    num_classes: int,
    patch_size: int,
    width: int,
    depths: str,
    heads: str,
    window: int,
    mlp_ratio: float,
    drop_path: float,
) -> nn.Module:
    """Return a Swin for images of ``size``; ``depths`` and ``heads`` have one number a stage, joined by hyphens.

    ZooError when they do not, when a map of odd sides would have to be merged, or when the width of a stage does not
    divide into its heads.
    """
    blocks, heads_of = per_stage(depths, "depths"), per_stage(heads, "heads")
    check(width, blocks, heads_of, window)
    check_size(size, patch_size, len(blocks))
    model: nn.Module = SwinTransformer(
        img_size=size,
        patch_size=patch_size,
        num_classes=num_classes,
        embed_dim=width,
        depths=blocks,
        num_heads=heads_of,
        window_size=window,
        mlp_ratio=mlp_ratio,
        drop_path_rate=drop_path,
    )
    for module in model.modules():
        if isinstance(module, SwinTransformerBlock):
            module.__class__ = Block  # timm offers no other way to give it a block
    return model


def check(width: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int) -> None:
    """Raise ZooError unless there are as many depths as heads, and each stage divides into its heads."""
    if len(depths) != len(heads):
        raise ZooError(f"depths has {len(depths)} stages and heads has {len(heads)}; expected as many")
    if window < 1:
        raise ZooError(f"window is {window}; expected at least 1 token")
    for stage, h in enumerate(heads):
        d = width << stage  # doubled from stage to stage
        if d % h:
            raise ZooError(f"stage {stage + 1} is {d} wide and cannot have {h} heads: expected a divisor of the width")


def check_size(size: int | tuple[int, int], patch_size: int, stages: int) -> None:
    """Raise BadSize unless the map of each stage but the last has even sides."""
    step = patch_size << (stages - 1)
    for side in (size,) if isinstance(size, int) else size:
        if side % step:
            told = f"patches of {patch_size}px merged {stages - 1} times"
            near = f"{max(step, side // step * step)}px or {-(-side // step) * step}px"
            raise BadSize(
                f"{side}px is not legal for {told}: expected a multiple of {step}; nearest legal size: {near}"
            )
