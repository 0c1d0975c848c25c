"""Suites to cases: every group's product of models, axes and seeds, with what the command line asks on top."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from zoo.case import Case, check_axis
from zoo.errors import BadSize, BadSpec, UnknownName, ZooError
from zoo.metrics import METRICS, is_timed
from zoo.registry import Registry
from zoo.schema import Group, Limits
from zoo.spec import ModelSpec, Scalar, option_problem, read_layer
from zoo.suite import SuiteFile
from zoo.task import Assignment, TaskSpec

FIXED_AXES = (
    *("size", "batch_size", "dtype", "device", "mode", "threads", "compile", "attention_backend"),
    "test_size",
)
NO_VALUE = MappingProxyType({"compile": "eager", "attention_backend": "auto"})  # what is kept as None


@dataclass(frozen=True)
class Planned:
    """A case to run, with what is wanted of it. ``illegal`` says why the model cannot take it (a row, not a run).

    ``baseline`` is the case that it is measured beside, which may be itself, ``assignment`` what it is trained for.
    """

    case: Case
    metrics: tuple[str, ...]
    limits: Limits
    illegal: str = ""
    baseline: Case | None = None
    assignment: Assignment | None = None


@dataclass(frozen=True)
class Choice:
    """What the command line asks for on top of a suite; ``data`` are folders in which tasks look for theirs.

    ``weights`` are the files that models begin from, by name, ``recipe`` what they are trained by.
    """

    models: tuple[str, ...] = ()
    axes: Mapping[str, list[Scalar]] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    threads: int = 1
    data: tuple[Path, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    recipe: str | None = None


def expand(file: SuiteFile, registry: Registry, choice: Choice) -> list[Planned]:
    """Return the cases of a suite in order, each once. Errors name file, line and key."""
    check_choice(file, choice)
    planned: dict[tuple[str, tuple[str, ...], str], Planned] = {}
    beside: dict[str, Case] = {}
    substitutes, added = (
        [m for m in given if not any(names(file, registry, g, m) for g in range(len(file.suite.groups)))]
        for given in (choice.models, choice.added)
    )
    choice = replace(choice, added=tuple(added))
    for index, group in enumerate(file.suite.groups):
        for item in expand_group(file, registry, choice, index, group, substitutes):
            if item.baseline and beside.setdefault(item.case.id, item.baseline) != item.baseline:
                other = beside[item.case.id].id
                where = ("groups", index, "baseline")
                raise file.error(where, f"{item.case.id} is measured beside another baseline already: {other}")
            planned.setdefault((item.case.id, item.metrics, item.baseline.id if item.baseline else ""), item)
    present = {item.case.model for item in planned.values()}
    guests = [*substituted(registry, substitutes), *(() if choice.models else choice.added)]
    for name in guests:
        if name not in present and any(chosen_metrics(group, choice) for group in file.suite.groups):
            reason = why_not(file, registry, choice, 0, registry.model(name))
            raise ZooError(f"no group of the suite {file.name} can take the model {name}: {reason}")
    return list(planned.values())


def substituted(registry: Registry, patterns: Iterable[str]) -> list[str]:
    """Return the models that the patterns name."""
    return [name for pattern in patterns for name in registry.match_models(pattern)]


def check_choice(file: SuiteFile, choice: Choice) -> None:
    """Raise UnknownName for a metric asked for that no group takes."""
    known = {metric for group in file.suite.groups for metric in group.metrics}
    for name in choice.metrics:
        if name not in known:
            raise UnknownName(f"metric in the suite {file.name}", name, known)


def names(file: SuiteFile, registry: Registry, index: int, pattern: str) -> bool:
    """Tell whether a group's models include one that ``pattern`` matches; an unknown name is an error."""
    matched = set(registry.match_models(pattern))
    return any(spec.name in matched for spec, _ in group_models(file, registry, index))


