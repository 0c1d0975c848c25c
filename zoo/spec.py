"""What a plugin yields: frozen records of plain data that survive a JSON round trip.

Nothing here imports torch. Code is named by import strings, ``"package.module:attribute"`` or
``"/path/file.py:attribute"``, and resolved only where it is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from zoo.cost import Cost
from zoo.errors import BadSize, BadSpec
from zoo.recipe import Recipe

Scalar = str | int | float | bool | None
ImportString = str | Callable[..., Any]

API = 1
# The axes that every case has: no option may be called like one of them.
CASE_AXES = (
    *("model", "size", "batch_size", "dtype", "device", "mode", "threads", "task", "recipe", "seed", "weights"),
    "test_size",
    *("compile", "attention_backend", "machine", "options"),
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*(/[A-Za-z0-9][A-Za-z0-9_.\-]*)?")
PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*/")


# -- code by name --------------------------------------------------------------------------------------------


def import_string(code: ImportString) -> str:
    """Return the import string of a module-level function or class; a string is checked and returned."""
    if isinstance(code, str):
        if not re.fullmatch(r"[^:]+:[A-Za-z_][\w.]*", code):
            raise BadSpec(f"{code!r} is not an import string; expected 'package.module:attribute'")
        return code
    name = getattr(code, "__qualname__", "")
    if not name or "<" in name:
        raise BadSpec(f"{code!r} has no importable name; give a function or class defined at module level")
    return f"{code.__module__}:{name}"


def resolve(code: str) -> Any:
    """Import and return what an import string names. ImportError or AttributeError when it is not there."""
    module_name, _, attribute = import_string(code).rpartition(":")
    found: Any = import_module(module_name)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def import_module(name: str) -> ModuleType:
    """Import a module by its dotted name, or a single file by its path (registered under that path)."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    if name in sys.modules:
        return sys.modules[name]
    loader_spec = importlib.util.spec_from_file_location(name, name)
    if loader_spec is None or loader_spec.loader is None:
        raise ImportError(f"cannot import the file {name}")
    module = importlib.util.module_from_spec(loader_spec)
    sys.modules[name] = module
    try:
        loader_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# -- sizes ---------------------------------------------------------------------------------------------------

Unit = Literal["px", "tok"]
Axis = Literal["resolution", "sequence_length"]
UNIT_OF_AXIS: dict[str, Unit] = {"resolution": "px", "sequence_length": "tok"}


@dataclass(frozen=True)
class Size:
    """An input size: ``224px``, ``800x1066px`` (height x width), ``512tok``, ``512+512tok`` (source + target)."""

    values: tuple[int, ...]
    unit: Unit

    @classmethod
    def parse(cls, text: str | int, unit: Unit | None = None) -> Size:
        """Read a size; a bare number takes ``unit``. BadSize when the text is not a size."""
        match = re.fullmatch(r"(\d{1,9})(?:([x+])(\d{1,9}))?(px|tok)?", str(text).strip())
        found = match and (match[4] or unit)
        if not match or not found or (match[2] and (match[2] == "x") != (found == "px")):
            raise BadSize(f"{text!r} is not a size; expected 224px, 800x1066px, 512tok or 512+512tok")
        values = (int(match[1]), int(match[3])) if match[3] else (int(match[1]),)
        if min(values) < 1:
            raise BadSize(f"{text!r} is not a size: it must be at least 1")
        if found == "px" and len(values) == 2 and values[0] == values[1]:
            values = values[:1]
        return cls(values, "px" if found == "px" else "tok")

    def __str__(self) -> str:
        """Return the tagged text that :meth:`parse` reads."""
        return ("x" if self.unit == "px" else "+").join(map(str, self.values)) + self.unit

    @property
    def native(self) -> int | tuple[int, int]:
        """What a ``build`` function is given: an int (square resolution, length), or (H, W) or (source, target)."""
        return self.values[0] if len(self.values) == 1 else (self.values[0], self.values[1])

    @property
    def pair(self) -> tuple[int, int]:
        """(H, W), or (source, target); a single number stands for both."""
        return self.values[0], self.values[-1]


