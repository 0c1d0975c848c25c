"""The conformance kit: rules that every registered model and layer is held to. ``zoo check`` prints it.

In a plugin's own tests::

    from zoo.testing import assert_conforms

    def test_my_arch():
        assert_conforms("my_arch")
"""

from __future__ import annotations

import copy
import itertools
import math
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from zoo.cost import Term
from zoo.errors import BadSpec, ZooError
from zoo.metrics import macs
from zoo.metrics.counts import Count
from zoo.recipe import Recipe
from zoo.registry import installed, layer_size
from zoo.samples import MADE, made_up
from zoo.spec import LayerSpec, ModelSpec, Size, resolve

BATCH = 3
NOISE = 0.02
DRAWS = 8
# float32 sums in another order; a sample that leaks into another one, or another seed, is off by far more.
CLOSE = 1e-3
# What operators without a formula may add to the count at most, as a share of it.
NEGLIGIBLE = 0.01
SMALLEST = {"px": 32, "tok": 8}
# How many of the first inputs are token ids; what follows are masks, positions and the like.
TOKEN_INPUTS = {"pair": 2, "tokens": 1}
NARROWEST = 16
WIDTH_FACTORS = (1, 2, 3)


class Failed(Exception):
    """A rule does not hold; the message says how."""


class Skipped(Exception):
    """A rule does not apply; the message says why."""


@dataclass(frozen=True)
class Result:
    """What became of one rule."""

    rule: str
    status: Literal["passed", "failed", "skipped"]
    reason: str = ""

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.rule}: {self.status}" + (f" ({self.reason})" if self.reason else "")


def assert_conforms(name: str) -> None:
    """Raise AssertionError, naming each rule that fails, unless the model or layer of this name passes all rules.

    UnknownName when nothing of this name is registered. Rules that the spec declares it cannot support are skipped.
    """
    failed = [result for result in check(name) if result.status == "failed"]
    assert not failed, f"{name} fails {len(failed)} rules: " + "; ".join(map(str, failed))


def check(name: str) -> Iterator[Result]:
    """Check the model, or else the layer, of this name: yield each rule's result as soon as it is known."""
    registry = installed()
    if name in registry.layers and name not in registry.models:
        return check_layer(registry.layer(name))
    return check_model(registry.model(name))


def check_model(spec: ModelSpec) -> Iterator[Result]:
    """Check a model by its spec."""
    return run_rules(MODEL_RULES, ModelTrial(spec), f"model {spec.name}", spec.skips)


def check_layer(spec: LayerSpec) -> Iterator[Result]:
    """Check a layer by its spec."""
    return run_rules(LAYER_RULES, LayerTrial(spec), f"layer {spec.name}", spec.skips)


def run_rules(
    rules: Mapping[str, Callable[[Any], None]], trial: Any, told: str, skips: Mapping[str, str]
) -> Iterator[Result]:
    """Yield the result of each rule, and of what a spec skips: a rule that there is not, or without a reason, fails."""
    for rule, reason in skips.items():
        if rule not in rules or not reason:
            message = f"{told} skips {rule!r} because of {reason!r}; expected a reason, and one of {', '.join(rules)}"
            yield Result("skips", "failed", message)
    for rule, holds in rules.items():
        yield Result(rule, "skipped", skips[rule]) if rule in skips else run_rule(rule, holds, trial)


