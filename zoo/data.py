"""Inputs of a given size: random ones to measure with, and the samples of a task resized and batched."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from zoo.images import scaled
from zoo.spec import Size

ROOM = 1 << 30  # bytes of samples that stay in memory

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def make_images(
    size: Size,
    batch_size: int,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator | None,
    channels: int = 3,
) -> Inputs:
    """Return one batch of random-normal images (B, channels, H, W), never zeros: arithmetic on zeros is faster."""
    height, width = size.pair
    images = torch.randn(batch_size, channels, height, width, generator=generator, device=device, dtype=dtype)
    return (images,), {}


def make_tokens(
    size: Size,
    batch_size: int,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator | None,
    vocab_size: int,
) -> Inputs:
    """Return one batch of random token ids (B, N), int64, without padding; ``dtype`` has no say in them."""
    ids = torch.randint(vocab_size, (batch_size, size.values[0]), generator=generator, device=device)
    return (ids,), {}


def make_features(
    size: Size,
    batch_size: int,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator | None,
    width: int,
) -> Inputs:
    """Return one batch of random-normal features of tokens (B, N, width)."""
    shape = (batch_size, size.values[0], width)
    return (torch.randn(shape, generator=generator, device=device, dtype=dtype),), {}


def make_image_lists(
    size: Size,
    batch_size: int,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator | None,
    channels: int = 3,
) -> Inputs:
    """Return a list of random-normal images (channels, H, W), for models that batch images themselves."""
    (images,), _ = make_images(size, batch_size, dtype, device, generator, channels)
    return (list(images),), {}


def make_pairs(
    size: Size,
    batch_size: int,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator | None,
    vocab_size: int,
) -> Inputs:
    """Return one batch of random source ids (B, source) and target ids (B, target), int64, without padding."""
    shapes = [(batch_size, length) for length in size.pair]
    return tuple(torch.randint(vocab_size, shape, generator=generator, device=device) for shape in shapes), {}


def resize(images: Tensor, size: Size, mode: str = "bilinear") -> Tensor:
    """Return images (B, C, h, w) at ``size``: bilinear or bicubic, antialiased when they shrink."""
    if images.shape[-2:] == size.pair:
        return images
    return F.interpolate(images, size.pair, mode=mode, align_corners=False, antialias=True)


def fit(images: Tensor, size: Size, crop: float = 1.0, mode: str = "bilinear") -> Tensor:
    """Return images (B, C, h, w) at ``size``, in [-1, 1] if they are of bytes; what is longer than wanted is cut away.

    The cut is from the middle, so that images keep their proportions, and of their shorter side the share ``crop`` is
    left.
    """
    if not images.is_floating_point():
        images = images.float() / 127.5 - 1
    (h, w), (height, width) = images.shape[-2:], size.pair
    scale = max(height / h, width / w) / crop
    tall, wide = max(height, round(h * scale)), max(width, round(w * scale))
    images = resize(images, Size((tall, wide), "px"), mode)
    top, left = (tall - height) // 2, (wide - width) // 2
    return images[..., top : top + height, left : left + width]


def fit_all(images: Sequence[Tensor], size: Size, crop: float = 1.0, mode: str = "bilinear") -> Tensor:
    """Return images (C, h, w) of any shapes as one batch (B, C, H, W) at ``size``, as :func:`fit` does."""
    if len({image.shape for image in images}) == 1:
        return fit(torch.stack(list(images)), size, crop, mode)  # fifty times as fast as one by one
    return torch.cat([fit(image[None], size, crop, mode) for image in images])


def fit_inside(image: Tensor, size: Size) -> Tensor:
    """Return an image of bytes (C, h, w) in [0, 1], as large as fits into a size with its proportions.

    Its short side becomes that of the size, or less where its long side would then be longer than the size's.
    """
    height, width = scaled(image.shape[-2], image.shape[-1], min(size.pair), max(size.pair))
    return resize(image[None].float() / 255, Size((height, width), "px"))[0].clamp(0, 1)


class Samples(Sequence[tuple[Any, Any]]):
    """Samples that are made or read one at a time, when they are asked for: by ``sample``, and there are ``len``."""

    @abstractmethod
    def sample(self, number: int) -> tuple[Any, Any]:
        """Return the sample of a number, from 0."""

    @overload
    def __getitem__(self, index: int) -> tuple[Any, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[Any, Any]]: ...
    def __getitem__(self, index: int | slice) -> tuple[Any, Any] | list[tuple[Any, Any]]:
        """Return a sample, or several. IndexError beyond the last."""
        if isinstance(index, slice):
            return [self.sample(number) for number in range(len(self))[index]]
        return self.sample(range(len(self))[index])


class Kept(Samples):
    """Samples that stay in memory once they were read, as long as there is room for them."""

    def __init__(self, samples: Sequence[tuple[Any, Any]], room: int = ROOM) -> None:
        self.samples, self.room = samples, room
        self.kept: dict[int, tuple[Any, Any]] = {}

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def sample(self, number: int) -> tuple[Any, Any]:
        """Return a sample, read if it is not kept."""
        if number not in self.kept:
            sample = self.samples[number]
            size = sum(leaf.nbytes for leaf in tree_leaves(sample) if isinstance(leaf, Tensor))
            if size > self.room:
                return sample
            self.kept[number] = sample
            self.room -= size
        return self.kept[number]


def digest_of(samples: Sequence[tuple[Any, Any]], most: int = 1024) -> str:
    """Return a hash of samples and their targets, kept with a result so that its data can be told again.

    Of more than ``most`` samples, so many that lie evenly among them are read, and their number.
    """
    n = len(samples)
    found = hashlib.sha256(str(n).encode())
    for i in range(0, n, max(1, n // most)):
        for leaf in tree_leaves(samples[i]):
            found.update(leaf.contiguous().numpy().tobytes() if isinstance(leaf, Tensor) else repr(leaf).encode())
    return found.hexdigest()[:16]
