"""Suites: read a YAML file, name file, line and key of what is wrong, and expand it to cases."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from zoo.case import Case, check_axis
from zoo.errors import BadSize, BadSpec, BadSuite, UnknownName, ZooError
from zoo.metrics import METRICS, Convention, is_timed
from zoo.registry import Registry
from zoo.resources import suites
from zoo.spec import ModelSpec, Scalar, TaskSpec, option_problem, read_layer

# -- the schema ----------------------------------------------------------------------------------------------

FIXED_AXES = ("size", "batch_size", "dtype", "device", "mode", "threads", "compile", "attention_backend")
NO_VALUE = MappingProxyType({"compile": "eager", "attention_backend": "auto"})  # what is kept as None
KEY_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
SCALE = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def parse_bytes(value: Any) -> Any:
    """Read an amount of memory: a number of bytes, or text such as ``4 GiB``."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*(k|M|G|Ki|Mi|Gi)?B?", value.strip())
    if not match:
        raise ValueError(f"{value!r} is not an amount of memory; expected bytes, or text such as '4 GiB'")
    return int(float(match[1]) * SCALE[match[2] or ""])


class Strict(BaseModel):
    """Unknown keys are errors, nothing is changed after reading, and types are not bent to fit."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Limits(Strict):
    """What one case may take: ``time`` in seconds, ``memory`` in bytes above what the worker starts with."""

    time: Annotated[float, Field(gt=0, le=604_800)] = 300.0
    memory: Annotated[int, Field(gt=0), BeforeValidator(parse_bytes)] | None = None


class ModelEntry(Strict):
    """One model with options of its own."""

    name: str
    options: dict[str, Scalar] = {}


class Group(Strict):
    """Models, the axes they are swept over, and what is measured of them.

    ``baseline`` is one of the models, or an axis with one of its values (``compile: eager``): what is timed is then
    measured beside it, where all other axes are the same.
    """

    models: Annotated[list[str | ModelEntry], Field(min_length=1)]
    axes: dict[str, list[Scalar]] = {}
    metrics: Annotated[list[str], Field(min_length=1)]
    task: str | None = None
    recipe: str | None = None
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    baseline: str | dict[str, Scalar] | None = None
    limits: Limits = Limits()

    @field_validator("axes", mode="before")
    @classmethod
    def _lists(cls, axes: Any) -> Any:
        if not isinstance(axes, dict):
            return axes
        return {name: values if isinstance(values, list) else [values] for name, values in axes.items()}

    @field_validator("axes")
    @classmethod
    def _no_empty_axis(cls, axes: dict[str, list[Scalar]]) -> dict[str, list[Scalar]]:
        for name, values in axes.items():
            if not values:
                raise ValueError(f"the axis {name!r} has no values, so the group has no cases")
        return axes


class TableSpec(Strict):
    """A table: the rows are the cases that fit ``where``, the ``columns`` are axes and metrics, in order.

    ``note`` is what a reader must know, printed first below the table. ``convention`` tells MACs as another source
    counted them (``detr2020``).
    """

    title: str
    note: str = ""
    convention: Convention = "mac"
    columns: Annotated[list[str], Field(min_length=1)]
    where: dict[str, Scalar | list[Scalar]] = {}


class PlotSpec(Strict):
    """A log-log plot of the metric ``y`` against ``x`` (``size``), one line a model."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    title: str
    y: str
    x: str = "size"
    where: dict[str, Scalar | list[Scalar]] = {}


class Suite(Strict):
    """A suite file. ``schema`` is 1."""

    schema_: Annotated[int, Field(alias="schema", ge=1, le=1)]
    title: str = ""
    groups: Annotated[list[Group], Field(min_length=1)]
    tables: list[TableSpec] = []
    plots: list[PlotSpec] = []


@dataclass(frozen=True)
class SuiteFile:
    """A suite with its name, its file, and the line of each key, for messages."""

    name: str
    path: Path
    suite: Suite
    lines: Mapping[tuple[Hashable, ...], int]

    def error(self, loc: tuple[Hashable, ...], message: str) -> BadSuite:
        """Return an error that points at ``loc``, a path of keys and positions."""
        return BadSuite(self.path, line_of(self.lines, loc), key_text(loc), message)


# -- reading -------------------------------------------------------------------------------------------------


def find_suite(name: str) -> Path:
    """Return the file of a suite given by name or by path."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    known = suites()
    if name not in known:
        raise UnknownName("suite", name, known, ["a suite of your own is given by its path, ending in .yaml"])
    return known[name]


def read_suite(name: str) -> SuiteFile:
    """Read and validate a suite given by name or by path. BadSuite says file, line and key of what is wrong."""
    path = find_suite(name)
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise BadSuite(path, None, "", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadSuite(
            path, None, "", f"is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from None
    return parse_suite(text, path)


def parse_suite(text: str, path: Path) -> SuiteFile:
    """Validate the text of a suite; ``path`` is what messages and the name are taken from."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(node_lines(node, path)) if node else {}
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        message = f"not valid YAML: {yaml_problem(text, error)}"
        raise BadSuite(path, mark.line + 1 if mark else None, "", message) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = " ".join(str(error).split())[:120]
        raise BadSuite(path, None, "", f"not valid YAML: {first}") from None
    if not isinstance(data, dict):
        raise BadSuite(
            path, None, "", f"expected a mapping with the keys schema and groups, found {type(data).__name__}"
        )
    try:
        suite = Suite.model_validate(data)
    except ValidationError as invalid:
        raise first_error(path, lines, invalid) from None
    return SuiteFile(path.stem, path, suite, lines)


