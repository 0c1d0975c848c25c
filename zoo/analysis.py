"""Static cost of a model, plugin or not: everything that can be known without running it.

    >>> zoo.profile("vit_b16", 384).macs
    55484...

Counts are of one sample, memory is of a batch.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from zoo import data
from zoo.errors import BadSpec, ZooError, told
from zoo.images import image_sizes, scaled
from zoo.metrics import CONVERTIBLE, macs, params, predicted_memory, roofline
from zoo.metrics.batch import LEAST_IN_TRAINING, largest_batch
from zoo.metrics.counts import Count, Part, Step, UncountedOp
from zoo.metrics.memory import Unmeasurable
from zoo.metrics.meta import on_meta
from zoo.registry import LAYER_TOKENS, LAYER_WIDTH, installed, layer_size
from zoo.spec import LayerSpec, ModelSpec, Scalar, Size, resolve

Counted = TypeVar("Counted", Count, Step)
IDS = 1000  # of the random token ids for a model that no spec says more of
DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class Subject:
    """What is analysed: how it is built, called, and what it is called in a table."""

    name: str
    size: str
    batch_size: int
    dtype: str
    build: Callable[[], nn.Module]
    make_inputs: Callable[[int, torch.device], data.Inputs]
    options: Mapping[str, Scalar] = field(default_factory=dict)
    family: str = ""
    data_dependent: str = ""
    takes_list: bool = False  # of images, in place of a batch
    closed_form: int | None = None

    def inputs(self, device: torch.device) -> data.Inputs:
        """Make one batch on a device; on the meta device, and of fake tensors, it takes no memory."""
        return self.make_inputs(self.batch_size, device)

    def on_meta(self) -> nn.Module:
        """Build on the meta device, where nothing is allocated."""
        with on_meta():
            return self.build().to(getattr(torch, self.dtype))


@dataclass
class Profile:
    """The static cost of one subject; each part is worked out when it is first asked for.

    Counts are of one sample, bytes of the batch. What cannot be had raises ZooError or Unmeasurable, with the reason.
    """

    subject: Subject
    custom: Mapping[str, str] = field(default_factory=dict)
    bodies: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def module(self) -> nn.Module:
        """The module on the meta device."""
        return self.subject.on_meta()

    @cached_property
    def params(self) -> params.Params:
        """Parameters and buffers."""
        return params.count(self.module)

    @cached_property
    def count(self) -> Count:
        """The count of a forward pass of the whole batch, in inference. Unmeasurable where it does not run on meta."""
        return self.count_by(macs.count)

    @cached_property
    def step(self) -> Step:
        """The counts of a training step of the whole batch: forward and backward."""
        return self.count_by(macs.count_step)

    def count_by(self, counter: Callable[..., Counted]) -> Counted:
        """Count on the meta device. Unmeasurable where the module does not run on it."""
        self.refuse_data_dependent()
        module, inputs = self.module, self.subject.inputs(torch.device("meta"))
        try:
            return counter(module, *inputs, self.custom)
        except ZooError:
            raise
        except Exception as error:  # whatever a stranger's module raises is the reason
            raise Unmeasurable(
                f"{self.subject.name} does not run on the meta device ({told(error)}); one that looks at the values "
                "of its input can be counted on images: zoo profile NAME --images DIR"
            ) from error

    def sees_values(self) -> bool:
        """Tell whether the count has to be had on real inputs."""
        try:
            self.count  # noqa: B018
        except Unmeasurable:
            return True
        return False

    def largest_batch(self, allowed: int, training: bool = False) -> int:
        """Return the largest batch whose predicted peak is at most ``allowed`` bytes, 0 when not even one fits."""

        def peak(batch: int) -> int:
            of_batch = replace(self.subject, batch_size=batch)
            other = Profile(of_batch, self.custom, self.bodies)
            return (other.training_memory() if training else other.memory).peak

        return largest_batch(peak, allowed, least=LEAST_IN_TRAINING if training else 1)

    @cached_property
    def tree(self) -> Part:
        """The count by module."""
        return macs.tree(self.module, self.count)

    @cached_property
    def memory(self) -> predicted_memory.Prediction:
        """The predicted peak of inference."""
        return predicted_memory.predict_peak(lambda: self.build().eval(), self.subject.inputs, self.bodies)

    def training_memory(self, optimizer: str = "adamw") -> predicted_memory.TrainingPrediction:
        """Return the predicted peak of training steps."""
        self.refuse_data_dependent()
        return predicted_memory.predict_training_peak(
            lambda: self.build().train(), self.subject.inputs, optimizer, bodies=self.bodies
        )

    def build(self) -> nn.Module:
        """Build in the dtype that is asked for."""
        return self.subject.build().to(getattr(torch, self.subject.dtype))

    def refuse_data_dependent(self) -> None:
        """Raise Unmeasurable where there is no one count."""
        if self.subject.data_dependent:
            raise Unmeasurable(
                f"{self.subject.name} has no one count: {self.subject.data_dependent}; "
                "give images to count it on: zoo profile NAME --images DIR"
            )

    # of one sample

    @property
    def macs(self) -> int | float:
        """Multiply-accumulates of one sample."""
        return self.share(self.count.macs)

    @property
    def flops(self) -> int | float:
        """Two FLOPs for each of them."""
        return self.share(2 * self.count.macs)

    @property
    def flops_fft(self) -> int | float:
        """FLOPs of the Fourier transforms of one sample."""
        return self.share(self.count.flops_fft)

    @property
    def activations(self) -> int | float:
        """Elements that products write for one sample."""
        return self.share(self.count.activations)

    @property
    def uncounted(self) -> tuple[UncountedOp, ...]:
        """Operators that compute and are in no count, of the whole batch."""
        return self.count.uncounted

    def share(self, count: int) -> int | float:
        """Share a batch's count among its samples."""
        return per_sample(count, self.subject.batch_size)

    def bounds(self, ceilings: roofline.Ceilings) -> roofline.Bounds:
        """Return the least seconds of a forward pass of the batch on a machine."""
        return roofline.bounds(self.count, ceilings)

    def to_json(self, memory: bool = True, training: bool = True, depth: int | None = 1) -> dict[str, Any]:
        """Return everything as plain data; what cannot be had is None, with the reason in ``failures``."""
        failures: dict[str, str] = {}

        def had(what: str, get: Callable[[], Any]) -> Any:
            try:
                return get()
            except Exception as error:  # whatever a stranger's module raises is the reason
                failures[what] = told(error)
                return None

        held = self.params
        found = {
            "model": self.subject.name,
            "family": self.subject.family,
            "size": self.subject.size,
            "batch_size": self.subject.batch_size,
            "dtype": self.subject.dtype,
            "options": dict(self.subject.options),
            "params": held.total,
            "params_trainable": held.trainable,
            "weights": asdict(held),
            **(had("count", self.counted) or dict.fromkeys(COUNTED)),
            "closed_form": self.subject.closed_form,
            "training": had("training", self.trained) if training else None,
            "memory": had("memory", lambda: _bytes_of(self.memory)) if memory else None,
            "training_memory": had("training_memory", lambda: _bytes_of(self.training_memory()))
            if training and memory
            else None,
        }
        tree = had("modules", lambda: [*rows(self.tree, depth, self.subject.batch_size)])
        return {**found, "modules": tree, "counter": f"torch {torch.__version__} meta", "failures": failures}

    def counted(self) -> dict[str, Any]:
        """Return the counts of inference as plain data."""
        count = self.count
        material = [op for op in count.uncounted if op.material]
        return {
            "macs": self.macs,
            "flops": self.flops,
            "flops_fft": self.flops_fft,
            "flops_elementwise": self.share(count.flops_elementwise),
            "conventions": {name: self.share(count.total(name)) for name in CONVERTIBLE},
            "activations": self.activations,
            "bytes": self.share(count.bytes),
            "intensity": roofline.intensity(count),
            "by_op": {op: self.share(n) for op, n in sorted(count.by_op.items(), key=lambda row: -row[1])},
            "uncounted_ops": sum(op.calls for op in material),
            "uncounted": [asdict(op) for op in count.uncounted],
            "uncounted_at_most": count.at_most_uncounted(),
        }

    def trained(self) -> dict[str, Any]:
        """Return the counts of a training step as plain data."""
        step = self.step
        return {
            "forward": self.share(step.forward.macs),
            "backward": self.share(step.backward.macs),
            "backward_by_op": {op: self.share(n) for op, n in step.backward.by_op.items()},
            "uncounted_at_most": step.backward.at_most_uncounted(),
        }


