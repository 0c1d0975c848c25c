"""What a run has to do: what is wanted of each case against what is kept, with the reason for every repetition."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from zoo import environment, jsonio
from zoo.case import Case
from zoo.expansion import Planned
from zoo.metrics import METRICS, PHASES, Phase, is_timed
from zoo.plugins import Failure
from zoo.record import PROTOCOL, digest
from zoo.registry import Registry
from zoo.schema import Limits
from zoo.spec import ModelSpec, Scalar, layer_name
from zoo.store import Store
from zoo.suite import SuiteFile
from zoo.task import Assignment

HOST = "zoo."


@dataclass(frozen=True)
class Work:
    """One case with the metrics still wanted of it, by phase, and why it is run again."""

    planned: Planned
    wanted: Mapping[Phase, tuple[str, ...]]
    why: str = ""

    @property
    def block(self) -> str:
        """The case that this one is timed beside, by its id; empty where it is measured alone."""
        beside = self.planned.baseline if any(map(is_timed, self.wanted["speed"])) else None
        return beside.id if beside else ""


@dataclass(frozen=True)
class Known:
    """A model's options with their defaults, and the part of its print that changes with them."""

    defaults: Mapping[str, Scalar]
    mark: str


def known_options(registry: Registry) -> Callable[[str], Known | None]:
    """Return what tells the options of a model; None for a name that is gone, and for those of a foreign zoo."""

    @functools.cache
    def known(name: str) -> Known | None:
        if registry.is_layer(name):
            return Known(registry.model(name).knobs, digest(dict(registry.layers[name].knobs)))
        spec = registry.models.get(name)
        return Known(spec.knobs, spec_digest(spec)) if spec else None

    return known


def spec_digest(spec: ModelSpec) -> str:
    """Return a print of what a spec says: its options, sizes and inputs."""
    return digest([dict(spec.knobs), jsonio.to_json(spec.sizes), jsonio.to_json(spec.input)])


@dataclass
class Plan:
    """What a run will do, and what it skips."""

    file: SuiteFile
    machine: str
    work: list[Work] = field(default_factory=list)
    skipped: list[tuple[Case, str]] = field(default_factory=list)
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass
class Prints:
    """Fingerprints of a registry's models and tasks on one machine. Sources and versions are read once."""

    registry: Registry
    machine: str
    versions: dict[str, str] = field(default_factory=environment.versions)
    known: dict[tuple[str, str], str] = field(default_factory=dict)

    def of(
        self, case: Case, phase: Phase, baseline: Case | None = None, assignment: Assignment | None = None
    ) -> dict[str, str]:
        """Return what the numbers of a phase depend on besides the case; what is timed, on what was beside it, too."""
        beside = baseline if phase == "speed" else None
        return {
            "plugin": self.plugin(case),
            **({"task": self.assignment(assignment)} if phase == "task" and assignment else {}),
            "protocol": str(PROTOCOL),
            "torch": self.versions["torch"],
            "timm": self.versions["timm"],
            **({"machine": self.machine} if phase != "static" else {}),
            **({"baseline": f"{beside.for_phase(phase).id} {self.plugin(beside)}"} if beside else {}),
        }

    def plugin(self, case: Case) -> str:
        """Return the print of a case's model, and of the layers that its options name; a layer's own is all it has.

        :func:`zoo.rows.own` takes it apart: a model's own are the first two parts.
        """
        if self.registry.is_layer(case.model):
            return self.layer(case.model)
        spec = self.registry.model(case.model)
        named = [str(case.options.get(option, spec.knobs[option])) for option in spec.layer_options]
        return "-".join([self.model(case.model), *(self.layer(layer_name(text)) for text in named)])

    def layer(self, name: str) -> str:
        """Return a layer's print, empty for a name that nothing is registered under."""
        if ("layer", name) not in self.known:
            spec = self.registry.layers.get(name)
            said = self.source(str(spec.build)) + digest(dict(spec.knobs)) if spec else ""
            self.known["layer", name] = said
        return self.known["layer", name]

    def model(self, name: str) -> str:
        """Return a model's print: its source and what its spec says, for the code may lie in another package."""
        if ("model", name) not in self.known:
            spec = self.registry.model(name)
            self.known["model", name] = f"{self.source(str(spec.build))}-{spec_digest(spec)}"
        return self.known["model", name]

    def assignment(self, given: Assignment) -> str:
        """Return the print of a task and of how it is learned: sources, specs, data and weights, wherever they lie.

        What the host does itself has its version in the protocol.
        """
        task = replace(given.task, path="")
        sources = [self.source(str(code)) for code in (task.data, task.evaluate) if not str(code).startswith(HOST)]
        files = [self.files(path) for path in (given.task.path, given.weights_file) if path]
        return digest([*sources, jsonio.to_json(task), jsonio.to_json(given.recipe), *files])

    def source(self, code: str) -> str:
        """Return the hash of the package that an import string's code lies in."""
        if ("source", code) not in self.known:
            self.known["source", code] = environment.source_hash(code)
        return self.known["source", code]

    def training(self, item: Planned) -> str:
        """Return the name of the file that a case's training is kept in: all that it depends on is in it."""
        alike = replace(item.case, test_size=None)
        now = self.of(item.case, "task", assignment=item.assignment)
        return f"{alike.model.replace('/', '-')}-{digest([alike.id, now])}.training"

    def files(self, path: str) -> str:
        """Return a print of what lies in a folder, or of a file: names and lengths, looked at once."""
        if ("files", path) not in self.known:
            root = Path(path)
            found = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
            said = [[str(p.relative_to(root)), p.stat().st_size] for p in found]
            self.known["files", path] = digest(said)
        return self.known["files", path]


