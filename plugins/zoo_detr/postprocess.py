"""From DETR's outputs to what is in an image: boxes, masks, or one panoptic map. Sizes are (H, W) in pixels.

Written beside facebookresearch/detr (Apache-2.0, commit 29901c5). What is different:

1. Panoptic maps are tensors of segment numbers, -1 where there is no segment, not PNG images; an image with no segment
   is told as that, not as one segment of class 1.
2. In a padded batch a mask is enlarged to the padded size and cut to the image. The original does this for instance
   masks, but stretches panoptic ones.
3. Masks of one stuff class stay merged when small segments are taken out; the original forgets the merged ones there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_detr.boxes import to_corners, wide

Sizes = Sequence[tuple[int, int]]
SMALL = 4  # pixels: segments up to this size are taken out


@dataclass(frozen=True)
class BoxDetections:
    """One detection a query. "No object" is never the answer: such a query gives its second best class (+2 AP)."""

    @torch.no_grad()
    def __call__(self, outputs: Mapping[str, Any], sizes: Sizes) -> list[dict[str, Tensor]]:
        """Return ``scores`` (Q,), ``labels`` (Q,) and ``boxes`` (Q, 4) of each image, for images of ``sizes``.

        Boxes are left, top, right, bottom in pixels.
        """
        scores, labels = wide(outputs["logits"]).softmax(-1)[..., :-1].max(-1)
        corners = to_corners(wide(outputs["boxes"]))  # (B, Q, 4)
        scale = torch.tensor([(w, h, w, h) for h, w in sizes], dtype=corners.dtype, device=corners.device)
        boxes = corners * scale[:, None]
        return [{"scores": s, "labels": c, "boxes": b} for s, c, b in zip(scores, labels, boxes, strict=True)]


@dataclass(frozen=True)
class InstanceMasks:
    """One mask a query, of the pixels where its probability is above ``threshold``."""

    threshold: float = 0.5

    @torch.no_grad()
    def __call__(self, outputs: Mapping[str, Any], fed: Sizes, sizes: Sizes) -> list[Tensor]:
        """Return masks (Q, H, W), boolean, of each image.

        ``fed`` are the sizes of the images as the model read them, without padding, ``sizes`` those that are asked for.
        """
        found = []
        for masks, inner, size in zip(outputs["masks"], fed, sizes, strict=True):
            inside = enlarge(masks, fed, inner).sigmoid() > self.threshold
            found.append(F.interpolate(inside[None].float(), size=size, mode="nearest")[0] > 0)
        return found


@dataclass(frozen=True)
class PanopticMap:
    """One map of segments that do not overlap: each pixel goes to the surest of the queries that are sure enough.

    Masks of one stuff class, with labels above ``last_thing``, are one segment. Segments of at most 4 pixels are taken
    out, and their pixels given to the others.
    """

    threshold: float = 0.85
    last_thing: int = 90

    @torch.no_grad()
    def __call__(self, outputs: Mapping[str, Any], fed: Sizes, sizes: Sizes) -> list[dict[str, Any]]:
        """Return the ``map`` (H, W) of segment numbers of each image, -1 for none, and its list of ``segments``.

        ``fed`` are the sizes of the images as the model read them, without padding, ``sizes`` those that are asked for.
        A segment has an ``id``, ``label``, ``score``, ``area`` in pixels of the map, and ``thing``.
        """
        scores, labels = wide(outputs["logits"]).softmax(-1).max(-1)  # (B, Q)
        sure = (scores > self.threshold) & (labels < outputs["logits"].shape[-1] - 1)
        found = []
        for i, (inner, size) in enumerate(zip(fed, sizes, strict=True)):
            masks = enlarge(outputs["masks"][i, sure[i]], fed, inner)
            found.append(self.paint(masks, scores[i, sure[i]].tolist(), labels[i, sure[i]].tolist(), size))
        return found

    def paint(self, masks: Tensor, scores: list[float], labels: list[int], size: tuple[int, int]) -> dict[str, Any]:
        """Paint masks (K, h, w) on one map, again and again until no segment is small."""
        kept = list(range(len(labels)))
        while kept:
            owners = self.merged(kept, labels)
            painted = nearest(owners.to(masks.device)[masks[kept].argmax(0)], size)
            areas = {owner: int((painted == owner).sum()) for owner in dict.fromkeys(owners.tolist())}
            small = {owner for owner, area in areas.items() if area <= SMALL}
            if not small:
                return self.told(painted, areas, scores, labels)
            kept = [k for k, owner in zip(kept, owners.tolist(), strict=True) if owner not in small]
        return {"map": torch.full(size, -1, device=masks.device), "segments": []}

    def merged(self, kept: list[int], labels: list[int]) -> Tensor:
        """Return the mask that stands for each kept one: itself, or the first of its stuff class."""
        first: dict[int, int] = {}
        return torch.tensor([k if labels[k] <= self.last_thing else first.setdefault(labels[k], k) for k in kept])

    def told(self, painted: Tensor, areas: dict[int, int], scores: list[float], labels: list[int]) -> dict[str, Any]:
        """Number the segments of a map from 0, and describe them."""
        number = torch.full((max(areas) + 1,), -1, device=painted.device)
        number[list(areas)] = torch.arange(len(areas), device=painted.device)
        segments = [
            {"id": i, "label": labels[k], "score": scores[k], "area": areas[k], "thing": labels[k] <= self.last_thing}
            for i, k in enumerate(areas)
        ]
        return {"map": number[painted], "segments": segments}


def enlarge(masks: Tensor, fed: Sizes, inner: tuple[int, int]) -> Tensor:
    """Return mask logits (K, h, w) at the size of the batch, the largest of all images, cut to one image's own."""
    batch = max(height for height, _ in fed), max(width for _, width in fed)
    whole = F.interpolate(wide(masks[:, None]), size=batch, mode="bilinear", align_corners=False)[:, 0]
    return whole[:, : inner[0], : inner[1]]


def nearest(numbers: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a map (h, w) of whole numbers at another size; numbers stay what they are."""
    return F.interpolate(numbers[None, None].double(), size=size, mode="nearest-exact")[0, 0].long()
