"""A case while it is measured: its worker, what was found, and its samples."""

from __future__ import annotations

import math
import statistics as stdlib_statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from zoo.case import Case
from zoo.conditions import choose_cores
from zoo.jsonio import from_json
from zoo.metrics import METRICS, PHASES, Phase
from zoo.nvml import Reading, conditions, spoiled
from zoo.plan import Work
from zoo.pool import Died, Pool, Worker, family
from zoo.record import Value
from zoo.spec import ModelSpec
from zoo.statistics import PERCENTILE_SAMPLES, StoppingRule, is_steady, median_interval, percentile

STATIC_SECONDS = 60.0
REQUEST_SECONDS = 0.1
WARM_UP = StoppingRule(target=0.0, min_samples=3, max_samples=1000, budget=1.0, overdraft=1.0)
SAMPLING = StoppingRule()
PERCENTILES = {"latency_p90": 0.9, "latency_p99": 0.99}
CALLED = ("latency", "throughput")  # sampled by calling the model, not by replaying it
CONVENTION = MappingProxyType(
    {"latency": "synchronised each call", "throughput": "queued calls", "latency_graph": "replayed CUDA graph"}
)
# The share of a call's time that the host must take for the call to be launch-bound. On a GPU the two work side by side
# and the slower sets the pace: the host, where a call takes no longer than queueing it does, give or take a thirtieth.
# Queueing is timed on an empty queue: on a full one, of some 1,000 launches, it takes as long as the device does. A
# call that waits for the device itself looks the same, and there the device waits for the host as well. On a CPU one
# thing is done after the other, and the larger half sets the pace.
LAUNCH_BOUND = MappingProxyType({"cuda": 0.97, "cpu": 0.5})
HOST_SECONDS = 1.0  # for a call with a batch of none, after all samples
PAUSE = 0.05  # seconds that a GPU is given to recover
CLOCKS_UP = 0.3  # seconds of work after which a GPU's clocks have risen from where they idle
BOUNDED = MappingProxyType({"percent_of_bound": "fused bound", "mfu": "measured ceiling"})


