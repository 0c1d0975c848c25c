"""What is registered: name to spec, with the plugins that own them and the ones that failed."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from zoo import jsonio
from zoo.errors import BadSize, BadSpec, UnknownName, ZooError
from zoo.plugins import Failure, Loader, Plugin, check_plain, reason_of
from zoo.spec import (
    FlopFormula,
    ImportString,
    InputSpec,
    LayerSpec,
    ModelSpec,
    Namespace,
    Size,
    SizeRule,
    resolve,
)
from zoo.task import TaskSpec, find_data

Spec = TypeVar("Spec")


@dataclass(frozen=True)
class Registry:
    """All models, layers and tasks by name, namespaces by prefix, and the formulas of custom operators.

    ``looked_up`` holds the models of namespaces, and the layers as models, that were asked for so far; ``models`` has
    none of them.
    """

    plugins: tuple[Plugin, ...]
    failures: tuple[Failure, ...]
    models: dict[str, ModelSpec]
    layers: dict[str, LayerSpec]
    tasks: dict[str, TaskSpec]
    flop_formulas: tuple[FlopFormula, ...]
    owners: dict[tuple[str, str], Plugin]
    files: tuple[Plugin, ...] = ()
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    looked_up: dict[str, ModelSpec] = field(default_factory=dict)

    @classmethod
    def load(cls, files: Iterable[str] = (), added: Iterable[Plugin] = ()) -> Registry:
        """Load every installed plugin, and on top single files and plugins that were loaded elsewhere.

        ZooError when one of the files cannot be loaded.
        """
        loader = Loader()
        loader.load_entry_points()
        on_top = [loader.load_file(path) for path in files]
        for plugin in added:
            loader.add(plugin)
            on_top.append(plugin)
        plugins = loader.plugins
        return cls(
            plugins=tuple(plugins),
            failures=tuple(loader.failures),
            models={spec.name: spec for plugin in plugins for spec in plugin.models},
            layers={spec.name: spec for plugin in plugins for spec in plugin.layers},
            tasks={spec.name: spec for plugin in plugins for spec in plugin.tasks},
            flop_formulas=tuple(formula for plugin in plugins for formula in plugin.flop_formulas),
            owners={
                (kind, spec.name): plugin
                for plugin in plugins
                for kind, specs in (
                    *(("model", plugin.models), ("layer", plugin.layers), ("task", plugin.tasks)),
                    ("namespace", plugin.namespaces),
                )
                for spec in specs
            },
            files=tuple(on_top),
            namespaces={namespace.prefix: namespace for plugin in plugins for namespace in plugin.namespaces},
        )

    def model(self, name: str) -> ModelSpec:
        """Return a model's spec, looked up in its namespace where it has one; a layer is a model of features.

        UnknownName suggests what is near and shows the plugins that failed.
        """
        namespace = self.namespace(name)
        if namespace is None and not self.is_layer(name):
            if name not in self.models:  # a layer may have been meant
                raise UnknownName("model", name, [*self.layers, *self.models], map(str, self.failures))
            return self.models[name]
        if namespace is None:
            if name not in self.looked_up:
                self.looked_up[name] = layer_model(self.layers[name])
                self.owners["model", name] = self.owners["layer", name]
            return self.looked_up[name]
        if name not in self.looked_up:
            self.looked_up[name] = self._look_up(namespace, name)
            self.owners["model", name] = self.owners["namespace", namespace.name]
        return self.looked_up[name]

    def namespace(self, name: str) -> Namespace | None:
        """Return the namespace that the name of a model, or a glob, begins with; None for all others."""
        head, slash, _ = name.partition("/")
        return self.namespaces.get(head + slash)

    def has(self, name: str) -> bool:
        """Tell whether a name is a model's or a layer's, or begins as those of a foreign zoo, which is not asked."""
        return name in self.models or name in self.layers or self.namespace(name) is not None

    def is_layer(self, name: str) -> bool:
        """Tell whether a name is a layer's, and no model's."""
        return name in self.layers and name not in self.models

    def names(self, pattern: str) -> Iterable[str]:
        """Return the names that a glob is matched with: a namespace's where it begins with one, else the models'."""
        namespace = self.namespace(pattern)
        if namespace is None:
            return self.models
        return [namespace.prefix + name for name in self._ask(namespace, namespace.list)]

    def _look_up(self, namespace: Namespace, name: str) -> ModelSpec:
        spec = self._ask(namespace, namespace.resolve, name.removeprefix(namespace.prefix))
        if spec is None:
            raise UnknownName("model", name, self.names(name))
        if not isinstance(spec, ModelSpec) or spec.name != name:
            owner = self.owners["namespace", namespace.name].owner
            raise ZooError(f"{namespace.resolve} of {owner} returns {spec!r}; expected a ModelSpec called {name}")
        check_plain(spec)
        return spec

    def _ask(self, namespace: Namespace, code: ImportString, *args: str) -> Any:
        """Call a function of a namespace. ZooError names the plugin and the reason when it fails."""
        try:
            return resolve(str(code))(*args)
        except Exception as error:
            owner = self.owners["namespace", namespace.name].owner
            raise ZooError(f"the namespace {namespace.name} of {owner} fails: {reason_of(error)}") from error

    def layer(self, name: str) -> LayerSpec:
        """Return a layer's spec. UnknownName as for a model."""
        return self._find("layer", self.layers, name)

    def task(self, name: str, roots: tuple[Path, ...] = ()) -> TaskSpec:
        """Return a task's spec; one of data that the user has is named ``coco:PATH``, below one of ``roots`` too.

        UnknownName as for a model, ZooError for data that is not there, or a path that is missing or is one too many.
        """
        if (name, roots) not in self._tasks_asked_for:
            self._tasks_asked_for[name, roots] = self._task(name, roots)
        return self._tasks_asked_for[name, roots]

    @functools.cached_property
    def _tasks_asked_for(self) -> dict[tuple[str, tuple[Path, ...]], TaskSpec]:
        """Tasks by name: every model of a suite asks, and to describe data may be to read all of its annotations."""
        return {}

    def _task(self, name: str, roots: tuple[Path, ...]) -> TaskSpec:
        known, colon, path = name.partition(":")
        spec = self._find("task", self.tasks, known)
        if spec.needs_path and not path:
            raise ZooError(f"the task {known} is of data that you have; name it {known}:PATH")
        if colon and not spec.needs_path:
            raise ZooError(f"the task {known} brings its own data; it takes no path, such as {path!r}")
        return spec.at(find_data(path, roots)) if path else spec

    def _find(self, kind: str, specs: Mapping[str, Spec], name: str) -> Spec:
        if name not in specs:
            raise UnknownName(kind, name, specs, map(str, self.failures))
        return specs[name]

    @functools.cached_property
    def custom(self) -> dict[str, str]:
        """What counts the operators of all plugins: names to import strings."""
        return {formula.op: str(formula.macs) for formula in self.flop_formulas}

    @property
    def bodies(self) -> dict[str, str]:
        """What allocates as the operators of plugins do, where they say so: names to import strings."""
        return {formula.op: str(formula.memory) for formula in self.flop_formulas if formula.memory}

    @functools.cached_property
    def for_workers(self) -> dict[str, Any]:
        """What a worker cannot look up by itself: what is known of custom operators, and layers of single files."""
        layers = [replace(plugin, records={"zoo_layers": plugin.layers}) for plugin in self.files if plugin.layers]
        return {"custom": self.custom, "bodies": self.bodies, "files": [jsonio.to_json(plugin) for plugin in layers]}

    def match_models(self, pattern: str) -> list[str]:
        """Return the names that a glob matches, or the name itself. UnknownName when there is none.

        Models of a namespace are among them only where the glob begins with its prefix.
        """
        return matching(self.names(pattern), pattern) or [self.model(pattern).name]


