"""How DETR learns (Carion et al. 2020, Section 3.1): each object is given to one query, then every query is judged.

A target is a dictionary of one image: ``labels`` (T,) int64, ``boxes`` (T, 4), centre x, centre y, width and height as
fractions of the image, and for panoptic models ``masks`` (T, H, W), boolean, all at the size of the padded batch.

Written beside facebookresearch/detr (Apache-2.0, commit 29901c5). What is different:

1. Losses are divided by the number of objects in the batch; the original takes its mean over processes.
2. A cost that is not a number is made a large one: a run that diverges is seen in its loss, not in the matching.
3. Two boxes without area have a generalised IoU of 0, not NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from zoo_detr.boxes import generalised_iou, to_corners, wide

Target = Mapping[str, Tensor]
Pairs = tuple[Tensor, Tensor]  # queries and the objects that they are given, both (K,) int64
LARGE = 1e6


@dataclass(frozen=True)
class HungarianMatcher:
    """Give each object the query that makes the sum of all costs the smallest.

    The cost of a pair is -p(class), the L1 distance of the boxes and -GIoU, with these weights.
    """

    classes: float = 1.0
    l1: float = 5.0
    giou: float = 2.0

    @torch.no_grad()
    def __call__(self, outputs: Mapping[str, Any], targets: Sequence[Target]) -> list[Pairs]:
        """Match each image of a batch: min(Q, T) pairs an image, ordered by query, on the CPU.

        All queries are priced for all objects of the batch at once, and those of other images left out on the host: a
        GPU waits once a batch, and not for some fifty small kernels an image.
        """
        images, queries = outputs["logits"].shape[:2]
        costs = self.cost(outputs["logits"].flatten(0, 1), outputs["boxes"].flatten(0, 1), targets)
        by_image = costs.nan_to_num(LARGE, LARGE, -LARGE).cpu().view(images, queries, costs.shape[1])
        apart = torch.split(by_image, [len(target["labels"]) for target in targets], dim=2)
        assigned = [linear_sum_assignment(cost[i]) for i, cost in enumerate(apart)]
        return [(torch.as_tensor(q), torch.as_tensor(t)) for q, t in assigned]

    def cost(self, logits: Tensor, boxes: Tensor, targets: Sequence[Target]) -> Tensor:
        """Return the costs (Q, T) of queries, logits (Q, C + 1) and boxes (Q, 4), for all objects of some images."""
        labels, wanted = (torch.cat([target[key] for target in targets]) for key in ("labels", "boxes"))
        boxes, wanted = wide(boxes), wide(wanted)
        probability = wide(logits).softmax(-1)[:, labels]  # (Q, T)
        distance = (boxes[:, None] - wanted).abs().sum(-1)
        overlap = generalised_iou(to_corners(boxes)[:, None], to_corners(wanted))
        return self.l1 * distance - self.classes * probability - self.giou * overlap


@dataclass(frozen=True)
class DetrLoss:
    """The losses of a batch, weighted: their sum is minimised.

    Cross entropy counts a query without an object ``no_object`` times; box and mask losses are of the matched queries
    alone. Earlier layers of the decoder, under ``aux``, are matched and judged like the last, but for masks.
    """

    num_classes: int
    classes: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    focal: float = 1.0
    dice: float = 1.0
    no_object: float = 0.1
    matcher: HungarianMatcher = field(default_factory=HungarianMatcher)

    def __call__(self, outputs: Mapping[str, Any], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return ``class``, ``l1`` and ``giou``, for masks ``focal`` and ``dice``, of layer i ``class_i`` and so on."""
        pairs = self.matcher(outputs, targets)
        losses = self.of_layer(outputs, targets, pairs)
        if "masks" in outputs:
            losses |= self.of_masks(outputs["masks"], targets, pairs)
        for i, layer in enumerate(outputs.get("aux", ())):
            judged = self.of_layer(layer, targets, self.matcher(layer, targets))
            losses |= {f"{name}_{i}": loss for name, loss in judged.items()}
        return losses

    def of_layer(
        self, outputs: Mapping[str, Any], targets: Sequence[Target], pairs: Sequence[Pairs]
    ) -> dict[str, Tensor]:
        """Return the losses of one layer: of the classes of all queries, and of the boxes of the matched ones."""
        logits = wide(outputs["logits"])
        images, queries, objects = places(pairs, targets, logits.device)
        wanted = torch.full(logits.shape[:2], self.num_classes, device=logits.device)
        wanted[images, queries] = gather("labels", targets, objects)
        weight = logits.new_ones(self.num_classes + 1)
        weight[-1] = self.no_object
        found, boxes = wide(outputs["boxes"][images, queries]), gather("boxes", targets, objects)  # (K, 4) both
        overlap = generalised_iou(to_corners(found), to_corners(boxes))
        total = count(targets)
        return {
            "class": self.classes * F.cross_entropy(logits.transpose(1, 2), wanted, weight),
            "l1": self.l1 * (found - boxes).abs().sum() / total,
            "giou": self.giou * (1 - overlap).sum() / total,
        }

    def of_masks(self, masks: Tensor, targets: Sequence[Target], pairs: Sequence[Pairs]) -> dict[str, Tensor]:
        """Return the losses of the matched masks, of (B, Q, h, w) logits enlarged to the size of the targets."""
        images, queries, objects = places(pairs, targets, masks.device)
        found = wide(masks[images, queries][:, None])
        wanted = gather("masks", targets, objects).to(found.dtype)  # (K, H, W)
        found = F.interpolate(found, size=wanted.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        total = count(targets)
        return {
            "focal": self.focal * focal_loss(found.flatten(1), wanted.flatten(1)).sum() / total,
            "dice": self.dice * dice_loss(found.flatten(1), wanted.flatten(1)).sum() / total,
        }


def places(pairs: Sequence[Pairs], targets: Sequence[Target], device: torch.device) -> Tensor:
    """Return the images, the queries and the objects, counted over the batch, of all pairs: (3, K), in one transfer."""
    found, before = [], 0
    for i, ((queries, objects), target) in enumerate(zip(pairs, targets, strict=True)):
        found.append(torch.stack((torch.full_like(queries, i), queries, objects + before)))
        before += len(target["labels"])
    return torch.cat(found, dim=1).to(device)


def gather(key: str, targets: Sequence[Target], objects: Tensor) -> Tensor:
    """Return what some objects (K,), counted over the batch, have under ``key``: (K, ...)."""
    return torch.cat([target[key] for target in targets])[objects]


def count(targets: Sequence[Target]) -> int:
    """Return the number of objects in a batch, at least 1: a batch may have none."""
    return max(1, sum(len(target["labels"]) for target in targets))


def focal_loss(logits: Tensor, wanted: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the focal loss (Lin et al. 2017) of masks (K, pixels), the mean over the pixels: (K,)."""
    probability = logits.sigmoid()
    right = probability * wanted + (1 - probability) * (1 - wanted)
    side = alpha * wanted + (1 - alpha) * (1 - wanted)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (side * entropy * (1 - right) ** gamma).mean(1)


def dice_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return 1 - the Dice coefficient of masks (K, pixels), each sum with 1 added: (K,)."""
    probability = logits.sigmoid()
    both, either = (probability * wanted).sum(1), probability.sum(1) + wanted.sum(1)
    return 1 - (2 * both + 1) / (either + 1)