COUNTED = (
    *("macs", "flops", "flops_fft", "flops_elementwise", "conventions", "activations", "bytes", "intensity", "by_op"),
    *("uncounted_ops", "uncounted", "uncounted_at_most"),
)


def per_sample(count: int, batch_size: int) -> int | float:
    """Share a batch's count among its samples: a whole number where it is one."""
    share = count / batch_size
    return count // batch_size if share.is_integer() else share


def _bytes_of(prediction: predicted_memory.Prediction) -> dict[str, Any]:
    return {**asdict(prediction), "activations": prediction.activations, "unseen": [*prediction.unseen]}


def rows(part: Part, depth: int | None, batch_size: int) -> Iterator[dict[str, Any]]:
    """Yield one row a module, down to a depth: its path, type, and what it does for one sample."""
    for path, found in part.walk(depth):
        yield {
            "module": path,
            "type": found.type,
            "params": found.params,
            "macs": per_sample(found.macs, batch_size),
            "flops_fft": per_sample(found.flops_fft, batch_size),
            "activations": per_sample(found.activations, batch_size),
        }


# -- what is analysed ----------------------------------------------------------------------------------------


def profile(
    what: str | nn.Module | Callable[..., nn.Module],
    size: str | int | None = None,
    *,
    batch_size: int = 1,
    dtype: str = "float32",
    inputs: Sequence[Any] | None = None,
    **options: Any,
) -> Profile:
    """Return the static cost of a model by name, of a module, or of what a function ``package.module:factory`` makes.

    ``size`` is as for :func:`zoo.create_model`; for what no plugin knows it is ``"224px"`` (images of three channels),
    ``"512tok"`` (token ids) or left out, and ``inputs`` are its arguments, of which only shapes and dtypes are used.
    ``options`` go to ``build`` or the factory. Nothing is run and nothing is allocated. UnknownName, BadSize or BadSpec
    say what is wrong.
    """
    registry = installed()
    if dtype not in DTYPES:
        raise BadSpec(f"{dtype!r} is not a dtype; expected one of {', '.join(DTYPES)}")
    if batch_size < 1:
        raise BadSpec(f"a batch cannot have {batch_size} samples; expected at least 1")
    if isinstance(what, str) and registry.is_layer(what):
        subject = of_layer(registry.layer(what), size, batch_size, dtype, options)
    elif isinstance(what, str) and ":" not in what:
        subject = of_spec(registry.model(what), size, batch_size, dtype, options)
    else:
        subject = of_code(what, size, batch_size, dtype, inputs, options)
    return Profile(subject, registry.custom, registry.bodies)


