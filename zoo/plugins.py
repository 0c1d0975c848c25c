"""Loading plugins in isolation: one that is broken is reported with its reason, and the others work."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from zoo import hookspecs, jsonio
from zoo.errors import BadSpec, ZooError
from zoo.hookspecs import GROUP, KINDS, RECORD_TYPES
from zoo.spec import FlopFormula, LayerSpec, ModelSpec, Namespace, import_module
from zoo.task import TaskSpec

OWN_DISTRIBUTION = "attention-zoo"
FILE_PLUGIN_SECONDS = 120


@dataclass(frozen=True)
class Plugin:
    """A plugin that loaded, with the records it yields, by hook."""

    name: str
    distribution: str
    version: str
    module: str
    records: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """The models it registers."""
        return self.records.get("zoo_models", ())

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The layers it registers."""
        return self.records.get("zoo_layers", ())

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks it registers."""
        return self.records.get("zoo_tasks", ())

    @property
    def flop_formulas(self) -> tuple[FlopFormula, ...]:
        """What counts its operators."""
        return self.records.get("zoo_flop_formulas", ())

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        """The zoos of others that it makes known."""
        return self.records.get("zoo_namespaces", ())

    @property
    def owner(self) -> str:
        """The plugin and where it comes from, in words."""
        return f"plugin {self.name} of {self.distribution} {self.version}".rstrip()


@dataclass(frozen=True)
class Failure:
    """A plugin that did not load, and why."""

    name: str
    distribution: str
    version: str
    reason: str

    def __str__(self) -> str:
        """Return one sentence."""
        return f"plugin {self.name} of {self.distribution} {self.version} is not loaded: {self.reason}"


@dataclass
class Loader:
    """Loads plugins one after the other into one plugin manager, and takes a broken one out again."""

    manager: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager(GROUP))
    plugins: list[Plugin] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the hooks known."""
        self.manager.add_hookspecs(hookspecs)

    def load_entry_points(self) -> None:
        """Load every installed plugin: ours first, so that nobody takes a built-in's name, then by name."""
        found = list(importlib.metadata.entry_points(group=GROUP))
        for point in sorted(found, key=lambda p: (_distribution(p)[0] != OWN_DISTRIBUTION, p.name, p.value)):
            distribution, version = _distribution(point)
            try:
                module = point.load()
                self.add(Plugin(point.name, distribution, version, point.module, self.collect(module, point.name)))
            except (Exception, SystemExit) as error:
                self.failures.append(Failure(point.name, distribution, version, reason_of(error)))

    def collect(self, module: Any, name: str) -> dict[str, tuple[Any, ...]]:
        """Register a plugin module and return what its hooks yield; on any fault it is taken out again."""
        try:
            if self.manager.has_plugin(name):
                raise BadSpec(f"another plugin is called {name!r} too; expected a name of its own")
            if self.manager.register(module, name=name) is None:
                raise BadSpec(f"the plugin {name!r} is blocked")
            self.manager.check_pending()
            check_no_near_miss(module)
            return {hook: tuple(self.records(module, hook)) for hook in RECORD_TYPES}
        except BaseException:
            if self.manager.is_registered(module):
                self.manager.unregister(module)
            raise

    def records(self, module: Any, hook: str) -> Iterator[Any]:
        """Yield the records of one hook of one plugin, each held to its type."""
        caller = getattr(self.manager.hook, hook)
        for implementation in caller.get_hookimpls():
            if implementation.plugin is not module:
                continue
            for record in implementation.function() or ():
                if not isinstance(record, RECORD_TYPES[hook]):
                    expected = RECORD_TYPES[hook].__name__
                    raise BadSpec(f"{hook} yields {record!r}; expected {expected} records")
                check_plain(record)
                yield record

    def add(self, plugin: Plugin) -> None:
        """Keep a plugin unless it takes a name that is already registered; the error names both owners."""
        for hook, kind in KINDS.items():
            taken = {record.name: other.owner for other in self.plugins for record in other.records.get(hook, ())}
            for record in plugin.records.get(hook, ()):
                if record.name in taken:
                    owner = taken[record.name]
                    message = f"the {kind} name {record.name!r} is already taken by {owner}"
                    raise BadSpec(f"{message}; {plugin.owner} wants it too")
                taken[record.name] = "itself, as it is yielded twice"
        check_prefixes([*self.plugins, plugin])
        self.plugins.append(plugin)

    def load_file(self, path: str) -> Plugin:
        """Load a single-file plugin in a child process. ZooError says why where it cannot be."""
        plugin = read_file_plugin(Path(path))
        try:
            self.add(plugin)
        except BadSpec as error:
            raise ZooError(f"--plugin {path}: {error}") from None
        return plugin


