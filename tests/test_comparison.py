"""Comparisons of synthetic devices under a clock of their own: what is said of them is what they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import pytest

from zoo import conditions
from zoo.case import Case
from zoo.comparison import Contest, Effort, Set, comparison_record, contest, ratio_value
from zoo.expansion import Planned
from zoo.metrics import PHASES
from zoo.plan import Work
from zoo.pool import Died, Pool
from zoo.sampling import Member
from zoo.schema import Limits
from zoo.statistics import Ratio, ratio_of


@pytest.fixture(autouse=True)
def machine_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is gained by watching the real cores."""
    monkeypatch.setattr(conditions, "WATCHED", 0.0)


# Nanoseconds of a call, given the time of day and a source of randomness.
Call = Callable[[float, np.random.Generator], float]


@dataclass
class Machine:
    """What all synthetic workers share: a clock, noise, and a cache; who comes after another takes ``cold`` times."""

    random: np.random.Generator
    now: float = 0.0
    cold: float = 1.0
    last: object = None


@dataclass
class SyntheticWorker:
    """Answers as a worker does, and takes no time at all."""

    machine: Machine
    call: Call
    process: float
    pid: int = 0

    def ask(self, command: dict[str, object], deadline: float) -> dict[str, object]:
        """Return samples of the device, and let the clock go on."""
        if command["do"] == "measure":
            raise Died("unsupported", "no batch of none")
        samples = []
        for _ in range(int(str(command["count"]))):
            took = self.process * self.call(self.machine.now, self.machine.random)
            took *= self.machine.cold if self.machine.last is not self else 1.0
            self.machine.last = self
            self.machine.now += took / 1e9
            samples.append(max(1, round(took)))
        return {"samples": samples, "calls": 1}

    def close(self) -> None:
        """End."""


@dataclass
class Synthetic(Member):
    """A member whose worker is synthetic; each process of it has a speed of its own."""

    machine: Machine = field(default_factory=lambda: Machine(np.random.default_rng(0)))
    call: Call = lambda now, random: 1e6
    between: float = 0.0

    def start(self, pool: Pool, phase: str, on_progress: Callable[[str], None]) -> bool:
        """Start a process."""
        process = math.exp(self.machine.random.normal(0, self.between))
        self.worker = SyntheticWorker(self.machine, self.call, process)  # type: ignore[assignment]
        return True

    def again(self) -> Synthetic:
        """Return the same once more."""
        return synthetic(self.machine, self.call, self.between, self.predicted or 0)


def synthetic(machine: Machine, call: Call, between: float = 0.0, needs: int = 0) -> Synthetic:
    """Return a member, where 100 bytes are free."""
    wanted = {**dict.fromkeys(PHASES, ()), "speed": ("latency",)}
    work = Work(Planned(Case("device", "1tok"), ("latency",), Limits()), wanted)  # type: ignore[arg-type]
    known: dict[str, object] = {}
    made = Synthetic(work, None, None, 100, known, machine=machine, call=call, between=between)  # type: ignore[arg-type]
    made.predicted, made.free = needs, 100
    return made


def normal(mean: float, spread: float = 0.02) -> Call:
    """Return a device with a little noise."""
    return lambda now, random: mean * (1 + spread * random.standard_normal())


def bimodal(mean: float) -> Call:
    """Return a device that takes half as long again one time in three."""
    return lambda now, random: mean * (1.5 if random.random() < 1 / 3 else 1.0) * (1 + 0.01 * random.standard_normal())


def heavy_tailed(mean: float) -> Call:
    """Return a device that is now and then many times as slow."""
    return lambda now, random: mean * (1 + 0.02 * abs(random.standard_t(1.5)))


def drifting(mean: float) -> Call:
    """Return a device that gets slower by a per cent a second, as a machine does that warms up."""
    return lambda now, random: mean * (1 + 0.01 * now) * (1 + 0.01 * random.standard_normal())


def throttled(mean: float) -> Call:
    """Return a device that halves its clock in every other second."""
    return lambda now, random: mean * (2.0 if int(now) % 2 else 1.0) * (1 + 0.01 * random.standard_normal())


def launch_bound(mean: float) -> Call:
    """Return a device that the host cannot feed faster than 0.9 ms a call."""
    return lambda now, random: max(9e5, mean) * (1 + 0.02 * random.standard_normal())


DEVICES = {
    "normal": normal,
    "bimodal": bimodal,
    "heavy-tailed": heavy_tailed,
    "drifting": drifting,
    "throttled": throttled,
    "launch-bound": launch_bound,
}