def phase_of(metric: str) -> Phase:
    """Return the phase that yields a metric."""
    return METRICS[metric].phase if metric in METRICS else "task"


def make_plan(
    file: SuiteFile, items: Iterable[Planned], store: Store, prints: Prints, retry: bool, fresh: bool
) -> Plan:
    """Compare what is wanted with what is kept."""
    plan = Plan(file, store.machine, failures=prints.registry.failures, warnings=store.warnings)
    claimed: set[tuple[str, str]] = set()
    items = list(items)
    for item in items:
        wanted: dict[Phase, tuple[str, ...]] = {}
        reasons: list[str] = []
        undecided = 0
        for phase in PHASES:
            case = item.case.for_phase(phase)
            names = tuple(m for m in item.metrics if phase_of(m) == phase and (case.id, m) not in claimed)
            claimed.update((case.id, m) for m in names)
            undecided += len(names)
            now = prints.of(item.case, phase, item.baseline, item.assignment)
            verdicts = {m: True if fresh else to_run(store, case, m, now, retry, item.limits) for m in names}
            wanted[phase] = tuple(m for m, verdict in verdicts.items() if verdict)
            reasons += [v for v in verdicts.values() if isinstance(v, str)]
        if any(wanted.values()):
            plan.work.append(Work(item, wanted, "; ".join(dict.fromkeys(reasons))))
        elif undecided:
            plan.skipped.append((item.case, kept_status(store, item)))
    work = blocks(plan.work, items)
    again = {w.planned.case.id for w in work}
    return replace(plan, work=work, skipped=[(case, why) for case, why in plan.skipped if case.id not in again])


def blocks(works: Sequence[Work], items: Iterable[Planned]) -> list[Work]:
    """Put the cases that are timed beside each other next to each other, their baseline first; all others stay put.

    A baseline of which everything is kept is timed once more, as the others are timed beside it.
    """
    baselines = {item.case.id: item for item in items if item.case == item.baseline}
    found: list[list[Work]] = []
    named: dict[str, list[Work]] = {}
    for work in works:
        block = named.setdefault(work.block, []) if work.block else []
        if not block:
            found.append(block)
        block.append(work)
    for id, block in named.items():
        block[:] = with_baseline(block, baselines[id])
    return [work for block in found for work in block]


def with_baseline(block: Sequence[Work], baseline: Planned) -> list[Work]:
    """Return a block that begins with its baseline, of which all is timed that the others may want."""
    others = [work for work in block if work.planned.case != baseline.case]
    first = next((work for work in block if work.planned.case == baseline.case), None) or Work(
        baseline, dict.fromkeys(PHASES, ()), f"{others[0].planned.case.model} is measured beside it"
    )
    names = (*first.wanted["speed"], *filter(is_timed, baseline.metrics))
    return [replace(first, wanted={**first.wanted, "speed": tuple(dict.fromkeys(names))}), *others]


def to_run(
    store: Store, case: Case, metric: str, fingerprint: dict[str, str], retry: bool, limits: Limits
) -> bool | str:
    """Tell whether a metric is to be taken: False, True, or the reason why it is taken again."""
    newest = store.newest.get((case.id, metric))
    if newest is None:
        return True
    if newest.fingerprint != fingerprint:
        return what_changed(newest.fingerprint, fingerprint)
    value = newest.metrics[metric]
    if value.status in ("ok", "unsupported"):
        return False
    if value.status == "timeout" and limits.time > value.detail.get("time_limit", limits.time):
        return "the time limit was raised"
    if value.status in ("oom", "timeout"):
        return f"retried: {value.status} before" if retry else False
    return f"{value.status} before"


def what_changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say which part of a fingerprint is another one now."""
    changes = []
    for name in now:
        if before.get(name) != now[name]:
            changes.append(
                f"{name} changed" if name in ("plugin", "task") else f"{name} {before.get(name)} -> {now[name]}"
            )
    return ", ".join(changes) or "changed"


def kept_status(store: Store, item: Planned) -> str:
    """Say what is kept of a case that is skipped."""
    records = {m: store.newest.get((item.case.for_phase(phase_of(m)).id, m)) for m in item.metrics}
    found = {record.metrics[m].status for m, record in records.items() if record}
    bad = ", ".join(sorted(found - {"ok"}))
    return f"{bad} (--retry runs it again)" if {"oom", "timeout"} & found else bad or "measured before"
