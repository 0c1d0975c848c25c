"""How Faster R-CNN trains and predicts on detection: losses and the suppression of overlaps are inside the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo import Detector


class Detection(Detector):
    """Faster R-CNN on a batch of detections."""

    def loss(self, model: nn.Module, inputs: Mapping[str, Any], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the losses of the proposals and of the boxes."""
        losses: dict[str, Tensor] = model(inputs["images"], targets)
        return losses

    def predict(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        """Return ``scores``, ``labels`` and ``boxes`` of each image, boxes in pixels of the image as it was."""
        found = []
        for image, (height, width), said in zip(
            inputs["images"], inputs["sizes"], model(inputs["images"]), strict=True
        ):
            scale = torch.tensor((width / image.shape[-1], height / image.shape[-2])).repeat(2)
            kept = {name: said[name].cpu() for name in ("scores", "labels", "boxes")}
            found.append({**kept, "boxes": kept["boxes"] * scale})
        return found