def compared(a: Call, b: Call, between: float = 0.005, seed: int = 0, effort: Effort | None = None) -> Contest:
    """Compare two devices of one machine."""
    machine = Machine(np.random.default_rng(seed))
    members = [synthetic(machine, a, between), synthetic(machine, b, between)]
    effort = effort or Effort(target=0.01, budget=math.inf, processes=5)
    return contest(members, "latency", Pool(), effort, lambda text: None)


def verdicts(kind: str, slower: float, trials: int) -> Iterator[str]:
    """Yield what is said of a device beside one that is so much slower."""
    for seed in range(trials):
        found = compared(DEVICES[kind](1e6), DEVICES[kind](1e6 * slower), seed=seed)
        yield found.ratio(1).verdict(found.noise().margin)


@pytest.mark.parametrize("kind", DEVICES)
def test_the_same_device_is_not_faster_or_slower_than_itself(kind: str) -> None:
    said = list(verdicts(kind, 1.0, 10))
    assert sum(verdict in ("faster", "slower") for verdict in said) <= 1


def test_skewed_noise_makes_nothing_faster() -> None:
    """Beside the mean of both measurements of the baseline it would seem to be, by 0.14 % on average."""
    skewed: Call = lambda now, random: 1e6 * (1 + 0.2 * random.exponential())  # noqa: E731
    found = [compared(skewed, skewed, seed=seed, between=0.0).ratio(1).value for seed in range(40)]
    assert fmean(map(math.log, found)) == pytest.approx(0.0, abs=2 * np.std(np.log(found)) / math.sqrt(len(found)))


@pytest.mark.parametrize("kind", ["normal", "heavy-tailed", "drifting", "throttled", "bimodal"])
def test_a_slow_down_of_four_per_cent_is_found(kind: str) -> None:
    said = list(verdicts(kind, 1.04, 6))
    assert said.count("slower") >= 5
    assert "faster" not in said


def test_what_the_host_hides_is_the_same() -> None:
    """The device is five per cent slower, and nobody can see it: the launch takes longer than both."""
    found = compared(launch_bound(8e5), launch_bound(8.4e5), between=0.001)
    assert found.ratio(1).verdict(found.noise().margin) == "same"


def test_a_drift_that_is_shared_cancels() -> None:
    """Calls get half as slow again while the comparison lasts; the ratio is that of the devices all the same."""
    found = compared(drifting(1e6), drifting(1.1e6), between=0.0)
    assert found.ratio(1).value == pytest.approx(1.1, rel=0.005)
    first, last = found.sets[0].rounds[0][0][0], found.sets[-1].rounds[0][-1][-1]
    assert last > 1.03 * first


def test_who_comes_after_himself_has_no_advantage() -> None:
    """The baseline ends a round and begins the next; the other always comes after someone else, to a cold cache."""
    machine = Machine(np.random.default_rng(0), cold=1.5)
    members = [synthetic(machine, normal(2.5e7, 0.001)) for _ in range(2)]
    found = contest(members, "latency", Pool(), Effort(0.01, 0.0), lambda text: None)
    assert found.ratio(1).value == pytest.approx(1.0, abs=0.002)
    assert found.noise().value == pytest.approx(1.0, abs=0.002)


def test_processes_that_differ_are_in_the_interval() -> None:
    """Each process is up to some per cent slower for as long as it lives: rounds alone would not show it."""
    found = compared(normal(1e6, 0.001), normal(1e6, 0.001), between=0.03, effort=Effort(0.0, 0.0, processes=5))
    rounds = [b / a for a, b in zip(*(map(fmean, found.sets[0].rounds[i]) for i in (0, 1)), strict=True)]
    assert max(rounds) / min(rounds) < 1.002
    assert found.ratio(1).half_width > 0.01


def test_it_stops_when_the_interval_is_tight_and_not_before_five_sets() -> None:
    found = compared(normal(1e6), normal(1e6), between=0.0)
    assert (found.stop, len(found.sets)) == ("tight", 5)
    assert found.ratio(1).half_width <= 0.01


def test_it_stops_when_the_budget_is_spent() -> None:
    found = compared(normal(1e6), normal(1e6), between=0.2, effort=Effort(0.001, 0.0, processes=3))
    assert (found.stop, len(found.sets)) == ("budget", 3)