def run_rule(rule: str, holds: Callable[[Any], None], trial: Any) -> Result:
    """Run one rule; whatever it raises is its result."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            holds(trial)
    except Failed as failure:
        return Result(rule, "failed", str(failure))
    except Skipped as skip:
        return Result(rule, "skipped", str(skip))
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
        where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        text = " ".join(str(error).split())[:300]
        reason = text if isinstance(error, ZooError) else f"{type(error).__name__}: {text}{where}"
        return Result(rule, "failed", reason)
    return Result(rule, "passed")


# -- what is tried -------------------------------------------------------------------------------------------


class Trial:
    """Something to build and call at several sizes; what models and layers have in common."""

    sizes: Sequence[Any]  # small ones that are legal, none of them like the others

    def construct(self, size: Any) -> nn.Module:
        """Build on torch's current default device."""
        raise NotImplementedError

    def inputs(self, size: Any, batch: int, device: str = "cpu", seed: int = 1) -> tuple[Any, dict[str, Any]]:
        """Make inputs."""
        raise NotImplementedError

    def build(self, size: Any, seed: int = 0) -> nn.Module:
        """Build for real, with noise on every parameter: what starts at zero hides nothing then."""
        torch.manual_seed(seed)
        module = self.construct(size)
        if not isinstance(module, nn.Module):
            raise Failed(f"build returns {type(module).__name__}; expected an nn.Module")
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.is_floating_point():
                    parameter.add_(torch.randn_like(parameter), alpha=NOISE)
        return module.eval()

    @cached_property
    def small(self) -> nn.Module:
        """The module at the first size, built once and put back as it was after each rule."""
        return self.build(self.sizes[0])

    def call(self, module: nn.Module, made: tuple[Any, dict[str, Any]]) -> Any:
        """Run forward."""
        args, kwargs = made
        return module(*args, **kwargs)

    def on_meta(self, size: Any) -> nn.Module:
        """Build on the meta device."""
        with torch.device("meta"):
            return self.construct(size)