def of_spec(
    spec: ModelSpec, size: str | int | None, batch_size: int, dtype: str, options: Mapping[str, Scalar]
) -> Subject:
    """Return a registered model at a size. BadSize or BadSpec when it cannot have the size or an option."""
    knobs = spec.with_options(options)
    at = spec.size(size)
    spec.sizes.check(at, knobs)

    def make(batch: int, device: torch.device) -> data.Inputs:
        """Make a batch as the spec says."""
        made: data.Inputs = resolve(str(spec.input.make))(
            at, batch, getattr(torch, dtype), device, None, **spec.input_params(options)
        )
        return made

    closed = resolve(str(spec.closed_form))(at.native, **knobs) if spec.closed_form else None
    return Subject(
        name=spec.name,
        size=str(at),
        batch_size=batch_size,
        dtype=dtype,
        build=lambda: resolve(str(spec.build))(at.native, **knobs),
        make_inputs=make,
        options={name: value for name, value in options.items() if value != spec.knobs[name]},
        family=spec.family,
        data_dependent=spec.data_dependent,
        takes_list=spec.input.kind == "images",
        closed_form=closed,
    )


def of_layer(
    spec: LayerSpec, size: str | int | None, batch_size: int, dtype: str, options: Mapping[str, Scalar]
) -> Subject:
    """Return a layer on (B, N, C); ``size`` is N or a grid ``HxW``, ``width`` is C. BadSize or BadSpec says why not."""
    given = dict(options)
    width, knobs = given.pop("width", LAYER_WIDTH), spec.with_options(given)
    text = str(LAYER_TOKENS if size is None else size)
    at = Size.parse(text, "px" if "x" in text else "tok")
    native = layer_size(spec, at.pair if at.unit == "px" else at.native, knobs, int(width or 0))
    values = spec.values(native, int(width or 0), knobs)

    def make(batch: int, device: torch.device) -> data.Inputs:
        shape = (batch, values["n"], values["d"])
        return (torch.randn(shape, device=device, dtype=getattr(torch, dtype)),), {}

    return Subject(
        name=spec.name,
        size=f"{values['n']}tok",
        batch_size=batch_size,
        dtype=dtype,
        build=lambda: resolve(str(spec.build))(native, values["d"], **knobs),
        make_inputs=make,
        options={"width": width, **given},
        family=spec.family,
        closed_form=spec.cost.macs(values),
    )


