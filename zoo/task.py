"""What a model is trained for and judged by, as plugins yield it, and the data that it is given. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from zoo.errors import BadSpec, ZooError
from zoo.recipe import AS_IT_IS, Recipe
from zoo.spec import API, ImportString, Metric, Scalar, check_api, check_name, import_string, resolve

TIMM = "timm/"  # what begins the name of weights that timm publishes


@dataclass(frozen=True)
class TaskSpec:
    """A task: its data, the options it sets in a model, its metrics, and recipes (the first is the default).

    ``kind`` picks the adapter of a model. ``data(split)`` returns a sequence of ``(input, target)`` for the split
    ``"train"`` and each of ``tests``, which maps a split to what is added to the names of its metrics. It is also given
    ``size`` (as :attr:`Size.native`), ``length`` (its number of tokens) and ``path`` where it has arguments of that
    name. ``evaluate(predictions, targets)`` returns ``{metric: (value, low, high, n)}``, with a fifth part where the
    metric has a convention to be told.

    ``mirror`` says whether a mirrored image is still what its target says: letters and digits are not.

    A task whose ``path`` is ``"?"`` is of data that the user has: it is asked for as ``name:PATH``, and
    ``describe(path)``, which imports no torch, returns two mappings: the options that the data sets in a model, and
    ``settings``, what adapters are told of the data beside them.
    """

    name: str
    kind: str
    data: ImportString
    evaluate: ImportString
    metrics: tuple[Metric, ...]
    recipes: tuple[Recipe, ...]
    model_options: Mapping[str, Scalar] = field(default_factory=dict)
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    mirror: bool = True
    tests: Mapping[str, str] = field(default_factory=lambda: {"test": ""})
    path: str = ""
    describe: ImportString = ""
    description: str = ""
    source: str = ""
    licence: str = ""
    api: int = API

    def __post_init__(self) -> None:
        """Refuse what breaks the contract."""
        check_name("task", self.name.partition(":")[0])
        check_api("task", self.name, self.api)
        if not self.metrics or not self.recipes or not self.tests:
            raise BadSpec(f"task {self.name} needs at least one metric, one recipe and one split to test on")
        for code in ("data", "evaluate", "describe"):
            if getattr(self, code):
                object.__setattr__(self, code, import_string(getattr(self, code)))

    @property
    def needs_path(self) -> bool:
        """Tell whether the task is of data that is not named yet."""
        return self.path == "?"

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics of all splits that it is tested on."""
        return tuple(metric.name + suffix for suffix in self.tests.values() for metric in self.metrics)

    def metric(self, name: str) -> Metric:
        """Return what is known of a metric, under the name that a split gives it."""
        return next(m for m in self.metrics for suffix in self.tests.values() if name == m.name + suffix)

    def at(self, path: Path) -> TaskSpec:
        """Return the task of the data in a folder; its name has the folder's own, not where that lies."""
        options, settings = resolve(str(self.describe))(path) if self.describe else ({}, {})
        return replace(
            self,
            name=f"{self.name}:{path.name}",
            path=str(path),
            model_options={**self.model_options, **options},
            settings={**self.settings, **settings},
        )

    def recipe(self, name: str | None, own: tuple[Recipe, ...] = (), model: str = "") -> Recipe:
        """Return a recipe by name, None is the first; ``own`` are those of the model that is trained.

        ``NAME@BUDGET`` is one with another budget. BadSpec when there is none of that name, or no such budget.
        """
        if name and "@" in name:
            name, _, budget = name.partition("@")
            return self.recipe(name, own, model).with_budget(budget)
        if name == AS_IT_IS:
            return Recipe(AS_IT_IS, batch_size=self.recipes[0].batch_size)
        for recipe in self.recipes:
            if name in (None, recipe.name):
                return recipe
        for recipe in own:
            if (name, self.kind) == (recipe.name, recipe.kind):
                augment = {name: v for name, v in recipe.augment.items() if self.mirror or name != "mirror"}
                return replace(recipe.on_budget_of(self.recipes[0]), augment=augment)
        known = ", ".join([*(r.name for r in self.recipes), *(r.name for r in own if r.kind == self.kind), AS_IT_IS])
        of_model = f" for the model {model}" if model else ""
        raise BadSpec(f"task {self.name} has no recipe {name!r}{of_model}; its recipes: {known}")


@dataclass(frozen=True)
class Assignment:
    """A task with the recipe that a case is trained by; ``weights`` is a file to begin from, or ``timm/NAME``."""

    task: TaskSpec
    recipe: Recipe
    weights: str = ""

    @property
    def weights_file(self) -> str:
        """The file to begin from, empty where there is none: timm's weights are no file of the user's."""
        return "" if self.weights.startswith(TIMM) else self.weights

    @property
    def weights_name(self) -> str | None:
        """What a case says of the weights that it begins from: a file's own name, or timm's of them."""
        return (Path(self.weights).name if self.weights_file else self.weights) or None


def find_data(path: str, roots: tuple[Path, ...]) -> Path:
    """Return the folder that a task's data lies in: a path as it is, or below one of ``roots``. ZooError if nowhere."""
    places = [Path(path), *(root / path for root in roots)]
    for place in places:
        if place.exists():
            return place.resolve()
    looked = ", ".join(dict.fromkeys(str(place) for place in places))
    raise ZooError(f"there is no data {path!r}: looked for {looked}; tell where it lies with --data FOLDER")
