"""How a model is trained: a budget, an optimiser, a schedule. Plain data, which a task or a model yields."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from zoo.errors import BadSpec

Schedule = Literal["cosine", "inverse_sqrt", "step", "constant"]
Setting = str | int | float | bool
OWN = "own"  # the recipe of a model's authors
LINEAR = ("sgd", "momentum")  # optimisers whose steps are as long as gradients are
AS_IT_IS = "as_it_is"  # no training at all: the weights as they are given, or drawn
BUDGET = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)(steps|epochs|s|macs)")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained on a task.

    The budget is one of ``steps``, ``epochs``, ``seconds`` or ``macs`` (multiply-accumulates of all forward and
    backward passes, three of a forward pass each); a recipe without one trains nothing. ``optimizer`` is one of timm's
    by name, with ``optimizer_options`` (``beta1``, ``beta2``, ``eps``, ``momentum``, ...). ``schedule`` begins with a
    linear warm-up over ``warmup_steps``, or over the share ``warmup`` of the budget; ``cosine`` then falls to zero,
    ``step`` falls tenfold after the share ``decay_at``, ``inverse_sqrt`` falls with the square root of the steps, and
    ``learning_rate`` is the highest. ``rates`` are factors of it for parameters whose names fit a glob, ``losses`` are
    factors of the losses whose names do. Gradients are clipped to the norm ``clip`` (0: never). The weights that are
    judged are the mean of the last ``average`` twentieths of the training (0: the last ones). ``augment`` says how
    images are changed, see :mod:`zoo.augment`.

    A model's own recipe is for one ``kind`` of task, and takes its budget and batch size from the task's first recipe:
    its rate is that of ``batch_size`` samples and ``scales`` with it: linearly with SGD (Goyal et al. 2017), with
    its square root where gradients are divided by their size (Malladi et al. 2022).
    """

    name: str
    steps: int = 0
    batch_size: int = 1
    learning_rate: float = 0.0
    weight_decay: float = 0.05
    warmup_steps: int = 0
    label_smoothing: float = 0.0
    epochs: float = 0.0
    seconds: float = 0.0
    macs: float = 0.0
    kind: str = ""
    optimizer: str = "adamw"
    optimizer_options: Mapping[str, Setting] = field(default_factory=dict)
    schedule: Schedule = "cosine"
    warmup: float = 0.0
    decay_at: float = 1.0
    clip: float = 0.0
    rates: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    average: int = 0
    augment: Mapping[str, Setting] = field(default_factory=dict)
    scales: bool = True
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse two budgets, and numbers that cannot be."""
        budgets = [name for name in ("steps", "epochs", "seconds", "macs") if getattr(self, name)]
        if len(budgets) > 1:
            raise BadSpec(f"recipe {self.name} has the budgets {' and '.join(budgets)}; expected one")
        for name in ("steps", "epochs", "seconds", "macs", "warmup_steps", "clip", "average", "weight_decay"):
            if getattr(self, name) < 0:
                raise BadSpec(f"recipe {self.name}: {name} is {getattr(self, name)}; expected at least 0")
        if self.batch_size < 1 or not 0 <= self.warmup < 1 or not 0 <= self.label_smoothing < 1:
            raise BadSpec(
                f"recipe {self.name}: batch_size={self.batch_size}, warmup={self.warmup} and "
                f"label_smoothing={self.label_smoothing}; expected at least 1, and two shares below 1"
            )

    @property
    def trains(self) -> bool:
        """Tell whether there is anything to train for."""
        return bool(self.steps or self.epochs or self.seconds or self.macs)

    def on_budget_of(self, other: Recipe) -> Recipe:
        """Return this recipe with the budget and the batch of another."""
        return replace(
            self,
            steps=other.steps,
            epochs=other.epochs,
            seconds=other.seconds,
            macs=other.macs,
            batch_size=other.batch_size,
            learning_rate=self.learning_rate * self.rate_factor(other.batch_size),
        )

    def with_budget(self, text: str) -> Recipe:
        """Return this recipe with another budget, such as ``420s``, ``300steps``, ``40epochs`` or ``1e15macs``.

        The warm-up keeps its share. BadSpec for what is no budget, and for a recipe that trains nothing.
        """
        found = BUDGET.fullmatch(text)
        if not found or not 0 < float(found[1]) < math.inf or not self.trains:
            raise BadSpec(
                f"recipe {self.name}@{text} is not legal: expected a recipe that trains, and after @ a budget such as "
                "420s, 300steps, 40epochs or 1e15macs"
            )
        budgets: dict[str, float] = dict.fromkeys(("steps", "epochs", "seconds", "macs"), 0)
        unit = "seconds" if found[2] == "s" else found[2]
        budgets[unit] = math.ceil(float(found[1])) if unit == "steps" else float(found[1])
        share = self.warmup_steps / self.steps if self.steps else self.warmup
        steps = 0 if self.steps else self.warmup_steps
        return replace(self, name=f"{self.name}@{text}", warmup=share, warmup_steps=steps, **budgets)  # type: ignore[arg-type]

    def rate_factor(self, batch_size: int) -> float:
        """Return what the rate is multiplied by for another batch."""
        share = batch_size / self.batch_size if self.scales else 1.0
        return share if self.optimizer in LINEAR else math.sqrt(share)


def factor_of(name: str, factors: Mapping[str, float]) -> float:
    """Return the factor of the first glob that a name fits, 1 where it fits none."""
    return next((factor for glob, factor in factors.items() if fnmatch.fnmatchcase(name, glob)), 1.0)
