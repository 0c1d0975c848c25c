"""Weights of ``torch.nn.Transformer`` under the names of ours. Both are (outputs, inputs), so none is transposed.

{en,de}coder.layers.N.self_attn.in_proj_*, .out_proj.*  -> .attention.qkv.*, .attention.out.*
decoder.layers.N.multihead_attn.in_proj_*, .out_proj.*  -> .cross.query.* and .cross.key_value.*, .cross.out.*
*.linear1.*, *.linear2.*                                -> .feed_forward.expand.*, .feed_forward.contract.*
encoder *.norm1.*, *.norm2.*                            -> .attention_norm.*, .norm.*
decoder *.norm1.*, *.norm2.*, *.norm3.*                 -> .attention_norm.*, .cross_norm.*, .norm.*
{en,de}coder.norm.*                                     -> the same
"""

from __future__ import annotations

import re

from torch import Tensor, nn

_RENAMED = (
    (r"self_attn\.in_proj_", "attention.qkv."),
    (r"self_attn\.out_proj\.", "attention.out."),
    (r"multihead_attn\.out_proj\.", "cross.out."),
    (r"linear1\.", "feed_forward.expand."),
    (r"linear2\.", "feed_forward.contract."),
    (r"norm1\.", "attention_norm."),
    (r"(?<=encoder\.layers\.)(\d+\.)norm2\.", r"\1norm."),
    (r"norm2\.", "cross_norm."),
    (r"norm3\.", "norm."),
)


def convert_torch(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the tensors of a ``torch.nn.Transformer``, which may lie under ``transformer.``, to those of a model.

    That module has no embedding: ``embedding.weight`` is taken where a file has it under that name, and missing where
    not. Names that are not known stay as they are.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("transformer.")
        if "multihead_attn.in_proj_" in name:
            width = len(tensor) // 3
            converted[name.replace("multihead_attn.in_proj_", "cross.query.")] = tensor[:width]
            converted[name.replace("multihead_attn.in_proj_", "cross.key_value.")] = tensor[width:]
        else:
            converted[renamed(name)] = tensor
    return converted


def renamed(name: str) -> str:
    """Return this module's name for a tensor of ``torch.nn.Transformer``; any other name stays."""
    if not re.match(r"(en|de)coder\.layers\.\d+\.", name):
        return name
    for pattern, ours in _RENAMED:
        name, found = re.subn(pattern, ours, name)
        if found:
            break
    return name
