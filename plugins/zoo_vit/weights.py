"""Published checkpoints of ViT and its hybrids under this model's names, which are timm's.

Position embeddings of another resolution are resampled as each publisher does: timm bicubically with antialiasing,
torchvision bicubically and google-research linearly, both from corner to corner. Published embeddings are of square
images.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import BadWeights


def from_timm(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert a timm state dict: only position embeddings change, unless there are as many as the model has."""
    position = tensors.get("pos_embed")
    if position is None or position.shape[1] == 1 + math.prod(grid_of(model)):
        return tensors
    return with_positions(tensors, model, mode="bicubic", antialias=True)


# -- torchvision ---------------------------------------------------------------------------------------------

LAYER = r"^encoder\.layers\.encoder_layer_(\d+)\."
TORCHVISION = {
    r"^class_token$": "cls_token",
    r"^encoder\.pos_embedding$": "pos_embed",
    r"^conv_proj\.": "patch_embed.proj.",
    rf"{LAYER}ln_([12])\.": r"blocks.\1.norm\2.",
    rf"{LAYER}self_attention\.in_proj_": r"blocks.\1.attn.qkv.",
    rf"{LAYER}self_attention\.out_proj\.": r"blocks.\1.attn.proj.",
    rf"{LAYER}mlp\.(0|linear_1)\.": r"blocks.\1.mlp.fc1.",  # files before 2022 have the second name
    rf"{LAYER}mlp\.(3|linear_2)\.": r"blocks.\1.mlp.fc2.",
    r"^encoder\.ln\.": "norm.",
    r"^heads\.head\.": "head.",
}


def from_torchvision(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert a state dict of torchvision's VisionTransformer."""
    renamed = {rename(name, TORCHVISION): tensor for name, tensor in tensors.items()}
    return with_positions(renamed, model, mode="bicubic", align_corners=True)


# -- google-research/vision_transformer ----------------------------------------------------------------------

BLOCK = r"^Transformer/encoderblock_(\d+)/"
UNIT = r"^block(\d+)/unit(\d+)/"
JAX = {
    r"^cls$": "cls_token",
    r"^Transformer/posembed_input/pos_embedding$": "pos_embed",
    r"^embedding/": "patch_embed.proj.",
    rf"{BLOCK}LayerNorm_0/": r"blocks.\1.norm1.",
    rf"{BLOCK}LayerNorm_2/": r"blocks.\1.norm2.",
    rf"{BLOCK}MultiHeadDotProductAttention_1/out/": r"blocks.\1.attn.proj.",
    rf"{BLOCK}MlpBlock_3/Dense_0/": r"blocks.\1.mlp.fc1.",
    rf"{BLOCK}MlpBlock_3/Dense_1/": r"blocks.\1.mlp.fc2.",
    r"^Transformer/encoder_norm/": "norm.",
    r"^head/": "head.",
    r"^conv_root/": "patch_embed.backbone.stem.conv.",
    r"^gn_root/": "patch_embed.backbone.stem.norm.",
}
QUERY = rf"{BLOCK}MultiHeadDotProductAttention_1/query/(kernel|bias)$"


def from_jax(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert an ``.npz`` of google-research/vision_transformer, also of a hybrid.

    BadWeights when its attention has other heads than the model's, which no shape would tell after conversion.
    """
    left = {name.removeprefix("opt/target/"): tensor for name, tensor in tensors.items()}
    check_heads(left, model)
    converted = joined(left)
    for name, tensor in left.items():
        known = leaf_name(unit_name(rename(name, JAX)))
        if "/" in known:  # not known after all: kept, to be reported
            converted[name] = tensor
        else:
            converted[known] = leaf(name, tensor)
    return with_positions(converted, model, mode="bilinear", align_corners=True)


def check_heads(tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Raise BadWeights unless the queries (d, heads, d_h) have the heads of the model."""
    heads: Any = model.get_submodule("blocks.0.attn").num_heads
    found = {tensor.shape[-2] for name, tensor in tensors.items() if re.match(QUERY, name)}
    if found - {heads}:
        raise BadWeights(f"its attention has {', '.join(map(str, sorted(found)))} heads, expected {heads}")


def joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take queries, keys and values out of ``tensors`` and return them as one projection (3 d, d) a layer."""
    projections = {}
    for name in [name for name in tensors if re.match(QUERY, name)]:
        parts = [name.replace("/query/", f"/{part}/") for part in ("query", "key", "value")]
        if not all(part in tensors for part in parts):
            continue  # left as they are, they are reported
        if name.endswith("kernel"):
            joint = torch.cat([tensors.pop(part).flatten(1).T for part in parts])  # each (d, heads, d_h)
        else:
            joint = torch.cat([tensors.pop(part).flatten() for part in parts])
        projections[leaf_name(re.sub(QUERY, r"blocks.\1.attn.qkv.\2", name))] = joint
    return projections


def leaf(name: str, tensor: Tensor) -> Tensor:
    """Return a parameter in torch's layout: kernels (in, out), (H, W, in, out) or (heads, d_h, out), out first."""
    if name.endswith("kernel"):
        return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.flatten(0, -2).T
    return tensor.flatten() if name.endswith(("scale", "bias")) else tensor  # group norms come as (1, 1, 1, C)


def leaf_name(name: str) -> str:
    """Return a parameter's name in torch's words: kernel and scale are weights."""
    return re.sub(r"\.(kernel|scale)$", ".weight", name)


def unit_name(name: str) -> str:
    """Return the name of a ResNet unit's part, which JAX counts from one; another name as it is."""
    found = re.match(UNIT, name)
    if not found:
        return name
    stage, unit = int(found[1]) - 1, int(found[2]) - 1
    parts = {
        r"^conv(\d)/": r"conv\1.",
        r"^gn(\d)/": r"norm\1.",
        r"^conv_proj/": "downsample.conv.",
        r"^gn_proj/": "downsample.norm.",
    }
    return f"patch_embed.backbone.stages.{stage}.blocks.{unit}." + rename(name[found.end() :], parts)


# -- both ----------------------------------------------------------------------------------------------------


def rename(name: str, table: dict[str, str]) -> str:
    """Return a name after every replacement of a table of patterns."""
    for old, new in table.items():
        name = re.sub(old, new, name)
    return name


def grid_of(model: nn.Module) -> tuple[int, int]:
    """Return how many patches the model's images have, down and across."""
    grid: Any = model.get_submodule("patch_embed").grid_size
    return grid[0], grid[1]


def with_positions(tensors: dict[str, Tensor], model: nn.Module, **how: Any) -> dict[str, Tensor]:
    """Return the tensors with position embeddings (1, 1 + n, d) of a square image resampled to the model's grid."""
    position, grid = tensors.get("pos_embed"), grid_of(model)
    side = 0 if position is None else math.isqrt(max(position.shape[1] - 1, 0))
    if position is None or position.shape[1] != 1 + side**2 or (side, side) == grid:
        return tensors
    cells = position[:, 1:].float().transpose(1, 2).reshape(1, -1, side, side)  # (1, d, side, side)
    resampled = F.interpolate(cells, grid, **how).flatten(2).transpose(1, 2)
    return {**tensors, "pos_embed": torch.cat([position[:, :1], resampled.to(position.dtype)], dim=1)}
