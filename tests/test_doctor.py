"""The doctor finds what is wrong with a machine that is made so, and says nothing of a healthy one."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zoo import doctor
from zoo.doctor import Finding, System
from zoo.metrics import energy
from zoo.nvml import Gpu

VERSIONS = {"torch": "2.15.0", "torchvision": "0.30.0", "timm": "1.0.31", "numpy": "2.3.0"}
MEMINFO = "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
IDLE = "cpu 100 0 50 100000 0 0 0 0 0 0\n"


NAMES = (
    *("ComputeRunningProcesses", "CurrentClocksEventReasons", "CurrentClocksThrottleReasons"),
    *("ClockInfo", "TotalEnergyConsumption", "MemoryInfo"),
)


class NVMLError(Exception):
    """What the library raises."""


def driver(**answers: Any) -> SimpleNamespace:
    """Return a library that knows some answers, and refuses all others as not supported."""

    def refuse(*_: Any) -> Any:
        raise NVMLError("not supported")

    known = [f"nvmlDeviceGet{name}" for name in NAMES]
    functions = {name: (lambda *_, a=answers[name]: a) if name in answers else refuse for name in known}
    opened = {"nvmlInit": lambda: None, "nvmlDeviceGetHandleByIndex": lambda index: f"gpu {index}"}
    return SimpleNamespace(NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_TEMPERATURE_GPU=0, **opened, **functions)


class Machine(System):
    """A healthy one, of which a test breaks a part."""

    required = ("torch>=2.14",)
    taken: tuple[str, ...] = ()
    ran: tuple[int, str] = (0, "{}")

    def requirements(self, distribution: str) -> list[str]:
        return [*self.required]

    def providers(self, name: str) -> list[str]:
        return [*self.taken]

    def python(self, code: str) -> tuple[int, str]:
        return self.ran


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A healthy machine."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(IDLE)
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    for cpu in range(2):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text("performance\n")
    package = tmp_path / energy.POWERCAP / "intel-rapl:0"
    package.mkdir(parents=True)
    for name, text in {"name": "package-0", "max_energy_range_uj": "262143328850", "energy_uj": "1"}.items():
        (package / name).write_text(f"{text}\n")
    answers = {"nvmlDeviceGetComputeRunningProcesses": [], "nvmlDeviceGetCurrentClocksEventReasons": 0x1}
    answers["nvmlDeviceGetTotalEnergyConsumption"] = 1
    return Machine(tmp_path, {}, 2, VERSIONS, Gpu.open(library=driver(**answers)), 0.01)


def findings(system: System) -> list[Finding]:
    """Return what is wrong."""
    return [found for found in doctor.diagnose(system) if found.status == "finding"]


def test_a_healthy_machine_has_no_finding(machine: Machine) -> None:
    assert [found.status for found in doctor.diagnose(machine)] == ["ok"] * 12


def only(machine: System, check: str) -> Finding:
    """Return the one finding, which has a cure and a way to see it gone."""
    (found,) = findings(machine)
    assert found.check == check
    assert found.cure
    assert found.seen
    return found


def test_more_threads_than_cores(machine: Machine) -> None:
    found = only(replace(machine, variables={"OMP_NUM_THREADS": "64"}), "threads")
    assert "OMP_NUM_THREADS=64" in found.found
    assert findings(replace(machine, variables={"OMP_NUM_THREADS": "2"})) == []


def test_a_governor_that_saves_power(machine: Machine) -> None:
    (machine.root / "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor").write_text("powersave\n")
    assert "performance, powersave" in only(machine, "governor").found


def test_a_foreign_process_on_the_gpu(machine: Machine) -> None:
    running = [SimpleNamespace(pid=os.getpid()), SimpleNamespace(pid=4242)]
    answers = {"nvmlDeviceGetComputeRunningProcesses": running, "nvmlDeviceGetCurrentClocksEventReasons": 0}
    found = only(replace(machine, gpu=Gpu.open(library=driver(**answers))), "GPU processes")
    assert found.found.endswith("GPU: 4242")


def test_a_gpu_that_is_too_hot(machine: Machine) -> None:
    answers = {"nvmlDeviceGetComputeRunningProcesses": [], "nvmlDeviceGetCurrentClocksThrottleReasons": 0x41}
    found = only(replace(machine, gpu=Gpu.open(library=driver(**answers))), "GPU clock")
    assert "thermal (hardware)" in found.found


def test_a_driver_that_refuses_is_unknown_and_not_fine(machine: Machine) -> None:
    system = replace(machine, gpu=Gpu.open(library=driver()))
    assert findings(system) == []
    said = {found.check: found.status for found in doctor.diagnose(system)}
    assert (said["GPU processes"], said["GPU clock"]) == ("unknown", "unknown")
    assert replace(machine, gpu=None).gpu is None


def test_energy_that_cannot_be_read_is_unknown_with_what_would_help(machine: Machine) -> None:
    (machine.root / energy.POWERCAP / "intel-rapl:0/name").write_text("psys\n")
    system = replace(machine, gpu=Gpu.open(library=driver()))
    found = {f.check: f for f in doctor.diagnose(system) if f.check.startswith("energy")}
    assert {f.status for f in found.values()} == {"unknown"}
    assert "no counter of a processor's energy" in found["energy, processor"].found
    assert found["energy, processor"].cure.endswith("sudo modprobe intel_rapl_msr")
    assert "Volta" in found["energy, GPU"].cure
    assert findings(system) == []


def test_a_torch_whose_counter_is_wrong(machine: Machine) -> None:
    machine.__dict__["ran"] = (0, json.dumps({"LSTM": [0, 65536]}))
    assert "LSTM: 0 instead of 65,536" in only(machine, "counter").found


def test_a_torchvision_for_another_torch(machine: Machine) -> None:
    machine.__dict__["required"] = ("numpy", "torch==2.11.0")
    found = only(machine, "torchvision")
    assert found.found == "torchvision 0.30.0 needs torch ==2.11.0; torch is 2.15.0"


def test_no_torchvision(machine: Machine) -> None:
    assert (
        only(replace(machine, versions={**VERSIONS, "torchvision": "absent"}), "torchvision").found == "there is none"
    )


def test_another_package_of_our_name(machine: Machine) -> None:
    machine.__dict__["taken"] = ("zoo-keeper",)
    found = only(machine, "import name")
    assert "zoo-keeper" in found.found
    assert found.cure == "pip uninstall zoo-keeper"


def test_a_package_of_our_name_that_is_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo/__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path / "zoo") in System().providers("zoo")


def test_little_memory_and_swapping(machine: Machine) -> None:
    (machine.root / "proc/meminfo").write_text(MEMINFO.replace("8000000", "800000"))
    assert only(machine, "memory").found == "0.8 GiB free"


def test_others_that_keep_the_cores_busy(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    later = f"cpu {100 + ticks} 0 50 {100000 + ticks // 2} 0 0 0 {ticks // 2} 0 0\n"
    monkeypatch.setattr("time.sleep", lambda seconds: (machine.root / "proc/stat").write_text(later))
    found = {f.check: f.found for f in findings(replace(machine, seconds=1.0))}
    assert found == {
        "other processes": "they keep 1.0 of 2 cores busy",
        "steal": "the host takes 25% of the cores' time for others",
    }


def test_the_counter_of_this_machine_is_right() -> None:
    code, said = System(gpu=None).python(doctor.COUNTER_TEST)
    assert (code, said) == (0, "{}")


def test_energy_and_clocks_are_in_joules_and_megahertz_or_unknown() -> None:
    known = Gpu.open(library=driver(nvmlDeviceGetTotalEnergyConsumption=2500, nvmlDeviceGetClockInfo=1980))
    assert known is not None
    assert (known.energy(), known.sm_clock()) == (2.5, 1980)
    unknown = Gpu.open(library=driver())
    assert unknown is not None
    assert (unknown.energy(), unknown.sm_clock(), unknown.used(), unknown.full_clock()) == (None,) * 4
