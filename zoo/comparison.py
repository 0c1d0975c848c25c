"""Cases measured side by side: all alive at once, sampled A B B A, in several sets of fresh processes.

What disturbs a machine disturbs all of them alike, and cancels in the ratio of a round; what differs from process to
process (where memory lies, how caches fall) is in the interval, as each set of processes is drawn anew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from statistics import median
from typing import Any, TypeVar

from zoo.conditions import Watch, mean_of
from zoo.metrics import METRICS
from zoo.nvml import merged
from zoo.pool import Died, Pool
from zoo.record import ComparisonRecord, Samples, Value
from zoo.sampling import Member, Sampler, share_cores, timed_value
from zoo.statistics import Ratio, ratio_of

Rounds = list[list[int]]  # samples by round, nanoseconds of a call or of a window of calls
T = TypeVar("T")
APART = "timed after the baseline, not in turn with it: all of them do not fit in memory together"
LONG = 0.25  # seconds of a call to which an empty cache makes no difference
MOST_SAMPLES = 2_000  # of a case, that a record keeps


@dataclass(frozen=True)
class Effort:
    """How long to go on: until the interval's half-width is at most ``target``, or ``budget`` seconds are spent.

    At least ``processes`` sets, whatever the budget; each set makes ``rounds`` rounds of two turns, or so many that the
    budget has room for ``sets`` of them, two at least: of twelve sets one can be surer than of five that are longer.
    A turn lasts about ``turn`` seconds, or one call: what disturbs a machine goes on for longer than a call, so many
    short turns cancel it where few long ones do not.
    """

    target: float = 0.01
    budget: float = 40.0
    processes: int = 5
    sets: int = 12
    rounds: int = 12
    turn: float = 0.01

    def reason(self, ratios: Sequence[Ratio], sets: int, elapsed: float) -> str | None:
        """Return why to stop, ``tight`` or ``budget``, or None to go on; another set takes as long as the others."""
        if sets < self.processes:
            return None
        if ratios and all(ratio.half_width <= self.target for ratio in ratios):
            return "tight"
        return "budget" if elapsed + elapsed / sets > self.budget else None

    def rounds_of(self, seconds: float) -> int:
        """Return how many rounds of so many seconds a set makes."""
        return max(2, int(min(self.rounds, self.budget / self.sets / seconds)))


class Failed(Died):
    """A member of a contest that failed."""

    def __init__(self, member: Member, metric: str) -> None:
        value = member.failure(metric)
        assert value is not None
        super().__init__(value.status, f"{member.case.model}: {value.reason}")
        self.member = member


@dataclass(frozen=True)
class Set:
    """What one set of fresh processes gave: the rounds of each member, the calls of a sample of each, and what went on.

    Members are in the order of the contest's.
    """

    rounds: Sequence[Rounds]
    calls: Sequence[int]
    conditions: dict[str, Any] = field(default_factory=dict)
    told: Sequence[dict[str, Any]] = ()  # by the device of each member

    def medians(self, index: int) -> list[float]:
        """Return the median nanoseconds of a member's call in every round."""
        return [median(samples) / self.calls[index] for samples in self.rounds[index]]

    def beside(self, index: int) -> Iterator[tuple[float, float, float]]:
        """Yield the medians of each round: of the baseline, a member, and the baseline's double."""
        return zip(self.medians(0), self.medians(index), self.medians(-1), strict=True)

    def without(self, index: int) -> Set:
        """Return the set less one member."""
        return Set(less(self.rounds, index), less(self.calls, index), self.conditions, less(self.told, index))


def less(items: Sequence[T], index: int) -> list[T]:
    """Return a sequence less one item."""
    return [*items[:index], *items[index + 1 :]]