def group_models(file: SuiteFile, registry: Registry, index: int) -> list[tuple[ModelSpec, dict[str, Scalar]]]:
    """Return the models of a group with their own options; globs in the order of the registry."""
    found: dict[tuple[str, str], tuple[ModelSpec, dict[str, Scalar]]] = {}
    for position, entry in enumerate(file.suite.groups[index].models):
        name = entry if isinstance(entry, str) else entry.name
        options = {} if isinstance(entry, str) else dict(entry.options)
        try:
            specs = [registry.model(n) for n in registry.match_models(name)]
            for spec in specs:
                spec.with_options(options)
        except ZooError as error:
            raise file.error(("groups", index, "models", position), str(error)) from None
        for spec in specs:
            found.setdefault((spec.name, repr(sorted(options.items()))), (spec, options))
    return list(found.values())


def chosen_models(
    file: SuiteFile, registry: Registry, choice: Choice, index: int, substitutes: list[str]
) -> list[tuple[ModelSpec, dict[str, Scalar]]]:
    """Return the models of a group after ``--models`` and ``--plugin``.

    A model that the suite does not name takes part in every group that it fits.
    """
    own = group_models(file, registry, index)
    guests = list(choice.added)
    if choice.models:
        kept = [*choice.models, baseline_model(file.suite.groups[index])]
        own = [(s, o) for s, o in own if any(fnmatch.fnmatchcase(s.name, m.partition(":")[0]) for m in kept)]
        guests = substituted(registry, substitutes)
    specs = [registry.model(name) for name in guests]
    return own + [(spec, {}) for spec in specs if not why_not(file, registry, choice, index, spec)]


def why_not(file: SuiteFile, registry: Registry, choice: Choice, index: int, spec: ModelSpec) -> str:
    """Say why a model that a group does not name cannot take the group's axes and task; empty when it can."""
    try:
        cases = group_cases(file, registry, choice, index, spec, {})
    except ZooError as error:
        return str(error)
    return "" if any(not item.illegal for item in cases) else cases[0].illegal


def expand_group(
    file: SuiteFile, registry: Registry, choice: Choice, index: int, group: Group, substitutes: list[str]
) -> list[Planned]:
    """Return the cases of one group; where its only size is illegal for its only model, that is an error."""
    check_metrics(file, registry, choice, index, group)
    if not chosen_metrics(group, choice):
        return []
    models = chosen_models(file, registry, choice, index, substitutes)
    cases = [c for spec, options in models for c in group_cases(file, registry, choice, index, spec, options)]
    if len(cases) == 1 and cases[0].illegal:
        raise file.error(("groups", index, "axes", "size"), f"model {cases[0].case.model}: {cases[0].illegal}")
    return cases


def chosen_metrics(group: Group, choice: Choice) -> tuple[str, ...]:
    """Return the metrics of a group after ``--metrics``."""
    return tuple(m for m in group.metrics if not choice.metrics or m in choice.metrics)


def check_metrics(file: SuiteFile, registry: Registry, choice: Choice, index: int, group: Group) -> None:
    """Raise BadSuite for an unknown metric or task, or a metric of a task that the group does not name."""
    task = group_task(file, registry, choice, index)
    known = [*METRICS, *task.metric_names] if task else list(METRICS)
    for position, name in enumerate(group.metrics):
        if name not in known:
            owners = [t.name for t in registry.tasks.values() if name in t.metric_names]
            hint = [f"{name} is a metric of the task {owners[0]}: name it with task: {owners[0]}"] if owners else []
            raise file.error(("groups", index, "metrics", position), str(UnknownName("metric", name, known, hint)))
        if group.baseline is None and name in METRICS and METRICS[name].ratio_of:
            raise file.error(("groups", index, "metrics", position), f"{name} needs a baseline; this group names none")
    if group.baseline is not None and not any(is_timed(name) for name in group.metrics):
        timed = ", ".join(name for name in METRICS if is_timed(name))
        raise file.error(("groups", index, "baseline"), f"nothing is timed beside it; expected a metric of {timed}")
    if group.recipe is not None and task is None:
        raise file.error(("groups", index, "recipe"), "a recipe needs a task; this group names none")


def group_task(file: SuiteFile, registry: Registry, choice: Choice, index: int) -> TaskSpec | None:
    """Return the task of a group, with its data, or None."""
    group = file.suite.groups[index]
    if group.task is None:
        return None
    try:
        return registry.task(group.task, choice.data)
    except ZooError as error:
        raise file.error(("groups", index, "task"), str(error)) from None