def yaml_problem(text: str, error: yaml.MarkedYAMLError) -> str:
    """Say what YAML found wrong; a tab is named as such."""
    lines = text.splitlines()
    at = error.problem_mark.line if error.problem_mark else len(lines)
    if at < len(lines) and "\t" in lines[at]:
        return "a tab character; YAML is indented with spaces"
    return f"{error.problem or error.context}"


def node_lines(
    node: yaml.Node, path: Path, loc: tuple[Hashable, ...] = ()
) -> Iterator[tuple[tuple[Hashable, ...], int]]:
    """Yield the line of every key and item; a key given twice is an error."""
    yield loc, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in KEY_TAGS:
                raise BadSuite(path, key.start_mark.line + 1, key_text(loc), "a key must be plain text")
            if key.value in seen:
                raise BadSuite(path, key.start_mark.line + 1, key_text((*loc, key.value)), "this key is given twice")
            seen.add(key.value)
            yield from node_lines(value, path, (*loc, key.value))
            yield (*loc, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            yield from node_lines(item, path, (*loc, position))


def line_of(lines: Mapping[tuple[Hashable, ...], int], loc: tuple[Hashable, ...]) -> int | None:
    """Return the line of the innermost part of ``loc`` that the file has."""
    for length in range(len(loc), -1, -1):
        if loc[:length] in lines:
            return lines[loc[:length]]
    return None


def key_text(loc: Iterable[Hashable]) -> str:
    """Write a location as ``groups[0].axes.size``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.lstrip(".")


def first_error(path: Path, lines: Mapping[tuple[Hashable, ...], int], invalid: ValidationError) -> BadSuite:
    """Turn pydantic's findings into one sentence about the first of them that lies deepest in the file."""
    found = max(invalid.errors(), key=lambda e: (e["type"] == "extra_forbidden", known_depth(lines, e["loc"])))
    loc = tuple(p for p in found["loc"] if p not in ("str", "ModelEntry", "int", "float", "bool", "[key]"))
    message = found["msg"].removeprefix("Value error, ")
    if found["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(allowed_keys(loc)))
        message = f"unknown key; expected one of {allowed}"
    elif found["type"] == "missing":
        message = "this key is missing"
    elif not found["type"].startswith("value_error"):
        message = f"{message}, found {found['input']!r}" if not isinstance(found["input"], dict | list) else message
    return BadSuite(path, line_of(lines, loc), key_text(loc), message)


def known_depth(lines: Mapping[tuple[Hashable, ...], int], loc: tuple[Hashable, ...]) -> int:
    """Return how many leading parts of ``loc`` the file has."""
    return max((n for n in range(len(loc) + 1) if loc[:n] in lines), default=0)


def allowed_keys(loc: tuple[Hashable, ...]) -> list[str]:
    """Return the keys that may stand where ``loc`` points."""
    names = [part for part in loc[:-1] if isinstance(part, str)]
    sections: dict[str, type[BaseModel]] = {
        "groups": Group,
        "tables": TableSpec,
        "plots": PlotSpec,
        "limits": Limits,
        "models": ModelEntry,
    }
    model: type[BaseModel] = sections[names[-1]] if names else Suite
    return [info.alias or name for name, info in model.model_fields.items()]


# -- expansion -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """A case to run, with what is wanted of it. ``illegal`` says why the model cannot take it (a row, not a run).

    ``baseline`` is the case that it is measured beside, which may be itself.
    """

    case: Case
    metrics: tuple[str, ...]
    limits: Limits
    illegal: str = ""
    baseline: Case | None = None


@dataclass(frozen=True)
class Choice:
    """What the command line asks for on top of a suite."""

    models: tuple[str, ...] = ()
    axes: Mapping[str, list[Scalar]] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    threads: int = 1


def expand(file: SuiteFile, registry: Registry, choice: Choice) -> list[Planned]:
    """Return the cases of a suite in order, each once. Errors name file, line and key."""
    check_choice(file, choice)
    planned: dict[tuple[str, tuple[str, ...], str], Planned] = {}
    beside: dict[str, Case] = {}
    substitutes = [
        m for m in choice.models if not any(names(file, registry, g, m) for g in range(len(file.suite.groups)))
    ]
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
    guests = [name for name in choice.added if name not in {spec.name for spec, _ in own}]
    if choice.models:
        kept = [*choice.models, baseline_model(file.suite.groups[index])]
        own = [(s, o) for s, o in own if any(fnmatch.fnmatchcase(s.name, m) for m in kept)]
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
    check_metrics(file, registry, index, group)
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


def check_metrics(file: SuiteFile, registry: Registry, index: int, group: Group) -> None:
    """Raise BadSuite for an unknown metric or task, or a metric of a task that the group does not name."""
    task = group_task(file, registry, index)
    known = [*METRICS, *(m.name for m in task.metrics)] if task else list(METRICS)
    for position, name in enumerate(group.metrics):
        if name not in known:
            owners = [t.name for t in registry.tasks.values() if name in {m.name for m in t.metrics}]
            hint = [f"{name} is a metric of the task {owners[0]}: name it with task: {owners[0]}"] if owners else []
            raise file.error(("groups", index, "metrics", position), str(UnknownName("metric", name, known, hint)))
        if group.baseline is None and name in METRICS and METRICS[name].ratio_of:
            raise file.error(("groups", index, "metrics", position), f"{name} needs a baseline; this group names none")
    if group.baseline is not None and not any(is_timed(name) for name in group.metrics):
        timed = ", ".join(name for name in METRICS if is_timed(name))
        raise file.error(("groups", index, "baseline"), f"nothing is timed beside it; expected a metric of {timed}")
    if group.recipe is not None and task is None:
        raise file.error(("groups", index, "recipe"), "a recipe needs a task; this group names none")


def group_task(file: SuiteFile, registry: Registry, index: int) -> TaskSpec | None:
    """Return the task of a group, or None."""
    group = file.suite.groups[index]
    if group.task is None:
        return None
    try:
        task = registry.task(group.task)
        task.recipe(group.recipe)
    except ZooError as error:
        raise file.error(("groups", index, "task"), str(error)) from None
    return task


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
    task = group_task(file, registry, index)
    at: tuple[Hashable, ...] = ("groups", index, "axes")
    if task and task.kind not in spec.adapters:
        where = ("groups", index, "task")
        raise file.error(where, f"model {spec.name} has no adapter for {task.kind}, which the task {task.name} needs")
    axes: dict[str, list[Scalar]] = {"size": [spec.sizes.default], **group.axes, **choice.axes}
    for name in axes:
        if name not in FIXED_AXES and name not in spec.knobs:
            known = ", ".join([*FIXED_AXES, *spec.knobs])
            raise file.error((*at, name), f"model {spec.name} lacks the axis {name!r}; its axes: {known}")
    baseline = group_baseline(file, registry, index, spec, own, axes)

    def case_at(spec: ModelSpec, own: Mapping[str, Scalar], point: Mapping[str, Scalar], seed: int | None) -> Case:
        options = {**own, **(task_options(task, spec) if task else {})}
        case = make_case(file, at, spec, point, options, choice.threads)
        check_layers(file, registry, at, spec, case)
        trained = {"task": task.name, "recipe": task.recipe(group.recipe).name, "seed": seed} if task else {}
        return replace(case, **trained)  # type: ignore[arg-type]

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
            found.append(Planned(case, metrics, group.limits, why_illegal(spec, case), beside))
    return found


def baseline_model(group: Group) -> str:
    """Return the name of the model that is a group's baseline, empty where it is none."""
    named = group.baseline.get("model") if isinstance(group.baseline, dict) else group.baseline
    return str(named or "")


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
    if name := baseline_model(group):
        models = group_models(file, registry, index)
        for other, options in models:
            if other.name == name:
                return other, options, {}
        raise file.error(where, f"{name!r} is none of the group's models: {', '.join(s.name for s, _ in models)}")
    assert isinstance(group.baseline, dict)
    if len(group.baseline) != 1:
        raise file.error(where, "expected one model, or one axis with one of its values")
    ((axis, value),) = group.baseline.items()
    if axis not in axes or value not in axes[axis]:
        known = ", ".join(map(str, axes[axis])) if axis in axes else f"one of the axes {', '.join(axes)}"
        raise file.error(where, f"{axis}={value} is none of the group's cases; expected {known}")
    return spec, own, {axis: value}


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
    try:
        size = str(spec.size(point["size"]))  # type: ignore[arg-type]
    except BadSize as error:
        raise file.error((*at, "size"), str(error)) from None
    if size[-1] != spec.sizes.default[-1]:
        message = f"model {spec.name} takes a {spec.input.axis}, such as {spec.sizes.default}, not {size}"
        raise file.error((*at, "size"), message)
    fixed = {name: value for name, value in point.items() if name in FIXED_AXES}
    fixed = {name: value for name, value in fixed.items() if NO_VALUE.get(name) != value}
    knobs = {**options, **{name: value for name, value in point.items() if name not in FIXED_AXES}}
    knobs = {name: value for name, value in knobs.items() if spec.knobs[name] != value}
    return Case(model=spec.name, **{"threads": threads, **fixed, "size": size}, options=knobs)  # type: ignore[arg-type]


def why_illegal(spec: ModelSpec, case: Case) -> str:
    """Return why a model cannot take a case's size, empty when it can."""
    try:
        spec.sizes.check(spec.size(case.size), spec.with_options(case.options))
    except (BadSize, BadSpec) as error:
        return str(error)
    return ""
