"""Published checkpoints of Swin under this model's names, which are timm's.

Tables of relative positions of another window are resampled bicubically, as the authors do to fine-tune at another
resolution. All else has the same shape at every size.
"""

from __future__ import annotations

import math
import re

import torch.nn.functional as F
from torch import Tensor, nn

# What the authors' files and torchvision's keep beside parameters; it follows from the size.
RECOMPUTED = ("relative_position_index", "attn_mask")
TABLE = ".relative_position_bias_table"


def from_timm(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert a timm state dict: only tables of another window change."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(RECOMPUTED)}
    return {name: fitted(name, tensor, model) for name, tensor in kept.items()}


def from_official(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert a file of microsoft/Swin-Transformer: it merges at the end of a stage, not at the start of the next."""

    def rename(name: str) -> str:
        name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", name)
        return re.sub(r"^head\.", "head.fc.", name)

    return from_timm({rename(name): tensor for name, tensor in tensors.items()}, model)


def from_torchvision(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert a state dict of torchvision's swin_t, swin_s or swin_b: one flat list of stages and mergers."""
    places = {
        r"^features\.0\.0\.": "patch_embed.proj.",
        r"^features\.0\.2\.": "patch_embed.norm.",
        r"^head\.": "head.fc.",
        r"(^features\.\d+\.\d+\.mlp)\.0\.": r"\1.fc1.",
        r"(^features\.\d+\.\d+\.mlp)\.3\.": r"\1.fc2.",
    }

    def rename(name: str) -> str:
        for old, new in places.items():
            name = re.sub(old, new, name)
        return re.sub(r"^features\.(\d+)\.", lambda m: stage_or_merger(int(m[1])), name)

    return from_timm({rename(name): tensor for name, tensor in tensors.items()}, model)


def stage_or_merger(place: int) -> str:
    """Return where one of torchvision's ``features`` is here: odd ones are stages, even ones merge before the next."""
    return f"layers.{place // 2}." + ("blocks." if place % 2 else "downsample.")


def fitted(name: str, tensor: Tensor, model: nn.Module) -> Tensor:
    """Return a table resampled to the model's window; every other tensor, or one with other heads, as it is."""
    wanted = model.state_dict().get(name) if name.endswith(TABLE) else None
    if wanted is None or tensor.shape == wanted.shape or tensor.shape[1:] != wanted.shape[1:]:
        return tensor
    window: tuple[int, int] = model.get_submodule(name.removesuffix(TABLE)).window_size  # type: ignore[assignment]
    side = math.isqrt(len(tensor))  # 2 M - 1: published windows are square
    offsets = [2 * length - 1 for length in window]
    grid = F.interpolate(tensor.T.reshape(1, -1, side, side), offsets, mode="bicubic")
    return grid.flatten(2)[0].T
