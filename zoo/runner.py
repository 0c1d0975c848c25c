"""The parent: drives workers over blocks of cases, and keeps each case as it ends.

Whatever a model does (crash, hang, eat memory) becomes a status, never the end of the run.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import statistics as stdlib_statistics
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from zoo import environment, jsonio
from zoo.case import Case
from zoo.errors import ZooError
from zoo.metrics import METRICS, PHASES, Phase
from zoo.plan import Plan, Prints, Work, make_plan
from zoo.pool import Died, Pool, Worker
from zoo.progress import Reporter
from zoo.record import CaseRecord, MachineRecord, Value
from zoo.registry import Registry
from zoo.spec import ModelSpec, Scalar, TaskSpec
from zoo.statistics import StoppingRule, is_steady, median_interval
from zoo.store import Store
from zoo.suite import Choice, Limits, Planned, SuiteFile, expand, read_suite

MEMORY_SHARE = 0.9
STATIC_SECONDS = 60.0
REQUEST_SECONDS = 0.1
WARM_UP = StoppingRule(target=0.0, min_samples=3, max_samples=1000, budget=1.0, overdraft=1.0)
SAMPLING = StoppingRule()
PREDICTED = "peak_memory_predicted"


def allowed_memory(limits: Limits) -> int:
    """Return the bytes that a case may take: its limit, or most of what the machine has free now."""
    return limits.memory or int(environment.available_memory() * MEMORY_SHARE)


# -- blocks --------------------------------------------------------------------------------------------------


@dataclass
class Member:
    """One case of a block, while it is measured."""

    work: Work
    spec: ModelSpec
    task: TaskSpec | None
    limits_memory: int
    known: Mapping[str, Any]
    started: float = field(default_factory=time.monotonic)
    found: dict[Phase, dict[str, Value]] = field(default_factory=dict)
    predicted: int | None = None
    worker: Worker | None = None

    @property
    def case(self) -> Case:
        """The case."""
        return self.work.planned.case

    def deadline(self, phase: Phase) -> float:
        """When a phase must have ended: the case's limit, of which what needs no machine may take half."""
        limit = self.work.planned.limits.time
        return self.started + (min(STATIC_SECONDS, limit / 2) if phase == "static" else limit)

    def keep(self, phase: Phase, values: Mapping[str, Value]) -> None:
        """Keep the values that were asked for."""
        self.found.setdefault(phase, {}).update({m: v for m, v in values.items() if m in self.work.wanted[phase]})

    def fail(self, phase: Phase, died: Died, **detail: Any) -> None:
        """Give the status of a death to every metric of the phase that has no value yet."""
        missing = [m for m in self.work.wanted[phase] if m not in self.found.get(phase, {})]
        if died.status == "timeout":
            detail["time_limit"] = self.work.planned.limits.time
        self.keep(phase, {m: Value(status=died.status, reason=died.reason, detail=detail) for m in missing})

    def start(self, pool: Pool, phase: Phase, on_progress: Callable[[str], None]) -> bool:
        """Start a worker and prepare the phase; False when that failed, with the status kept."""
        try:
            began = time.monotonic()
            server = pool.server(self.case.threads or 1, self.spec)
            self.started += time.monotonic() - began  # loading torch and the plugin is not the case's own time
            if time.monotonic() >= self.deadline(phase):
                raise Died(
                    "timeout",
                    f"the case's {self.work.planned.limits.time:g} s were spent before {phase} began",
                )
            self.worker = Worker(server, on_progress)
            self.worker.prepare(
                phase, self.spec, self.task, self.case, self.limits_memory, self.deadline(phase), self.known
            )
        except Died as died:
            self.fail(phase, died)
            self.stop()
            return False
        return True

    def stop(self) -> None:
        """End the worker, if there is one."""
        if self.worker:
            self.worker.close()
            self.worker = None