class ModelTrial(Trial):
    """A model, with its default options."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    @cached_property
    def sizes(self) -> list[Size]:  # type: ignore[override]
        """The smallest legal size of at least 32 pixels or 8 tokens, the next one, and one of two unlike sides."""
        rule, knobs = self.spec.sizes, self.spec.knobs
        unit = Size.parse(rule.default).unit
        step, highest = rule.step(knobs), rule.highest(knobs)
        first = -(-max(rule.min, 2 * step, SMALLEST[unit]) // step) * step
        if highest is not None:
            first = min(first, highest // step * step)
        second = first + step if highest is None or first + step <= highest else first
        sizes = [Size((first,), unit), Size((second,), unit)]
        if not rule.single and (unit == "px" or self.spec.input.kind == "pair"):
            sizes.append(Size.parse(str(Size((first, second), unit))))
        sizes = list(dict.fromkeys(sizes))
        for size in sizes:
            rule.check(size, knobs)
        return sizes

    @property
    def default(self) -> Size:
        """The default size."""
        return self.spec.size()

    def construct(self, size: Size) -> nn.Module:
        """Build with default options."""
        built: nn.Module = resolve(str(self.spec.build))(size.native, **self.spec.knobs)
        return built

    def inputs(self, size: Size, batch: int, device: str = "cpu", seed: int = 1) -> tuple[Any, dict[str, Any]]:
        """Make random inputs as the spec says."""
        generator = None if device == "meta" else torch.Generator(device).manual_seed(seed)
        make = resolve(str(self.spec.input.make))
        made: tuple[Any, dict[str, Any]] = make(
            size, batch, torch.float32, torch.device(device), generator, **self.spec.input_params({})
        )
        return made

    def count(self, size: Size, batch: int = 1) -> Count:
        """Count a forward pass on the meta device."""
        if self.spec.data_dependent:
            raise Skipped(f"there is no one count: {self.spec.data_dependent}")
        return macs.count(self.on_meta(size), *self.inputs(size, batch, "meta"), installed().custom)


class LayerTrial(Trial):
    """A layer, at one width."""

    def __init__(self, spec: LayerSpec, factor: int = 2, options: Mapping[str, Any] | None = None) -> None:
        self.spec = spec
        self.knobs = spec.with_options(options or {})
        heads = self.knobs[spec.heads] if spec.heads else 1
        even = 2 * heads if isinstance(heads, int) and heads > 0 else 2  # an even number of channels a head
        self.width = -(-NARROWEST // even) * even * factor

    @cached_property
    def sizes(self) -> list[Any]:  # type: ignore[override]
        """Three small sizes: numbers of tokens, or grids of unlike sides."""
        step = self.spec.step(self.knobs)
        if not self.spec.grid:
            first = -(-12 // step) * step
            return [first, first + step, 2 * first + 3 * step]
        first = -(-4 // step) * step
        return [(first, first + step), (2 * first, first), (2 * first + step, 2 * first + 2 * step)]

    def construct(self, size: Any) -> nn.Module:
        """Build with the options of this trial."""
        native = layer_size(self.spec, size, self.knobs, self.width)
        built: nn.Module = resolve(str(self.spec.build))(native, self.width, **self.knobs)
        return built

    def tokens(self, size: Any) -> int:
        """Return N."""
        return size if isinstance(size, int) else math.prod(size)

    def inputs(self, size: Any, batch: int, device: str = "cpu", seed: int = 1) -> tuple[Any, dict[str, Any]]:
        """Make random tokens (B, N, C)."""
        generator = None if device == "meta" else torch.Generator(device).manual_seed(seed)
        return (torch.randn(batch, self.tokens(size), self.width, generator=generator, device=device),), {}

    def count(self, size: Any) -> Count:
        """Count a forward pass on the meta device."""
        return macs.count(self.on_meta(size), *self.inputs(size, 1, "meta"), installed().custom)


# -- rules of models and layers alike ------------------------------------------------------------------------


def builds_on_meta(trial: Trial) -> None:
    """Builds, and runs forward and backward, on the meta device at several sizes, a model at its default too."""
    if isinstance(trial, ModelTrial) and trial.spec.data_dependent:
        raise Skipped(trial.spec.data_dependent)
    sizes = [*trial.sizes, trial.default] if isinstance(trial, ModelTrial) else trial.sizes
    for size in dict.fromkeys(sizes):
        module = trial.on_meta(size)
        real = [name for name, p in module.named_parameters() if p.device.type != "meta"]
        if real:
            raise Failed(
                f"its parameter {real[0]} is not on torch's default device; leave device= to torch.device(...)"
            )
        made = trial.inputs(size, 2, "meta")
        for leaf in floats(made):  # a layer without parameters has a backward too
            leaf.requires_grad_(True)
        projection(trial.call(module.train(), made)).backward()  # type: ignore[no-untyped-call]


def repeats_itself(trial: Trial) -> None:
    """In eval mode the same input gives the same output, whatever was called in between; buffers stay as they are."""
    module, size = trial.small, trial.sizes[0]
    before = copy.deepcopy(dict(module.named_buffers()))
    with torch.no_grad():
        first = trial.call(module, trial.inputs(size, 2))
        trial.call(module, trial.inputs(size, 2, seed=2))
        again = trial.call(module, trial.inputs(size, 2))
    if not all_equal(first, again):
        raise Failed(
            "the same input gives another output in eval mode: it keeps state between calls, or draws at random"
        )
    changed = [name for name, buffer in module.named_buffers() if not same(buffer, before.get(name))]
    if changed:
        raise Failed(f"a call in eval mode changes its buffer {changed[0]}")


def batches_alike(trial: Trial) -> None:
    """A sample's output does not depend on the other samples of its batch.

    What is off in float32 is tried in float64 again: rounding is gone there, and a leak is not.
    """
    made = trial.inputs(trial.sizes[0], BATCH)
    if leak(trial, trial.small, made):
        wide = tree_map(
            lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, made
        )
        found = leak(trial, copy.deepcopy(trial.small).double(), wide)
        if found:
            raise Failed(found)


@torch.no_grad()
def leak(trial: Trial, module: nn.Module, made: tuple[Any, dict[str, Any]]) -> str:
    """Say which sample of a batch is not what it is alone, empty when each one is."""
    together = batched_leaves(trial.call(module, made), BATCH)
    for i in range(BATCH):
        alone = batched_leaves(trial.call(module, sample_of(made, i)), 1)
        if len(alone) != len(together):
            return f"sample {i} alone gives {len(alone)} tensors, and in a batch {len(together)}"
        for whole, single in zip(together, alone, strict=True):
            off = relative_difference(whole[i : i + 1], single)
            if not off <= CLOSE:
                return f"sample {i} of a batch of {BATCH} is off by {off:.1e} from the same sample alone"
    return ""


def trains_every_parameter(trial: Trial) -> None:
    """Backward reaches every trainable parameter."""
    module, size = trial.small, trial.sizes[0]
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    idle = list(trained)
    with training(module):
        for _ in range(DRAWS):  # gradients add up: what one draw of stochastic depth drops, another one keeps
            if not idle:
                break
            projection(trial.call(module, trial.inputs(size, 2))).backward()  # type: ignore[no-untyped-call]
            broken = [name for name, p in trained.items() if p.grad is not None and not p.grad.isfinite().all()]
            if broken:
                raise Failed(f"the gradient of the parameter {broken[0]} is not finite")
            idle = [name for name in idle if trained[name].grad is None or not trained[name].grad.any()]  # type: ignore[union-attr]
    if idle:
        more = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
        raise Failed(f"no gradient reaches the trainable parameter {idle[0]}{more}")


def saves_and_loads(trial: Trial) -> None:
    """A saved state dict, loaded into a module of another seed, gives the same output."""
    size = trial.sizes[0]
    made = trial.inputs(size, 2)
    other = trial.build(size, seed=7)
    with tempfile.TemporaryDirectory(prefix="zoo-check-") as folder:
        path = Path(folder) / "state.pth"
        torch.save(trial.small.state_dict(), path)
        other.load_state_dict(torch.load(path, weights_only=True, mmap=True))
    with torch.no_grad():
        if not all_equal(trial.call(trial.small, made), trial.call(other, made)):
            raise Failed(
                "a module that loads the state dict of another gives another output: it holds state outside it"
            )


def is_counted(trial: ModelTrial | LayerTrial) -> None:
    """Every operator that may matter beside the MACs is in a count."""
    found = trial.count(trial.sizes[0])
    at_most = found.at_most_uncounted()
    left = [op for op in found.uncounted if op.material] if at_most is None or at_most > NEGLIGIBLE else []
    if left:
        told = ", ".join(f"{op.name} ({op.calls} calls, {op.elements:,} elements)" for op in left)
        raise Failed(f"in no count: {told}; a custom operator needs a FlopFormula")


# -- rules of models -----------------------------------------------------------------------------------------


def keeps_its_contract(trial: ModelTrial) -> None:
    """The output is what ``output`` declares, finite, at several sizes and batches."""
    if not trial.spec.output:
        raise Skipped("its spec declares no output")
    for size, batch in zip(trial.sizes, (1, BATCH, 2), strict=False):
        module = trial.small if size == trial.sizes[0] else trial.build(size)
        with torch.no_grad():
            check_output(trial.spec, trial.call(module, trial.inputs(size, batch)), size, batch)
    if not trial.spec.data_dependent:
        with torch.no_grad():
            output = trial.call(trial.on_meta(trial.default).eval(), trial.inputs(trial.default, 1, "meta"))
        check_output(trial.spec, output, trial.default, 1)


def check_output(spec: ModelSpec, output: Any, size: Size, batch: int) -> None:
    """Raise Failed unless an output has the declared tensors in their shapes."""
    for key, declared in spec.output.items():
        where = f"output[{key!r}]" if key else "the output"
        if key and not (isinstance(output, Mapping) and key in output):
            raise Failed(f"{where} is not there; the output is {describe(output)}")
        found = output[key] if key else output
        if not isinstance(found, Tensor):
            raise Failed(f"{where} is {describe(found)}; expected a tensor ({declared})")
        wanted = [dimension(spec, word, size, batch) for word in declared.split()]
        fits = len(wanted) == found.ndim and all(w in (None, n) for w, n in zip(wanted, found.shape, strict=True))
        if not fits:
            shape, expected = tuple(found.shape), ", ".join("any" if w is None else str(w) for w in wanted)
            raise Failed(f"{where} at {size} and batch {batch} is {shape}; expected ({expected}), that is ({declared})")
        if not found.is_meta and not bool(found.isfinite().all()):
            raise Failed(f"{where} at {size} is not finite")


def dimension(spec: ModelSpec, word: str, size: Size, batch: int) -> int | None:
    """Return what a word of an output contract stands for, None for any. BadSpec when it is nothing known."""
    base, plus, more = word.partition("+")
    added = int(more) if more.isdigit() else 0
    if (plus and not more.isdigit()) or base == "*":
        if base == "*" and not plus:
            return None
        raise BadSpec(f"{word!r} in the output of {spec.name} is no dimension; expected such as num_classes+1")
    height, width = size.pair
    known = {"batch": batch, "H": height, "W": width, "source": height, "target": width}
    if base == "tokens":
        if not spec.input.tokens:
            raise BadSpec(f"the output of {spec.name} names tokens, and its input declares no tokens")
        return int(resolve(str(spec.input.tokens))(size.native, **spec.knobs)) + added
    if base in known:
        return known[base] + added
    if base.isdigit():
        return int(base) + added
    value = spec.knobs.get(base)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadSpec(
            f"{word!r} in the output of {spec.name} is no dimension; expected an option, batch, tokens, H, W or *"
        )
    return value + added


def hears_every_input(trial: ModelTrial) -> None:
    """Every token of the input, and every cell of an image, makes a difference to the output."""
    for size in dict.fromkeys((trial.sizes[0], trial.sizes[-1])):  # a square and a rectangle
        made = trial.inputs(size, 1)
        module = trial.small if size == trial.sizes[0] else trial.build(size)
        images = floats(made)
        if images:
            hears_pixels(trial, module, made, images)
        else:
            hears_tokens(trial, module, made)


def hears_pixels(trial: ModelTrial, module: nn.Module, made: tuple[Any, dict[str, Any]], images: list[Tensor]) -> None:
    """The gradient of the output reaches each cell of pixels, of each frame, or each token of features."""
    for image in images:
        image.requires_grad_(True)
    output = trial.call(module, made)
    grads = torch.autograd.grad(projection(output), images, allow_unused=True)
    step = trial.spec.sizes.step(trial.spec.knobs)
    cell = min(step, 4) if step > 1 else 4
    for image, grad in zip(images, grads, strict=True):
        if grad is None:
            raise Failed("an input of the model has no effect on its output")
        if trial.spec.input.kind == "features":  # (1, N, C)
            deaf = (grad.abs().sum(dim=(0, -1)) == 0).nonzero()
            if len(deaf):
                raise Failed(f"token {int(deaf[0])} of {grad.shape[1]} has no effect on the output")
            continue
        frames = grad.abs().flatten(0, -4) if image.ndim > 3 else grad.abs()[None]  # images (C, H, W), or (C, T, H, W)
        strength = frames.sum(dim=0 if image.ndim > 4 else (0, 1))
        cells = F.max_pool2d(strength.reshape(-1, 1, *strength.shape[-2:]), cell, ceil_mode=True)[:, 0]
        deaf = (cells == 0).nonzero()
        if len(deaf):
            row, column = (deaf[0, 1:] * cell).tolist()
            told = f"rows {row} to {row + cell - 1}, columns {column} to {column + cell - 1}"
            raise Failed(
                f"{len(deaf)} of {cells.numel()} cells of the image have no effect on the output, such as {told}"
            )


def hears_tokens(trial: ModelTrial, module: nn.Module, made: tuple[Any, dict[str, Any]]) -> None:
    """Another token in any one place gives another output."""
    vocabulary = trial.spec.input_params({}).get("vocab_size")
    leaves, tree = tree_flatten(made)
    for which, ids in enumerate(leaves):
        if which >= TOKEN_INPUTS[trial.spec.input.kind] or not isinstance(ids, Tensor) or ids.ndim != 2:
            continue
        n = ids.shape[1]
        varied = ids.repeat(n + 1, 1)  # row 0 as it is, row i + 1 with token i another one
        places = torch.arange(n)
        varied[places + 1, places] = (varied[places + 1, places] + 1) % int(vocabulary or 2)
        many = [varied if i == which else repeat_of(leaf, n + 1) for i, leaf in enumerate(leaves)]
        with torch.no_grad():
            outputs = batched_leaves(trial.call(module, tree_unflatten(many, tree)), n + 1)
        heard = torch.zeros(n, dtype=torch.bool)
        for output in outputs:
            rows = output.double().flatten(1)
            change = (rows[1:] - rows[:1]).abs() / (rows[:1].abs() + rows[0].abs().median() + 1e-12)
            heard |= change.amax(1) > 1e-6
        if not heard.all():
            deaf = (~heard).nonzero().flatten().tolist()
            raise Failed(
                f"token {deaf[0]} of {n} has no effect on the output"
                + (f", nor have {len(deaf) - 1} others" if deaf[1:] else "")
            )


def matches_its_closed_form(trial: ModelTrial) -> None:
    """The MACs that are counted are those worked out by hand, at several sizes and at the default."""
    if not trial.spec.closed_form:
        raise Skipped("its spec declares no closed form")
    by_hand = resolve(str(trial.spec.closed_form))
    for size in dict.fromkeys([*trial.sizes, trial.default]):
        counted, expected = trial.count(size).macs, by_hand(size.native, **trial.spec.knobs)
        if counted != expected:
            raise Failed(f"at {size} {counted:,} MACs are counted, and the closed form says {expected:,}")
    size = trial.sizes[0]
    if trial.count(size, 2).macs != 2 * by_hand(size.native, **trial.spec.knobs):
        raise Failed(f"at {size} a batch of two has not twice the MACs of the closed form")


def trains_and_predicts(trial: ModelTrial) -> None:
    """Each adapter takes samples, gives finite losses, one prediction a sample and each parameter once."""
    known = [kind for kind in trial.spec.adapters if kind in MADE]
    if not known:
        raise Skipped("it has no adapter for a task")
    for kind in known:
        check_adapter(trial, kind)


def check_adapter(trial: ModelTrial, kind: str) -> None:
    """Train a step and predict, on made-up samples of a kind of task."""
    recipe, options = Recipe("check", 1, 1, 1e-3, label_smoothing=0.1), trial.spec.with_options({})
    adapter = resolve(trial.spec.adapters[kind])(recipe, options)  # type: ignore[arg-type]
    module, size = trial.small, trial.sizes[0]
    samples = made_up(kind, BATCH, size, options)
    with training(module):
        losses = adapter.loss(module, *adapter.collate(samples, size, training=True))
    if not losses or not all(bool(loss.isfinite()) and loss.ndim == 0 for loss in losses.values()):
        raise Failed(f"the adapter's losses are {losses}; expected finite numbers by name")
    if not any(loss.requires_grad for loss in losses.values()):
        raise Failed("the adapter's losses have no gradient")
    with torch.no_grad():
        predictions = adapter.predict(module, adapter.collate(samples, size, training=False)[0])
    if len(predictions) != BATCH:
        raise Failed(f"the adapter gives {len(predictions)} predictions for {BATCH} samples")
    given = [id(p) for group in adapter.param_groups(module, recipe) for p in group["params"]]
    if sorted(given) != sorted(id(p) for p in module.parameters() if p.requires_grad):
        raise Failed("the adapter's parameter groups are not the trainable parameters, each once")


# -- rules of layers -----------------------------------------------------------------------------------------


def keeps_the_shape(trial: LayerTrial) -> None:
    """Tokens (B, N, C) go in and tokens (B, N, C) of the same dtype come out, finite."""
    for size, batch in zip(trial.sizes, (1, BATCH, 2), strict=True):
        module = trial.small if size == trial.sizes[0] else trial.build(size)
        (x,), _ = trial.inputs(size, batch)
        with torch.no_grad():
            y = module(x)
        if not isinstance(y, Tensor) or y.shape != x.shape or y.dtype != x.dtype:
            raise Failed(f"{tuple(x.shape)} {x.dtype} goes in, and {describe(y)} comes out")
        if not bool(y.isfinite().all()):
            raise Failed(f"the output for {size} tokens is not finite")


def hears_every_token(trial: LayerTrial) -> None:
    """Every token makes a difference to the output."""
    (x,), _ = trial.inputs(trial.sizes[0], 1)
    x.requires_grad_(True)
    (grad,) = torch.autograd.grad(projection(trial.small(x)), x)
    deaf = (grad.abs().sum(dim=-1)[0] == 0).nonzero().flatten().tolist()
    if deaf:
        raise Failed(f"token {deaf[0]} of {x.shape[1]} has no effect on the output")


def looks_where_it_says(trial: LayerTrial) -> None:
    """A causal layer does not see later tokens, and a layer that is not causal does."""
    (x,), _ = trial.inputs(trial.sizes[0], 1)
    x.requires_grad_(True)
    y = trial.small(x)
    weighted = (y * torch.randn_like(y)).sum(dim=-1)  # (1, N)
    cuts = range(1, x.shape[1])
    reach = (torch.autograd.grad(weighted[:, :cut].sum(), x, retain_graph=True)[0][:, cut:] for cut in cuts)
    looks_ahead = any(bool(later.any()) for later in reach)
    if looks_ahead == trial.spec.causal:
        raise Failed(
            "it sees later tokens and says that it is causal"
            if looks_ahead
            else "it sees no later token and does not say that it is causal"
        )


def costs_what_it_says(trial: LayerTrial) -> None:
    """Every coefficient of the declared cost is recovered from counts at several sizes, widths and options."""
    points = list(cost_points(trial.spec))
    compare_terms(trial.spec.cost.mac_terms, points, [count.macs for _, count in points], "MACs")
    compare_terms(trial.spec.cost.fft_terms, points, [count.flops_fft for _, count in points], "FLOPs of FFTs")
    for option, other in unbound_options(trial.spec):
        varied = LayerTrial(trial.spec, options={option: other})
        size = varied.sizes[0]
        try:
            counted = varied.count(size).macs
        except ZooError:
            continue  # not a value that the layer takes
        if counted != trial.spec.cost.macs(trial.spec.values(size, varied.width, varied.knobs)):
            raise Failed(f"its MACs depend on the option {option}, which symbols does not bind to a letter")


def cost_points(spec: LayerSpec) -> Iterator[tuple[dict[str, int], Count]]:
    """Yield the values of a cost's letters and what is counted there."""
    choices = {option: values_of(spec, option) for option in spec.symbols.values()}
    for factor, values in itertools.product(WIDTH_FACTORS, itertools.product(*choices.values())):
        options = dict(zip(choices, values, strict=True))
        trial = LayerTrial(spec, factor, options)
        for size in trial.sizes:
            yield spec.values(size, trial.width, trial.knobs), trial.count(size)


