"""Images by class as samples: bytes (3, H, W) and a label, read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo import Samples, ZooError
from zoo_folders.files import listed, number_of, real_labels

Sample = tuple[Tensor, Any]


@dataclass(frozen=True)
class Images(Samples):
    """Image files with what is true of them."""

    files: Sequence[tuple[Path, Any]]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def sample(self, number: int) -> Sample:
        """Read one image, with what is true of it."""
        file, label = self.files[number]
        return read_image(file), label


def read_image(file: Path) -> Tensor:
    """Return an image file as bytes (3, H, W). ZooError, naming it, when it cannot be read whole."""
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    try:
        with Image.open(file) as image:
            found: Tensor = pil_to_tensor(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ZooError(f"{file} is no image that can be read: {' '.join(str(error).split())[:120]}") from None
    return found


def load(split: str, path: Path) -> Images:
    """Return the images of a split, in the order of classes and file names."""
    return Images(listed(path, split))


def load_real(split: str, path: Path) -> Images:
    """Return ImageNet's images; those to test on with all labels that ReaL gives them."""
    files = listed(path, split)
    if split == "train":
        return Images(files)
    labels = real_labels(path)
    return Images([(file, labels[number_of(file, len(labels))]) for file, _ in files])


def load_cifar10(split: str, path: Path) -> Sequence[Sample]:
    """Return CIFAR-10's images of bytes (3, 32, 32)."""
    from torchvision.datasets import CIFAR10

    return cifar(CIFAR10, split, path)


def load_cifar100(split: str, path: Path) -> Sequence[Sample]:
    """Return CIFAR-100's images of bytes (3, 32, 32)."""
    from torchvision.datasets import CIFAR100

    return cifar(CIFAR100, split, path)


def cifar(dataset: Callable[..., Any], split: str, path: Path) -> Sequence[Sample]:
    """Return the samples of one of torchvision's CIFAR sets. ZooError when its files are not there, or not whole."""
    if split not in ("train", "test"):
        raise ZooError(f"CIFAR has no split {split!r}; its splits: train, test")
    try:
        found = dataset(root=str(path), train=split == "train", download=False)
    except (RuntimeError, OSError) as error:
        why = " ".join(str(error).split())[:80]
        raise ZooError(f"{path} does not hold CIFAR's Python version ({why}); unpack its archive there") from None
    images = torch.from_numpy(found.data).permute(0, 3, 1, 2)
    return list(zip(images, found.targets, strict=True))