def check_prefixes(plugins: Sequence[Plugin]) -> None:
    """Raise BadSpec for a model whose name lies in a namespace: it would hide the one that is looked up there."""
    for owner, namespace in ((plugin, n) for plugin in plugins for n in plugin.namespaces):
        for plugin in plugins:
            for model in plugin.models:
                if model.name.startswith(namespace.prefix):
                    taken = f"lies in the namespace {namespace.name} of {owner.owner}"
                    raise BadSpec(f"the model name {model.name!r} {taken}; {plugin.owner} wants it too")


def check_plain(record: Any) -> None:
    """Raise BadSpec for a record that holds anything but plain data: it could not be handed to a worker."""
    try:
        jsonio.to_json(record)
    except (TypeError, ValueError) as error:
        raise BadSpec(f"{type(record).__name__} {record.name} is not plain data: {error}") from None


def check_no_near_miss(module: Any) -> None:
    """Raise BadSpec for a function named like a hook that lacks the ``@hookimpl`` mark: it would never be called."""
    for hook in RECORD_TYPES:
        function = getattr(module, hook, None)
        if callable(function) and not hasattr(function, f"{GROUP}_impl"):
            raise BadSpec(f"{hook} is not marked with @hookimpl, so it would never be called")


def reason_of(error: BaseException) -> str:
    """Say in one sentence what went wrong, and where when it was raised in the plugin's own code."""
    if isinstance(error, BadSpec):
        return str(error)
    if isinstance(error, pluggy.PluginValidationError):
        return " ".join(str(error).split())
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    last = frames[-1] if frames else None
    where = f" ({Path(last.filename).name}:{last.lineno})" if last and Path(last.filename) != Path(__file__) else ""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}{where}"


def _distribution(point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    dist = point.dist
    return (dist.metadata["Name"], dist.version) if dist else ("unknown distribution", "")


# -- single files --------------------------------------------------------------------------------------------


def read_file_plugin(path: Path) -> Plugin:
    """Import a single file in a child process, which hands its records over as JSON.

    The file may therefore import torch at the top, print, hang or crash. ZooError says which of these it did.
    """
    if not path.is_file():
        raise ZooError(f"--plugin {path}: there is no such file; expected a Python file with zoo hooks")
    if path.suffix != ".py" or ":" in str(path.resolve()):
        raise ZooError(f"--plugin {path}: expected a file that ends in .py, with no colon in its path")
    with tempfile.TemporaryDirectory(prefix="zoo-plugin-") as folder:
        data = ask_child(path, Path(folder))
    if "failure" in data:
        raise ZooError(f"--plugin {path}: {data['failure']}")
    try:
        found = from_json({"name": path.stem, "distribution": path.name, "module": str(path.resolve()), **data})
    except ValueError as error:
        raise ZooError(f"--plugin {path}: a record does not fit its type: {' '.join(str(error).split())}") from None
    if not any(found.records.values()):
        raise ZooError(f"--plugin {path}: it registers nothing; expected a hook such as zoo_models with @hookimpl")
    return found


def from_json(data: Mapping[str, Any]) -> Plugin:
    """Return a plugin whose records were handed over as JSON; ValueError when one does not fit its type."""
    records: dict[str, tuple[Any, ...]] = {
        hook: tuple(jsonio.from_json(kind, record) for record in data["records"].get(hook, ()))
        for hook, kind in RECORD_TYPES.items()
    }
    return Plugin(data["name"], data["distribution"], data.get("version", ""), data["module"], records)


def ask_child(path: Path, folder: Path) -> dict[str, Any]:
    """Run the import in a child and return what it hands over; nothing that it starts outlives it."""
    answer, said = folder / "records.json", folder / "stderr"
    code = "import sys; from zoo.plugins import hand_over; hand_over(*sys.argv[1:])"
    with said.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", code, str(path.resolve()), str(answer)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
        )  # fmt: skip
        try:
            child.wait(timeout=FILE_PLUGIN_SECONDS)
        except subprocess.TimeoutExpired:
            raise ZooError(f"--plugin {path}: its import did not end within {FILE_PLUGIN_SECONDS} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if not answer.exists():
        last = said.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        ended = f"exit code {child.returncode}"
        raise ZooError(f"--plugin {path}: the file ends its process on import ({ended}): {last[0]}")
    data: dict[str, Any] = json.loads(answer.read_text())
    return data


def hand_over(path: str, answer: str) -> None:
    """Run in the child: import the file and write its records, or the reason it failed, to ``answer``."""
    data: dict[str, Any]
    try:
        module: ModuleType = import_module(path)
        collected = Loader().collect(module, Path(path).stem)
        data = {"records": {hook: [jsonio.to_json(r) for r in records] for hook, records in collected.items()}}
    except (Exception, SystemExit) as error:
        data = {"failure": reason_of(error)}
    Path(answer).write_text(json.dumps(data))