def unbound_options(spec: LayerSpec) -> Iterator[tuple[str, int]]:
    """Yield other values of the whole-number options that no letter of the cost stands for."""
    for option, default in spec.knobs.items():
        if isinstance(default, int) and not isinstance(default, bool) and option not in spec.symbols.values():
            others = (1, 2 * default) if option == spec.heads else (default + 1, default + 2, 2 * default)
            yield from ((option, other) for other in others)


def values_of(spec: LayerSpec, option: str) -> list[int]:
    """Return three values of an option to count at."""
    default = spec.knobs[option]
    if isinstance(default, bool) or not isinstance(default, int):
        raise Failed(f"the cost depends on the option {option}, which is {default!r}; expected a whole number")
    return [1, 2, 4] if option == spec.heads else [default, default + 2, default + 4]


def compare_terms(terms: Sequence[Term], points: Sequence[Any], counted: Sequence[int], what: str) -> None:
    """Fit the declared terms to the counts. Failed names the coefficients that differ, or what no term explains."""
    wanted = np.array(counted, dtype=float)
    if not terms:
        if wanted.any():
            raise Failed(f"up to {wanted.max():,.0f} {what} are counted, and none are declared")
        return
    table = np.array([[term.factor(values) for term in terms] for values, _ in points])
    scale = table.max(axis=0)
    weight = 1 / np.maximum(wanted, 1)
    fitted, _, rank, _ = np.linalg.lstsq(table / scale * weight[:, None], wanted * weight, rcond=1e-12)
    if rank < len(terms):
        raise Failed(f"the terms {' + '.join(map(str, terms))} cannot be told apart by counting")
    found = fitted / scale
    wrong = [
        f"{replace(term, coefficient=1.0)}: counted {value:.4g}, declared {term.coefficient:g}"
        for term, value in zip(terms, found, strict=True)
        if not math.isclose(value, term.coefficient, rel_tol=1e-4)
    ]
    off = np.abs(table @ np.array([term.coefficient for term in terms]) - wanted).max()
    if wrong and np.abs(table @ found - wanted).max() < 1 + 1e-6 * wanted.max():
        raise Failed(f"coefficients differ: {'; '.join(wrong)}")
    if off > 1:
        raise Failed(f"the declared cost is off by up to {off:,.0f} {what}, and no coefficients of its terms would fit")


