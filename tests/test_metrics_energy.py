"""Joules are read from tick to tick, and are absent, never wrong, where the counter cannot be trusted."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zoo import store
from zoo.case import Case
from zoo.metrics import energy
from zoo.metrics.driver import Cpu
from zoo.metrics.energy import Counter, Package, Unreadable, of_gpu, of_packages
from zoo.nvml import Gpu
from zoo.registry import installed
from zoo.worker import Job

MS = 1_000_000
IDLE, BUSY = 40.0, 200.0  # watts


@dataclass
class Machine:
    """A machine with a clock of its own, whose counter moves once a ``tick``."""

    tick: int = 100 * MS
    call_ns: int = 1 * MS
    now: int = 37 * MS
    joules: float = 1000.0
    shown: float = 1000.0
    calls: int = 0
    shown_at: int = 0
    work: Iterator[float] = field(default_factory=lambda: itertools.repeat(1.0))

    def spend(self, ns: int, watts: float) -> None:
        """Let time pass; what is shown is what was true at the last tick."""
        while ns:
            step = min(ns, self.tick - self.now % self.tick)
            self.now, self.joules, ns = self.now + step, self.joules + watts * step / 1e9, ns - step
            if self.now % self.tick == 0:
                self.shown, self.shown_at = self.joules, self.now

    def call(self) -> None:
        """Work for a moment."""
        self.calls += 1
        self.spend(self.call_ns, BUSY * next(self.work))

    def sleep(self, seconds: float) -> None:
        """Idle."""
        self.spend(round(seconds * 1e9), IDLE)

    def counter(self) -> Counter:
        """The counter; the GPU is at 50 degrees."""
        return Counter("nvml", lambda: self.shown, lambda: 50)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine that draws 40 W idle and 200 W busy."""
    return started(Machine(), monkeypatch)


