"""Checkpoints of DETR: the names that facebookresearch/detr and transformers save, turned into ours."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

Names = tuple[tuple[str, str], ...]
# The start of a name, and what is ours; all rules that apply are applied, in this order. A file of a panoptic model
# has "detr." in front of its detector.
FACEBOOKRESEARCH: Names = (
    (r"detr\.", ""),
    (r"backbone\.0\.body\.", "trunk."),
    (r"input_proj\.", "project."),
    (r"query_embed\.weight$", "queries"),
    (r"class_embed\.", "classes."),
    (r"bbox_embed\.", "boxes."),
    (r"transformer\.decoder\.norm\.", "norm."),
    (r"transformer\.(encoder|decoder)\.layers\.", r"\1."),
    (r"(encoder\.\d+)\.self_attn\.", r"\1.attention."),
    (r"(encoder\.\d+)\.norm1\.", r"\1.attention.norm."),
    (r"(encoder\.\d+)\.norm2\.", r"\1.feed_forward.norm."),
    (r"(decoder\.\d+)\.self_attn\.", r"\1.self_attention."),
    (r"(decoder\.\d+)\.norm1\.", r"\1.self_attention.norm."),
    (r"(decoder\.\d+)\.multihead_attn\.", r"\1.cross_attention."),
    (r"(decoder\.\d+)\.norm2\.", r"\1.cross_attention.norm."),
    (r"(decoder\.\d+)\.norm3\.", r"\1.feed_forward.norm."),
    (r"((?:en|de)coder\.\d+)\.linear1\.", r"\1.feed_forward.expand."),
    (r"((?:en|de)coder\.\d+)\.linear2\.", r"\1.feed_forward.contract."),
    (r"((?:en|de)coder\.\d+\.\w+)\.in_proj_", r"\1.qkv."),
    (r"((?:en|de)coder\.\d+\.\w+)\.out_proj\.", r"\1.out."),
    (r"bbox_attention\.q_linear\.", "attention_map.query."),
    (r"bbox_attention\.k_linear\.", "attention_map.key."),
)
TRANSFORMERS: Names = (
    (r"detr\.", ""),
    (r"model\.backbone\.(conv_encoder\.)?model\.", "trunk."),
    (r"model\.input_projection\.", "project."),
    (r"model\.query_position_embeddings\.weight$", "queries"),
    (r"class_labels_classifier\.", "classes."),
    (r"bbox_predictor\.", "boxes."),
    (r"model\.decoder\.layernorm\.", "norm."),
    (r"model\.(encoder|decoder)\.layers\.", r"\1."),
    (r"(encoder\.\d+)\.self_attn\.", r"\1.attention."),
    (r"(encoder\.\d+)\.self_attn_layer_norm\.", r"\1.attention.norm."),
    (r"(decoder\.\d+)\.self_attn\.", r"\1.self_attention."),
    (r"(decoder\.\d+)\.self_attn_layer_norm\.", r"\1.self_attention.norm."),
    (r"(decoder\.\d+)\.encoder_attn\.", r"\1.cross_attention."),
    (r"(decoder\.\d+)\.encoder_attn_layer_norm\.", r"\1.cross_attention.norm."),
    (r"((?:en|de)coder\.\d+)\.final_layer_norm\.", r"\1.feed_forward.norm."),
    (r"((?:en|de)coder\.\d+)\.(?:mlp\.)?fc1\.", r"\1.feed_forward.expand."),
    (r"((?:en|de)coder\.\d+)\.(?:mlp\.)?fc2\.", r"\1.feed_forward.contract."),
    (r"((?:en|de)coder\.\d+\.\w+)\.(?:out_proj|o_proj)\.", r"\1.out."),
    (r"bbox_attention\.(?:q_linear|q_proj)\.", "attention_map.query."),
    (r"bbox_attention\.(?:k_linear|k_proj)\.", "attention_map.key."),
    (r"mask_head\.conv1\.(?=conv|norm)", "mask_head.0."),
    (r"mask_head\.conv2\.(?=conv|norm)", "mask_head.1."),
    (r"mask_head\.fpn_stages\.0\.refine\.", "mask_head.2."),
    (r"mask_head\.fpn_stages\.1\.refine\.", "mask_head.3."),
    (r"mask_head\.fpn_stages\.2\.refine\.", "mask_head.4."),
    (r"mask_head\.(\d)\.conv\.", r"mask_head.convs.\1."),
    (r"mask_head\.(\d)\.norm\.", r"mask_head.norms.\1."),
    (r"mask_head\.fpn_stages\.(\d)\.fpn_adapter\.", r"mask_head.adapters.\1."),
    (r"mask_head\.output_conv\.", "mask_head.out."),
)
# The mask head of facebookresearch/detr, which transformers kept until its version 5: layers are counted from 1.
COUNTED = {"lay": "convs", "gn": "norms", "adapter": "adapters"}
PACKED = ("q_proj", "k_proj", "v_proj")


def from_facebookresearch(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the tensors of facebookresearch/detr's detectors and panoptic models; no shape changes."""
    return {rename(name, FACEBOOKRESEARCH): tensor for name, tensor in tensors.items() if not is_counter(name)}


def from_transformers(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the tensors of transformers' ``DetrForObjectDetection`` or ``DetrForSegmentation``, as saved by 4 or 5.

    The projections of query, key and value become one. A name that is not known stays as it is.
    """
    renamed = {rename(name, TRANSFORMERS): tensor for name, tensor in tensors.items() if not is_counter(name)}
    for name in list(renamed):
        if match := re.fullmatch(r"(.+)\.q_proj\.(weight|bias)", name):
            three = [f"{match[1]}.{part}.{match[2]}" for part in PACKED]
            if all(part in renamed for part in three):
                renamed[f"{match[1]}.qkv.{match[2]}"] = torch.cat([renamed.pop(part) for part in three])
    return renamed


def is_counter(name: str) -> bool:
    """Tell whether a tensor only counts the batches that a batch norm has seen; a frozen one does not count."""
    return name.endswith(".num_batches_tracked")


def rename(name: str, rules: Names) -> str:
    """Return our name of one tensor; an unknown name is returned as it is."""
    for theirs, ours in rules:
        name = re.sub(rf"^{theirs}", ours, name)
    if match := re.fullmatch(r"mask_head\.(lay|gn|adapter)(\d)\.(\w+)", name):
        return f"mask_head.{COUNTED[match[1]]}.{int(match[2]) - 1}.{match[3]}"
    return name.replace("mask_head.out_lay.", "mask_head.out.")
