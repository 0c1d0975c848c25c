"""Checkpoints of Faster R-CNN: torchvision's names are ours, but for those of its oldest files."""

from __future__ import annotations

import re

from torch import Tensor, nn

# A convolution became a sequence with one convolution, in a second one for the proposals.
OLD_NAMES = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
)


def from_torchvision(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Give the tensors of torchvision's old files (COCO_V1 is one) the names that it has now; no shape changes.

    Left out are the counters of batch norms, ``num_batches_tracked``, which frozen ones do not have. A name that is
    not known stays as it is.
    """
    return {rename(name): t for name, t in tensors.items() if not name.endswith(".num_batches_tracked")}


def rename(name: str) -> str:
    """Return the name that a tensor has now."""
    for old, new in OLD_NAMES:
        if match := re.fullmatch(old, name):
            return match.expand(new)
    return name