@dataclass
class Session:
    """Measures block by block with one pool of workers, and hands over each record as soon as there is one."""

    registry: Registry
    prints: Prints
    pool: Pool = field(default_factory=Pool)
    on_progress: Callable[[str], None] = lambda text: None
    environment_id: str = ""

    def run_block(self, works: Sequence[Work]) -> Iterator[CaseRecord]:
        """Measure cases that belong together, phase by phase, and yield their records."""
        members = [self.member(work) for work in works]
        for phase in PHASES:
            active = [m for m in members if self.may_run(m, phase)]
            began = time.monotonic()
            if active:
                self.run_phase(active, phase)
            for m in members:
                if m.found.get(phase):
                    yield self.record(m, phase, time.monotonic() - began)

    def member(self, work: Work) -> Member:
        """Look up what a case needs."""
        case = work.planned.case
        task = self.registry.task(case.task) if case.task else None
        allowed = allowed_memory(work.planned.limits)
        return Member(work, self.registry.model(case.model), task, allowed, self.registry.for_workers)

    def may_run(self, member: Member, phase: Phase) -> bool:
        """Tell whether a phase is wanted and possible; what is not possible is kept as a status."""
        if not self.wanted(member, phase):
            return False
        if member.work.planned.illegal:
            member.fail(phase, Died("unsupported", member.work.planned.illegal))
            return False
        too_much = member.predicted is not None and member.predicted > member.limits_memory
        if phase in ("memory", "speed") and too_much and member.case.device == "cpu":
            need, have = (f"{n / 2**30:.2f} GiB" for n in (member.predicted or 0, member.limits_memory))
            member.fail(
                phase,
                Died("oom", f"predicted to need {need}, and {have} are allowed; not run"),
                predicted=True,
            )
            return False
        return True

    def wanted(self, member: Member, phase: Phase) -> tuple[str, ...]:
        """Return the metrics to take in a phase: what is asked for, and the predicted memory before anything is run."""
        names = member.work.wanted[phase]
        measured = member.work.wanted["memory"] + member.work.wanted["speed"]
        if phase == "static" and measured and PREDICTED not in names and not member.work.planned.illegal:
            return (*names, PREDICTED)
        return names

    def run_phase(self, members: Sequence[Member], phase: Phase) -> None:
        """Run one phase of a block: all its workers are alive while their metrics are taken in turn."""
        try:
            alive = [m for m in members if m.start(self.pool, phase, self.on_progress)]
            for metric in dict.fromkeys(name for m in alive for name in self.wanted(m, phase)):
                taking = [m for m in alive if m.worker and metric in self.wanted(m, phase)]
                if metric in METRICS and METRICS[metric].sampled:
                    sample_interleaved(taking, metric, phase)
                else:
                    for m in taking:
                        self.measure(m, metric, phase)
        finally:
            for m in members:
                m.stop()

    def measure(self, member: Member, metric: str, phase: Phase) -> None:
        """Take a metric that is had in one go."""
        if metric in member.found.get(phase, {}):
            return
        assert member.worker is not None
        try:
            reply = member.worker.ask({"do": "measure", "metric": metric}, member.deadline(phase))
            values = {name: jsonio.from_json(Value, data) for name, data in reply["values"].items()}
        except Died as died:
            if phase == "task" or died.status in ("killed", "timeout"):
                member.fail(phase, died)
                member.stop()
            else:
                member.keep(phase, {metric: Value(status=died.status, reason=died.reason)})
            return
        except (AttributeError, ValueError) as error:
            member.fail(phase, Died("error", f"the worker's answer to {metric} cannot be read: {type(error).__name__}"))
            return
        if metric == PREDICTED:
            member.predicted = int(values[metric].value or 0)
        member.keep(phase, values)
        if phase == "task":
            member.fail(phase, Died("error", f"the evaluation of the task returned {', '.join(values) or 'nothing'}"))

    def record(self, member: Member, phase: Phase, seconds: float) -> CaseRecord:
        """Return the record of one phase of a case, which took ``seconds``."""
        static = phase == "static"
        return CaseRecord(
            case=member.case.for_phase(phase),
            fingerprint=self.prints.of(member.case, phase),
            metrics={m: member.found[phase][m] for m in member.work.wanted[phase] if m in member.found[phase]},
            plugin=self.registry.owners["model", member.case.model].name,
            environment="" if static else self.environment_id,
            time=now(),
            seconds=round(seconds, 3),
        )