def started(made: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Let energy see a machine's clock."""
    monkeypatch.setattr(energy, "perf_counter_ns", lambda: made.now)
    monkeypatch.setattr(energy, "time", SimpleNamespace(sleep=made.sleep))
    return made


def nothing() -> None:
    """Wait for nothing."""


def measure(machine: Machine, calls: int = 10) -> energy.Energy:
    """Measure with bursts of so many calls."""
    return energy.measure(machine.counter(), machine.call, calls, lambda: nothing)


def test_a_steady_machine_takes_what_it_draws_times_the_time_of_a_call(machine: Machine) -> None:
    found = measure(machine)
    assert found.joules == pytest.approx(200 * 1e-3, rel=1e-9)  # bursts of 10 ms meet the ticks of 100 ms
    assert found.detail["watts"] == pytest.approx(200)
    assert found.detail["idle_watts"] == pytest.approx(40)
    assert found.detail["tick"] == pytest.approx(0.1, abs=0.01)
    assert found.detail["temperature"] == [50, 50]
    assert [window["calls"] for window in found.detail["windows"]] == [5000] * 3
    assert [window["seconds"] for window in found.detail["windows"]] == [5.0] * 3
    assert found.interval[0] < found.joules < found.interval[1]
    assert machine.now / 1e9 == pytest.approx(energy.SECONDS, abs=0.5)


@pytest.mark.parametrize("call_ns", [7 * MS + 1234, 13 * MS + 7, 61 * MS])
def test_a_coarse_counter_is_within_what_is_said_to_be_unsure(
    call_ns: int, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = started(Machine(call_ns=call_ns), monkeypatch)
    found, true = measure(coarse, 1), BUSY * call_ns / 1e9
    assert abs(found.joules / true - 1) <= found.detail["unsure"] <= call_ns / 15e9
    assert found.interval[0] <= true <= found.interval[1]


def test_a_reading_where_work_begins_and_ends_would_be_wrong_by_more() -> None:
    """What the module's docstring says of the naive reading: half a tick of idling for half a tick of work."""
    errors = []
    for phase in range(0, 100, 5):
        made = Machine(now=phase * MS)
        made.sleep(1.0)
        before = made.shown
        made.spend(5000 * MS, BUSY)
        errors.append((made.shown - before) / (5 * BUSY) - 1)
    assert sum(errors) / len(errors) == pytest.approx(-0.01 * (1 - IDLE / BUSY), rel=0.15)
    assert min(errors) >= -0.02


def test_calls_longer_than_a_window_are_windows_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = started(Machine(call_ns=7000 * MS), monkeypatch)
    found = measure(slow, 1)
    assert [window["calls"] for window in found.detail["windows"]] == [1, 1, 1]
    assert found.joules == pytest.approx(1400)
    assert found.detail["unsure"] <= 0.1 / 21  # a reading is no older than a tick, however long the call


def test_windows_that_differ_widen_the_interval_by_students_t(machine: Machine) -> None:
    joules, (low, high) = energy.mean_of([1.0, 1.0 * math.e**0.1, math.e**-0.1], 0.0)
    assert joules == pytest.approx(1.0)
    # Logarithms 0, 0.1 and -0.1 have the deviation 0.1: 4.303 * 0.1 / sqrt(3).
    assert (math.log(low), math.log(high)) == (pytest.approx(-0.24843, rel=1e-4), pytest.approx(0.24843, rel=1e-4))
    assert energy.mean_of([2.0, 2.0, 2.0], 0.01)[1] == (pytest.approx(2 / 1.01), pytest.approx(2 * 1.01))


def test_a_device_has_work_while_the_counter_is_read() -> None:
    log: list[str] = []
    marks = itertools.count(1)

    def mark() -> Callable[[], None]:
        number = next(marks)
        return lambda: log.append(f"wait {number}")

    step = energy.busy(lambda: log.append("call"), 2, mark)
    assert (step(), step()) == (2, 2)
    assert log == ["call"] * 4 + ["wait 1"] + ["call"] * 2 + ["wait 2"]


def test_a_counter_that_stands_still_is_no_number(machine: Machine) -> None:
    still = Counter("nvml", lambda: 1000.0)
    with pytest.raises(Unreadable, match=r"did not move from 1000 J in 2\.\d s"):
        energy.measure(still, machine.call, 10, lambda: nothing)


def test_a_counter_that_runs_backwards_is_no_number(machine: Machine) -> None:
    reload_at = machine.now + 8000 * MS
    forgetful = Counter("nvml", lambda: machine.shown if machine.now < reload_at else machine.shown - 1000)
    with pytest.raises(Unreadable, match=r"ran backwards, from .* J: is the driver loaded anew"):
        energy.measure(forgetful, machine.call, 10, lambda: nothing)


# -- counters ------------------------------------------------------------------------------------------------


def domain(root: Path, name: str, number: str, microjoules: int, most: int = 262_143_328_850) -> Path:
    """Write a counter as the kernel shows it, and return its folder."""
    folder = root / energy.POWERCAP / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder


def test_packages_are_summed_and_their_parts_are_not(tmp_path: Path) -> None:
    folders = [domain(tmp_path, "package-0", "0", 10), domain(tmp_path, "package-1", "1", 20)]
    others = [domain(tmp_path, "core", "0:0", 5), domain(tmp_path, "psys", "2", 5)]
    counter = of_packages(tmp_path)
    for folder in folders + others:
        (folder / "energy_uj").write_text("3000020\n")
    assert counter.read() == pytest.approx(3.00001 + 3.0)


def test_a_counter_that_starts_again_goes_on(tmp_path: Path) -> None:
    folder = domain(tmp_path, "package-0", "0", 990_000_000, most=1_000_000_000)
    counter = of_packages(tmp_path)
    for shown, joules in ((999_999_999, 9.999999), (1, 10.000002), (5_000_000, 15.000001)):
        (folder / "energy_uj").write_text(f"{shown}\n")
        assert counter.read() == pytest.approx(joules, abs=1e-7)


def test_a_package_that_falls_back_a_little_ran_backwards(tmp_path: Path) -> None:
    folder = domain(tmp_path, "package-0", "0", 990_000_000, most=1_000_000_000)
    counter = of_packages(tmp_path)
    (folder / "energy_uj").write_text("980000000\n")
    with pytest.raises(Unreadable, match="ran backwards, from 990000000 to 980000000 microjoules"):
        counter.read()


def test_a_counter_for_root_alone_says_who_may_read_it_and_what_would_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = domain(tmp_path, "package-0", "0", 10)
    (folder / "energy_uj").chmod(0o400)
    read_text = Path.read_text

    def refuse(path: Path) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read_text(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(Unreadable) as refused:
        of_packages(tmp_path)
    assert "intel-rapl:0/energy_uj may not be read by this user (mode 400)" in refused.value.found
    assert "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj" in refused.value.cure


def test_a_kernel_without_counters_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="the kernel shows no counter"):
        of_packages(tmp_path)
    (folder := domain(tmp_path, "package-0", "0", 10) / "energy_uj").unlink()
    folder.mkdir()
    with pytest.raises(Unreadable, match="energy_uj of intel-rapl:0 cannot be read: Is a directory"):
        Package.open(folder.parent)


def test_a_gpu_that_does_not_tell_its_energy_says_so() -> None:
    class NVMLError(Exception):
        pass

    silent = Gpu(SimpleNamespace(NVMLError=NVMLError, NVML_TEMPERATURE_GPU=0), "gpu")
    with pytest.raises(Unreadable, match="the driver does not tell the GPU's energy"):
        of_gpu(silent)
    with pytest.raises(Unreadable, match="no NVIDIA driver answers"):
        of_gpu(None)


def test_a_gpu_counts_in_joules() -> None:
    library = SimpleNamespace(
        NVMLError=Exception,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 2500,
        nvmlDeviceGetTemperature=lambda handle, sensor: 61,
    )
    counter = of_gpu(Gpu(library, "gpu"))
    assert (counter.read(), counter.temperature()) == (2.5, 61)


# -- in a run ------------------------------------------------------------------------------------------------

SUITE = "schema: 1\ngroups:\n  - {models: [vit_nano], axes: {size: 32}, metrics: [latency, energy]}\n"


@pytest.mark.skipif(Path("/", energy.POWERCAP).exists(), reason="this machine may count its energy")
def test_without_a_counter_energy_is_a_row_with_the_reason(suite_file, tmp_path, zoo):
    assert zoo("run", str(suite_file(SUITE))).returncode == 0
    (record,) = store.load(tmp_path / "runs" / "mine").records
    assert record.metrics["latency"].status == "ok"
    assert record.metrics["energy"].status == "unsupported"
    assert record.metrics["energy"].reason.startswith("the kernel shows no counter of a processor's energy")


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_worker_measures_joules_of_one_sample(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody: Any = None
    job = Job(installed().model("vit_nano"), None, Case("vit_nano", "32px", batch_size=4, mode=mode), nobody)
    job.build_for_real()
    fifty_watts = Counter("rapl", lambda: 50 * (time.perf_counter_ns() // MS) / 1e3)
    monkeypatch.setattr(energy, "of_packages", lambda: fifty_watts)
    monkeypatch.setattr(energy, "WINDOW", 0.2)
    monkeypatch.setattr(energy, "SETTLE", 0.05)
    found = job.measure("energy")["energy"]
    assert (found.status, found.unit, found.convention, found.n) == ("ok", "J", "rapl", 3)
    assert found.detail["watts"] == pytest.approx(50, rel=0.1)
    assert found.detail["idle_watts"] == pytest.approx(50, rel=0.3)
    each = [window["joules"] / window["calls"] / 4 for window in found.detail["windows"]]
    assert found.value == pytest.approx(math.prod(each) ** (1 / 3))
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]


def test_on_the_cpu_there_is_nothing_to_wait_for() -> None:
    assert Cpu().mark()() is None
