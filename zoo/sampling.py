"""A case while it is measured: its worker, what was found, and its samples, one or several cases in turn."""

from __future__ import annotations

import statistics as stdlib_statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from zoo.case import Case
from zoo.conditions import choose_cores
from zoo.metrics import METRICS, PHASES, Phase
from zoo.plan import Work
from zoo.pool import Died, Pool, Worker
from zoo.record import Value
from zoo.spec import ModelSpec, TaskSpec
from zoo.statistics import PERCENTILE_SAMPLES, StoppingRule, is_steady, median_interval, percentile

STATIC_SECONDS = 60.0
REQUEST_SECONDS = 0.1
WARM_UP = StoppingRule(target=0.0, min_samples=3, max_samples=1000, budget=1.0, overdraft=1.0)
SAMPLING = StoppingRule()
PERCENTILES = {"latency_p90": 0.9, "latency_p99": 0.99}
BOUNDED = MappingProxyType({"percent_of_bound": "fused bound", "mfu": "measured ceiling"})


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
    timed: dict[str, Value] = field(default_factory=dict)
    predicted: int | None = None
    bound: Value | None = None
    cores: tuple[int, ...] = ()
    conditions: dict[str, Any] = field(default_factory=dict)
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
                phase,
                self.spec,
                self.task,
                self.case,
                self.limits_memory,
                self.deadline(phase),
                self.known,
                self.cores,
            )
        except Died as died:
            self.fail(phase, died)
            self.stop()
            return False
        return True

    def compiled(self) -> bool:
        """Compile, where the case says so; False when that failed, with the status kept. Nothing is run eagerly."""
        if self.case.compile is None:
            return True
        assert self.worker is not None
        try:
            self.worker.ask({"do": "measure", "metric": "compile_time"}, self.deadline("speed"))
        except Died as died:
            self.fail("speed", died)
            self.stop()
            return False
        return True

    def derived(self) -> list[str]:
        """Return the metrics that are wanted and follow from others."""
        return [name for name in self.work.wanted["speed"] if METRICS[name].derived]

    def ratios(self) -> dict[str, str]:
        """Return the ratios that are wanted, by the metric that they are of."""
        return {METRICS[name].ratio_of: name for name in self.work.wanted["speed"] if METRICS[name].ratio_of}

    def needs_bound(self) -> bool:
        """Tell whether what is wanted needs the least time of a call."""
        return not BOUNDED.keys().isdisjoint(self.work.wanted["speed"])

    def sampled(self) -> list[str]:
        """Return the metrics to sample: those wanted, and those that others follow from."""
        wanted = [name for name in self.work.wanted["speed"] if METRICS[name].sampled]
        more = [*self.ratios(), *(["latency"] if not PERCENTILES.keys().isdisjoint(self.derived()) else [])]
        if self.needs_bound() and not wanted and not more:
            more = ["throughput"]
        return list(dict.fromkeys((*wanted, *more)))

    def derive(self) -> None:
        """Work out what follows from the time of a call and its bound."""
        for name in self.derived():
            timed = self.timed.get("latency") if name in PERCENTILES else None
            timed = timed or self.timed.get("throughput") or self.timed.get("latency")
            if timed is not None:
                value = percentile_value(name, timed) if name in PERCENTILES else self.of_bound(name, timed)
                self.keep("speed", {name: value})

    def of_bound(self, name: str, timed: Value) -> Value:
        """Return how near a time comes to what is possible."""
        bound = self.bound
        assert bound is not None
        if bound.value is None or timed.value is None:
            failed = bound if bound.value is None else timed
            return Value(status=failed.status, reason=failed.reason)
        seconds = [
            self.case.batch_size / v if timed.unit == "1/s" else v for v in (timed.value, *(timed.interval or ()))
        ]
        least = bound.value if name == "percent_of_bound" else bound.detail["flops"] / bound.detail["ceilings"]["flops"]
        value, *ends = (100 * least / s for s in seconds)
        return Value(
            value=value,
            unit="%",
            interval=(min(ends), max(ends)) if ends else None,
            n=timed.n,
            convention=BOUNDED[name],
            detail={"bound": least, "seconds": seconds[0], "ceilings": bound.detail["ceilings"]},
        )

    def with_batch(self, batch_size: int) -> Member:
        """Return the same case with another batch size, with nothing started and nothing found."""
        planned = replace(self.work.planned, case=replace(self.case, batch_size=batch_size))
        return replace(self.again(), work=replace(self.work, planned=planned))

    def only(self, phase: Phase, metric: str) -> Member:
        """Return the same case of which one metric is wanted, with nothing started and nothing found."""
        wanted: dict[Phase, tuple[str, ...]] = {**dict.fromkeys(PHASES, ()), phase: (metric,)}
        return replace(self.again(), work=replace(self.work, wanted=wanted))

    def again(self) -> Member:
        """Return the same case, with nothing started and nothing found."""
        return Member(self.work, self.spec, self.task, self.limits_memory, self.known, predicted=self.predicted)

    def stop(self) -> None:
        """End the worker, if there is one."""
        if self.worker:
            self.worker.close()
            self.worker = None


