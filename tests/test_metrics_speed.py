"""Timing makes exactly the calls and synchronisations that it says, and adds next to nothing."""

from __future__ import annotations

import statistics
from functools import partial
from unittest import mock

import pytest

from zoo.metrics import speed
from zoo.metrics.driver import driver_of


class Device:
    """A device with a clock of its own: calls are queued, and done when waited for."""

    def __init__(self, *costs: int) -> None:
        self.costs, self.now, self.queued, self.log = list(costs), 0, 0, ""

    def call(self) -> None:
        """Queue a call; the last cost holds for all that follow."""
        self.queued += self.costs.pop(0) if len(self.costs) > 1 else self.costs[0]
        self.log += "c"

    def synchronize(self) -> None:
        """Let the queued time pass."""
        self.now, self.queued = self.now + self.queued, 0
        self.log += "s"

    def clock(self) -> int:
        """Return the time in nanoseconds."""
        return self.now


@pytest.fixture
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device whose calls cost what the test says."""
    made = Device(*request.param)
    monkeypatch.setattr(speed, "perf_counter_ns", made.clock)
    return made


costs = partial(pytest.mark.parametrize, "device", indirect=True)


@costs([[5, 7, 9]])
def test_each_call_is_waited_for(device: Device) -> None:
    assert speed.time_calls(device.call, 3, device.synchronize) == [5, 7, 9]
    assert device.log == "s" + "cs" * 3


@costs([[5, 7, 9, 1]])
def test_a_window_is_waited_for_once(device: Device) -> None:
    assert speed.time_windows(device.call, 2, 2, device.synchronize) == [5 + 7, 9 + 1]
    assert device.log == "s" + "ccs" * 2


@costs([[5]])
def test_work_queued_before_is_not_timed(device: Device) -> None:
    device.queued = 1000
    assert speed.time_calls(device.call, 1, device.synchronize) == [5]


@costs([[100]])
def test_a_window_is_long_enough_and_not_much_longer(device: Device) -> None:
    calls = speed.calls_per_window(device.call, device.synchronize, at_least_ns=10_000)
    assert 100 <= calls <= 120  # 100 calls of 100 ns


@costs([[50_000, 100]])
def test_a_cold_first_call_does_not_make_windows_short(device: Device) -> None:
    assert speed.calls_per_window(device.call, device.synchronize, at_least_ns=10_000) >= 100


@costs([[20_000]])
def test_a_long_call_is_a_window_of_its_own(device: Device) -> None:
    assert speed.calls_per_window(device.call, device.synchronize, at_least_ns=10_000) == 1
    assert device.log.count("c") == 2


@costs([[0] * 50 + [1000]])
def test_a_call_too_fast_for_the_clock_still_ends(device: Device) -> None:
    assert speed.calls_per_window(device.call, device.synchronize, at_least_ns=10_000) > 1


def test_no_samples_make_no_call() -> None:
    call = mock.Mock()
    assert speed.time_calls(call, 0, call) == []
    assert call.call_count == 1  # the synchronisation before


def test_the_harness_adds_less_than_five_microseconds_a_sample() -> None:
    samples = speed.time_calls(lambda: None, 2000, driver_of("cpu").synchronize)
    assert len(samples) == 2000
    assert min(samples) >= 0
    assert statistics.median(samples) < 5_000