def group_cases(
    file: SuiteFile,
    registry: Registry,
    choice: Choice,
    index: int,
    spec: ModelSpec,
    own: Mapping[str, Scalar],
) -> list[Planned]:
    """Return the cases of one model of a group: the product of its axes, sizes outermost."""
    group = file.suite.groups[index]
    task = group_task(file, registry, choice, index)
    at: tuple[Hashable, ...] = ("groups", index, "axes")
    if task and task.kind not in spec.adapters:
        where = ("groups", index, "task")
        raise file.error(where, f"model {spec.name} has no adapter for {task.kind}, which the task {task.name} needs")
    axes: dict[str, list[Scalar]] = {"size": [spec.sizes.default], **group.axes, **choice.axes}
    axes["size"] = image_sizes_for(file, at, axes["size"])
    if "test_size" in axes and not task:
        raise file.error((*at, "test_size"), "a size to test at needs a task; this group names none")
    for name in axes:
        if name not in FIXED_AXES and name not in spec.knobs:
            known = ", ".join([*FIXED_AXES, *spec.knobs])
            raise file.error((*at, name), f"model {spec.name} lacks the axis {name!r}; its axes: {known}")
        if name in own:
            raise file.error((*at, name), f"{name} is an axis, and {spec.name} has {name}={own[name]}; leave one out")
    baseline = group_baseline(file, registry, index, spec, own, axes)

    assignment = group_assignment(file, index, task, spec, choice) if task else None

    def case_at(spec: ModelSpec, own: Mapping[str, Scalar], point: Mapping[str, Scalar], seed: int | None) -> Case:
        options = {**own, **(task_options(task, spec) if task else {})}
        case = make_case(file, at, spec, point, options, choice.threads)
        check_layers(file, registry, at, spec, case)
        if not assignment:
            return case
        name, recipe = assignment.task.name, assignment.recipe.name
        return replace(case, seed=seed, task=name, recipe=recipe, weights=assignment.weights_name)

    found, metrics = [], chosen_metrics(group, choice)
    seeds: list[int | None] = [*group.seeds] if task else [None]
    for seed in seeds:
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            case, beside = case_at(spec, own, point, seed), None
            if baseline:
                other, options, change = baseline
                default = {} if "size" in {**group.axes, **choice.axes} else {"size": other.sizes.default}
                beside = case_at(other, options, {**point, **default, **change}, seed)
            found.append(Planned(case, metrics, group.limits, why_illegal(spec, case), beside, assignment))
    return found


def image_sizes_for(file: SuiteFile, at: tuple[Hashable, ...], sizes: list[Scalar]) -> list[Scalar]:
    """Return the sizes of a group, with those of the suite's images for ``images``."""
    if "images" not in sizes:
        return sizes
    if file.suite.images is None:
        raise file.error((*at, "size"), "the suite has no images; expected a key images beside groups")
    return [size for given in sizes for size in (file.suite.images.scaled() if given == "images" else [given])]


def baseline_model(group: Group) -> str:
    """Return the name of the model that is a group's baseline, empty where it is none."""
    named = group.baseline.get("model") if isinstance(group.baseline, dict) else group.baseline
    return str(named or "")


def option_text(options: Mapping[str, Scalar]) -> str:
    """Return options as they are written behind a name."""
    return ":" * bool(options) + "+".join(f"{name}={value}" for name, value in options.items())