def percentile_value(name: str, latency: Value) -> Value:
    """Return a percentile of a latency's samples, or that there are too few of them."""
    share = PERCENTILES[name]
    found = percentile(latency.samples, share)
    if found is None:
        said = f"{len(latency.samples)} samples do not tell it; {PERCENTILE_SAMPLES[share]} would"
        return Value(status="unsupported", reason=said)
    return Value(value=found / 1e9, unit="s", n=len(latency.samples), convention=name.removeprefix("latency_"))


def share_cores(members: Sequence[Member]) -> tuple[int, ...]:
    """Give members that are measured in turn the same cores, which are idle now; return all that are used."""
    cores = choose_cores(max(member.case.threads or 1 for member in members))
    for member in members:
        member.cores = cores[: member.case.threads or 1]
    return cores


# -- sampling ------------------------------------------------------------------------------------------------


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
    calls: int = 1
    spent: float = 0.0
    stop: str = ""
    seen: Sequence[int] = ()

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
        self.spent, self.seen = 0.0, seen

    def take(self) -> None:
        """Take one request's samples and decide whether to go on."""
        self.samples += self.request(self.count(self.samples, SAMPLING.min_samples))
        self.stop = self.stop or self.rule().reason(self.samples, self.spent) or ""

    def rule(self) -> StoppingRule:
        """Return when to stop: not before a percentile that is wanted can be told, or the budget is spent."""
        wanted = [PERCENTILES[name] for name in self.member.derived() if name in PERCENTILES]
        least = max((PERCENTILE_SAMPLES[share] for share in wanted), default=0) if self.metric == "latency" else 0
        return replace(SAMPLING, min_samples=max(least, SAMPLING.min_samples))

    def keep(self) -> None:
        """Turn the samples into the metric's value."""
        if self.stop == "died":
            return
        median, interval = stdlib_statistics.median(self.samples), median_interval(self.samples)
        per_call = (interval[0] / self.calls, interval[1] / self.calls) if interval else None
        value = timed_value(
            self.metric, self.member.case.batch_size, median / self.calls, per_call, tuple(self.samples)
        )
        detail = {"warm_up": len(self.seen), "calls_per_sample": self.calls}
        value = replace(value, stop=self.stop, detail=detail)
        self.member.timed[self.metric] = value
        self.member.keep(self.phase, {self.metric: value})


def timed_value(
    metric: str, batch: int, call: float, interval: tuple[float, float] | None, samples: tuple[int, ...]
) -> Value:
    """Return a sampled metric from the nanoseconds of a call of ``batch`` samples, and their interval."""

    def told(ns: float) -> float:
        return batch / (ns / 1e9) if METRICS[metric].unit == "1/s" else ns / 1e9

    ends = sorted(map(told, interval)) if interval else None
    return Value(
        value=told(call),
        unit=METRICS[metric].unit,
        interval=(ends[0], ends[1]) if ends else None,
        n=len(samples),
        convention={"latency": "synchronised each call", "throughput": "queued calls"}[metric],
        samples=samples,
    )
