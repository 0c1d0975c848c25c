"""What is registered: name to spec, with the plugins that own them and the ones that failed."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from zoo.errors import UnknownName
from zoo.plugins import Failure, Loader, Plugin
from zoo.spec import ModelSpec, TaskSpec, resolve


@dataclass(frozen=True)
class Registry:
    """All models and tasks by name."""

    plugins: tuple[Plugin, ...]
    failures: tuple[Failure, ...]
    models: dict[str, ModelSpec]
    tasks: dict[str, TaskSpec]
    owners: dict[tuple[str, str], Plugin]
    files: tuple[Plugin, ...] = ()

    @classmethod
    def load(cls, files: Iterable[str] = ()) -> Registry:
        """Load every installed plugin, and single files on top (ZooError when one of these cannot be)."""
        loader = Loader()
        loader.load_entry_points()
        added = tuple(loader.load_file(path) for path in files)
        return cls(
            plugins=tuple(loader.plugins),
            failures=tuple(loader.failures),
            models={spec.name: spec for plugin in loader.plugins for spec in plugin.models},
            tasks={spec.name: spec for plugin in loader.plugins for spec in plugin.tasks},
            owners={
                (kind, spec.name): plugin
                for plugin in loader.plugins
                for kind, specs in (("model", plugin.models), ("task", plugin.tasks))
                for spec in specs
            },
            files=added,
        )

    def model(self, name: str) -> ModelSpec:
        """Return a model's spec. UnknownName suggests what is near and shows the plugins that failed."""
        if name not in self.models:
            raise UnknownName("model", name, self.models, map(str, self.failures))
        return self.models[name]

    def task(self, name: str) -> TaskSpec:
        """Return a task's spec. UnknownName as for a model."""
        if name not in self.tasks:
            raise UnknownName("task", name, self.tasks, map(str, self.failures))
        return self.tasks[name]

    def match_models(self, pattern: str) -> list[str]:
        """Return the names that a glob matches, or the name itself. UnknownName when there is none."""
        found = [name for name in self.models if fnmatch.fnmatchcase(name, pattern)]
        return found or [self.model(pattern).name]


@functools.cache
def installed() -> Registry:
    """Return the registry of the installed plugins, loaded once."""
    return Registry.load()


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the installed models that a glob matches."""
    return [name for name in installed().models if fnmatch.fnmatchcase(name, pattern)]


def create_model(name: str, size: str | int | None = None, **options: Any) -> Any:
    """Build a model: an ``nn.Module`` in training mode, on torch's current default device.

    ``size`` is ``"224px"``, ``"512tok"`` or a bare number, None for the default. UnknownName, BadSize or BadSpec say
    what is wrong with the arguments.
    """
    spec = installed().model(name)
    knobs = spec.with_options(options)
    at = spec.size(size)
    spec.sizes.check(at, knobs)
    return resolve(str(spec.build))(at.native, **knobs)
