"""Train a model on a task by a recipe, and evaluate it. Deterministic by seed on a CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import data
from zoo.errors import ZooError
from zoo.spec import Recipe

EVALUATION_BATCH = 128
CURVE_POINTS = 20


class Diverged(ZooError):
    """The loss stopped being a number."""


class Adapter(Protocol):
    """How a model trains and predicts on a kind of task. A plugin may bring its own."""

    def loss(self, model: nn.Module, inputs: Tensor, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return named losses; their sum is minimised."""

    def predict(self, model: nn.Module, inputs: Tensor) -> list[Any]:
        """Return one prediction a sample."""

    def param_groups(self, model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups."""


@dataclass(frozen=True)
class Classifier:
    """A model from images (B, C, H, W) to logits (B, classes), trained with cross entropy."""

    label_smoothing: float = 0.0

    def loss(self, model: nn.Module, inputs: Tensor, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return the cross entropy of the labels."""
        labels = torch.tensor(targets, device=inputs.device)
        return {"cross_entropy": F.cross_entropy(model(inputs), labels, label_smoothing=self.label_smoothing)}

    def predict(self, model: nn.Module, inputs: Tensor) -> list[Any]:
        """Return the label with the largest logit."""
        return list(model(inputs).argmax(dim=-1).tolist())

    def param_groups(self, model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
        """Keep weight decay off biases, norms and other vectors."""
        trained = [p for p in model.parameters() if p.requires_grad]
        return [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]


@dataclass(frozen=True)
class Trained:
    """What training left: the mean loss over each stretch of steps, and the seconds it took."""

    curve: tuple[tuple[int, float], ...]
    seconds: float


def train(
    model: nn.Module,
    adapter: Adapter,
    images: Tensor,
    targets: Sequence[Any],
    recipe: Recipe,
    seed: int,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Trained:
    """Train in place on images (n, C, H, W). Diverged names the step at which the loss stopped being finite."""
    model.train()
    optimizer = torch.optim.AdamW(adapter.param_groups(model, recipe), lr=recipe.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, recipe))
    order = torch.Generator().manual_seed(seed)
    started, losses, curve = time.monotonic(), [], []
    every = max(1, recipe.steps // CURVE_POINTS)
    for step, index in enumerate(data.batches(len(images), recipe.batch_size, recipe.steps, order), 1):
        parts = adapter.loss(model, images[index], [targets[i] for i in index.tolist()])
        loss = torch.stack(list(parts.values())).sum()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise Diverged(f"the loss was {losses[-1]} at step {step} of {recipe.steps}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % every == 0 or step == recipe.steps:
            curve.append((step, sum(losses) / len(losses)))
            progress(*curve[-1])
            losses = []
    return Trained(tuple(curve), time.monotonic() - started)


def rate_at(step: int, recipe: Recipe) -> float:
    """Return the learning rate's factor: linear warm-up, then half a cosine down to zero."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@torch.inference_mode()
def predict(model: nn.Module, adapter: Adapter, images: Tensor) -> list[Any]:
    """Return one prediction for each of images (n, C, H, W), in evaluation mode."""
    model.eval()
    return [p for batch in torch.split(images, EVALUATION_BATCH) for p in adapter.predict(model, batch)]