@pytest.mark.parametrize(
    ("needs", "interleaved", "order"), [(33, True, "abaaba" * 2), (34, False, "aaaa" + "bbbb" + "aaaa")]
)
def test_turns_go_there_and_back_or_one_after_the_other_for_want_of_memory(
    needs: int, interleaved: bool, order: str
) -> None:
    called: list[str] = []

    def named(name: str) -> Call:
        def call(now: float, random: np.random.Generator) -> float:
            called.append(name)
            return 1e9  # one call a turn

        return call

    machine = Machine(np.random.default_rng(0))
    members = [synthetic(machine, named(name), needs=needs) for name in "ab"]
    effort = Effort(0.01, 0.0, processes=2, rounds=2)
    found = contest(members, "latency", Pool(), effort, lambda text: None)
    assert found.interleaved == interleaved
    assert len(found.sets) == 2
    warm = len(called) // 6 - 4  # each of three members in each of two sets
    text = "".join(called)[len(called) // 2 :]
    # The baseline is there twice.
    assert (
        text[3 * warm :] if interleaved else text[warm : warm + 4] + text[2 * warm + 4 : 2 * warm + 8] + text[-4:]
    ) == order


def test_a_member_that_fails_ends_the_comparison_and_is_named() -> None:
    def dies(now: float, random: np.random.Generator) -> float:
        raise Died("killed", "it fell over")

    with pytest.raises(Died, match="device: it fell over"):
        compared(normal(1e6), dies)


def test_more_calls_a_sample_are_no_slower() -> None:
    work = [[[100, 100]], [[200, 200]], [[100, 100]]]
    found = Contest([], sets=[Set(work, [1, 2, 1])] * 2)
    assert found.ratio(1).value == 1.0
    assert (found.seconds(0), found.seconds(1)) == (1e-7, 1e-7)


def test_throughput_is_of_samples_and_not_of_calls() -> None:
    """Eight samples in four times the time are twice the throughput."""
    machine = Machine(np.random.default_rng(0))
    members = [synthetic(machine, normal(1e6, 0.0)), synthetic(machine, normal(4e6, 0.0)).with_batch(8)]
    found = Contest([*members, members[0]], "throughput", sets=[Set([[[1]], [[4]], [[1]]], [1, 1, 1])] * 2)
    assert found.ratio(1).value == 0.5
    assert ratio_value(comparison_record(found, 1), is_baseline=False).value == 2.0
    assert found.ratio(1).verdict() == "faster"


# -- ratios --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [3, 5, 8])
@pytest.mark.parametrize(("between", "within"), [(0.01, 0.01), (0.0, 0.03), (0.02, 0.001)])
def test_the_interval_covers_the_ratio(pairs: int, between: float, within: float) -> None:
    random = np.random.default_rng(pairs)
    held = 0
    for _ in range(100):
        logs = random.normal(0, between, (pairs, 1)) + random.normal(0, within, (pairs, 8))
        low, high = ratio_of(np.exp(logs + math.log(1.3)).tolist()).interval
        held += low <= 1.3 <= high
        narrow, wide = ratio_of(np.exp(logs).tolist()).interval, ratio_of(np.exp(logs).tolist()).sure
        assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]
    assert held >= 91  # 95 % of 100, less two standard deviations


def test_a_ratio_by_hand() -> None:
    found = ratio_of([[1.0, 1.0, 4.0], [4.0, 4.0, 1.0]])
    assert found.value == pytest.approx(2.0)  # the geometric mean of all
    assert (found.processes, found.rounds) == (2, 6)
    assert found.interval[0] < 1 < 4 < found.interval[1]


@pytest.mark.parametrize("pairs", [[], [[1.0]], [[1.0], []]])
def test_too_little_has_no_ratio(pairs: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="two pairs"):
        ratio_of(pairs)


@pytest.mark.parametrize(
    ("value", "interval", "margin", "verdict"),
    [
        (1.001, (0.999, 1.003), 0.005, "same"),
        (1.003, (1.001, 1.004), 0.005, "same"),  # it is slower for sure, and nobody cares
        (1.05, (1.03, 1.07), 0.005, "slower"),
        (0.95, (0.93, 0.97), 0.005, "faster"),
        (1.05, (0.99, 1.11), 0.005, "ambiguous"),
        (1.02, (1.01, 1.03), 0.005, "slower"),
        (1.02, (1.01, 1.03), 0.04, "ambiguous"),  # no more than the same thing differs from itself
        (1.0, (0.98, 1.02), 0.005, "ambiguous"),
        (1.0, (0.985, 1.015), 0.005, "same"),
    ],
)
def test_a_verdict(value: float, interval: tuple[float, float], margin: float, verdict: str) -> None:
    assert Ratio(value, interval, interval, 5, 40).verdict(margin) == verdict


def test_a_verdict_asks_for_ninety_nine_per_cent() -> None:
    assert Ratio(1.05, (1.02, 1.08), (1.01, 1.09), 5, 40).verdict() == "slower"
    assert Ratio(1.05, (1.02, 1.08), (0.99, 1.11), 5, 40).verdict() == "ambiguous"