MODEL_RULES: dict[str, Callable[[ModelTrial], None]] = {
    "meta": builds_on_meta,
    "output": keeps_its_contract,
    "every_input": hears_every_input,
    "repeatable": repeats_itself,
    "batched": batches_alike,
    "gradients": trains_every_parameter,
    "state_dict": saves_and_loads,
    "closed_form": matches_its_closed_form,
    "counted": is_counted,
    "adapter": trains_and_predicts,
}
LAYER_RULES: dict[str, Callable[[LayerTrial], None]] = {
    "meta": builds_on_meta,
    "output": keeps_the_shape,
    "every_input": hears_every_token,
    "causal": looks_where_it_says,
    "repeatable": repeats_itself,
    "batched": batches_alike,
    "gradients": trains_every_parameter,
    "state_dict": saves_and_loads,
    "cost": costs_what_it_says,
    "counted": is_counted,
}


# -- comparing outputs ---------------------------------------------------------------------------------------


def floats(output: Any) -> list[Tensor]:
    """Return the floating-point tensors of any nest of tensors."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def projection(output: Any) -> Tensor:
    """Return a random linear combination of an output: no gradient cancels in it by symmetry."""
    found = [leaf for leaf in floats(output) if leaf.requires_grad]
    if not found:
        raise Failed(f"its output, {describe(output)}, has no gradient")
    return torch.stack([(leaf * torch.randn_like(leaf)).sum() for leaf in found]).sum()


def same(a: Any, b: Any) -> bool:
    """Tell whether two leaves are equal, bit for bit; not-a-number equals itself."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
    return bool(a == b)


