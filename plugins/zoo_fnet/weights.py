"""Checkpoints of FNet: the names that transformers saves, turned into ours."""

from __future__ import annotations

import re

from torch import Tensor, nn

# What stands before ".weight" and ".bias"; a file of a model with heads has "fnet." in front of all of them.
NAMES = (
    (r"embeddings\.word_embeddings", "embeddings.word"),
    (r"embeddings\.position_embeddings", "embeddings.position"),
    (r"embeddings\.token_type_embeddings", "embeddings.kind"),
    (r"embeddings\.LayerNorm", "embeddings.norm"),
    (r"embeddings\.projection", "embeddings.projection"),
    (r"encoder\.layer\.(\d+)\.fourier\.output\.LayerNorm", r"layers.\1.mixing_norm"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense", r"layers.\1.expand"),
    (r"encoder\.layer\.(\d+)\.output\.dense", r"layers.\1.contract"),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm", r"layers.\1.norm"),
    (r"pooler\.dense", "pooler"),
    (r"cls\.predictions\.transform\.dense", "heads.transform"),
    (r"cls\.predictions\.transform\.LayerNorm", "heads.norm"),
    (r"cls\.predictions", "heads"),
    (r"cls\.seq_relationship", "heads.order"),
)
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")  # 0, 1, 2, ... and zeros
TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")  # the word embeddings, and predictions.bias


def from_transformers(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the tensors of transformers' ``FNetModel`` or ``FNetForPreTraining``; no shape changes.

    Left out are the heads of pre-training, ``cls.*``, unless the model has them, what a file holds twice because two
    names share it, and the buffers of positions and types of token. A name that is not known stays as it is.
    """
    heads = any(name.startswith("heads.") for name, _ in model.named_parameters())
    return {rename(name): tensor for name, tensor in tensors.items() if not is_left_out(name, heads)}


def is_left_out(name: str, heads: bool) -> bool:
    """Tell whether a tensor is of a head that the model lacks, is there twice, or is a buffer that it computes."""
    return (name.startswith("cls.") and not heads) or name in TIED or name.removeprefix("fnet.") in BUFFERS


def rename(name: str) -> str:
    """Return our name of one tensor; an unknown name is returned as it is."""
    for theirs, ours in NAMES:
        if match := re.fullmatch(rf"(?:fnet\.)?{theirs}\.(weight|bias)", name):
            return f"{match.expand(ours)}.{match[match.re.groups]}"
    return name
