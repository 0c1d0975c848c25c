"""Cases measured side by side: all alive at once, sampled A B B A, in several sets of fresh processes.

What disturbs a machine disturbs all of them alike, and cancels in the ratio of a round; what differs from process to
process (where memory lies, how caches fall) is in the interval, as each set of processes is drawn anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import median

from zoo.pool import Died, Pool
from zoo.sampling import Member, Sampler
from zoo.statistics import Ratio, ratio_of

Rounds = list[list[int]]  # samples by round, nanoseconds of a call or of a window of calls


@dataclass(frozen=True)
class Effort:
    """How long to go on: until the interval's half-width is at most ``target``, or ``budget`` seconds are spent.

    At least ``processes`` sets, whatever the budget; each set makes ``rounds`` rounds of two turns, and a turn lasts
    about ``turn`` seconds, or one call.
    """

    target: float = 0.01
    budget: float = 60.0
    processes: int = 5
    rounds: int = 8
    turn: float = 0.05

    def reason(self, ratios: Sequence[Ratio], sets: int, elapsed: float) -> str | None:
        """Return why to stop, ``tight`` or ``budget``, or None to go on; another set takes as long as the others."""
        if sets < self.processes:
            return None
        if ratios and all(ratio.half_width <= self.target for ratio in ratios):
            return "tight"
        return "budget" if elapsed + elapsed / sets > self.budget else None


@dataclass
class Contest:
    """Samples of members, the first of which is the baseline and the last the baseline once more."""

    members: Sequence[Member]
    interleaved: bool = True
    sets: list[list[Rounds]] = field(default_factory=list)
    calls: list[list[int]] = field(default_factory=list)  # of a sample, by set and member
    stop: str = ""

    def ratio(self, index: int) -> Ratio:
        """Return how much longer a member takes than the baseline. ValueError for fewer than two sets."""
        pairs = []
        for rounds, calls in zip(self.sets, self.calls, strict=True):
            per_call = calls[0] / calls[index]
            of_round = zip(rounds[0], rounds[index], strict=True)
            pairs.append([median(b) / median(a) * per_call for a, b in of_round])
        return ratio_of(pairs)

    def seconds(self, index: int) -> float:
        """Return the median seconds of a member's call: of the medians of the sets."""
        of_sets = zip(self.sets, self.calls, strict=True)
        return median(median(chain(*rounds[index])) / calls[index] for rounds, calls in of_sets) / 1e9

    def noise(self) -> Ratio:
        """Return the ratio of the baseline to itself."""
        return self.ratio(len(self.members) - 1)


def contest(members: Sequence[Member], metric: str, pool: Pool, effort: Effort, tell: Callable[[str], None]) -> Contest:
    """Sample members side by side, or one after the other where they do not fit. Died when one of them fails.

    The first member is the baseline, and takes part twice.
    """
    taking = [*members, members[0].again()]
    at_once = fit_at_once(taking)
    found, began = Contest(taking, interleaved=at_once), time.monotonic()
    while not found.stop:
        rounds, calls = (one_set if at_once else in_turn)(taking, metric, pool, effort)
        found.sets.append(rounds)
        found.calls.append(calls)
        sets = len(found.sets)
        ratios = [found.ratio(index) for index in range(1, len(members))] if sets > 1 else []
        found.stop = effort.reason(ratios, sets, time.monotonic() - began) or ""
        tell(f"set {sets}" + "".join(f", {r.value:.3f} ± {r.half_width:.3f}" for r in ratios))
    return found


def fit_at_once(members: Sequence[Member]) -> bool:
    """Tell whether what all of them are predicted to need is allowed to each of them."""
    return sum(member.predicted or 0 for member in members) <= min(member.limits_memory for member in members)


def one_set(members: Sequence[Member], metric: str, pool: Pool, effort: Effort) -> tuple[list[Rounds], list[int]]:
    """Sample every member in a fresh process of its own, and end them; return the samples, and the calls of each."""
    try:
        samplers = [ready(member, metric, pool) for member in members]
        rounds: list[Rounds] = [[] for _ in members]
        for _ in range(effort.rounds):
            turns: list[list[int]] = [[] for _ in members]
            for index in [*range(len(members)), *reversed(range(len(members)))]:
                turns[index] += turn(samplers[index], effort)
            for of_member, samples in zip(rounds, turns, strict=True):
                of_member.append(samples)
        return rounds, [sampler.calls for sampler in samplers]
    finally:
        for member in members:
            member.stop()


def in_turn(members: Sequence[Member], metric: str, pool: Pool, effort: Effort) -> tuple[list[Rounds], list[int]]:
    """Sample the members one after the other, where they do not fit in memory together."""
    alone = [one_set([member], metric, pool, effort) for member in members]
    return [rounds[0] for rounds, _ in alone], [calls[0] for _, calls in alone]


def ready(member: Member, metric: str, pool: Pool) -> Sampler:
    """Start a member and warm it up. Died when it fails."""
    member.started = time.monotonic()
    if not member.start(pool, "speed", lambda _: None):
        raise failure(member, metric)
    sampler = Sampler(member, metric, "speed")
    sampler.warm_up()
    if sampler.stop:
        raise failure(member, metric)
    return sampler


def turn(sampler: Sampler, effort: Effort) -> list[int]:
    """Take the samples of one turn. Died when the worker fails.

    The first of several fetches back what the turn before threw out of the cache, and is no sample: who comes after
    himself, as the first and the last of a round do, would have an advantage.
    """
    count = max(1, round(effort.turn * 1e9 / median(sampler.seen[-10:])))
    samples = sampler.request(count + 1)[1:] if count > 1 else sampler.request(1)
    if sampler.stop:
        raise failure(sampler.member, sampler.metric)
    return samples


def failure(member: Member, metric: str) -> Died:
    """Return how a member failed."""
    value = member.found["speed"][metric]
    return Died(value.status, f"{member.case.model}: {value.reason}")
