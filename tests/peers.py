"""Architectures of ours by other hands: ``zoo run tests/peers-gpu.yaml --plugin tests/peers.py``.

Needs the extra ``parity``. Each is fed what ours is fed and does the same work; with the same weights its outputs are
ours, as tests/test_peers.py sees. timm's need no place here: all of them are models of the zoo.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor, nn

from zoo import InputSpec, ModelSpec, SizeRule, hookimpl, image_classifier

FNET_VOCABULARY, VOCABULARY = 32_000, 37_000


class TorchTransformer(nn.Module):
    """torch.nn.Transformer between one embedding and the logits that it gives, as the base model has them."""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 512)
        self.core = nn.Transformer(512, 8, 6, 6, 2048, batch_first=True)
        angles = torch.arange(longest)[:, None] * torch.exp(torch.arange(0, 512, 2) * (-math.log(10_000) / 512))
        table = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
        self.register_buffer("positions", table, persistent=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(longest), persistent=False)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Return logits (B, k, vocabulary) of ids (B, n) and (B, k)."""
        k = target.shape[1]
        x, y = (self.embedding(ids) * math.sqrt(512) + self.positions[: ids.shape[1]] for ids in (source, target))
        hidden = self.core(x, y, tgt_mask=self.mask[:k, :k], tgt_is_causal=True)
        return nn.functional.linear(hidden, self.embedding.weight)


class Fnet(nn.Module):
    """The base encoder of transformers."""

    def __init__(self, max_positions: int) -> None:
        from transformers import FNetConfig, FNetModel

        super().__init__()
        self.model = FNetModel(FNetConfig(max_position_embeddings=max_positions))

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """Return the hidden states of ids (B, N), and what is pooled of them."""
        found = self.model(input_ids=ids)
        return {"hidden": found.last_hidden_state, "pooled": found.pooler_output}


class Detr(nn.Module):
    """DETR-R50 of transformers, with one of its implementations of attention."""

    def __init__(self, attention: str = "sdpa") -> None:
        from transformers import DetrConfig, DetrForObjectDetection

        super().__init__()
        self.model = DetrForObjectDetection(DetrConfig(num_labels=91, attn_implementation=attention))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return classes and boxes of images (B, 3, H, W)."""
        found = self.model(pixel_values=images)
        return {"logits": found.logits, "boxes": found.pred_boxes}


def transformer(size: int | tuple[int, int]) -> nn.Module:
    """Return torch's Transformer of the base model's shape."""
    return TorchTransformer(size if isinstance(size, int) else max(size))


def fnet(size: int, max_positions: int = 512) -> nn.Module:
    """Return the FNet of transformers."""
    return Fnet(max_positions)


def detr(size: int | tuple[int, int]) -> nn.Module:
    """Return the DETR of transformers."""
    return Detr()


def resnet(size: int | tuple[int, int], num_classes: int = 1000) -> nn.Module:
    """Return the ResNet-50 of torchvision."""
    model: nn.Module = torchvision.models.resnet50(num_classes=num_classes)
    return model


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    """Yield them."""
    yield ModelSpec(
        "torch_transformer_base",
        build=transformer,
        input=InputSpec("pair", "sequence_length", params={"vocab_size": VOCABULARY}),
        sizes=SizeRule("100+100tok"),
    )
    yield ModelSpec(
        "transformers_fnet_base",
        build=fnet,
        input=InputSpec("tokens", "sequence_length", params={"vocab_size": FNET_VOCABULARY}),
        sizes=SizeRule("512tok", max="max_positions"),
    )
    yield ModelSpec(
        "transformers_detr_r50", build=detr, input=InputSpec("image", "resolution"), sizes=SizeRule("800x1066px")
    )
    yield ModelSpec("torchvision_resnet50", build=resnet, **image_classifier(default=224))