def all_equal(a: Any, b: Any) -> bool:
    """Tell whether two outputs are equal."""
    left, right = tree_leaves(a), tree_leaves(b)
    return len(left) == len(right) and all(map(same, left, right))


def batched_leaves(output: Any, batch: int) -> list[Tensor]:
    """Return the tensors of an output that have a sample in each row."""
    found = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return [leaf for leaf in found if leaf.ndim and len(leaf) == batch]


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, each relative to its own value and the median one: huge ones hide no small ones.

    Infinite where shapes differ, or one is not a number and the other is.
    """
    if a.shape != b.shape:
        return math.inf
    a, b = a.double().flatten(), b.double().flatten()
    if not torch.equal(a.isfinite(), b.isfinite()):
        return math.inf
    a, b = a[a.isfinite()], b[b.isfinite()]
    if not a.numel():
        return 0.0
    scale = b.abs() + b.abs().median() + 1e-12
    return float(((a - b).abs() / scale).max())


def sample_of(made: Any, i: int) -> Any:
    """Return inputs of BATCH samples with only the sample ``i``: of tensors with a row a sample, or of lists."""
    if isinstance(made, list):
        return made[i : i + 1] if len(made) == BATCH else made
    if isinstance(made, tuple):
        return tuple(sample_of(part, i) for part in made)
    if isinstance(made, dict):
        return {key: sample_of(part, i) for key, part in made.items()}
    return made[i : i + 1] if isinstance(made, Tensor) and made.ndim and len(made) == BATCH else made


def repeat_of(leaf: Any, times: int) -> Any:
    """Return a tensor's only sample ``times`` over."""
    return leaf.repeat(times, *[1] * (leaf.ndim - 1)) if isinstance(leaf, Tensor) else leaf


@contextmanager
def training(module: nn.Module) -> Iterator[None]:
    """Put a module in training mode, and back as it was: mode, gradients, and buffers, for statistics move."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.train()
    try:
        yield
    finally:
        module.eval()
        module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name in before:
                    buffer.copy_(before[name])


def describe(output: Any) -> str:
    """Say what an output is, in words."""
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)} {str(output.dtype).removeprefix('torch.')}"
    if isinstance(output, Mapping):
        return f"a mapping with {', '.join(map(repr, output)) or 'nothing'}"
    return f"a {type(output).__name__}"