def of_code(
    what: str | nn.Module | Callable[..., nn.Module],
    size: str | int | None,
    batch_size: int,
    dtype: str,
    inputs: Sequence[Any] | None,
    options: Mapping[str, Any],
) -> Subject:
    """Return a module, or what a factory makes, with inputs. BadSpec when there is no way to call it."""
    if isinstance(what, nn.Module):
        name, build = type(what).__name__, copied(what)
        if options:
            raise BadSpec(f"{name} is built already; options are for what is built by name")
    else:
        factory = loaded(what) if isinstance(what, str) else what
        name = what if isinstance(what, str) else factory.__name__

        def build() -> nn.Module:
            try:
                made = factory(**options)
            except (RuntimeError, NotImplementedError) as error:
                if torch.get_default_device().type != "meta" or "meta tensor" not in str(error):
                    raise
                with torch.device("cpu"):  # it works out its own shapes with tensors
                    made = copied(factory(**options))()
            if not isinstance(made, nn.Module):
                raise BadSpec(f"{name} returns {type(made).__name__}; expected an nn.Module")
            return made

    if inputs is not None:
        given = tuple(inputs)
        return Subject(name, shapes_text(given), batch_size, dtype, build, lambda _, device: (moved(given, device), {}))
    if size is None:
        raise BadSpec(f"{name} is no registered model, so its input is unknown; give a size such as 224px or 512tok")
    at = Size.parse(size, "px")
    maker = data.make_images if at.unit == "px" else data.make_tokens
    more = {} if at.unit == "px" else {"vocab_size": IDS}

    def make(batch: int, device: torch.device) -> data.Inputs:
        return maker(at, batch, getattr(torch, dtype), device, None, **more)

    return Subject(name, str(at), batch_size, dtype, build, make)


def loaded(code: str) -> Callable[..., Any]:
    """Return the function that ``package.module:factory`` names. BadSpec when there is none."""
    try:
        found: Callable[..., Any] = resolve(code)
    except Exception as error:
        raise BadSpec(
            f"{code} cannot be loaded ({type(error).__name__}: {error}); expected package.module:factory"
        ) from error
    return found


def copied(module: nn.Module) -> Callable[[], nn.Module]:
    """Return what makes copies of a module on the meta device: its tensors are read for their shapes only."""

    def build() -> nn.Module:
        held = [t for part in module.modules() for t in tree_leaves(list(vars(part).values())) if isinstance(t, Tensor)]
        held += [*module.parameters(), *module.buffers()]
        memo: dict[int, Any] = {id(t): _on_meta(t) for t in held}
        return copy.deepcopy(module, memo)

    return build