def group_baseline(
    file: SuiteFile,
    registry: Registry,
    index: int,
    spec: ModelSpec,
    own: Mapping[str, Scalar],
    axes: Mapping[str, list[Scalar]],
) -> tuple[ModelSpec, Mapping[str, Scalar], dict[str, Scalar]] | None:
    """Return what a model of a group is measured beside: a model, its options, and the axis that is another one."""
    group, where = file.suite.groups[index], ("groups", index, "baseline")
    if group.baseline is None:
        return None
    if text := baseline_model(group):
        models = group_models(file, registry, index)
        name, asked = read_layer(text)
        named = [(other, options) for other, options in models if other.name == name]
        exact = [(other, options) for other, options in named if options == asked]
        if exact or (len(named) == 1 and not asked):
            return *(exact or named)[0], {}
        known = ", ".join(other.name + option_text(options) for other, options in models)
        which = "is several of the group's models" if named and not asked else "is none of the group's models"
        raise file.error(where, f"{text!r} {which}: {known}")
    assert isinstance(group.baseline, dict)
    if len(group.baseline) != 1:
        raise file.error(where, "expected one model, or one axis with one of its values")
    ((axis, value),) = group.baseline.items()
    if axis not in axes or value not in axes[axis]:
        known = ", ".join(map(str, axes[axis])) if axis in axes else f"one of the axes {', '.join(axes)}"
        raise file.error(where, f"{axis}={value} is none of the group's cases; expected {known}")
    return spec, own, {axis: value}


def group_assignment(file: SuiteFile, index: int, task: TaskSpec, spec: ModelSpec, choice: Choice) -> Assignment:
    """Return what a model of a group is trained for. BadSuite when it has no recipe of the group's name."""
    weights = choice.weights.get(spec.name, "")
    try:
        recipe = task.recipe(choice.recipe or file.suite.groups[index].recipe, spec.recipes, spec.name)
    except BadSpec as error:
        if choice.recipe:
            raise ZooError(f"--recipe: {error}") from None
        raise file.error(("groups", index, "recipe"), str(error)) from None
    return Assignment(task, recipe, weights)


def task_options(task: TaskSpec, spec: ModelSpec) -> dict[str, Scalar]:
    """Return the options that a task sets in a model. BadSpec when the model lacks one."""
    spec.with_options(task.model_options)
    return dict(task.model_options)


def check_layers(file: SuiteFile, registry: Registry, at: tuple[Hashable, ...], spec: ModelSpec, case: Case) -> None:
    """Raise BadSuite for an option that names a layer that there is not, or gives it an option that it lacks."""
    for option in spec.layer_options:
        try:
            name, options = read_layer(str(case.options.get(option, spec.knobs[option])))
            registry.layer(name).with_options(options)
        except ZooError as error:
            raise file.error((*at, option), str(error)) from None


def make_case(
    file: SuiteFile,
    at: tuple[Hashable, ...],
    spec: ModelSpec,
    point: Mapping[str, Scalar],
    options: Mapping[str, Scalar],
    threads: int,
) -> Case:
    """Return the case at one point of the axes."""
    for name, value in point.items():
        problem = "this axis has an empty value" if value is None and name in FIXED_AXES else None
        problem = problem or check_axis(name, value) or option_problem(f"model {spec.name}", spec.knobs, name, value)
        if problem:
            raise file.error((*at, name), problem)
    sizes = {name: read_size(file, (*at, name), spec, point[name]) for name in ("size", "test_size") if name in point}
    fixed = {name: value for name, value in point.items() if name in FIXED_AXES}
    fixed = {name: value for name, value in fixed.items() if NO_VALUE.get(name) != value}
    knobs = {**options, **{name: value for name, value in point.items() if name not in FIXED_AXES}}
    knobs = {name: value for name, value in knobs.items() if spec.knobs[name] != value}
    return Case(model=spec.name, **{"threads": threads, **fixed, **sizes}, options=knobs)  # type: ignore[arg-type]


def read_size(file: SuiteFile, at: tuple[Hashable, ...], spec: ModelSpec, value: Scalar) -> str:
    """Return a size as its tagged text. BadSuite when it is none, or one of the other axis."""
    try:
        size = str(spec.size(value))  # type: ignore[arg-type]
    except BadSize as error:
        raise file.error(at, str(error)) from None
    if size[-1] != spec.sizes.default[-1]:
        message = f"model {spec.name} takes a {spec.input.axis}, such as {spec.sizes.default}, not {size}"
        raise file.error(at, message)
    return size


def why_illegal(spec: ModelSpec, case: Case) -> str:
    """Return why a model cannot take a case's size, or the one it is tested at; empty when it can."""
    try:
        for size in filter(None, (case.size, case.test_size)):
            spec.sizes.check(spec.size(size), spec.with_options(case.options))
    except (BadSize, BadSpec) as error:
        return str(error)
    return ""