def sample_interleaved(members: Sequence[Member], metric: str, phase: Phase) -> None:
    """Sample a metric of all members in turn, A B B A, one process at a time, until each has enough."""
    samplers = [Sampler(m, metric, phase) for m in members]
    for sampler in samplers:
        sampler.warm_up()
    order = list(samplers)
    while any(not s.stop for s in samplers):
        for sampler in order:
            if not sampler.stop:
                sampler.take()
        order.reverse()
    for sampler in samplers:
        sampler.keep()


@dataclass
class Sampler:
    """Samples one metric of one member until the interval is tight or the budget is spent."""

    member: Member
    metric: str
    phase: Phase
    samples: list[int] = field(default_factory=list)
    warm: int = 0
    calls: int = 1
    spent: float = 0.0
    stop: str = ""

    def request(self, count: int) -> list[int]:
        """Ask the worker for samples; a death is kept as status and ends the sampling."""
        worker, asked = self.member.worker, time.monotonic()
        if worker is None:
            self.stop = "died"
            return []
        try:
            reply = worker.ask(
                {"do": "sample", "metric": self.metric, "count": count}, self.member.deadline(self.phase)
            )
        except Died as died:
            self.stop = "died"
            self.member.fail(self.phase, died)
            self.member.stop()
            return []
        self.calls = reply["calls"]
        self.spent += time.monotonic() - asked
        return list(reply["samples"])

    def count(self, samples: Sequence[int], most: int) -> int:
        """Return how many samples fill one request."""
        return max(1, min(most, int(REQUEST_SECONDS * 1e9 / stdlib_statistics.median(samples)))) if samples else 1

    def warm_up(self) -> None:
        """Call until two windows agree, or the warm-up's budget is spent."""
        seen: list[int] = []
        while not self.stop and not WARM_UP.reason(seen, self.spent) and not is_steady(seen, window=3, tolerance=0.05):
            seen += self.request(self.count(seen, 20))
        self.warm, self.spent = len(seen), 0.0
        self.samples = seen if self.metric == "latency" and len(seen) == 1 else []

    def take(self) -> None:
        """Take one request's samples and decide whether to go on."""
        self.samples += self.request(self.count(self.samples, SAMPLING.min_samples))
        self.stop = self.stop or SAMPLING.reason(self.samples, self.spent) or ""

    def keep(self) -> None:
        """Turn the samples into the metric's value."""
        if self.stop == "died":
            return
        median = stdlib_statistics.median(self.samples)
        interval = median_interval(self.samples)
        batch = self.member.case.batch_size
        as_value: Callable[[float], float] = lambda ns: ns / 1e9  # noqa: E731
        if self.metric == "throughput":
            as_value = lambda ns: batch * self.calls / (ns / 1e9)  # noqa: E731
        low_high = sorted(map(as_value, interval)) if interval else None
        value = Value(
            value=as_value(median),
            unit=METRICS[self.metric].unit,
            interval=(low_high[0], low_high[1]) if low_high else None,
            n=len(self.samples),
            stop=self.stop,
            convention={"latency": "synchronised each call", "throughput": "queued calls"}[self.metric],
            samples=tuple(self.samples),
            detail={"warm_up": self.warm, "calls_per_sample": self.calls},
        )
        self.member.keep(self.phase, {self.metric: value})


# -- running a suite -----------------------------------------------------------------------------------------


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    plan: Plan
    folder: Path
    records: tuple[CaseRecord, ...]

    @property
    def failed(self) -> list[CaseRecord]:
        """The records that make the command exit with 1."""
        return [r for r in self.records if r.status in ("error", "killed", "diverged")]