@dataclass
class Contest:
    """Samples of members, the first of which is the baseline and the last the baseline once more."""

    members: Sequence[Member]
    metric: str = "latency"
    interleaved: bool = True
    sets: list[Set] = field(default_factory=list)
    stop: str = ""

    def ratio(self, index: int) -> Ratio:
        """Return how much longer a member takes than the baseline. ValueError for fewer than two sets.

        It is set beside both measurements of the baseline, each by itself: of skewed noise beside the mean of two
        others the middle is not 1 where all three are the same.
        """
        scale = self.scale(index)
        found = ratio_of([[scale * b / other for a, b, c in s.beside(index) for other in (a, c)] for s in self.sets])
        return replace(found, rounds=found.rounds // 2)

    def scale(self, index: int) -> float:
        """Return by what a ratio of calls becomes one of samples, where the metric is of samples."""
        if METRICS[self.metric].unit != "1/s":
            return 1.0
        return self.members[0].case.batch_size / self.members[index].case.batch_size

    def noise(self) -> Ratio:
        """Return the ratio of the baseline to itself."""
        return ratio_of([[c / a for a, _, c in s.beside(0)] for s in self.sets])

    def seconds(self, index: int) -> float:
        """Return the median seconds of a member's call: of the medians of the sets."""
        return median(median(chain(*s.rounds[index])) / s.calls[index] for s in self.sets) / 1e9

    def on_gpu(self) -> bool:
        """Tell whether a device said anything of itself."""
        return any("conditions" in told for s in self.sets for told in s.told)

    def conditions(self) -> dict[str, Any]:
        """Return what went on meanwhile, the noise included."""
        seen = mean_of([s.conditions for s in self.sets])
        return {**seen, "noise": round(self.noise().furthest, 5)}

    def value(self, index: int) -> Value:
        """Return a member's own metric: the mean over the processes, with an interval that holds how these differ."""
        member, found = self.members[index], ratio_of([s.medians(index) for s in self.sets])
        samples = tuple(chain(*(chain(*s.rounds[index]) for s in self.sets)))
        detail = {
            "processes": found.processes,
            "calls_per_sample": [s.calls[index] for s in self.sets],
            **told_in_all([s.told[index] for s in self.sets]),
        }
        some = samples[:: math.ceil(len(samples) / MOST_SAMPLES)]
        value = timed_value(self.metric, member.case.batch_size, found.value, found.interval, some)
        return replace(value, n=len(samples), stop=self.stop, detail=detail)

    def round_medians(self, index: int) -> Samples:
        """Return the medians of the rounds of the baseline, a member and the baseline's double, as one sample each."""

        def medians(rounds: Rounds) -> tuple[tuple[int, ...], ...]:
            return tuple((round(median(samples)),) for samples in rounds)

        return tuple(tuple(medians(s.rounds[i]) for i in (0, index, -1)) for s in self.sets)

    def drop(self, failed: Failed) -> None:
        """Go on without a member that failed. Failed when that leaves nothing to compare, or it is the baseline."""
        index = next(n for n, member in enumerate(self.members) if member is failed.member)
        if index in (0, len(self.members) - 1) or len(self.members) == 3:
            raise failed
        self.members = less(self.members, index)
        self.sets = [s.without(index) for s in self.sets]


def contest(members: Sequence[Member], metric: str, pool: Pool, effort: Effort, tell: Callable[[str], None]) -> Contest:
    """Sample members side by side, or one after the other where they do not fit. Failed when nothing can be compared.

    The first member is the baseline, and takes part twice: alone, it is compared with itself. Another that fails is
    left out.
    """
    taking = [*members, members[0].again()]
    found, began = Contest(taking, metric, fit_at_once(taking)), time.monotonic()
    while not found.stop:
        try:
            found.sets.append((one_set if found.interleaved else in_turn)(found.members, metric, pool, effort))
        except Failed as failed:
            found.drop(failed)
            continue
        sets = len(found.sets)
        others = range(1, len(found.members) - 1)
        ratios = ([found.ratio(index) for index in others] or [found.noise()]) if sets > 1 else []
        found.stop = effort.reason(ratios, sets, time.monotonic() - began) or ""
        tell(f"set {sets}" + "".join(f", {r.value:.3f} ± {r.half_width:.3f}" for r in ratios))
    return found


def fit_at_once(members: Sequence[Member]) -> bool:
    """Tell whether what all of them are predicted to need is free at the same time."""
    return sum(member.predicted or 0 for member in members) <= members[0].free


def one_set(members: Sequence[Member], metric: str, pool: Pool, effort: Effort) -> Set:
    """Sample every member in a fresh process of its own, and end them. Failed when one of them fails."""
    try:
        cores = share_cores(members)
        samplers = [ready(member, metric, pool) for member in members]
        watch = Watch(cores)
        rounds: list[Rounds] = [[] for _ in members]
        seconds = sum(call_seconds(sampler) * sum(calls_of_turn(sampler, effort)) for sampler in samplers)
        for _ in range(effort.rounds_of(2 * seconds)):
            turns: list[list[int]] = [[] for _ in members]
            for index in [*range(len(members)), *reversed(range(len(members)))]:
                turns[index] += turn(samplers[index], effort)
            for of_member, samples in zip(rounds, turns, strict=True):
                of_member.append(samples)
        told = [told_of(sampler) for sampler in samplers]
        return Set(rounds, [sampler.calls for sampler in samplers], watch.seen(), told)
    finally:
        for member in members:
            member.stop()


def told_of(sampler: Sampler) -> dict[str, Any]:
    """Return what a device told of a member; on the CPU what the host takes for a call, where that can be had."""
    on_cpu = sampler.member.case.device == "cpu"
    host = sampler.member.host_seconds() if on_cpu else None
    return {**sampler.of_device(), **({"host_seconds": host} if host else {})}


def in_turn(members: Sequence[Member], metric: str, pool: Pool, effort: Effort) -> Set:
    """Sample the members one after the other, where they do not fit in memory together."""
    alone = [one_set([member], metric, pool, effort) for member in members]
    rounds = min(len(one.rounds[0]) for one in alone)
    of_each = [one.rounds[0][:rounds] for one in alone], [one.calls[0] for one in alone]
    return Set(*of_each, mean_of([one.conditions for one in alone]), [one.told[0] for one in alone])


def told_in_all(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what a device told of a member in all sets: the last of what is a time, and all that went on."""
    seen = [t["conditions"] for t in told if "conditions" in t]
    return {**told[-1], **({"conditions": merged(seen)} if seen else {})}


def ready(member: Member, metric: str, pool: Pool) -> Sampler:
    """Start a member and warm it up. Failed when it fails."""
    member.started = time.monotonic()
    if not member.start(pool, "speed", lambda _: None) or not member.compiled(pool):
        raise Failed(member, metric)
    sampler = Sampler(member, metric, "speed")
    sampler.warm_up()
    if sampler.stop:
        raise Failed(member, metric)
    return sampler


def call_seconds(sampler: Sampler) -> float:
    """Return the seconds of a sample, as the warm-up found them."""
    return median(sampler.seen[-10:]) / 1e9


def calls_of_turn(sampler: Sampler, effort: Effort) -> tuple[int, int]:
    """Return how many samples of a turn only warm the cache, and how many count."""
    call = call_seconds(sampler)
    return int(call < LONG), max(1, round(effort.turn / call))


def turn(sampler: Sampler, effort: Effort) -> list[int]:
    """Take the samples of one turn. Failed when the worker fails.

    The first fetches back what the turn before threw out of the cache, and is no sample unless it takes long: who comes
    after himself, as the first and the last of a round do, would have an advantage.
    """
    fetched, count = calls_of_turn(sampler, effort)
    sampler.member.started = time.monotonic()  # the others' turns are not the case's own time
    samples = sampler.request(fetched + count)[fetched:]
    if sampler.stop:
        raise Failed(sampler.member, sampler.metric)
    return samples


def comparison_record(found: Contest, index: int) -> ComparisonRecord:
    """Return what was found of a member beside the baseline, with every sample. It has no machine and no time yet."""
    noise = found.noise()
    ratio = noise if index == len(found.members) - 1 else found.ratio(index)
    return ComparisonRecord(
        found.members[0].case,
        found.members[index].case,
        found.metric,
        ratio=ratio.value,
        interval=ratio.interval,
        verdict=ratio.verdict(noise.margin),
        margin=noise.margin,
        noise=noise.value,
        noise_interval=noise.interval,
        seconds_a=found.seconds(0),
        seconds_b=found.seconds(index),
        processes=ratio.processes,
        rounds=ratio.rounds,
        stop=found.stop,
        protocol="interleaved" if found.interleaved else "sequential",
        calls=tuple(tuple(s.calls[i] for i in (0, index, -1)) for s in found.sets),
        samples=tuple(tuple(tuple(map(tuple, s.rounds[i])) for i in (0, index, -1)) for s in found.sets),
        watched=tuple(tuple(s.told[i] for i in (0, index, -1)) for s in found.sets) if found.on_gpu() else (),
        conditions=found.conditions(),
    )


def ratio_value(record: ComparisonRecord, is_baseline: bool) -> Value:
    """Return a comparison as a metric of the case that was compared: below 1 where it takes less, or does less."""
    assert record.ratio is not None
    assert record.interval is not None
    inverse = METRICS[record.metric].higher_is_better
    ends = sorted(1 / end if inverse else end for end in record.interval)
    return Value(
        value=1 / record.ratio if inverse else record.ratio,
        interval=(ends[0], ends[1]),
        n=record.rounds,
        stop=record.stop,
        convention="beside the baseline",
        detail={
            **({"apart": APART} if record.protocol == "sequential" else {}),
            "verdict": "baseline" if is_baseline else record.verdict,
            "baseline": record.a.id,
            "margin": record.margin,
            "processes": record.processes,
        },
    )
