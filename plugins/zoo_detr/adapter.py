"""How DETR trains and predicts: images are normalised and padded together, boxes are shares of an image.

The published recipe is in the paper's Section 4 and its Appendix A.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import masks_to_boxes

from zoo import Detector, Recipe, Size, pad_together
from zoo_detr.matching import DetrLoss
from zoo_detr.postprocess import BoxDetections, PanopticMap, nearest

COCO_THINGS = 90  # labels above are stuff, unless the task says otherwise
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Detection(Detector):
    """DETR on a batch of detections."""

    def __init__(self, recipe: Recipe, options: Mapping[str, Any]) -> None:
        super().__init__(recipe, options)
        self.judge = DetrLoss(int(options["num_classes"]))
        self.found = BoxDetections()
        self.paint = PanopticMap(last_thing=int(options.get("last_thing", COCO_THINGS)))

    def loss(self, model: nn.Module, inputs: Mapping[str, Any], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the losses of all layers of the decoder."""
        wanted = [self.wanted(target, image) for target, image in zip(targets, inputs["images"], strict=True)]
        return self.judge(self.outputs(model, inputs), wanted)

    def wanted(self, target: Mapping[str, Tensor], image: Tensor) -> dict[str, Tensor]:
        """Return the objects of one image as the losses take them."""
        return {"labels": target["labels"], "boxes": to_shares(target["boxes"], image.shape[-2], image.shape[-1])}

    def predict(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        """Return ``scores``, ``labels`` and ``boxes`` of each image, boxes in pixels of the image as it was."""
        found = self.found(self.outputs(model, inputs), inputs["sizes"])
        return [{name: value.cpu() for name, value in image.items()} for image in found]

    def outputs(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the model says of a batch."""
        mean, std = (torch.tensor(v, device=inputs["images"][0].device)[:, None, None] for v in (MEAN, STD))
        images, padding = pad_together([(image - mean) / std for image in inputs["images"]])
        out: dict[str, Any] = model(images, padding)
        return out


def to_shares(boxes: Tensor, height: int, width: int) -> Tensor:
    """Turn boxes (T, 4) of left, top, right, bottom in pixels into centres and sizes as shares of an image."""
    shares = boxes / boxes.new_tensor((width, height, width, height))
    return torch.cat(((shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]), dim=1)


class Panoptic(Detection):
    """DETR with masks on a batch of panoptic maps. A sample has ``map`` (H, W) and ``segments`` beside its boxes.

    Every segment is an object to find, stuff as well, with the box around its pixels.
    """

    def collate(self, samples: Sequence[tuple[Any, Any]], size: Size, training: bool) -> tuple[Any, Any]:
        """Return what a detector is given, and ``masks`` (T, h, w) beside the boxes."""
        inputs, _ = super().collate(samples, size, training=False)
        targets = []
        for i, (_, target) in enumerate(samples):
            found = segments_of(target, inputs["images"][i].shape[-2:])
            if training and self.mirror and torch.rand(()) < 0.5:
                inputs["images"][i] = inputs["images"][i].flip(-1)
                found["masks"] = found["masks"].flip(-1)
            targets.append({**found, "boxes": masks_to_boxes(found["masks"])})
        return inputs, targets

    def loss(self, model: nn.Module, inputs: Mapping[str, Any], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the losses of boxes and masks."""
        height, width = (max(image.shape[side] for image in inputs["images"]) for side in (-2, -1))
        padded = [{**t, "masks": pad_mask(t["masks"], height, width)} for t in targets]
        return super().loss(model, inputs, padded)

    def wanted(self, target: Mapping[str, Tensor], image: Tensor) -> dict[str, Tensor]:
        """Return the objects of one image, with their masks."""
        return {**super().wanted(target, image), "masks": target["masks"]}

    def predict(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the ``map`` of each image at its own size, 0 where there is no segment, and its ``segments``."""
        fed = [(image.shape[-2], image.shape[-1]) for image in inputs["images"]]
        found = self.paint(self.outputs(model, inputs), fed, inputs["sizes"])
        return [
            {
                "map": image["map"].cpu() + 1,
                "segments": [{"id": s["id"] + 1, "label": s["label"]} for s in image["segments"]],
            }
            for image in found
        ]


def segments_of(target: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Tensor]:
    """Return ``labels`` (T,) and ``masks`` (T, h, w) of the segments of one image that have a pixel at a size."""
    kept = [segment for segment in target["segments"] if not segment["crowd"]]
    ids = torch.tensor([segment["id"] for segment in kept])
    small = nearest(target["map"], size)
    masks = small[None] == ids[:, None, None]
    seen = masks.flatten(1).any(1)
    return {"labels": torch.tensor([segment["label"] for segment in kept])[seen], "masks": masks[seen]}


def pad_mask(masks: Tensor, height: int, width: int) -> Tensor:
    """Return masks (T, h, w) with nothing at the right and below, at the size of a batch."""
    return F.pad(masks, (0, width - masks.shape[-1], 0, height - masks.shape[-2]))
