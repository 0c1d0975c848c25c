"""Boxes: precise enough, from centre and size to corners, and how well two of them overlap."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """Return a tensor in float32 at least; float64 stays. Bfloat16 has steps of four pixels in 1066."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def to_corners(boxes: Tensor) -> Tensor:
    """Turn (..., 4) of centre x, centre y, width, height into left, top, right, bottom."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the generalised IoU of corner boxes, from -1 to 1: (..., 4) and (..., 4), broadcast, -> (...).

    Rezatofighi et al. 2019: IoU, less the part of the hull of both that neither covers. Of two boxes without any area
    it is 0.
    """
    overlap = area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    hull = area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - overlap
    smallest = torch.finfo(hull.dtype).tiny
    return overlap / union.clamp(min=smallest) - (hull - union) / hull.clamp(min=smallest)


def area(low: Tensor, high: Tensor) -> Tensor:
    """Return the area between two corners (..., 2), 0 where they are the wrong way round."""
    sides = (high - low).clamp(min=0)
    return sides[..., 0] * sides[..., 1]
