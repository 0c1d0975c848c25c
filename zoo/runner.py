"""The parent: plans a suite or a comparison, runs it block by block, and keeps each case as it ends."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from zoo import environment
from zoo.comparison import Effort
from zoo.errors import ZooError
from zoo.expansion import Choice, Planned, expand
from zoo.metrics import PHASES
from zoo.plan import Plan, Prints, Work, make_plan
from zoo.pool import Pool
from zoo.progress import Reporter
from zoo.record import FAILURES, CaseRecord, ComparisonRecord, MachineRecord
from zoo.registry import Registry
from zoo.schema import Group, Limits, ModelEntry, Suite
from zoo.session import Session, now
from zoo.spec import Scalar, read_layer
from zoo.store import Store
from zoo.suite import SuiteFile, read_suite
from zoo.task import TIMM


@dataclass(frozen=True)
class Outcome:
    """What a run did; ``items`` are all its cases, ``left`` is how many it did not begin, for want of time.

    ``registry`` holds the single-file plugins that took part, too.
    """

    plan: Plan
    folder: Path
    records: tuple[CaseRecord, ...]
    registry: Registry
    left: int = 0
    items: tuple[Planned, ...] = ()

    @property
    def failed(self) -> list[CaseRecord]:
        """The records that make the command exit with 1."""
        return [r for r in self.records if r.status in FAILURES]


@dataclass(frozen=True)
class Request:
    """What is asked for: a suite (a name, a YAML path, or one that was read), narrowed or changed.

    ``models`` and ``metrics`` narrow it, ``axes`` gives axes other values, ``plugins`` are single files that take part,
    ``data`` are folders that tasks look for their data in, ``weights`` the files that models begin from, by name,
    ``recipe`` what they are trained by instead of the suite's. ``retry`` runs again what was out of memory or time,
    ``fresh`` measures again what is kept. What would not end within ``stop_after`` seconds, were it as long as the
    longest so far or as its recipe trains, is left for the next run.
    """

    suite: str | SuiteFile
    models: Sequence[str] = ()
    axes: Mapping[str, list[Scalar]] = field(default_factory=dict)
    metrics: Sequence[str] = ()
    plugins: Sequence[str] = ()
    data: Sequence[str] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    recipe: str | None = None
    out: str | Path = "runs"
    retry: bool = False
    fresh: bool = False
    stop_after: float | None = None

    def __post_init__(self) -> None:
        """Take one value for a list of one."""
        for name in ("models", "metrics", "plugins", "data"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        axes = {name: list(v) if isinstance(v, list | tuple) else [v] for name, v in self.axes.items()}
        object.__setattr__(self, "axes", axes)


def run(suite: str, **request: Any) -> Outcome:
    """Run a suite and return what was done; the keywords are the fields of :class:`Request`. ZooError for bad input."""
    return run_request(Request(suite, **request), Reporter())


def run_request(request: Request, reporter: Reporter) -> Outcome:
    """Measure what is asked for and not kept yet; every record is on disk before the next case starts."""
    file, registry, items = prepare(request)
    with open_store(file, items, Path(request.out)) as store:
        prints = Prints(registry, store.machine)
        plan = make_plan(file, items, store, prints, request.retry, request.fresh)
        reporter.planned(plan)
        if request.fresh:
            forget_trainings(plan, prints, store)
        done = list(execute(plan, prints, store, reporter, request.stop_after))
        left = len(plan.work) - len({id(work) for work, _ in done})
        return Outcome(plan, store.folder, tuple(record for _, record in done), registry, left, tuple(items))


def forget_trainings(plan: Plan, prints: Prints, store: Store) -> None:
    """Take away what is kept of the trainings that a plan holds, so that they begin anew."""
    for work in plan.work:
        if work.planned.assignment and work.wanted["task"]:
            (store.checkpoints / prints.training(work.planned)).unlink(missing_ok=True)


def look_ahead(request: Request) -> tuple[Plan, Registry, Store]:
    """Return what a run would do, touching nothing."""
    file, registry, items = prepare(request)
    store = open_store(file, items, Path(request.out)).read()
    return make_plan(file, items, store, Prints(registry, store.machine), request.retry, request.fresh), registry, store


def prepare(request: Request) -> tuple[SuiteFile, Registry, list[Planned]]:
    """Read a suite and expand it over the registry."""
    file = read_suite(request.suite) if isinstance(request.suite, str) else request.suite
    registry = Registry.load(request.plugins)
    added = tuple(spec.name for plugin in registry.files for spec in plugin.models)
    choice = Choice(
        tuple(request.models),
        request.axes,
        tuple(request.metrics),
        added,
        environment.usable_cores(),
        tuple(map(Path, request.data)),
        {name: checked_file(path, registry.model(name).name) for name, path in request.weights.items()},
        request.recipe,
    )
    return file, registry, expand(file, registry, choice)


def checked_file(path: str, model: str) -> str:
    """Return a path as it is from anywhere; ``timm`` is timm's own of that model. ZooError for a file that is not."""
    if path == "timm" and model.startswith(TIMM):
        return model
    if path.startswith(TIMM):
        return path
    if not Path(path).is_file():
        raise ZooError(f"there is no file of weights {path}; expected a checkpoint, or timm/NAME")
    return str(Path(path).resolve())


def open_store(file: SuiteFile, items: Sequence[Planned], out: Path) -> Store:
    """Return the store of a suite on the machine of its device. ZooError when its cases name two."""
    devices = {item.case.device or "cpu" for item in items}
    if len(devices) > 1:
        raise ZooError(f"the suite {file.name} names the devices {', '.join(sorted(devices))}; run one with --device")
    return Store(out / file.name, environment.slug(devices.pop()))


