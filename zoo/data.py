"""Inputs of a given size: random ones to measure with, and the samples of a task resized and batched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.spec import Size
from zoo.statistics import wilson_interval

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


def resize(images: Tensor, size: Size) -> Tensor:
    """Return images (B, C, h, w) at ``size``: bilinear, antialiased when they shrink."""
    if images.shape[-2:] == size.pair:
        return images
    return F.interpolate(images, size.pair, mode="bilinear", align_corners=False, antialias=True)


def stack(samples: Sequence[tuple[Tensor, Any]], size: Size) -> tuple[Tensor, list[Any]]:
    """Return image samples of one shape as one tensor (n, C, H, W) at ``size``, and the list of their targets."""
    images = torch.stack([sample[0] for sample in samples])
    return resize(images, size), [sample[1] for sample in samples]


def batches(n: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield ``steps`` index batches: every epoch is a fresh permutation, and its short last batch is left out."""
    batch_size = min(batch_size, n)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(n, generator=generator)
        yield order[:batch_size]
        order = order[batch_size:]


def data_hash(images: Tensor, targets: Sequence[Any]) -> str:
    """Return a hash of image samples and their targets, kept with a result so that its data can be told again."""
    content = images.contiguous().numpy().tobytes() + repr(list(targets)).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def top1(predictions: Sequence[int], targets: Sequence[int]) -> dict[str, tuple[float, float, float, int]]:
    """Return the fraction of right predictions with its 95 % Wilson interval and the number of samples."""
    right = sum(int(p == t) for p, t in zip(predictions, targets, strict=True))
    low, high = wilson_interval(right, len(targets))
    return {"top1": (right / len(targets), low, high, len(targets))}