@dataclass
class Member:
    """One case of a block, while it is measured.

    ``limits_memory`` is what it may take, ``free`` what all of a block may take together, both in bytes. ``used`` are
    the seconds that its own phases took so far.
    """

    work: Work
    spec: ModelSpec
    limits_memory: int
    known: Mapping[str, Any]
    started: float = field(default_factory=time.monotonic)
    found: dict[Phase, dict[str, Value]] = field(default_factory=dict)
    timed: dict[str, Value] = field(default_factory=dict)
    predicted: int | None = None
    bound: Value | None = None
    free: int = 0
    used: float = 0.0
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
                self.work.planned.assignment,
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

    def failure(self, metric: str) -> Value | None:
        """Return why a metric that was sampled, or else its ratio, has no value; else why anything timed has none."""
        found = {**self.found.get("speed", {}), **self.timed}
        names = (metric, self.ratios().get(metric, ""), *found)
        return next((found[name] for name in names if name in found and found[name].status != "ok"), None)

    def compiled(self, pool: Pool) -> bool:
        """Compile, where the case says so; False when that failed, with the status kept. Nothing is run eagerly.

        What another process of this run compiled of the case is taken from there.
        """
        if self.case.compile is None:
            return True
        assert self.worker is not None
        try:
            kept = {"kept": pool.folder_of(self.case.id)}
            self.worker.ask({"do": "measure", "metric": "compile_time", "given": kept}, self.deadline("speed"))
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
        """Return the metrics to sample: those wanted, and those that others follow from.

        A capture that fails may leave the process unable to go on, so it comes last.
        """
        wanted = [name for name in self.work.wanted["speed"] if METRICS[name].sampled]
        more = [*self.ratios(), *(["latency"] if not PERCENTILES.keys().isdisjoint(self.derived()) else [])]
        if self.needs_bound() and {"latency", "throughput"}.isdisjoint((*wanted, *more)):
            more = ["throughput"]
        return sorted(dict.fromkeys((*wanted, *more)), key=lambda name: name == "latency_graph")

    def derive(self) -> None:
        """Work out what follows from the time of a call and its bound."""
        for name in self.derived():
            sources = ("latency",) if name in PERCENTILES else ("throughput", "latency")
            found = [self.timed[source] for source in sources if source in self.timed]
            timed = next((value for value in found if value.status == "ok"), found[0] if found else None)
            if timed is not None:
                value = percentile_value(name, timed) if name in PERCENTILES else self.of_bound(name, timed)
                self.keep("speed", {name: value})

    def untold(self) -> list[str]:
        """Return the percentiles for which there are too few samples."""
        latency = self.timed.get("latency")
        few = len(latency.samples) if latency and latency.status == "ok" else math.inf
        return [name for name in self.derived() if few < PERCENTILE_SAMPLES.get(PERCENTILES.get(name, 0.0), 0)]

    def tell_pace(self) -> None:
        """Say of each time how long the host takes for a call, and whether that sets the pace."""
        timed = {name: v for name, v in self.timed.items() if v.status == "ok" and name in CALLED}
        seconds = {name: self.seconds_of_call(value) for name, value in timed.items()}
        device = self.case.device or "cpu"
        on_cpu = device == "cpu"
        alone = self.host_seconds() if on_cpu and timed else None
        for name, value in timed.items():
            host = alone or value.detail.get("host_seconds")
            if host is not None:
                # On a GPU the host and the device go side by side only where calls are queued.
                call = seconds[name] if on_cpu else seconds.get("throughput", seconds[name])
                bound = host >= LAUNCH_BOUND[device] * call
                detail = {**value.detail, "host_seconds": host, **({"launch_bound": True} if bound else {})}
                self.timed[name] = replace(value, detail=detail)
                self.keep("speed", {name: self.timed[name]})

    def seconds_of_call(self, timed: Value) -> float:
        """Return the seconds of one call, from a latency or a throughput."""
        assert timed.value is not None
        return self.case.batch_size / timed.value if timed.unit == "1/s" else timed.value

    def host_seconds(self) -> float | None:
        """Return the seconds of a call with a batch of none; None where the model cannot take it, however that ends."""
        if self.worker is None:
            return None
        try:
            ask = {"do": "measure", "metric": "host_seconds"}
            reply = self.worker.ask(ask, time.monotonic() + HOST_SECONDS)
            return float(reply["values"]["host_seconds"]["value"])
        except (Died, KeyError, TypeError, ValueError):
            return None

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
            detail={"bound": least, "seconds": seconds[0], **bound.detail},
        )

    def with_batch(self, batch_size: int) -> Member:
        """Return the same case with another batch size, with nothing started and nothing found."""
        planned = replace(self.work.planned, case=replace(self.case, batch_size=batch_size))
        return replace(self.again(), work=replace(self.work, planned=planned))

    def only(self, phase: Phase, *metrics: str) -> Member:
        """Return the same case of which some metrics are wanted, with nothing started and nothing found."""
        wanted: dict[Phase, tuple[str, ...]] = {**dict.fromkeys(PHASES, ()), phase: metrics}
        return replace(self.again(), work=replace(self.work, wanted=wanted))

    def again(self) -> Member:
        """Return the same case, with nothing started and nothing found."""
        kept = {"predicted": self.predicted, "free": self.free}
        return Member(self.work, self.spec, self.limits_memory, self.known, **kept)  # type: ignore[arg-type]

    def stop(self) -> None:
        """End the worker, if there is one."""
        if self.worker:
            self.worker.close()
            self.worker = None


def percentile_value(name: str, latency: Value) -> Value:
    """Return a percentile of a latency's samples, or that there are too few of them."""
    if latency.status != "ok":
        return Value(status=latency.status, reason=latency.reason)
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


