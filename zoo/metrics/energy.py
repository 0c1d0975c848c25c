"""Joules, by a counter of the machine: NVIDIA's of one GPU, or RAPL's of the processor's packages.

A counter moves in ticks, every 20 to 100 ms on a GPU, and a reading is as old as the last one. Read where work begins
and ends, it holds half a tick of idling in place of half a tick of work: with ticks of 100 ms up to 1 % too little in
5 s on average, and 2 % at worst. So windows begin and end where the counter is seen to move, with work before and
after. What stays open is when it moved between two readings: one burst of calls, 10 ms, which is 0.2 % of 5 s.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from zoo.errors import ZooError
from zoo.nvml import Gpu

POWERCAP = "sys/class/powercap"
WINDOW, WINDOWS = 5.0, 3  # seconds of one at least, and how many
SETTLE = 1.0  # seconds before the first tick that counts: clocks and caches come to rest, or to work
STILL = 2.0  # seconds after which a counter that did not move does not work
PAUSE = 0.005  # seconds between two readings of an idle machine: below any tick that matters
STUDENT = 4.303  # Student's t of 95 % for three windows, two degrees of freedom
SECONDS = 2 * SETTLE + (1 + WINDOWS) * WINDOW  # what a measurement takes, with calls that are short

Call = Callable[[], Any]
Step = Callable[[], int]


class Unreadable(ZooError):
    """A counter that cannot be read, or does not count: what was found, and what would help."""

    def __init__(self, found: str, cure: str = "") -> None:
        super().__init__("; ".join(filter(None, [found, cure])))
        self.found, self.cure = found, cure


# -- counters ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counter:
    """Joules since some moment; ``name`` is also its convention. Reading it may raise Unreadable."""

    name: str
    read: Callable[[], float]
    temperature: Callable[[], int | None] = lambda: None


def of_gpu(gpu: Gpu | None) -> Counter:
    """Return the counter of a GPU. Unreadable where there is none."""
    if gpu is None:
        raise Unreadable("no NVIDIA driver answers, so no counter of energy is known", "pip install nvidia-ml-py")

    def read() -> float:
        joules = gpu.energy()
        if joules is None:
            raise Unreadable("the driver does not tell the GPU's energy", "a whole GPU of Volta or newer counts it")
        return joules

    read()
    return Counter("nvml", read, gpu.temperature)


def of_packages(root: Path = Path("/")) -> Counter:
    """Return the counter of all packages of the processor together. Unreadable where there is none."""
    names = sorted((root / POWERCAP).glob("intel-rapl:*/name"))
    packages = [Package.open(name.parent) for name in names if is_package(name)]
    if not packages:
        raise Unreadable(
            f"the kernel shows no counter of a processor's energy in /{POWERCAP}, as in most virtual machines",
            "on hardware of one's own: sudo modprobe intel_rapl_msr",
        )
    return Counter("rapl", lambda: sum(package.joules() for package in packages))


def is_package(file: Path) -> bool:
    """Tell a package's counter from those of its parts and of the whole board."""
    return file.read_text().startswith("package")


@dataclass
class Package:
    """One package's counter of microjoules, which starts again at ``most``."""

    file: Path
    most: int
    last: int = 0
    total: int = 0

    @classmethod
    def open(cls, folder: Path) -> Package:
        """Open a package's counter, from now on. Unreadable where it may not be read."""
        package = cls(folder / "energy_uj", int((folder / "max_energy_range_uj").read_text()))
        package.last = package.microjoules()
        return package

    def microjoules(self) -> int:
        """Return what the file says."""
        try:
            return int(self.file.read_text())
        except PermissionError:
            shown = f"/{POWERCAP}/{self.file.parent.name}/{self.file.name}"
            mode = f"{self.file.stat().st_mode & 0o777:o}"
            cure = f"sudo chmod a+r /{POWERCAP}/intel-rapl:*/energy_uj (until the next start)"
            raise Unreadable(f"{shown} may not be read by this user (mode {mode})", cure) from None
        except OSError as error:
            raise Unreadable(f"{self.file.name} of {self.file.parent.name} cannot be read: {error.strerror}") from None

    def joules(self) -> float:
        """Return the joules since it was opened. Unreadable where it ran backwards."""
        now = self.microjoules()
        moved = (now - self.last) % (self.most + 1)
        if moved > self.most // 2:  # no package uses half the range between two readings
            raise Unreadable(f"the counter ran backwards, from {self.last} to {now} microjoules")
        self.last, self.total = now, self.total + moved
        return self.total / 1e6


