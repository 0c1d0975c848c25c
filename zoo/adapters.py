"""How a model meets a kind of task: batches of its samples, losses, predictions, and what the optimiser is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import data
from zoo.augment import Augmentation
from zoo.recipe import Recipe, factor_of
from zoo.spec import Scalar, Size

Sample = tuple[Any, Any]
HALF = "0.5 0.5 0.5"
LIKELIEST = 5  # labels that a classifier tells of a sample


class Adapter(Protocol):
    """How a model trains and predicts on a kind of task. A plugin may bring its own, for its own models."""

    def __init__(self, recipe: Recipe, options: Mapping[str, Scalar]) -> None:
        """Take the recipe, all options of the model, and the settings of the task."""

    def collate(self, samples: Sequence[Sample], size: Size, training: bool) -> tuple[Any, Any]:
        """Return a batch of samples as inputs of ``size`` and targets: any containers of tensors, on the CPU.

        Only a batch for training is augmented, and only its targets are read. Random numbers are torch's own and
        Python's, which are seeded.
        """

    def loss(self, model: nn.Module, inputs: Any, targets: Any) -> dict[str, Tensor]:
        """Return named losses; their sum is minimised."""

    def predict(self, model: nn.Module, inputs: Any) -> list[Any]:
        """Return one prediction a sample, as the task's ``evaluate`` reads it."""

    def param_groups(self, model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups."""


class Grouping:
    """The parameter groups of most recipes."""

    def param_groups(self, model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
        """Keep weight decay off biases, norms and other vectors, and give each rate of the recipe a group."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                factor = factor_of(name, recipe.rates)
                decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((factor, decay), []).append(parameter)
        return [
            {"params": found, "weight_decay": decay, "lr": recipe.learning_rate * factor}
            for (factor, decay), found in groups.items()
        ]


class Labelled(Grouping):
    """Logits (B, classes), trained with cross entropy against labels, smoothed as the recipe says."""

    def __init__(self, recipe: Recipe, options: Mapping[str, Scalar]) -> None:
        self.label_smoothing = recipe.label_smoothing

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the cross entropy of labels (B,), or of shares of the classes (B, classes)."""
        return {"cross_entropy": F.cross_entropy(model(inputs), targets, label_smoothing=self.label_smoothing)}

    def predict(self, model: nn.Module, inputs: Tensor) -> list[Any]:
        """Return the five labels with the largest logits, or all there are, best first."""
        logits: Tensor = model(inputs)
        return list(logits.topk(min(LIKELIEST, logits.shape[-1])).indices.tolist())


class Classifier(Labelled):
    """A model from images (B, C, H, W) to logits (B, classes). A sample is an image (C, h, w) and its label.

    An image has values in [-1, 1], or bytes, which become that. A checkpoint may have been trained on images with
    another ``mean`` and ``std`` (of values from 0 to 1, three numbers in a text), ``crop_pct`` and ``interpolation``.
    """

    def __init__(self, recipe: Recipe, options: Mapping[str, Scalar]) -> None:
        super().__init__(recipe, options)
        mean, std = (three_numbers(options.get(name, HALF)) for name in ("mean", "std"))
        # (x + 1) / 2 has values from 0 to 1
        self.scale, self.shift = 0.5 / std, (0.5 - mean) / std
        self.crop, self.mode = float(options.get("crop_pct") or 1.0), str(options.get("interpolation") or "bilinear")
        self.augmentation = Augmentation.read(recipe.augment, int(options.get("num_classes") or 0))

    def collate(self, samples: Sequence[Sample], size: Size, training: bool) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W), and to train on labels (B,), or shares of the classes where images are mixed."""
        images = data.fit_all([image for image, _ in samples], size, self.crop, self.mode)
        images = images.clamp(-1, 1) * self.scale + self.shift
        if not training:  # where a sample may have several labels, or none
            return images, torch.empty(0)
        return self.augmentation(images, torch.tensor([label for _, label in samples]))


def three_numbers(text: object) -> Tensor:
    """Read three numbers as a tensor (3, 1, 1)."""
    return torch.tensor([float(number) for number in str(text).split()])[:, None, None]


class SequenceClassifier(Labelled):
    """A model from token ids (B, N) to logits (B, classes). A sample is its ids (n,) and its label; 0 is padding."""

    def collate(self, samples: Sequence[Sample], size: Size, training: bool) -> tuple[Tensor, Tensor]:
        """Return ids (B, N), cut or padded with zeros to the size, and labels (B,)."""
        length = size.values[0]
        ids = torch.zeros(len(samples), length, dtype=torch.long)
        for row, (sample, _) in zip(ids, samples, strict=True):
            row[: len(sample)] = sample[:length]
        return ids, torch.tensor([label for _, label in samples])


class Detector(Grouping):
    """The batches of detectors; plugins add losses and predictions.

    A sample is an image of bytes (3, H, W) and a dictionary: ``size`` (H, W), ``boxes`` (T, 4), left, top, right and
    bottom in pixels, ``labels`` (T,) int64, ``crowd`` (T,), and more that only its evaluation reads.
    """

    def __init__(self, recipe: Recipe, options: Mapping[str, Scalar]) -> None:
        self.mirror = bool(recipe.augment.get("mirror", False))

    def collate(self, samples: Sequence[Sample], size: Size, training: bool) -> tuple[Any, Any]:
        """Return ``images``, a list of (3, h, w) in [0, 1] scaled to fit into the size, with their own ``sizes``.

        Targets are ``labels`` and ``boxes`` in pixels of the scaled images, without crowds.
        """
        images, targets = [], []
        for image, target in samples:
            scaled = data.fit_inside(image, size)
            kept = ~target["crowd"]
            factor = torch.tensor(scaled.shape[:0:-1]) / torch.tensor(target["size"][::-1])  # x, y
            boxes, labels = target["boxes"][kept] * factor.repeat(2), target["labels"][kept]
            if training and self.mirror and torch.rand(()) < 0.5:
                scaled, boxes = scaled.flip(-1), mirrored(boxes, scaled.shape[-1])
            images.append(scaled)
            targets.append({"labels": labels, "boxes": boxes})
        return {"images": images, "sizes": [target["size"] for _, target in samples]}, targets


def mirrored(boxes: Tensor, width: int) -> Tensor:
    """Swap left and right of boxes (T, 4) in an image so wide."""
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack((width - right, top, width - left, bottom), dim=-1)


def pad_together(images: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return images (3, h, w) in the top left corners of one batch, and where padding is (B, H, W), None if nowhere."""
    height, width = (max(image.shape[side] for image in images) for side in (-2, -1))
    if all(image.shape[-2:] == (height, width) for image in images):
        return torch.stack(list(images)), None
    batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool, device=batch.device)
    for i, image in enumerate(images):
        h, w = image.shape[-2:]
        batch[i, :, :h, :w], padding[i, :h, :w] = image, False
    return batch, padding