_in_use: ContextVar[Registry | None] = ContextVar("registry", default=None)


@functools.cache
def _loaded() -> Registry:
    return Registry.load()


def installed() -> Registry:
    """Return the registry in use: the one that :func:`using` sets, else that of the installed plugins, loaded once."""
    return _in_use.get() or _loaded()


def use(registry: Registry) -> None:
    """Look names up in ``registry`` from here on, in this process."""
    _in_use.set(registry)


@contextlib.contextmanager
def using(registry: Registry) -> Iterator[None]:
    """Let names be looked up in ``registry``, which may hold single-file plugins too."""
    token = _in_use.set(registry)
    try:
        yield
    finally:
        _in_use.reset(token)


# -- the public functions ------------------------------------------------------------------------------------


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the models that a glob matches; those of a namespace for a glob that begins with it."""
    return matching(installed().names(pattern), pattern)


def list_layers(pattern: str = "*") -> list[str]:
    """Return the names of the layers that a glob matches."""
    return matching(installed().layers, pattern)


def layer_spec(name: str) -> LayerSpec:
    """Return the spec of a layer by its name, for its cost. UnknownName when there is none."""
    return installed().layer(name)


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names that a glob matches, in their order."""
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def create_model(name: str, size: str | int | None = None, weights: str | None = None, **options: Any) -> Any:
    """Build a model: an ``nn.Module`` in training mode, on torch's current default device.

    ``size`` is ``"224px"``, ``"512tok"`` or a bare number, None for the default; ``weights`` is the file of a
    checkpoint in any layout that the model's spec lists. UnknownName, BadSize, BadSpec or BadWeights say what is wrong.
    """
    spec = installed().model(name)
    knobs = spec.with_options(options)
    at = spec.size(size)
    spec.sizes.check(at, knobs)
    model = resolve(str(spec.build))(at.native, **knobs)
    if weights is not None:
        from zoo.weights import load_weights

        load_weights(model, weights, spec.weights)
    return model