def _on_meta(tensor: Tensor) -> Tensor:
    """Return a tensor of the same shape on the meta device, a parameter of a parameter."""
    made = tensor.detach().to("meta")
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def moved(inputs: Sequence[Any], device: torch.device) -> tuple[Any, ...]:
    """Return arguments whose tensors lie on a device: empty ones, as only their shapes are used."""
    made: tuple[Any, ...] = tree_map(
        lambda t: torch.empty(t.shape, dtype=t.dtype, device=device) if isinstance(t, Tensor) else t, tuple(inputs)
    )
    return made


def shapes_text(inputs: Sequence[Any]) -> str:
    """Return the shapes of some arguments as a table shows them."""
    return ", ".join("x".join(map(str, t.shape)) for t in tree_leaves(tuple(inputs)) if isinstance(t, Tensor))


# -- over real images ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OverImages:
    """Counts of a model over real images, each at a size of its own: one total a convention and image, in order."""

    model: str
    sizes: tuple[str, ...]
    totals: Mapping[str, tuple[int, ...]]

    def mean(self, convention: str = "mac") -> float:
        """Return the mean over images."""
        return statistics.fmean(self.totals[convention])

    def spread(self, convention: str = "mac") -> float:
        """Return the standard deviation over images, 0 for one image."""
        values = self.totals[convention]
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return what a table shows."""
        kept = {name: {"mean": self.mean(name), "sd": self.spread(name)} for name in self.totals}
        return {"model": self.model, "images": len(self.sizes), "sizes": len(set(self.sizes)), "conventions": kept}


def over_images(
    what: str | nn.Module | Callable[..., nn.Module],
    images: str | Path,
    short_side: int = 800,
    longest_side: int = 1333,
    limit: int | None = None,
    seed: int = 0,
    **options: Any,
) -> OverImages:
    """Count a model over a folder of images, or over the sizes in a COCO annotation file.

    ``what`` is as for :func:`profile`, a model of images (B, 3, H, W). Each image is scaled so that its short side is
    ``short_side`` pixels, or less where the long one would pass ``longest_side``: the rule of DETR and Faster R-CNN. A
    model whose count depends on what it sees is run on the images, with the weights of ``seed``, or its own if it is a
    module; all others are counted on the meta device, each size once.
    """
    found = [*image_sizes(Path(images))][:limit]
    sizes = [Size(scaled(height, width, short_side, longest_side), "px") for _, height, width in found]
    first = profile(what, str(sizes[0]), **options)
    if first.sees_values():
        torch.manual_seed(seed)
        # A detector that scales images itself is built for the rule, and so leaves those that follow it as they are.
        rule = Size((short_side, longest_side), "px")
        module = what if isinstance(what, nn.Module) else profile(what, str(rule), **options).subject.build()
        files = [file for file, _, _ in found]
        counts = list(_counts_on_images(module, first, files, sizes))
    else:
        each = {size: profile(what, str(size), **options).count for size in {*sizes} - {sizes[0]}}
        counts = [each.get(size, first.count) for size in sizes]
    totals: dict[str, tuple[int, ...]] = {
        convention: tuple(count.total(convention) for count in counts) for convention in CONVERTIBLE
    }
    return OverImages(first.subject.name, tuple(map(str, sizes)), totals)


def _counts_on_images(
    module: nn.Module, like: Profile, files: Sequence[Path | None], sizes: Sequence[Size]
) -> Iterator[Count]:
    """Run a model on real images, one after the other, and yield what each of them takes."""
    for file, size in zip(files, sizes, strict=True):
        if file is None:
            raise ZooError(
                f"{like.subject.name} has to see its images, not only their sizes; give the folder that they are in"
            )
        image = _read_image(file, size)
        taken = [image] if like.subject.takes_list else image[None]
        try:
            yield macs.count(module, (taken,), custom=like.custom)
        except Exception as error:  # as above
            raise ZooError(f"{like.subject.name} does not run on an image of {size} ({told(error)})") from error


def _read_image(file: Path, size: Size) -> Tensor:
    """Return an image (3, H, W) in [0, 1] at a size."""
    import numpy as np
    from PIL import Image

    with Image.open(file) as image:
        height, width = size.pair
        pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
