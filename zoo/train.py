"""Train a model by a recipe, so that a run that is killed goes on as if it had not been; and have it predict.

Every step draws from generators seeded with its number, so all that a checkpoint must hold is the model and the state
of its optimiser. On a CPU with the same number of threads a training is the same to the last bit.
"""

from __future__ import annotations

import functools
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_map

from zoo.adapters import Adapter, Sample
from zoo.errors import ZooError
from zoo.recipe import Recipe, factor_of
from zoo.spec import Size

EVALUATION_BATCH = 128
CURVE_POINTS = 20
LOOKED_AT = 20  # losses that wait on a GPU before they are looked at
TELL_SECONDS = 0.5
CHECKPOINT_SHARE = 0.03  # of the time may go into checkpoints
FINE = 1000  # ticks of a budget that is no number of steps
PASSES = 3  # a backward pass costs two forward passes


class Diverged(ZooError):
    """The loss stopped being a number."""


@dataclass(frozen=True)
class Trained:
    """What training left: the mean loss over each stretch of steps, the steps, the seconds, and the most processes."""

    curve: tuple[tuple[int, float], ...]
    steps: int
    seconds: float
    processes: int = 1


# -- budget, order, seeds ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """How long a recipe trains on ``n`` samples: a number of steps, or of seconds."""

    steps: int
    seconds: float

    @classmethod
    def of(cls, recipe: Recipe, n: int, macs: float = 0.0) -> Budget:
        """Work out a recipe's budget; ``macs`` are those of a forward pass of one sample."""
        if recipe.macs and not macs:
            raise ZooError(f"recipe {recipe.name} is a budget of MACs, and this model's are not known")
        steps = recipe.steps or math.ceil(recipe.epochs * n / min(recipe.batch_size, n))
        if recipe.macs:
            steps = max(1, round(recipe.macs / (PASSES * macs * recipe.batch_size)))
        return cls(steps, recipe.seconds)

    @property
    def ticks(self) -> int:
        """The ticks of the schedule: one a step, or a thousand in all."""
        return FINE if self.seconds else self.steps

    def tick(self, step: int, seconds: float) -> int:
        """Return how far a training is after ``step`` steps."""
        return min(FINE, int(FINE * seconds / self.seconds)) if self.seconds else step


def batch_at(step: int, n: int, batch_size: int, seed: int) -> list[int]:
    """Return the samples of a step: every epoch is a permutation of its own, and its short last batch is left out."""
    size = min(batch_size, n)
    epoch, place = divmod(step, n // size)
    return order_of(n, mixed_seed(seed, epoch))[place * size : (place + 1) * size].tolist()


@functools.lru_cache(maxsize=1)
def order_of(n: int, seed: int) -> Tensor:
    """Return a permutation of ``n`` samples."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def shared_out(chosen: Sequence[int]) -> list[int]:
    """Return this process's share of a batch. ZooError unless all have as many: their gradients weigh the same."""
    processes = distributed.get_world_size()
    if len(chosen) % processes:
        raise ZooError(f"a batch of {len(chosen)} cannot be shared out among {processes} processes")
    return list(chosen[distributed.get_rank() :: processes])


def mixed_seed(seed: int, number: int) -> int:
    """Return one seed for two numbers."""
    return (seed * 1_000_003 + number * 7_919 + 1) % 2**32


def seed_everything(seed: int) -> None:
    """Seed torch, and what timm draws from beside it."""
    import numpy as np

    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


# -- optimiser and schedule ----------------------------------------------------------------------------------


class InverseSqrt(Scheduler):  # type: ignore[misc]
    """A linear warm-up, then a fall with the square root of the steps (Vaswani et al. 2017, equation 3)."""

    def __init__(self, optimizer: torch.optim.Optimizer, warmup_t: int) -> None:
        super().__init__(optimizer, param_group_field="lr", t_in_epochs=False)
        self.warmup_t = max(1, warmup_t)

    def _get_lr(self, t: int) -> list[float]:
        at = t + 1
        return [base * min(at / self.warmup_t, math.sqrt(self.warmup_t / at)) for base in self.base_values]


def make_optimizer(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    """Return timm's optimiser of the recipe's name for parameter groups."""
    options: dict[str, Any] = dict(recipe.optimizer_options)
    if "beta1" in options:
        options["betas"] = options.pop("beta1"), options.pop("beta2")
    if recipe.optimizer in ("adam", "adamw", "sgd"):
        options["fused"] = True
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        groups, opt=recipe.optimizer, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, **options
    )
    return optimizer


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, ticks: int) -> Any:
    """Return the schedule of a recipe over a number of ticks; its first rate is that of the first step."""
    warm = recipe.warmup_steps or round(recipe.warmup * ticks)
    if recipe.schedule == "inverse_sqrt":
        return InverseSqrt(optimizer, warm)
    common: dict[str, Any] = {
        "t_in_epochs": False,
        "warmup_t": warm,
        "warmup_lr_init": recipe.learning_rate / (warm or 1),
    }
    if recipe.schedule == "cosine":
        return CosineLRScheduler(optimizer, t_initial=ticks, **common)
    falls = max(1, round(recipe.decay_at * ticks)) if recipe.schedule == "step" else ticks + 1
    return StepLRScheduler(optimizer, decay_t=falls, decay_rate=0.1, **common)