def sample(member: Member, metric: str, phase: Phase) -> None:
    """Sample a metric until there are samples enough."""
    sampler = Sampler(member, metric, phase)
    sampler.warm_up()
    while not sampler.stop:
        sampler.take()
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
    device: list[int] = field(default_factory=list)
    queued: list[int] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    discarded: list[set[str]] = field(default_factory=list)
    wasted: float = 0.0

    def request(self, count: int) -> list[int]:
        """Ask the worker for samples, and again after a pause for those that a GPU took while it was held down.

        A death is kept as status and ends the sampling, as does a budget that was spent on nothing else.
        """
        began = time.monotonic()
        while (reply := self.ask(count)) is not None:
            watched = [from_json(Reading, data) for data in reply.get("watched", [])]
            why = spoiled(*watched) if watched else set()
            if not why:
                self.device += reply.get("device", [])
                self.queued += reply.get("queued", [])
                self.readings += watched
                return list(reply["samples"])
            self.discarded.append(why)
            time.sleep(PAUSE)
            self.spent += PAUSE
            self.wasted, began = self.wasted + time.monotonic() - began, time.monotonic()
            if self.wasted >= SAMPLING.budget:
                self.give_up()
                break
        return []

    def ask(self, count: int) -> dict[str, Any] | None:
        """Return the worker's answer, None when there is none to be had."""
        worker, asked = self.member.worker, time.monotonic()
        if worker is None:
            self.stop = "failed"
            return None
        try:
            command = {"do": "sample", "metric": self.metric, "count": count}
            reply = worker.ask(command, self.member.deadline(self.phase))
        except Died as died:
            self.stop = "failed"
            if died.status == "unsupported":  # the worker has said so itself, and lives
                self.refuse(died.reason)
            else:
                self.member.fail(self.phase, died)
                self.member.stop()
            return None
        self.calls = reply["calls"]
        self.spent += time.monotonic() - asked
        return reply

    def give_up(self) -> None:
        """End the sampling of a GPU that is held down again and again: with what there is, or without a value."""
        self.stop = "budget"
        if not self.samples:
            self.stop = "failed"
            whys = ", ".join(self.whys())
            self.refuse(f"the GPU was held down in all of {len(self.discarded)} requests for samples: {whys}")

    def whys(self) -> list[str]:
        """Return why samples were thrown away."""
        return sorted(set().union(*self.discarded))

    def refuse(self, reason: str) -> None:
        """Keep that there is no value of this metric, and why."""
        value = Value(status="unsupported", reason=reason)
        self.member.timed[self.metric] = value
        self.member.keep(self.phase, {self.metric: value})

    def count(self, samples: Sequence[int], most: int) -> int:
        """Return how many samples fill one request."""
        return max(1, min(most, int(REQUEST_SECONDS * 1e9 / stdlib_statistics.median(samples)))) if samples else 1

    def warm_up(self) -> None:
        """Call until two windows agree and clocks are up, or the warm-up's budget is spent; nothing of it is kept."""
        seen: list[int] = []
        least = CLOCKS_UP if self.member.case.device == "cuda" else 0.0
        while not self.stop and not WARM_UP.reason(seen, self.spent):
            if self.spent >= least and is_steady(seen, window=3, tolerance=0.05):
                break
            reply = self.ask(self.count(seen, 20))
            seen += reply["samples"] if reply else []
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
        if self.stop == "failed":
            return
        median, interval = stdlib_statistics.median(self.samples), median_interval(self.samples)
        per_call = (interval[0] / self.calls, interval[1] / self.calls) if interval else None
        value = timed_value(
            self.metric, self.member.case.batch_size, median / self.calls, per_call, tuple(self.samples)
        )
        detail = {"warm_up": len(self.seen), "calls_per_sample": self.calls, **self.of_device()}
        value = replace(value, stop=self.stop, detail=detail)
        self.member.timed[self.metric] = value
        self.member.keep(self.phase, {self.metric: value})

    def of_device(self) -> dict[str, Any]:
        """Return what else is known of samples that a device with a queue took: seconds of one call, and conditions."""
        found: dict[str, Any] = {}
        if self.device:
            found["device_seconds"] = stdlib_statistics.median(self.device) / self.calls / 1e9
            found["host_seconds"] = stdlib_statistics.median(self.queued) / 1e9
        if self.readings:
            found["conditions"] = conditions(self.readings, family)
        if self.discarded:
            found["discarded"] = {"requests": len(self.discarded), "reasons": self.whys()}
        return found


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
        convention=CONVENTION[metric],
        samples=samples,
    )
