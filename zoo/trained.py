"""A case's task from its data to its scores: a model is trained, or taken as it was, and judged at a size."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo import data, train
from zoo.adapters import Adapter, Sample
from zoo.case import Case
from zoo.errors import BadSize, BadSpec, BadWeights, ZooError
from zoo.jsonio import to_json
from zoo.record import Value
from zoo.scores.classification import majority
from zoo.spec import ModelSpec, Scalar, Size, resolve
from zoo.task import Assignment
from zoo.weights import load_published, load_tensors

EVALUATED_AT_ONCE = 4  # batches of training
NOTHING = "the split {} has nothing that it counts"


def drawn(spec: ModelSpec, case: Case, size: Size) -> nn.Module:
    """Build a case's model on torch's current default device, with the weights of its seed. BadSpec if it is none."""
    torch.manual_seed(case.seed or 0)
    module = resolve(str(spec.build))(size.native, **spec.with_options(case.options))
    if not isinstance(module, nn.Module):
        raise BadSpec(f"{spec.build} returns {type(module).__name__}; expected an nn.Module")
    return module


@dataclass
class Exam:
    """A case with its assignment.

    In ``checkpoint`` a training is kept while it goes on, and its weights after it.
    """

    spec: ModelSpec
    case: Case
    assignment: Assignment
    device: torch.device
    dtype: torch.dtype
    checkpoint: Path | None = None
    progress: Callable[[str], None] = lambda text: None
    samples: dict[str, Sequence[Sample]] = field(default_factory=dict)
    preprocess: Mapping[str, Scalar] = field(default_factory=dict)

    def take(self, macs: float = 0.0) -> dict[str, Value]:
        """Train or load, predict, and return all metrics of the task."""
        module, detail = self.learned(macs)
        if self.case.test_size and self.test_size != self.size:
            module = self.at_test_size(module)
        found: dict[str, Value] = {}
        for split, suffix in self.assignment.task.tests.items():
            found |= self.judged(module, split, suffix, detail)
        return found

    def build(self, size: Size) -> nn.Module:
        """Draw the model of the case's seed at a size, on the device. Weights are in float32; the rest is autocast."""
        with self.device:
            return drawn(self.spec, self.case, size).to(torch.float32)

    @property
    def size(self) -> Size:
        """The size that is trained at."""
        return self.spec.size(self.case.size)

    @property
    def test_size(self) -> Size:
        """The size that is tested at."""
        return self.spec.size(self.case.test_size or self.case.size)

    @property
    def adapter(self) -> Adapter:
        """What trains and predicts with the model."""
        code = self.spec.adapters[self.assignment.task.kind]
        told = {**self.spec.with_options(self.case.options), **self.assignment.task.settings, **self.preprocess}
        made: Adapter = resolve(str(code))(self.assignment.recipe, told)
        return made

    def data(self, split: str) -> Sequence[Sample]:
        """Return the samples of a split, read once."""
        if split not in self.samples:
            load = resolve(str(self.assignment.task.data))
            path, size = Path(self.assignment.task.path), self.size
            known = {"path": path, "size": size.native, "length": size.values[0]}
            asked = {name: known[name] for name in known if name in inspect.signature(load).parameters}
            self.samples[split] = data.Kept(load(split, **asked))
        return self.samples[split]

    # trained, or kept

    def learned(self, macs: float) -> tuple[nn.Module, dict[str, Any]]:
        """Return the trained model, and what is to be told of its training."""
        recipe = self.assignment.recipe
        module = self.build(self.size)
        if self.assignment.weights:
            self.preprocess = load_published(module, self.assignment.weights, self.spec.weights)
        detail = {
            "recipe": to_json(recipe),
            "curve": [],
            "seconds": 0.0,
            "steps": 0,
            "preprocess": dict(self.preprocess),
        }
        if not recipe.trains:
            return module, detail
        samples = self.data("train")
        detail["train"] = {"n": len(samples), "hash": data.digest_of(samples)}
        trained = self.trained(module, samples, macs)
        return module, {**detail, **vars(trained)}

    def trained(self, module: nn.Module, samples: Sequence[Sample], macs: float) -> train.Trained:
        """Train in place, or go on where this training stopped: at its end, if it did not stop before."""
        recipe = self.assignment.recipe
        training = train.Training(
            module,
            self.adapter,
            samples,
            self.size,
            recipe,
            macs=macs,
            seed=self.case.seed or 0,
            device=self.device,
            dtype=self.dtype,
            checkpoint=self.checkpoint,
            progress=self.progress,
        )
        return training.run()

    def at_test_size(self, module: nn.Module) -> nn.Module:
        """Return the trained model for another size. BadSize, with the model's own reason, where there is no such."""
        other = self.build(self.test_size)
        try:
            load_tensors(other, module.state_dict(), self.spec.weights, "what was trained")
        except BadWeights as error:
            because = f"{self.spec.sizes.rebuilds}; " if self.spec.sizes.rebuilds else ""
            raise BadSize(f"trained at {self.size}, it cannot take {self.test_size}: {because}{error}") from None
        return other

    # judged

    def judged(self, module: nn.Module, split: str, suffix: str, detail: dict[str, Any]) -> dict[str, Value]:
        """Return the metrics of one split."""
        task, samples = self.assignment.task, self.data(split)
        pairs = list(self.predicted(module, samples))
        predictions, targets = [p for p, _ in pairs], [t for _, t in pairs]
        scores = resolve(str(task.evaluate))(predictions, targets)
        names = {metric.name for metric in task.metrics}
        if not names & set(scores):
            raise ZooError(f"the evaluation of the task {task.name} returned {', '.join(scores) or 'nothing'}")
        told = {**detail, "test": {"n": len(samples), "hash": data.digest_of(samples), "split": split}}
        if all(isinstance(target, int) for target in targets):  # what is right most often without looking
            told["majority"] = majority(targets)
        found = {name + suffix: Value(status="unsupported", reason=NOTHING.format(split)) for name in names}
        for name in names & set(scores):
            value, low, high, n, *convention = scores[name]
            kept = {"interval": (low, high), "n": n, "convention": "".join(convention), "detail": told}
            found[name + suffix] = Value(value=value, unit=task.metric(name + suffix).unit, **kept)
        return found

    def predicted(self, module: nn.Module, samples: Sequence[Sample]) -> Iterator[tuple[Any, Any]]:
        """Yield the model's predictions with the targets."""
        batch = min(train.EVALUATION_BATCH, EVALUATED_AT_ONCE * self.assignment.recipe.batch_size)
        return train.predict(
            module, self.adapter, samples, self.test_size, batch, self.device, self.dtype, self.progress
        )