@dataclass(frozen=True)
class Versus:
    """Two models to compare, at one point of the axes; ``b`` may be the same model as ``a``."""

    a: str
    b: str
    metric: str = "latency"
    axes: Mapping[str, list[Scalar]] = field(default_factory=dict)
    plugins: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)
    effort: Effort = field(default_factory=Effort)


def compare(versus: Versus, reporter: Reporter) -> tuple[ComparisonRecord, MachineRecord]:
    """Measure two models side by side. ZooError for bad input; what fails is a record with a status."""
    registry = Registry.load(versus.plugins)
    cases = [one_case(versus, registry, name) for name in (versus.a, versus.b)]
    began, device = time.monotonic(), cases[0].case.device or "cpu"
    machine = MachineRecord(environment.slug(device), environment.describe(device), now())
    prints = Prints(registry, machine.slug)
    session = Session(registry, prints, on_progress=reporter.progress, environment_id=machine.id)
    with contextlib.closing(session.pool):
        found = session.compare(cases, versus.metric, versus.effort)
    record = replace(found, seconds=round(time.monotonic() - began, 3))
    return record, machine


def one_case(versus: Versus, registry: Registry, name: str) -> Planned:
    """Return the one case of a model in a comparison. ZooError when there are several, or none that is legal."""
    base, options = read_layer(name)
    entry = ModelEntry(name=base, options=options)
    group = Group(models=[entry], axes=dict(versus.axes), metrics=[versus.metric])
    file = SuiteFile("compare", Path("zoo compare"), Suite.model_validate({"schema": 1, "groups": [group]}), {})
    choice = Choice(threads=environment.usable_cores())
    found = [replace(item, limits=versus.limits) for item in expand(file, registry, choice)]
    if len(found) != 1:
        raise ZooError(f"{name} stands for {len(found)} cases; a comparison takes one model with one value an axis")
    if found[0].illegal:
        raise ZooError(found[0].illegal)
    return found[0]


def execute(
    plan: Plan, prints: Prints, store: Store, reporter: Reporter, stop_after: float | None = None
) -> Iterator[tuple[Work, CaseRecord]]:
    """Measure what a plan holds, writing each record as soon as it is there; all of it, or as much as time allows."""
    if not plan.work:
        return
    device = plan.work[0].planned.case.device or "cpu"
    machine = MachineRecord(store.machine, environment.describe(device), now())
    store.append(machine)
    session = Session(
        prints.registry,
        prints,
        on_progress=reporter.progress,
        environment_id=machine.id,
        keep=store.append,
        folder=store.checkpoints,
    )
    number, began, longest = 1, time.monotonic(), 0.0
    with contextlib.closing(session.pool), contextlib.closing(runs(session, plan.work)) as started:
        for works, found in started:
            begins = time.monotonic()
            least = max(longest, training_seconds(works))
            if stop_after is not None and begins - began + least > stop_after:
                return
            reporter.started(number, works[0])
            records: dict[int, list[CaseRecord]] = {id(work): [] for work in works}
            for work, record in found:
                store.append(record)
                records[id(work)].append(record)
                yield work, record
            for work in works:
                mine = records[id(work)]
                reporter.finished(number, work, mine, sum(record.seconds or 0.0 for record in mine))
                number += 1
            longest = max(longest, time.monotonic() - begins)


def training_seconds(works: Sequence[Work]) -> float:
    """Return how long the recipes of a block train, as far as that is their budget."""
    trained = [work.planned.assignment for work in works if work.wanted["task"]]
    return sum(assignment.recipe.seconds for assignment in trained if assignment)


Found = Iterable[tuple[Work, CaseRecord]]


def runs(session: Session, works: Sequence[Work]) -> Generator[tuple[Sequence[Work], Found]]:
    """Yield blocks of cases with their records, in order: what is measured in turn, what nothing disturbs at once."""
    for quiet, group in itertools.groupby(works, needs_quiet):
        if not quiet:
            yield from at_once(session, list(group))
            continue
        for _, block in itertools.groupby(group, lambda work: work.block or id(work)):
            together = list(block)
            yield together, session.run_block(together)


def needs_quiet(work: Work) -> bool:
    """Tell whether a case is measured, so that nothing may run beside it."""
    return any(work.wanted[phase] for phase in PHASES if phase != "static")


def at_once(session: Session, works: Sequence[Work]) -> Iterator[tuple[Sequence[Work], Found]]:
    """Run cases side by side, one a core and each core with servers of its own, and yield them in order.

    An interruption ends what is running, after everything that is done was yielded.
    """
    cores = min(environment.usable_cores(), len(works))
    sessions = [session, *(replace(session, pool=Pool()) for _ in range(cores - 1))]
    idle: SimpleQueue[Session] = SimpleQueue()
    for one in sessions:
        idle.put(one)

    def run(work: Work) -> tuple[Sequence[Work], Found]:
        one = idle.get()
        try:
            return [work], list(one.run_block([work]))
        finally:
            idle.put(one)

    executor = ThreadPoolExecutor(cores)
    waiting = deque(executor.submit(run, work) for work in works)
    try:
        while waiting:
            ended = waiting[0].result()
            waiting.popleft()
            yield ended
    except KeyboardInterrupt:
        executor.shutdown(wait=False, cancel_futures=True)
        yield from [future.result() for future in waiting if future.done() and not future.cancelled()]
        raise
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        if waiting:
            for one in sessions:
                one.pool.kill()  # what is running ends now
        executor.shutdown()
        for one in sessions[1:]:
            one.pool.close()
