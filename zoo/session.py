"""A session: blocks of cases measured with one pool of workers, phase by phase.

Whatever a model does (crash, hang, eat memory) becomes a status, never the end of the run.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo import environment, jsonio
from zoo.case import Case
from zoo.comparison import Contest, Effort, Failed, comparison_record, contest, ratio_value
from zoo.conditions import Watch, worst_of
from zoo.expansion import Planned
from zoo.metrics import METRICS, PHASES, Phase, follows
from zoo.metrics.batch import knee_of, least_batch, open_end, probe_knee
from zoo.nvml import Gpu
from zoo.plan import Prints, Work
from zoo.pool import Died, Pool, Worker
from zoo.record import CaseRecord, ComparisonRecord, Value
from zoo.registry import Registry
from zoo.sampling import CALLED, STATIC_SECONDS, Member, sample, share_cores
from zoo.schema import Limits
from zoo.spec import ModelSpec

MEMORY_SHARE = 0.9
PREDICTED = "peak_memory_predicted"
# Batches to try: the predicted one, then shares of it, larger ones while they fit and smaller ones until one does.
LARGER, SMALLER = (1.05, 1.1), (0.95, 0.85)
# Seconds beside a baseline, where a quarter of the case's limit is not less.
BESIDE_SECONDS = 20.0
# How a run finds out what a case differs from itself, and the longest call that it does so for, in seconds.
QUICK = 1.0
NOISE = Effort(target=math.inf, budget=6.0, processes=3, rounds=12)


def is_quick(member: Member) -> bool:
    """Tell whether a case was timed and can be timed beside itself in seconds: its calls are short, and eager."""
    seconds = [member.seconds_of_call(v) for name, v in member.timed.items() if name in CALLED and v.status == "ok"]
    return member.case.compile is None and bool(seconds) and max(seconds) <= QUICK


def beside_seconds(limits: Limits) -> float:
    """Return the seconds that each case of a block may be timed for beside its baseline."""
    return min(BESIDE_SECONDS, limits.time / 4)


def no_baseline(baseline: Member, metric: str) -> Value:
    """Return why there is no ratio to a baseline that has no value; it is tried again when that is."""
    failed = baseline.failure(metric)
    status, reason = (failed.status, failed.reason) if failed else ("unsupported", "it was not run")
    return Value(status=status, reason=f"its baseline has no time: {reason}")


def allowed_memory(limits: Limits, device: str | None) -> int:
    """Return the bytes that a case may take: its limit, or most of what the machine, or its GPU, has free now."""
    gpu = Gpu.first() if device == "cuda" and not limits.memory else None
    free = gpu.free() if gpu else None
    return limits.memory or int((free or environment.available_memory()) * MEMORY_SHARE)


def is_probed(metric: str) -> bool:
    """Tell whether a metric tries batch sizes of its own, each in a fresh process."""
    return metric in METRICS and METRICS[metric].probed


def none_ran(tried: Mapping[int, Value], detail: dict[str, Any]) -> Value:
    """Return the status of the last batch that was tried, where none ran."""
    last = list(tried.values())[-1]
    return Value(status=last.status, reason=last.reason, detail={**last.detail, **detail})


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclass
class Session:
    """Measures block by block with one pool of workers, and hands over each record as soon as there is one."""

    registry: Registry
    prints: Prints
    pool: Pool = field(default_factory=Pool)
    on_progress: Callable[[str], None] = lambda text: None
    environment_id: str = ""
    room: dict[str, Any] = field(default_factory=dict)
    keep: Callable[[ComparisonRecord], None] = lambda record: None
    folder: Path | None = None
    measured_ceilings: dict[tuple[str, str, int], dict[str, float]] = field(default_factory=dict)

    def run_block(self, works: Sequence[Work]) -> Iterator[tuple[Work, CaseRecord]]:
        """Measure cases that belong together, phase by phase, and yield their records; a baseline is the first."""
        members = [self.member(work) for work in works]
        for member in members:
            if member.needs_bound() and not member.work.planned.illegal:
                self.take_bound(member)
        for phase in PHASES:
            active = [m for m in members if self.may_run(m, phase)]
            began = time.monotonic()
            if phase == "speed" and works[0].block:
                self.run_beside(members[0], active)
            else:
                for m in active:
                    self.run_phase(m, phase)
            for m in active if phase == "speed" else ():
                if not self.room and is_quick(m):
                    self.noise(m)
                m.conditions = {**self.room, **m.conditions}
            for m in members:
                if not m.work.planned.illegal:
                    m.keep(phase, {name: self.probe(m, name) for name in m.work.wanted[phase] if is_probed(name)})
            for m in members:
                if m.found.get(phase):
                    yield m.work, self.record(m, phase, (time.monotonic() - began) / len(members))

    def member(self, work: Work) -> Member:
        """Look up what a case needs."""
        case = work.planned.case
        allowed, free = (allowed_memory(limits, case.device) for limits in (work.planned.limits, Limits()))
        return Member(work, self.registry.model(case.model), allowed, self.registry.for_workers, free=free)

    def may_run(self, member: Member, phase: Phase) -> bool:
        """Tell whether a phase is wanted and possible; what is not possible is kept as a status."""
        if member.work.planned.illegal:
            member.fail(phase, Died("unsupported", member.work.planned.illegal))
            return False
        if not self.wanted(member, phase):
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
        names = tuple(name for name in member.work.wanted[phase] if not is_probed(name))
        if phase == "speed":
            had = {*member.timed, *member.found.get("speed", {})}
            left = [name for name in (*member.sampled(), *names) if name not in had and not follows(name)]
            first = ["compile_time"] if left and member.case.compile else []
            # A capture that fails may leave the process unable to go on.
            return tuple(sorted(dict.fromkeys(first + left), key=lambda name: name == "latency_graph"))
        measured = self.wanted(member, "memory") + self.wanted(member, "speed") if phase == "static" else ()
        return (*names, PREDICTED) if measured and PREDICTED not in names else names

    def run_phase(self, member: Member, phase: Phase) -> None:
        """Take the metrics of one phase of a case, in a process of its own."""
        member.started = time.monotonic() - member.used
        cores = share_cores([member]) if phase == "speed" else ()
        try:
            if not member.start(self.pool, phase, self.on_progress):
                return
            watch = Watch(cores)
            for metric in self.wanted(member, phase):
                if metric in METRICS and METRICS[metric].sampled:
                    sample(member, metric, phase)
                elif member.worker:
                    self.measure(member, metric, phase)
            if phase == "speed":
                member.tell_pace()
                member.derive()
                member.conditions = worst_of([member.conditions, watch.seen()])
        finally:
            member.stop()
            member.used = time.monotonic() - member.started

    def run_beside(self, baseline: Member, active: Sequence[Member]) -> None:
        """Time cases beside their baseline, and what is not had that way, each alone."""
        for metric in dict.fromkeys(name for m in active for name in m.sampled()):
            taking = [m for m in active if metric in self.wanted(m, "speed")]
            if taking and taking[0] is baseline:
                self.beside(taking, metric)
        for m in active:
            if self.wanted(m, "speed"):
                self.run_phase(m, "speed")
            m.tell_pace()
            m.derive()
            if untold := m.untold():
                alone = m.only("speed", *untold)
                self.run_phase(alone, "speed")
                m.keep("speed", alone.found["speed"])
            for metric, name in m.ratios().items():
                if name not in m.found.get("speed", {}):
                    m.keep("speed", {name: m.failure(metric) or no_baseline(baseline, metric)})

    def beside(self, members: Sequence[Member], metric: str) -> None:
        """Sample a metric of members in turn; a failure is kept by who failed."""
        try:
            found = self.contested(members, metric)
        except Failed as failed:
            members[0].fail("speed", failed)  # it or its double
            return
        copy = len(found.members) - 1
        for index, member in enumerate(found.members[:copy]):
            record = comparison_record(found, index or copy)
            self.keep(self.stamped(replace(record, samples=found.round_medians(index or copy))))
            value, member.conditions = found.value(index), worst_of([member.conditions, record.conditions])
            self.room = self.room or {"noise": record.conditions["noise"]}
            member.timed[metric] = value
            member.keep("speed", {metric: value})
            if metric in member.ratios():
                member.keep("speed", {member.ratios()[metric]: ratio_value(record, is_baseline=index == 0)})

    def contested(self, members: Sequence[Member], metric: str) -> Contest:
        """Return members beside the first, or that one beside itself where no other lasts. Failed when it fails."""
        effort = Effort(budget=beside_seconds(members[0].work.planned.limits) * len(members))
        try:
            return contest(members, metric, self.pool, effort, self.on_progress)
        except Failed as failed:
            if not any(failed.member is other for other in members[1:]):
                raise
            return contest(members[:1], metric, self.pool, NOISE, self.on_progress)

    def noise(self, member: Member) -> None:
        """Keep what a case that was timed differs from itself: the room that each number of this run has."""
        metric = next(name for name in CALLED if name in member.timed)
        try:
            record = comparison_record(contest([member.again()], metric, self.pool, NOISE, self.on_progress), 1)
        except Died as died:
            record = ComparisonRecord(member.case, member.case, metric, status=died.status, reason=died.reason)
        if record.status == "ok":
            self.room = {"noise": record.conditions["noise"]}
        self.keep(self.stamped(record))

    def probe(self, member: Member, metric: str) -> Value:
        """Return a metric that tries batch sizes of its own; each try is a fresh process with the case's limits."""
        take = {"largest_batch": self.largest_batch, "throughput_knee": self.throughput_knee}[metric]
        try:
            return take(member)
        except Died as died:
            return Value(status=died.status, reason=died.reason)

    def largest_batch(self, member: Member) -> Value:
        """Return the largest batch that ran within what is allowed, of at most three that are tried."""
        predicted, _ = self.predict(member, "largest_batch")
        tried = {predicted: self.ask_once(member.with_batch(predicted), "memory", "fits")}
        fitted = tried[predicted].status == "ok"
        for share in LARGER if fitted else SMALLER:
            batch = max(predicted + 1, round(share * predicted)) if fitted else int(share * predicted)
            if batch > 0 and batch not in tried:
                tried[batch] = self.ask_once(member.with_batch(batch), "memory", "fits")
                if (tried[batch].status == "ok") != fitted:
                    break
        detail = {"predicted": predicted, "tried": [[batch, value.status] for batch, value in tried.items()]}
        fits = [batch for batch, value in tried.items() if value.status == "ok"]
        return Value(value=max(fits), convention="tried", detail=detail) if fits else none_ran(tried, detail)

    def throughput_knee(self, member: Member) -> Value:
        """Return the smallest batch that is as fast as any, of at most three that are tried."""
        ceilings = self.ceilings(member.case, member.spec)
        predicted, found = self.predict(member, "throughput_knee", **ceilings)
        most, least = int(found["largest"]), least_batch(member.case.mode)
        tried: dict[int, Value] = {}

        def rate(batch: int) -> float | None:
            one = member.with_batch(batch).only("speed", "throughput")
            self.run_phase(one, "speed")
            tried[batch] = one.found["speed"]["throughput"]
            return tried[batch].value

        rates = probe_knee(rate, predicted, most, least)
        detail = {
            "predicted": predicted,
            "largest": most,
            "tried": [[batch, v.value, *(v.interval or (None, None)), v.status] for batch, v in tried.items()],
        }
        if not rates:
            return none_ran(tried, detail)
        knee = knee_of(rates)
        return Value(value=knee, convention="knee", detail={**detail, "end": open_end(tried, knee, most, least)})

    def predict(self, member: Member, metric: str, **given: Any) -> tuple[int, dict[str, Any]]:
        """Return the batch to try first, and what else is known of it. Died when there is none."""
        allowed = member.limits_memory
        found = self.ask_once(member, "static", f"{metric}_predicted", allowed=allowed, **given)
        if found.value is None:
            raise Died(found.status, found.reason)
        if found.value == 0:
            raise Died("oom", f"not one fits in {allowed / 2**30:.2f} GiB, as predicted")
        return int(found.value), found.detail

    def ask_once(self, member: Member, phase: Phase, metric: str, **given: Any) -> Value:
        """Ask a fresh process of a phase for one metric; a failure is a value, too."""
        one = member.only(phase, metric)
        try:
            if not one.start(self.pool, phase, self.on_progress) or one.worker is None:
                return one.found[phase][metric]
            reply = one.worker.ask({"do": "measure", "metric": metric, "given": given}, one.deadline(phase))
            value: Value = jsonio.from_json(Value, reply["values"][metric])
            return value
        except Died as died:
            return Value(status=died.status, reason=died.reason)
        finally:
            one.stop()

    def take_bound(self, member: Member) -> None:
        """Ask for the least time of a member's call, on what this machine did at most in this run."""
        try:
            given = self.ceilings(member.case, member.spec)
        except Died as died:
            member.bound = Value(status=died.status, reason=died.reason)
            return
        member.bound = self.ask_once(member, "static", "fused_bound", **given)

    def ceilings(self, case: Case, spec: ModelSpec) -> dict[str, float]:
        """Return what the machine does at most with a case's device, dtype and threads; measured once. Died if not."""
        device, dtype, threads = case.device or "cpu", case.dtype, case.threads or 1
        if (device, dtype, threads) not in self.measured_ceilings:
            worker = Worker(self.pool.server(threads, spec), self.on_progress)
            try:
                ask = {"do": "ceilings", "device": device, "dtype": dtype, "threads": threads}
                reply = worker.ask(ask, time.monotonic() + STATIC_SECONDS)
            finally:
                worker.close()
            self.measured_ceilings[device, dtype, threads] = reply["values"]
        return self.measured_ceilings[device, dtype, threads]

    def compare(self, cases: Sequence[Planned], metric: str, effort: Effort) -> ComparisonRecord:
        """Measure the second case beside the first."""
        works = [Work(item, {**dict.fromkeys(PHASES, ()), "speed": (metric,)}) for item in cases]
        members = [self.member(work) for work in works]
        record = ComparisonRecord(members[0].case, members[1].case, metric)
        for member in members:
            self.run_phase(member, "static")
            if not self.may_run(member, "speed"):
                value = member.found["speed"][metric]
                failed = replace(record, status=value.status, reason=f"{member.case.model}: {value.reason}")
                return self.stamped(failed)
        try:
            found = contest(members, metric, self.pool, effort, self.on_progress)
        except Died as died:
            return self.stamped(replace(record, status=died.status, reason=died.reason))
        return self.stamped(comparison_record(found, 1))

    def stamped(self, record: ComparisonRecord) -> ComparisonRecord:
        """Return a record with what its numbers depend on, the machine and the time."""
        prints = {who: self.prints.of(case, "speed") for who, case in (("a", record.a), ("b", record.b))}
        return replace(record, fingerprint=prints, environment=self.environment_id, time=now())

    def measure(self, member: Member, metric: str, phase: Phase) -> None:
        """Take a metric that is had in one go."""
        if metric in member.found.get(phase, {}):
            return
        assert member.worker is not None
        try:
            kept = self.folder / self.prints.training(member.work.planned) if phase == "task" and self.folder else None
            given = {"checkpoint": str(kept)} if kept else {}
            reply = member.worker.ask({"do": "measure", "metric": metric, "given": given}, member.deadline(phase))
            values = {name: jsonio.from_json(Value, data) for name, data in reply["values"].items()}
        except Died as died:
            # What does not compile would run eagerly, under the name of what is compiled.
            eagerly = metric == "compile_time" and member.case.compile is not None
            if phase == "task" or eagerly or died.status in ("killed", "timeout"):
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
        static, planned = phase == "static", member.work.planned
        return CaseRecord(
            case=member.case.for_phase(phase),
            fingerprint=self.prints.of(member.case, phase, planned.baseline, planned.assignment),
            metrics={m: member.found[phase][m] for m in member.work.wanted[phase] if m in member.found[phase]},
            plugin=self.registry.owners["model", member.case.model].name,
            environment="" if static else self.environment_id,
            conditions=member.conditions if phase == "speed" else {},
            time=now(),
            seconds=round(seconds, 3),
        )
