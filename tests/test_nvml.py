"""What a GPU says of itself, and what of it spoils a number; whatever it does not say is unknown and spoils nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fake_cuda
import pytest

from zoo.nvml import Gpu, Reading, conditions, spoiled

FINE = Reading(1980, 1980, (), 40, (1,))


@pytest.fixture
def gpu(tmp_path: Path) -> Any:
    """Return a function that opens a GPU whose library gives some answers, and refuses all others."""

    def open_gpu(index: int = 0, uuid: str = "", **answers: Any) -> Gpu:
        fake_cuda.write_machine(tmp_path, **answers)
        library: Any = {}
        exec((tmp_path / "pynvml.py").read_text(), library)
        module = type("Library", (), {"__getattr__": staticmethod(library["__getattr__"])})()
        vars(module).update({name: value for name, value in library.items() if not name.startswith("__")})
        found = Gpu.open(index, module, uuid)
        assert found is not None
        return found

    return open_gpu


def test_a_driver_that_refuses_everything_is_unknown(gpu: Any) -> None:
    reading = gpu().read()
    assert reading == Reading(None, None, None, None, (os.getpid(),))
    assert spoiled(reading, reading) == set()
    assert spoiled(Reading(), Reading()) == set()
    nothing = dict.fromkeys(("sm_clock", "full_clock", "temperature", "foreign"))
    assert conditions([Reading()], set) == {**nothing, "reasons": []}


def test_a_reading_is_all_at_once(gpu: Any) -> None:
    answers = {"ClockInfo": 1500, "MaxClockInfo": 1980, "CurrentClocksEventReasons": 0x24, "Temperature": 71}
    reading = gpu(**{f"nvmlDeviceGet{name}": value for name, value in answers.items()}, others=[4242]).read()
    assert reading == Reading(
        1500, 1980, ("power cap (software)", "thermal (software)"), 71, tuple(sorted((4242, os.getpid())))
    )


def test_a_list_of_processes_that_lacks_this_one_is_of_another_namespace(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = gpu()
    monkeypatch.setattr(found.library, "nvmlDeviceGetComputeRunningProcesses", lambda handle: [])
    assert found.read().processes is None


@pytest.mark.parametrize("reason", ["hardware slowdown", "thermal (software)", "thermal (hardware)", "power brake"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_heat_and_hardware_spoil_a_request(reason: str, when: str) -> None:
    hot = Reading(1980, 1980, (reason,))
    assert spoiled(*((hot, FINE) if when == "before" else (FINE, hot))) == {reason}


def test_a_low_clock_spoils_unless_there_is_a_reason_that_lasts() -> None:
    low = "SM clock below 75% of the highest"
    assert spoiled(FINE, Reading(1484, 1980, ())) == {low}
    assert spoiled(FINE, Reading(1486, 1980, ())) == set()
    for reason in ("power cap (software)", "clocks set by an application"):
        assert spoiled(FINE, Reading(1000, 1980, (reason,))) == set()
    assert spoiled(FINE, Reading(1000, 1980, None)) == {low}


@pytest.mark.parametrize("reasons", [("idle",), ()])
def test_a_gpu_may_clock_low_before_it_is_asked_for_work_and_not_after_it(reasons: tuple[str, ...]) -> None:
    low = Reading(345, 1980, reasons)
    assert spoiled(low, FINE) == set()
    assert spoiled(FINE, low) == {"SM clock below 75% of the highest"}


def test_conditions_sum_up_readings_and_count_strangers() -> None:
    readings = [Reading(1400, 1980, ("idle", "power cap (software)"), 60, (1, 2)), Reading(1500, 1980, (), 70, (1, 3))]
    assert conditions(readings, lambda: {1}) == {
        "sm_clock": [1400, 1500],
        "full_clock": 1980,
        "temperature": 70,
        "reasons": ["power cap (software)"],
        "foreign": 2,
    }


def test_a_gpu_is_known_by_its_uuid_or_else_by_its_index(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu(uuid="12-34").handle == "GPU-12-34"
    found = gpu(1)
    assert found.handle == 1

    def unknown(uuid: str) -> None:
        raise found.library.NVMLError("not found")

    monkeypatch.setattr(found.library, "nvmlDeviceGetHandleByUUID", unknown)
    opened = Gpu.open(1, found.library, "12-34")
    assert opened is not None
    assert opened.handle == 1


@pytest.mark.parametrize(("visible", "handle"), [("", 0), ("2,3", 2), ("GPU-ab", "GPU-ab"), ("MIG-x", 0)])
def test_the_first_gpu_is_the_first_that_cuda_sees(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, visible: str, handle: object
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = Gpu.first(gpu().library)
    assert found is not None
    assert found.handle == handle
    assert found.free() == 2**30
