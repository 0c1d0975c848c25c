"""What a run has to do: what is wanted of each case against what is kept, with the reason for every repetition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from zoo import environment
from zoo.case import Case
from zoo.metrics import METRICS, PHASES, Phase
from zoo.plugins import Failure
from zoo.record import PROTOCOL, key_of
from zoo.registry import Registry
from zoo.store import Store
from zoo.suite import Planned, SuiteFile


@dataclass(frozen=True)
class Work:
    """One case with the metrics still wanted of it, by phase, and why it is run again."""

    planned: Planned
    wanted: Mapping[Phase, tuple[str, ...]]
    why: str = ""


@dataclass
class Plan:
    """What a run will do, and what it skips."""

    file: SuiteFile
    machine: str
    work: list[Work] = field(default_factory=list)
    skipped: list[tuple[Case, str]] = field(default_factory=list)
    failures: tuple[Failure, ...] = ()


@dataclass
class Prints:
    """Fingerprints of a registry's models and tasks on one machine. Sources and versions are read once."""

    registry: Registry
    machine: str
    versions: dict[str, str] = field(default_factory=environment.versions)
    hashes: dict[str, str] = field(default_factory=dict)

    def of(self, case: Case, phase: Phase) -> dict[str, str]:
        """Return what the numbers of a phase depend on besides the case."""
        task = self.registry.tasks[case.task] if phase == "task" and case.task else None
        return {
            "plugin": self.source(str(self.registry.models[case.model].build)),
            **({"task": self.source(str(task.data))} if task else {}),
            "protocol": str(PROTOCOL),
            "torch": self.versions["torch"],
            "timm": self.versions["timm"],
            **({"machine": self.machine} if phase != "static" else {}),
        }

    def source(self, code: str) -> str:
        """Return the hash of the source that an import string lies in."""
        if code not in self.hashes:
            self.hashes[code] = environment.source_hash(code)
        return self.hashes[code]


def phase_of(metric: str) -> Phase:
    """Return the phase that yields a metric."""
    return METRICS[metric].phase if metric in METRICS else "task"


def make_plan(
    file: SuiteFile, items: Iterable[Planned], store: Store, prints: Prints, retry: bool, fresh: bool
) -> Plan:
    """Compare what is wanted with what is kept."""
    plan = Plan(file, store.machine, failures=prints.registry.failures)
    claimed: set[tuple[str, str]] = set()
    for item in items:
        wanted: dict[Phase, tuple[str, ...]] = {}
        reasons: list[str] = []
        undecided = 0
        for phase in PHASES:
            case = item.case.for_phase(phase)
            names = tuple(m for m in item.metrics if phase_of(m) == phase and (case.id, m) not in claimed)
            claimed.update((case.id, m) for m in names)
            undecided += len(names)
            verdicts = {m: True if fresh else to_run(store, case, m, prints.of(item.case, phase), retry) for m in names}
            wanted[phase] = tuple(m for m, verdict in verdicts.items() if verdict)
            reasons += [v for v in verdicts.values() if isinstance(v, str)]
        if any(wanted.values()):
            plan.work.append(Work(item, wanted, "; ".join(dict.fromkeys(reasons))))
        elif undecided:
            plan.skipped.append((item.case, kept_status(store, item, prints)))
    return plan


def to_run(store: Store, case: Case, metric: str, fingerprint: dict[str, str], retry: bool) -> bool | str:
    """Tell whether a metric is to be taken: False, True, or the reason why it is taken again."""
    kept = store.index.get((key_of(case, fingerprint), metric))
    if kept is None:
        older = store.newest.get((case.id, metric))
        return what_changed(older.fingerprint, fingerprint) if older else True
    status = kept[1].status
    if status in ("ok", "unsupported"):
        return False
    if status in ("oom", "timeout"):
        return f"retried: {status} before" if retry else False
    return f"{status} before"


def what_changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say which part of a fingerprint is another one now."""
    changes = []
    for name in now:
        if before.get(name) != now[name]:
            changes.append(
                f"{name} changed" if name in ("plugin", "task") else f"{name} {before.get(name)} -> {now[name]}"
            )
    return ", ".join(changes) or "changed"


def kept_status(store: Store, item: Planned, prints: Prints) -> str:
    """Say what is kept of a case that is skipped."""
    found = set()
    for metric in item.metrics:
        phase = phase_of(metric)
        kept = store.index.get((key_of(item.case.for_phase(phase), prints.of(item.case, phase)), metric))
        found.add(kept[1].status if kept else "ok")
    bad = ", ".join(sorted(found - {"ok"}))
    return f"{bad} (--retry runs it again)" if {"oom", "timeout"} & found else bad or "measured before"
