"""Images changed at random for training, as timm's recipes do it. A batch for testing is never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import BadSpec
from zoo.recipe import Setting


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training batch, in this order.

    ``mirror`` swaps left and right in half of the images, ``shift`` moves each by up to so many thirty-seconds of its
    side, ``randaugment`` is timm's policy by name (``rand-m9-mstd0.5-inc1``), ``erase`` the share of images that lose
    a random rectangle, ``mixup`` and ``cutmix`` the alpha of either, of which a batch gets one.
    """

    classes: int
    mirror: bool = False
    shift: int = 0
    randaugment: str = ""
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @classmethod
    def read(cls, given: Mapping[str, Setting], classes: int) -> Augmentation:
        """Read what a recipe says. BadSpec for what there is not."""
        known = [name for name in cls.__dataclass_fields__ if name != "classes"]
        if odd := sorted(set(given) - set(known)):
            raise BadSpec(f"a recipe cannot augment with {', '.join(odd)}; expected some of {', '.join(known)}")
        return cls(classes, **given)  # type: ignore[arg-type]

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch (B, C, H, W) and its labels (B,), or shares of the classes where images are mixed."""
        batch = torch.stack([self.policy(image) for image in images]) if self.randaugment else images.clone()
        if self.mirror:
            swapped = torch.rand(len(batch)) < 0.5
            batch[swapped] = batch[swapped].flip(-1)
        if self.shift:
            batch = shifted(batch, self.shift)
        if self.erase:
            batch = self.erased(batch)
        return self.mixed(batch, labels) if self.mixup or self.cutmix else (batch, labels)

    def policy(self, image: Tensor) -> Tensor:
        """Return an image (C, H, W) in [-1, 1] after timm's policy, which works on bytes."""
        from timm.data.auto_augment import rand_augment_transform
        from torchvision.transforms.functional import pil_to_tensor, to_pil_image

        change: Any = rand_augment_transform(self.randaugment, {"translate_const": image.shape[-1] // 3})
        changed = pil_to_tensor(change(to_pil_image((image + 1) / 2)))
        out: Tensor = changed.to(image.dtype) / 127.5 - 1
        return out

    def erased(self, batch: Tensor) -> Tensor:
        """Return the batch with noise in a rectangle of some images."""
        from timm.data.random_erasing import RandomErasing

        out: Tensor = RandomErasing(self.erase, mode="pixel", device="cpu")(batch)
        return out

    def mixed(self, batch: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return images mixed in pairs, and the shares of the classes in each; an odd one out is left out."""
        from timm.data.mixup import Mixup

        mix: Any = Mixup(self.mixup, self.cutmix, label_smoothing=0.0, num_classes=self.classes)
        even = len(batch) // 2 * 2
        if not even:
            return batch, F.one_hot(labels, self.classes).to(batch.dtype)
        images, shares = mix(batch[:even], labels[:even])
        return images, shares


def shifted(batch: Tensor, most: int) -> Tensor:
    """Return each image moved by up to ``most`` thirty-seconds of its sides, its border repeated behind it."""
    height, width = batch.shape[-2:]
    down, right = (max(1, most * side // 32) for side in (height, width))
    padded = F.pad(batch, (right, right, down, down), mode="replicate")
    tops, lefts = (torch.randint(2 * edge + 1, (len(batch),)).tolist() for edge in (down, right))
    cut = [
        image[:, top : top + height, left : left + width] for image, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return torch.stack(cut)