@dataclass(frozen=True)
class SizeRule:
    """The legal sizes of a model, and what another size changes in it.

    ``default`` is a tagged size. ``multiple_of`` and ``max`` are numbers, or names of the options that hold them
    (``"patch_size"``, ``"max_positions"``). ``rebuilds`` names the parameters that depend on the size, ``pads`` says
    what is padded at sizes that are no clean multiple. ``single`` rules out sizes of two numbers: the model takes
    square images, or one sequence, only. ``square`` numbers are those of tokens on a square grid, and it is the side
    that is a multiple.
    """

    default: str
    multiple_of: int | str = 1
    min: int = 1
    max: int | str | None = None
    rebuilds: str = ""
    pads: str = ""
    single: bool = False
    square: bool = False

    def __post_init__(self) -> None:
        """Hold the default to the rule's own limits."""
        size = Size.parse(self.default)
        if str(size) != self.default:
            raise BadSpec(f"default size {self.default!r} should be written {str(size)!r}")
        if not isinstance(self.multiple_of, str):
            self.step({})
        if not isinstance(self.max, str):
            self.highest({})

    def check(self, size: Size, options: Mapping[str, Any]) -> None:
        """Raise BadSize, with the reason and the nearest legal sizes, unless the model can take ``size``."""
        unit = Size.parse(self.default).unit
        if size.unit != unit:
            raise BadSize(f"{size} is a {_axis_of(size.unit)}; expected a {_axis_of(unit)} such as {self.default}")
        if self.single and len(size.values) > 1:
            raise BadSize(f"{size} is not legal: expected one number, such as {self.default}")
        step, highest = self.step(options), self.highest(options)
        for value in size.values:
            if value < self.min or (highest is not None and value > highest) or value not in self.around(value, step):
                near = " or ".join(f"{v}{unit}" for v in self.nearest(value, options)) or "none"
                raise BadSize(f"{size} is not legal: expected {self.describe(options)}; nearest legal size: {near}")

    def step(self, options: Mapping[str, Any]) -> int:
        """Return the number that legal sizes are multiples of."""
        step = options[self.multiple_of] if isinstance(self.multiple_of, str) else self.multiple_of
        return self._whole(step, f"sizes are multiples of {self.multiple_of}")

    def highest(self, options: Mapping[str, Any]) -> int | None:
        """Return the largest number that a size may have, None where there is no limit."""
        if self.max is None:
            return None
        return self._whole(options[self.max] if isinstance(self.max, str) else self.max, f"sizes go up to {self.max}")

    @staticmethod
    def _whole(value: object, what: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadSpec(f"{what}, which is {value!r}; expected a whole number >= 1")
        return value

    def describe(self, options: Mapping[str, Any]) -> str:
        """Say in words which sizes are legal."""
        unit = Size.parse(self.default).unit
        step, highest = self.step(options), self.highest(options)
        lowest = max(self.min, step * step if self.square else step)
        bounds = f"at least {lowest}{unit}" if highest is None else f"from {lowest} to {highest}{unit}"
        if self.square:
            return f"the square of a multiple of {step}, {bounds}" if step > 1 else f"a square number, {bounds}"
        return f"a multiple of {step}, {bounds}" if step > 1 else bounds

    def around(self, value: int, step: int) -> tuple[int, int]:
        """Return the multiples of ``step``, or their squares, at and below ``value`` and at and above it."""
        if not self.square:
            return value // step * step, -(-value // step) * step
        side = math.isqrt(value) // step * step
        return side * side, side * side if side * side == value else (side + step) ** 2

    def nearest(self, value: int, options: Mapping[str, Any]) -> list[int]:
        """Return the legal values on both sides of ``value``, nearest first."""
        step, limit = self.step(options), self.highest(options)
        lowest = self.around(max(self.min, step * step if self.square else step), step)[1]
        highest = self.around(limit, step)[0] if limit is not None else None
        near = {max(lowest, found) for found in self.around(value, step)}
        if highest is not None:
            near = {min(v, highest) for v in near}
        return sorted((v for v in near if v >= lowest), key=lambda v: abs(v - value))


def _axis_of(unit: Unit) -> str:
    return "resolution" if unit == "px" else "sequence length"


# -- inputs --------------------------------------------------------------------------------------------------


_MAKERS = {
    "image": "zoo.data:make_images",
    "images": "zoo.data:make_image_lists",
    "tokens": "zoo.data:make_tokens",
    "pair": "zoo.data:make_pairs",
    "features": "zoo.data:make_features",
}
_SAMPLES = {"image": "image", "images": "image", "tokens": "sequence", "pair": "pair", "features": "sequence"}


@dataclass(frozen=True)
class InputSpec:
    """What a model is fed.

    ``kind`` is an image batch (B, C, H, W), a list of images (C, H, W), token ids (B, N), a pair of source and target
    ids, features of tokens (B, N, C), or what a ``make`` of its own says.

    ``make(size, batch_size, dtype, device, generator, **params)`` returns ``(args, kwargs)`` for ``forward``, any
    pytree of tensors; ``sample`` is what one sample is called (throughput is samples per second);
    ``tokens(size, **options)`` returns how many tokens a size becomes, None where that has no meaning. ``params`` are
    more arguments of ``make``; a text that names an option of the model stands for its value.
    """

    kind: Literal["image", "images", "tokens", "pair", "features", "video", "volume"]
    axis: Axis
    make: ImportString = ""
    sample: str = ""
    tokens: ImportString = ""
    params: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Fill in the maker of the kind, and turn functions into import strings."""
        default_make = _MAKERS.get(self.kind, "")
        if not (self.make or default_make):
            raise BadSpec(f"an InputSpec of kind {self.kind!r} needs make=, a function that makes the inputs")
        object.__setattr__(self, "make", import_string(self.make or default_make))
        object.__setattr__(self, "sample", self.sample or _SAMPLES.get(self.kind, "sample"))
        if self.tokens:
            object.__setattr__(self, "tokens", import_string(self.tokens))


# -- models --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightSpec:
    """A layout of published checkpoints, and how they become this model's parameters.

    ``key`` is a glob of tensor names that only files of this layout hold, by which it is recognised.
    ``convert(tensors, model)`` takes ``{name: tensor}`` as the file has it and returns it under the model's names; left
    out, the names are the model's own. ``source`` says who publishes such files, ``preprocess`` how their inputs are
    prepared.
    """

    id: str
    key: str
    convert: ImportString = ""
    source: str = ""
    licence: str = ""
    preprocess: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Turn a function into its import string."""
        if self.convert:
            object.__setattr__(self, "convert", import_string(self.convert))


@dataclass(frozen=True)
class ModelSpec:
    """One model by name.

    ``build(size, **options)`` returns an ``nn.Module``; ``size`` is an int, or a pair as :attr:`Size.native` says.
    ``options`` are its knobs with their defaults, each also an axis of a suite; left out, they are read off
    the signature of ``build``. ``adapters`` maps a kind of task (``"classification"``) to the class that trains and
    predicts with this model; ``recipes`` are how its authors train it, for a kind of task each. ``closed_form(size,
    **options)`` returns the MACs of one sample, worked out by hand.
    ``published`` is (system, glob of its variants, ...) in ``results/published``; ``notes`` is what a reader of a table
    must know.

    ``output`` is the contract of ``forward``: ``{key: dimensions}``, with the key ``""`` for a plain tensor. A
    dimension is ``batch``, ``tokens`` (``source`` and ``target`` of a pair), ``H`` and ``W`` in pixels, a number, the
    name of an option, also with ``+1`` or the like behind it, or ``*`` for any. ``skips`` maps a rule of ``zoo check``
    that cannot hold to the reason; ``data_dependent`` is the reason why counts depend on the values of the input.
    ``layer_options`` are options that name a registered layer, whose code the numbers then depend on too.
    """

    name: str
    build: ImportString
    input: InputSpec
    sizes: SizeRule
    family: str = ""
    options: Mapping[str, Scalar] | None = None
    adapters: Mapping[str, ImportString] = field(default_factory=dict)
    recipes: tuple[Recipe, ...] = ()
    closed_form: ImportString = ""
    weights: tuple[WeightSpec, ...] = ()
    paper: str = ""
    licence: str = ""
    published: tuple[str, ...] = ()
    output: Mapping[str, str] = field(default_factory=dict)
    skips: Mapping[str, str] = field(default_factory=dict)
    data_dependent: str = ""
    layer_options: tuple[str, ...] = ()
    notes: str = ""
    api: int = API

    def __post_init__(self) -> None:
        """Grow the defaults and refuse what breaks the contract."""
        check_name("model", self.name)
        check_api("model", self.name, self.api)
        object.__setattr__(self, "options", declared_options(f"model {self.name}", self.build, self.options, 1))
        object.__setattr__(self, "build", import_string(self.build))
        object.__setattr__(self, "adapters", {kind: import_string(code) for kind, code in self.adapters.items()})
        if self.closed_form:
            object.__setattr__(self, "closed_form", import_string(self.closed_form))
        object.__setattr__(self, "family", self.family or self.name)
        if not isinstance(self.published, tuple) or len(self.published) == 1:
            raise BadSpec(f"model {self.name}: published is {self.published!r}; expected (system, variant, ...)")
        if Size.parse(self.sizes.default).unit != UNIT_OF_AXIS[self.input.axis]:
            raise BadSpec(f"model {self.name}: its default size {self.sizes.default} is not a {self.input.axis}")
        if self.input.kind == "tokens":
            object.__setattr__(self, "sizes", replace(self.sizes, single=True))
        for what, option in (("are multiples of", self.sizes.multiple_of), ("go up to", self.sizes.max)):
            if isinstance(option, str) and option not in self.knobs:
                raise BadSpec(f"model {self.name}: sizes {what} the option {option!r}, which it does not have")

        try:
            self.sizes.check(self.size(), self.knobs)
        except BadSize as error:
            raise BadSpec(f"model {self.name}: its default size breaks its own rule: {error}") from None
        for option in self.layer_options:
            if option not in self.knobs:
                raise BadSpec(f"model {self.name}: layer_options names the option {option!r}, which it does not have")

    @property
    def knobs(self) -> Mapping[str, Scalar]:
        """The options with their defaults."""
        return self.options or {}

    def size(self, text: str | int | None = None) -> Size:
        """Read a size for this model: a bare number takes its axis, None is its default."""
        return Size.parse(self.sizes.default if text is None else text, UNIT_OF_AXIS[self.input.axis])

    def with_options(self, options: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Return all options, given ones over defaults. BadSpec for one that the model does not have."""
        return merge_options(f"model {self.name}", self.knobs, options)

    def tokens(self, size: Size, options: Mapping[str, Scalar]) -> int | None:
        """Return how many tokens a size becomes, of a pair the source; None where the spec does not tell."""
        if self.input.tokens:
            found = resolve(str(self.input.tokens))(size.native, **self.with_options(options))
            if found is not None:
                return int(found)
        return size.values[0] if size.unit == "tok" else None

    def input_params(self, options: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Return what the maker of inputs is given: a text that names an option stands for the option's value."""
        knobs = self.with_options(options)
        params = self.input.params
        return {
            name: knobs[value] if isinstance(value, str) and value in knobs else value for name, value in params.items()
        }


def declared_options(
    what: str, build: ImportString, options: Mapping[str, Scalar] | None, fixed: int
) -> dict[str, Scalar]:
    """Return the options of a ``build`` with their defaults; left out, every argument after the ``fixed`` first ones.

    BadSpec unless each name can be an axis and each default is a plain value.
    """
    if options is None:
        options = {} if isinstance(build, str) else signature_options(build, fixed)
    for name, default in options.items():
        if not isinstance(name, str) or name in CASE_AXES:
            raise BadSpec(f"{what}: an option may not be called {name!r}, which is an axis of every case")
        if not isinstance(default, str | int | float | bool | None) or (
            isinstance(default, float) and not math.isfinite(default)
        ):
            raise BadSpec(f"{what}: the option {name} defaults to {default!r}; expected a plain value")
    return dict(options)


def merge_options(what: str, knobs: Mapping[str, Scalar], options: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return all options, given ones over defaults. BadSpec for one that there is not, or of another type."""
    for name, value in options.items():
        if name not in knobs:
            raise BadSpec(f"{what} has no option {name!r}; its options: {', '.join(sorted(knobs)) or 'none'}")
        problem = option_problem(what, knobs, name, value)
        if problem:
            raise BadSpec(problem)
    return {**knobs, **options}


def option_problem(what: str, knobs: Mapping[str, Scalar], name: str, value: Scalar) -> str | None:
    """Return what is wrong with the type of an option's value, in words, or None."""
    default = knobs.get(name)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value!r} is not a value of the option {name}; expected a finite number"
    if default is None or type(value) is type(default) or (type(default) is float and type(value) is int):
        return None
    return f"{value!r} does not fit the option {name} of {what}; expected something like {default!r}"


def signature_options(build: Callable[..., Any], fixed: int) -> dict[str, Scalar]:
    """Read options off the signature of a ``build`` function: every argument after the ``fixed`` first ones."""
    arguments = list(inspect.signature(build).parameters.values())[fixed:]
    options: dict[str, Scalar] = {}
    for argument in arguments:
        if argument.kind is argument.VAR_KEYWORD or argument.kind is argument.VAR_POSITIONAL:
            raise BadSpec(f"{build.__name__} takes *{argument.name}; name its options, or give options= in the spec")
        if argument.default is argument.empty:
            raise BadSpec(f"the option {argument.name!r} of {build.__name__} needs a default")
        options[argument.name] = argument.default
    return options


def image_classifier(
    default: int | str,
    multiple_of: int | str = 1,
    minimum: int = 1,
    tokens: ImportString = "",
    rebuilds: str = "",
) -> dict[str, Any]:
    """Return the ModelSpec arguments of a model from an image (B, 3, H, W) to class logits (B, num_classes)."""
    return {
        "input": InputSpec("image", "resolution", tokens=tokens, params={"channels": 3}),
        "sizes": SizeRule(str(Size.parse(default, "px")), multiple_of, minimum, rebuilds=rebuilds),
        "adapters": {"classification": "zoo.adapters:Classifier"},
        "output": {"": "batch num_classes"},
    }


# -- layers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerSpec:
    """One layer by name: a token mixer alone, from (B, N, C) to (B, N, C).

    ``build(size, width, **options)`` returns an ``nn.Module``; ``size`` is the number of tokens, or (H, W) where
    ``grid`` says that the tokens lie on a grid in row-major order; ``width`` is C. ``cost`` is a polynomial in n = N,
    d = C and the letters that ``symbols`` binds to options (``{"k": "kernel_size"}``). ``sequential`` operations and
    the maximum ``path_length`` between two tokens are asymptotic, as in Vaswani et al. (2017), Table 1. The sides of a
    grid, or N, are multiples of ``multiple_of``, a number or the name of an option; ``heads`` names the option that
    divides the width, if there is one. ``stack(level, size, **options)`` returns the options of a layer at a depth,
    from 0, where a stack of them alternates or widens. ``skips`` maps a rule of ``zoo check`` that cannot hold to the
    reason.
    """

    name: str
    build: ImportString
    cost: Cost
    sequential: str
    path_length: str
    family: str = ""
    grid: bool = False
    options: Mapping[str, Scalar] | None = None
    symbols: Mapping[str, str] = field(default_factory=dict)
    multiple_of: int | str = 1
    heads: str = ""
    causal: bool = False
    stack: ImportString = ""
    skips: Mapping[str, str] = field(default_factory=dict)
    paper: str = ""
    licence: str = ""
    notes: str = ""
    api: int = API

    def __post_init__(self) -> None:
        """Grow the defaults and refuse what breaks the contract."""
        what = f"layer {self.name}"
        check_name("layer", self.name)
        check_api("layer", self.name, self.api)
        object.__setattr__(self, "options", declared_options(what, self.build, self.options, 2))
        object.__setattr__(self, "build", import_string(self.build))
        if self.stack:
            object.__setattr__(self, "stack", import_string(self.stack))
        object.__setattr__(self, "family", self.family or self.name)
        for letter, option in self.symbols.items():
            if letter in ("n", "d") or option not in self.knobs:
                raise BadSpec(
                    f"{what}: the symbol {letter!r} stands for {option!r}; expected an option, and not n or d"
                )
        if unbound := self.cost.letters - {"n", "d", *self.symbols}:
            raise BadSpec(
                f"{what}: its cost has {', '.join(sorted(unbound))}, which symbols does not bind to an option"
            )
        named: dict[str, int | str] = {"multiple_of": self.multiple_of, "heads": self.heads}
        for field_name, value in named.items():
            if isinstance(value, str) and value and value not in self.knobs:
                raise BadSpec(f"{what}: {field_name} names the option {value!r}, which it does not have")
            number = self.knobs[value] if isinstance(value, str) and value else value or 1
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise BadSpec(f"{what}: {field_name} is {number!r}; expected a whole number >= 1")

    @property
    def knobs(self) -> Mapping[str, Scalar]:
        """The options with their defaults."""
        return self.options or {}

    def with_options(self, options: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Return all options, given ones over defaults. BadSpec for one that the layer does not have."""
        return merge_options(f"layer {self.name}", self.knobs, options)

    def step(self, options: Mapping[str, Scalar]) -> int:
        """Return the number that N, or the sides of a grid, are multiples of. BadSpec unless it is whole and >= 1."""
        step = options[self.multiple_of] if isinstance(self.multiple_of, str) else self.multiple_of
        if not isinstance(step, int) or step < 1:
            raise BadSpec(
                f"the layer {self.name} cannot have {self.multiple_of}={step!r}; expected a whole number >= 1"
            )
        return step

    def values(self, size: int | tuple[int, int], width: int, options: Mapping[str, Scalar]) -> dict[str, int]:
        """Return the values of the letters of the cost: n, d, and the options bound to a symbol."""
        bound = {letter: int(options[option] or 0) for letter, option in self.symbols.items()}
        return {"n": size if isinstance(size, int) else math.prod(size), "d": width, **bound}


def layer_name(text: str) -> str:
    """Return the name in a layer with options, ``sasa:kernel_size=5+heads=4``."""
    return text.partition(":")[0]


def read_layer(text: str) -> tuple[str, dict[str, Scalar]]:
    """Read a layer, or a model, with options: ``sasa:kernel_size=5+heads=4``. BadSpec when it is not of that form."""
    name, _, rest = text.partition(":")
    options: dict[str, Scalar] = {}
    for part in rest.split("+") if rest else ():
        option, equals, value = part.partition("=")
        if not (option and equals and value):
            raise BadSpec(f"{part!r} in {text!r} is no option; expected name:option=value+option=value")
        if "," in value:
            raise BadSpec(f"{value!r} in {text!r} is no value; options are separated by '+'")
        if option in options:
            raise BadSpec(f"{text!r} gives the option {option!r} twice")
        options[option] = _plain(value)
    return name, options


def _plain(text: str) -> Scalar:
    """Read a value as a whole number, a number, true, false, or else text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


# -- operators -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FlopFormula:
    """What counts a custom operator of a plugin: ``op`` is its torch name, ``namespace::name``.

    ``macs(*args, out=shape, **kwargs)`` returns the MACs of one call. It is given the operator's arguments with every
    tensor replaced by its shape, and ``out``, the shape of its first result; None says that shapes do not tell. The
    operator of its gradients is one of its own, and counts what the chain rule needs. ``memory(*args, **kwargs)``, if
    given, allocates as the operator does; it is run on fake tensors to predict the peak.
    """

    op: str
    macs: ImportString
    memory: ImportString | None = None

    def __post_init__(self) -> None:
        """Hold the name to torch's form."""
        if not isinstance(self.op, str) or not re.fullmatch(r"[A-Za-z_]\w*::[A-Za-z_]\w*", self.op):
            raise BadSpec(f"{self.op!r} is not an operator's name; expected 'namespace::name'")
        if self.op.partition("::")[0] in ("aten", "prim", "prims"):
            raise BadSpec(f"{self.op} is torch's own operator; a plugin counts operators of its own")
        object.__setattr__(self, "macs", import_string(self.macs))
        if self.memory is not None:
            object.__setattr__(self, "memory", import_string(self.memory))

    @property
    def name(self) -> str:
        """What it is registered under."""
        return self.op


# -- namespaces ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Namespace:
    """The models of another zoo, looked up only when one is asked for by name, or by a glob that begins with
    ``prefix``.

    ``list()`` returns their names, and ``resolve(name)`` the ModelSpec of one of them, None where there is none; both
    without the prefix, which ends in a slash. A name may be resolved without being listed (one of many checkpoints,
    say). Both may import what is slow to import: they are called in the process that asks.
    """

    prefix: str
    list: ImportString
    resolve: ImportString
    notes: str = ""

    def __post_init__(self) -> None:
        """Hold the prefix to its form, and turn functions into import strings."""
        if not isinstance(self.prefix, str) or not PREFIX.fullmatch(self.prefix):
            raise BadSpec(f"{self.prefix!r} is not the prefix of a namespace; expected a name and a slash: 'mine/'")
        object.__setattr__(self, "list", import_string(self.list))
        object.__setattr__(self, "resolve", import_string(self.resolve))

    @property
    def name(self) -> str:
        """What it is registered under: the glob of all its models."""
        return f"{self.prefix}*"


# -- metrics ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """One number of a table: its name, unit (SI, ``"1"`` for a count or a fraction), direction and kind of interval."""

    name: str
    unit: str = "1"
    higher_is_better: bool = False
    interval: str = ""


def check_api(kind: str, name: str, api: int) -> None:
    """Raise BadSpec for a record that was written for another version of this contract."""
    if api != API:
        raise BadSpec(f"{kind} {name} was written for api {api}; this is api {API}")


def check_name(kind: str, name: object) -> None:
    """Raise BadSpec unless ``name`` can stand in a YAML key, a file name and a table."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadSpec(f"{name!r} is not a {kind} name; expected letters, digits, '_', '.', '-' and at most one '/'")


def source_of(code: str) -> Path | None:
    """Return the folder of the top package, or the file, in which an import string's code lies (None: not found)."""
    module_name = code.rpartition(":")[0]
    if module_name.endswith(".py"):
        return Path(module_name)
    try:
        found = importlib.util.find_spec(module_name.partition(".")[0])
    except (ImportError, ValueError):
        return None
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent if found.submodule_search_locations else Path(found.origin)
