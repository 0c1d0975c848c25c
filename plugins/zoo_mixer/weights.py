"""Checkpoints of MLP-Mixer: timm's names, which are ours, and the names and layouts of the JAX original."""

from __future__ import annotations

import re

from torch import Tensor, nn

from zoo import BadWeights

PARTS = (
    (r"stem", "stem.proj"),
    (r"MixerBlock_(\d+)/LayerNorm_0", r"blocks.\1.norm1"),
    (r"MixerBlock_(\d+)/token_mixing/Dense_0", r"blocks.\1.mlp_tokens.fc1"),
    (r"MixerBlock_(\d+)/token_mixing/Dense_1", r"blocks.\1.mlp_tokens.fc2"),
    (r"MixerBlock_(\d+)/LayerNorm_1", r"blocks.\1.norm2"),
    (r"MixerBlock_(\d+)/channel_mixing/Dense_0", r"blocks.\1.mlp_channels.fc1"),
    (r"MixerBlock_(\d+)/channel_mixing/Dense_1", r"blocks.\1.mlp_channels.fc2"),
    (r"pre_head_layer_norm", "norm"),
    (r"head", "head"),
)
KINDS = {"kernel": "weight", "scale": "weight", "bias": "bias"}
TOKENS = "blocks.0.mlp_tokens.fc1.weight"  # (D_S, n)


def from_timm(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors as they are. BadWeights when they are for another number of patches than the model."""
    check_patches(tensors, model)
    return tensors


def from_jax(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the arrays of the JAX original and turn its kernels; a name that is not known stays as it is.

    A kernel of a linear layer is (in, out) there and (out, in) here, that of a convolution (H, W, in, out) and
    (out, in, H, W). BadWeights when they are for another number of patches than the model.
    """
    converted = dict(rename(name, tensor) for name, tensor in tensors.items())
    check_patches(converted, model)
    return converted


def rename(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Return our name and our layout of one array."""
    part, _, kind = name.rpartition("/")
    for theirs, ours in PARTS:
        match = re.fullmatch(theirs, part)
        if match and kind in KINDS:
            return f"{match.expand(ours)}.{KINDS[kind]}", turn(tensor) if kind == "kernel" else tensor
    return name, tensor


def turn(kernel: Tensor) -> Tensor:
    """Put the outputs of a kernel first and its inputs second: (..., in, out) -> (out, in, ...)."""
    return kernel.movedim((-1, -2), (0, 1)).contiguous()


def check_patches(tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Raise BadWeights when the token mixing of a file and of the model are for different numbers of patches."""
    theirs, ours = tensors.get(TOKENS), model.state_dict().get(TOKENS)
    if theirs is None or ours is None or theirs.shape[-1] == ours.shape[-1]:
        return
    raise BadWeights(
        f"it is of another resolution: {TOKENS} is {shape_of(theirs)}, for {theirs.shape[-1]} patches, expected "
        f"{shape_of(ours)}; a Mixer is built for one resolution, so build it at the file's"
    )


def shape_of(tensor: Tensor) -> str:
    """Write a shape as ``384x196``."""
    return "x".join(map(str, tensor.shape))