@dataclass(frozen=True)
class Request:
    """What is asked for: a suite (a name, or a YAML path), narrowed or changed, and what to do with what is kept.

    ``models`` and ``metrics`` narrow it, ``axes`` gives axes other values, ``plugins`` are single files that take part,
    ``retry`` runs again what was out of memory or time, ``fresh`` measures again what is kept.
    """

    suite: str
    models: Sequence[str] = ()
    axes: Mapping[str, list[Scalar]] = field(default_factory=dict)
    metrics: Sequence[str] = ()
    plugins: Sequence[str] = ()
    out: str | Path = "runs"
    retry: bool = False
    fresh: bool = False

    def __post_init__(self) -> None:
        """Take one value for a list of one."""
        for name in ("models", "metrics", "plugins"):
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
        return Outcome(plan, store.folder, tuple(execute(plan, prints, store, reporter)))


def look_ahead(request: Request) -> tuple[Plan, Registry, Store]:
    """Return what a run would do, touching nothing."""
    file, registry, items = prepare(request)
    store = open_store(file, items, Path(request.out)).read()
    return make_plan(file, items, store, Prints(registry, store.machine), request.retry, request.fresh), registry, store


def prepare(request: Request) -> tuple[SuiteFile, Registry, list[Planned]]:
    """Read a suite and expand it over the registry."""
    file = read_suite(request.suite)
    registry = Registry.load(request.plugins)
    added = tuple(spec.name for plugin in registry.files for spec in plugin.models)
    choice = Choice(tuple(request.models), request.axes, tuple(request.metrics), added, environment.usable_cores())
    return file, registry, expand(file, registry, choice)


def open_store(file: SuiteFile, items: Sequence[Planned], out: Path) -> Store:
    """Return the store of a suite on the machine of its device. ZooError when its cases name two."""
    devices = {item.case.device or "cpu" for item in items}
    if len(devices) > 1:
        raise ZooError(f"the suite {file.name} names the devices {', '.join(sorted(devices))}; run one with --device")
    return Store(out / file.name, environment.slug(devices.pop()))


def execute(plan: Plan, prints: Prints, store: Store, reporter: Reporter) -> Iterator[CaseRecord]:
    """Measure what a plan holds, writing each record as soon as it is there."""
    if not plan.work:
        return
    device = plan.work[0].planned.case.device or "cpu"
    machine = MachineRecord(store.machine, environment.describe(device), now())
    if machine.id not in store.machines:
        store.append(machine)
    session = Session(prints.registry, prints, on_progress=reporter.progress, environment_id=machine.id)
    with contextlib.closing(session.pool), contextlib.closing(runs(session, plan.work)) as started:
        for number, (work, found) in enumerate(started, 1):
            reporter.started(number, work)
            records = []
            for record in found:
                store.append(record)
                records.append(record)
                yield record
            reporter.finished(number, work, records, sum(record.seconds or 0.0 for record in records))


def runs(session: Session, works: Sequence[Work]) -> Generator[tuple[Work, Iterable[CaseRecord]]]:
    """Yield each case with its records, in order: those to be measured in turn, those that nothing disturbs at once."""
    for quiet, group in itertools.groupby(works, needs_quiet):
        if quiet:
            yield from ((work, session.run_block([work])) for work in group)
        else:
            yield from at_once(session, list(group))


def needs_quiet(work: Work) -> bool:
    """Tell whether a case is measured, so that nothing may run beside it."""
    return any(work.wanted[phase] for phase in PHASES if phase != "static")


def at_once(session: Session, works: Sequence[Work]) -> Iterator[tuple[Work, list[CaseRecord]]]:
    """Run cases side by side, one a core and each core with servers of its own, and yield them in order.

    An interruption ends what is running, after everything that is done was yielded.
    """
    cores = min(environment.usable_cores(), len(works))
    sessions = [session, *(replace(session, pool=Pool()) for _ in range(cores - 1))]
    idle: SimpleQueue[Session] = SimpleQueue()
    for one in sessions:
        idle.put(one)

    def run(work: Work) -> tuple[Work, list[CaseRecord]]:
        one = idle.get()
        try:
            return work, list(one.run_block([work]))
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