# -- from tick to tick ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tick:
    """What a counter said when it was seen to move, at ``ns``, and the calls until then.

    It moved up to ``unsure`` nanoseconds before, and ``since`` nanoseconds after it was last seen to move.
    """

    joules: float
    ns: int
    calls: int
    unsure: int
    since: int


def ticks(counter: Counter, step: Step) -> Iterator[Tick]:
    """Yield each tick of a counter that is read after every step. Unreadable when it stands still or runs backwards."""
    before, read = counter.read(), perf_counter_ns()
    moved, calls = read, 0
    while True:
        calls += step()
        joules, now = counter.read(), perf_counter_ns()
        if joules < before:
            raise Unreadable(f"the counter ran backwards, from {before:g} to {joules:g} J: is the driver loaded anew?")
        if joules > before:
            yield Tick(joules, now, calls, now - read, now - moved)
            before, moved = joules, now
        elif now - moved > STILL * 1e9:
            raise Unreadable(f"the counter did not move from {before:g} J in {(now - moved) / 1e9:.1f} s")
        read = now


def bounds(found: Iterator[Tick], windows: int) -> tuple[list[Tick], int]:
    """Return the ticks between which windows lie, one after the other, and the most nanoseconds between two ticks."""
    first = next(found)
    ends: list[Tick] = []
    apart = 0
    for tick in found:
        apart = max(apart, tick.since)
        if tick.ns - (ends or [first])[-1].ns >= (WINDOW if ends else SETTLE) * 1e9:
            ends.append(tick)
        if len(ends) > windows:
            break
    return ends, apart


@dataclass(frozen=True)
class Window:
    """Joules, seconds and calls between two ticks."""

    joules: float
    seconds: float
    calls: int

    @classmethod
    def between(cls, a: Tick, b: Tick) -> Window:
        """Return what lies between two ticks."""
        return cls(b.joules - a.joules, (b.ns - a.ns) / 1e9, b.calls - a.calls)

    @property
    def watts(self) -> float:
        """The mean power."""
        return self.joules / self.seconds


# -- what is measured ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Energy:
    """Joules of a call, with a 95 % interval; ``detail`` holds the windows and the idle machine beside them."""

    joules: float
    interval: tuple[float, float]
    detail: dict[str, Any] = field(default_factory=dict)


def measure(counter: Counter, call: Call, calls: int, mark: Callable[[], Call]) -> Energy:
    """Return the joules of a call, made in bursts of ``calls`` that follow one another without a gap.

    ``mark`` marks the end of what is queued and returns what waits for it. The idle machine is measured first.
    """
    warmth = [counter.temperature()]
    (a, b), tick = bounds(ticks(counter, rest), 1)
    idle = Window.between(a, b)
    ends, _ = bounds(ticks(counter, busy(call, calls, mark)), WINDOWS)
    whole, found = Window.between(ends[0], ends[-1]), list(map(Window.between, ends, ends[1:]))
    # Between two readings that are far apart the counter moved often: what was read is no older than a tick.
    unsure = max(min(end.unsure, tick) for end in (ends[0], ends[-1])) / 1e9 / whole.seconds
    joules, interval = mean_of([window.joules / window.calls for window in found], unsure)
    warmth.append(counter.temperature())
    detail = {
        "counter": counter.name,
        "windows": [vars(window) for window in found],
        "watts": whole.watts,
        "idle_watts": idle.watts,
        "tick": tick / 1e9,
        "unsure": unsure,
        **({"temperature": warmth} if None not in warmth else {}),
    }
    return Energy(joules, interval, detail)


def mean_of(joules: Sequence[float], unsure: float) -> tuple[float, tuple[float, float]]:
    """Return the geometric mean of three windows with Student's interval on their logarithms, which never passes zero.

    Windows may agree by chance: it is no narrower than the share that their ends leave ``unsure``.
    """
    logs = [math.log(j) for j in joules]
    middle = statistics.fmean(logs)
    half = max(STUDENT * statistics.stdev(logs) / math.sqrt(WINDOWS), math.log1p(unsure))
    return math.exp(middle), (math.exp(middle - half), math.exp(middle + half))


def rest() -> int:
    """Do nothing for a moment."""
    time.sleep(PAUSE)
    return 0


def busy(call: Call, calls: int, mark: Callable[[], Call]) -> Step:
    """Return a step that queues a burst, then waits for the one before: a device has work while the counter is read."""

    def queue() -> Call:
        for _ in range(calls):
            call()
        return mark()

    queued = deque([queue()])

    def step() -> int:
        queued.append(queue())
        queued.popleft()()
        return calls

    return step