def create_layer(name: str, size: str | int | tuple[int, int], width: int, **options: Any) -> Any:
    """Build a layer on (B, N, C): an ``nn.Module`` in training mode, on torch's current default device.

    ``size`` is N, or (H, W) for tokens on a grid in row-major order; a layer without a grid takes H W tokens, and one
    with a grid takes a square N as its square root. UnknownName, BadSize or BadSpec say what is wrong.
    """
    spec = installed().layer(name)
    knobs = spec.with_options(options)
    return resolve(str(spec.build))(layer_size(spec, size, knobs, width), width, **knobs)


# -- a layer alone, measured as a model is -------------------------------------------------------------------

LAYER_TOKENS, LAYER_WIDTH = 1024, 256  # where nothing is said


BUILD_LAYER = "zoo.registry:build_layer"


def layer_model(spec: LayerSpec) -> ModelSpec:
    """Return a layer as a model from features (B, N, C) to features, with C as its option ``width``."""
    step = spec.step(spec.knobs)
    rule = SizeRule(f"{step**2 if spec.grid else step}tok", spec.multiple_of, single=True, square=spec.grid)
    return ModelSpec(
        spec.name,
        build=BUILD_LAYER,
        closed_form="zoo.registry:layer_macs",
        input=InputSpec("features", "sequence_length", params={"width": "width"}),
        sizes=replace(rule, default=f"{rule.nearest(LAYER_TOKENS, spec.knobs)[0]}tok"),
        family=spec.family,
        options={"layer": spec.name, "width": LAYER_WIDTH, **spec.knobs},
        output={"": "batch tokens width"},
        paper=spec.paper,
        licence=spec.licence,
        notes=spec.notes,
    )


def build_layer(size: int, layer: str, width: int, **options: Any) -> Any:
    """Build a layer by its name."""
    return create_layer(layer, size, width, **options)


def code_of(spec: ModelSpec) -> str:
    """Return the module that builds a model; of a layer the layer's own, where it is installed."""
    layer = installed().layers.get(str(spec.knobs.get("layer"))) if spec.build == BUILD_LAYER else None
    return str(layer.build if layer else spec.build).rpartition(":")[0]


def layer_macs(size: int, layer: str, width: int, **options: Any) -> int:
    """Return what a layer declares to cost."""
    spec = installed().layer(layer)
    return spec.cost.macs(spec.values(size, width, spec.with_options(options)))


def layer_size(
    spec: LayerSpec, size: str | int | tuple[int, int], knobs: Mapping[str, Any], width: int
) -> int | tuple[int, int]:
    """Return the size that a layer's ``build`` takes: N, or (H, W) on a grid.

    BadSize when the layer cannot take it, BadSpec when its heads do not divide the width.
    """
    native = Size.parse(size, "tok").native if isinstance(size, str) else size
    heads = knobs[spec.heads] if spec.heads else 1
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise BadSpec(f"the layer {spec.name} cannot have {heads!r} heads at width {width}; expected a divisor of it")
    if not spec.grid:
        native = native if isinstance(native, int) else math.prod(native)
    elif isinstance(native, int):
        if math.isqrt(native) ** 2 != native:
            raise BadSize(f"{native} tokens are no square grid; the layer {spec.name} needs (H, W)")
        native = (math.isqrt(native),) * 2
    step = spec.step(knobs)
    for value in (native,) if isinstance(native, int) else native:
        if value < 1 or value % step:
            near = " or ".join(str(v) for v in sorted({max(step, value // step * step), -(-value // step) * step}))
            told = "x".join(map(str, native)) if isinstance(native, tuple) else str(native)
            what = "sides" if spec.grid else "numbers of tokens"
            raise BadSize(
                f"the layer {spec.name} takes {what} that are multiples of {step}, not {told}; nearest: {near}"
            )
    return native