# -- training ------------------------------------------------------------------------------------------------


class Losses(nn.Module):
    """A model with its losses, so that one forward pass yields what is differentiated."""

    def __init__(self, model: nn.Module, adapter: Adapter, factors: Mapping[str, float]) -> None:
        super().__init__()
        self.model, self.adapter, self.factors = model, adapter, factors

    def forward(self, inputs: Any, targets: Any) -> Tensor:
        """Return the sum of the losses of a batch, each times its factor."""
        losses = self.adapter.loss(self.model, inputs, targets)
        return torch.stack([part.float() * factor_of(name, self.factors) for name, part in losses.items()]).sum()


@dataclass
class Training:
    """One training, from a checkpoint on where there is one; ``macs`` are those of a forward pass of one sample."""

    model: nn.Module
    adapter: Adapter
    samples: Sequence[Sample]
    size: Size
    recipe: Recipe
    macs: float = 0.0
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    checkpoint: Path | None = None
    progress: Callable[[str], None] = lambda text: None
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make what is trained with, and take up what a checkpoint has."""
        self.budget = Budget.of(self.recipe, len(self.samples), self.macs)
        self.optimizer = make_optimizer(self.adapter.param_groups(self.model, self.recipe), self.recipe)
        self.schedule = make_schedule(self.optimizer, self.recipe, self.budget.ticks)
        self.average = AveragedModel(self.model) if self.recipe.average else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.waiting: list[Tensor] = []
        self.told = self.kept = time.monotonic()
        self.begun = 0
        self.processes = distributed.get_world_size() if distributed.is_initialized() else 1
        if self.processes > 1 and self.budget.seconds:
            raise ZooError(f"recipe {self.recipe.name} is a budget of seconds, and processes take different ones")
        self.resume()

    def run(self) -> Trained:
        """Train to the end of the budget. Diverged names the step at which the loss stopped being finite."""
        losses = Losses(self.model, self.adapter, self.recipe.losses).train()
        run: nn.Module = losses
        if distributed.is_initialized():  # an adapter may leave parts of a model out
            run = DistributedDataParallel(losses, find_unused_parameters=True)
        while (tick := self.budget.tick(self.step, self.seconds)) < self.budget.ticks:
            began, before = time.monotonic(), self.points()
            self.schedule.step_update(tick)
            self.take_step(run)
            self.step += 1
            if self.device.type == "cpu" or len(self.waiting) >= LOOKED_AT:
                self.look()  # waits for the device, which is time of the training
            self.seconds += time.monotonic() - began
            if self.waiting and self.points() > before:
                began = time.monotonic()
                self.look()
                self.seconds += time.monotonic() - began
            if self.points() > before:
                self.mark()
            if not self.waiting and self.points() < CURVE_POINTS:
                self.keep()
        if self.begun < self.step:
            self.keep(ended=True)
        if self.average is not None and self.average.n_averaged:
            self.model.load_state_dict(self.average.module.state_dict())
        return Trained(tuple(self.curve), self.step, self.seconds, self.processes)

    def points(self) -> int:
        """Return how many points of the curve are due: one after each twentieth of the budget."""
        return self.budget.tick(self.step, self.seconds) * CURVE_POINTS // self.budget.ticks

    def take_step(self, run: nn.Module) -> None:
        """Draw a batch, and move the weights."""
        chosen = batch_at(self.step, len(self.samples), self.recipe.batch_size, self.seed)
        if distributed.is_initialized():
            chosen = shared_out(chosen)
        seed_everything(mixed_seed(self.seed, -self.step))
        batch = self.adapter.collate([self.samples[i] for i in chosen], self.size, training=True)
        inputs, targets = on(batch, self.device)
        with autocast(self.device, self.dtype):
            loss = run(inputs, targets)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        if self.recipe.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.waiting.append(loss.detach())

    def look(self) -> None:
        """Read the losses that wait, and tell how it goes."""
        found = torch.stack(self.waiting).tolist()
        first = self.step - len(found)
        self.waiting.clear()
        for offset, loss in enumerate(found, 1):
            if not math.isfinite(loss):
                raise Diverged(f"the loss was {loss} at step {first + offset}{self.of_all()}")
        self.losses += found
        if time.monotonic() - self.told > TELL_SECONDS:
            self.told = time.monotonic()
            rate = self.optimizer.param_groups[0]["lr"]
            at = f"step {self.step}{self.of_all()}, loss {found[-1]:.3f}, rate {rate:.2g}"
            self.progress(f"{at}, {self.seconds_left():.0f} s left")

    def of_all(self) -> str:
        """Say of how many steps, where that is known."""
        return f" of {self.budget.steps}" if self.budget.steps else ""

    def seconds_left(self) -> float:
        """Estimate the seconds to the end."""
        if self.budget.seconds:
            return self.budget.seconds - self.seconds
        return self.seconds / max(1, self.step) * (self.budget.steps - self.step)

    def mark(self) -> None:
        """Put a point on the curve, and take the weights into the average where it has begun."""
        self.curve.append((self.step, sum(self.losses) / len(self.losses)))
        self.losses = []
        done = self.budget.tick(self.step, self.seconds) / self.budget.ticks
        if self.average is not None and done > 1 - self.recipe.average / CURVE_POINTS:
            self.average.update_parameters(self.model)

    # checkpoints

    def keep(self, ended: bool = False) -> None:
        """Write a checkpoint, where there is a place for it and the last one is old enough, or this is the end."""
        if self.checkpoint is None or (time.monotonic() < self.kept and not ended):
            return
        if distributed.is_initialized() and distributed.get_rank() > 0:
            return
        began = time.monotonic()
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        new = self.checkpoint.with_suffix(f".{os.getpid()}")
        torch.save(self.state(ended), new)
        new.replace(self.checkpoint)
        self.kept = time.monotonic() + (time.monotonic() - began) / CHECKPOINT_SHARE

    def state(self, ended: bool) -> dict[str, Any]:
        """Return all that the rest of the training depends on, and what was trained once it has ended."""
        return {
            "model": self.model.state_dict(),
            "optimizer": {} if ended else self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "scaler": self.scaler.state_dict(),
            "processes": self.processes,
            **{name: getattr(self, name) for name in ("step", "seconds", "losses", "curve")},
        }

    def resume(self) -> None:
        """Go on where a checkpoint was written; one that cannot be read is as none."""
        if self.checkpoint is None or not self.checkpoint.is_file():
            return
        try:
            found = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError) as error:
            self.progress(f"a checkpoint cannot be read, the training begins anew: {' '.join(str(error).split())[:80]}")
            return
        self.model.load_state_dict(found["model"])
        if found["optimizer"]:
            self.optimizer.load_state_dict(found["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(found["average"])
        self.scaler.load_state_dict(found["scaler"])
        self.step, self.seconds, self.losses = found["step"], found["seconds"], found["losses"]
        self.curve = [(step, loss) for step, loss in found["curve"]]
        self.processes = max(self.processes, found["processes"])
        self.begun = self.step


# -- prediction ----------------------------------------------------------------------------------------------


@torch.inference_mode()
def predict(
    model: nn.Module,
    adapter: Adapter,
    samples: Sequence[Sample],
    size: Size,
    batch_size: int = EVALUATION_BATCH,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[Any, Any]]:
    """Yield a prediction and the target of each sample, in evaluation mode; every sample is read once."""
    model.eval()
    device, told = device or torch.device("cpu"), time.monotonic()
    for start in range(0, len(samples), batch_size):
        batch = [samples[i] for i in range(start, min(start + batch_size, len(samples)))]
        inputs, _ = adapter.collate(batch, size, training=False)
        with autocast(device, dtype):
            found = adapter.predict(model, on(inputs, device))
        if len(found) != len(batch):
            raise ZooError(f"the adapter gives {len(found)} predictions for {len(batch)} samples")
        yield from zip(found, (target for _, target in batch), strict=True)
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            progress(f"predicted {start + len(batch)} of {len(samples)}")


def on(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device."""
    return tree_map(lambda leaf: leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf, batch)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Return what computes in ``dtype`` where that is safe; weights stay in float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
