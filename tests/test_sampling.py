"""What follows from samples: percentiles of enough of them, and how near a time comes to what is possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from zoo import sampling
from zoo.case import Case
from zoo.expansion import Planned
from zoo.metrics import PHASES, ceilings
from zoo.metrics.driver import driver_of
from zoo.nvml import Reading
from zoo.plan import Work
from zoo.pool import Died
from zoo.record import Value
from zoo.sampling import Member, Sampler, percentile_value, sample
from zoo.schema import Limits
from zoo.statistics import percentile


def member(*wanted: str, batch_size: int = 4, device: str = "cpu") -> Member:
    """Return a case of which some metrics are wanted."""
    case = Case("model", "32px", batch_size, device=device)
    work = Work(Planned(case, wanted, Limits()), {**dict.fromkeys(PHASES, ()), "speed": wanted})  # type: ignore[arg-type]
    unknown: Any = None
    return Member(work, unknown, 0, {})


def bound(seconds: float, flops: float) -> Value:
    """Return the least time of a call, on a machine of 1 TFLOP/s."""
    detail = {"flops": flops, "bytes": 4e9, "ceilings": {"flops": 1e12, "bandwidth": 1e10}}
    return Value(value=seconds, unit="s", detail=detail)


def test_half_as_fast_as_possible_is_fifty_per_cent() -> None:
    m = member("throughput", "percent_of_bound", "mfu")
    m.bound, m.timed["throughput"] = bound(0.5, 2e11), Value(value=4.0, unit="1/s", interval=(2.0, 8.0), n=9)
    m.derive()
    found = m.found["speed"]
    # Four samples a batch and four a second: a second a batch, of which half was needed, and 0.2 s of arithmetic.
    assert (found["percent_of_bound"].value, found["percent_of_bound"].interval) == (50.0, (25.0, 100.0))
    assert (found["mfu"].value, found["mfu"].n) == (pytest.approx(20.0), 9)
    # What a roofline needs: 0.2 TFLOP over 4 GB in a second.
    assert [found["mfu"].detail[key] for key in ("flops", "bytes", "seconds")] == [2e11, 4e9, 1.0]


def test_a_latency_will_do_where_there_is_no_throughput() -> None:
    m = member("latency", "mfu")
    m.bound, m.timed["latency"] = bound(0.1, 1e12), Value(value=2.0, unit="s")
    m.derive()
    assert m.found["speed"]["mfu"].value == pytest.approx(50.0)


def test_without_a_bound_there_is_a_reason() -> None:
    m = member("throughput", "mfu")
    m.bound, m.timed["throughput"] = Value(status="unsupported", reason="no one count"), Value(value=4.0, unit="1/s")
    m.derive()
    assert (m.found["speed"]["mfu"].status, m.found["speed"]["mfu"].reason) == ("unsupported", "no one count")


@pytest.mark.parametrize(
    ("wanted", "sampled"),
    [
        (("latency",), ["latency"]),
        (("mfu",), ["throughput"]),
        (("latency_p90",), ["latency"]),
        (("latency", "mfu"), ["latency"]),
        (("throughput", "latency_p99", "mfu"), ["throughput", "latency"]),
    ],
)
def test_what_is_sampled_for_what_is_wanted(wanted: tuple[str, ...], sampled: list[str]) -> None:
    assert member(*wanted).sampled() == sampled


def test_percentiles_of_too_few_samples_are_refused() -> None:
    few, enough = range(1, 64), range(1, 101)
    assert percentile(few, 0.9) is None
    assert percentile(enough, 0.9) == 90
    assert percentile(enough, 0.99) is None
    assert percentile(range(1, 1001), 0.99) == 990
    refused = percentile_value("latency_p99", Value(value=1.0, unit="s", samples=tuple(enough)))
    assert (refused.status, refused.reason) == ("unsupported", "100 samples do not tell it; 662 would")
    assert percentile_value("latency_p90", Value(value=1.0, unit="s", samples=tuple(enough))).value == 90e-9


def test_sampling_goes_on_until_a_percentile_that_is_wanted_can_be_told() -> None:
    samples = [1000] * 70
    assert Sampler(member("latency"), "latency", "speed").rule().reason(samples[:10], 0.1) == "tight"
    wants = Sampler(member("latency", "latency_p90"), "latency", "speed").rule()
    assert wants.reason(samples[:63], 0.1) is None
    assert wants.reason(samples[:64], 0.1) == "tight"
    assert wants.reason(samples[:63], 100.0) == "budget"


def test_ceilings_are_what_a_product_and_a_copy_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "SIDES", {"cpu": (256, 512)})
    monkeypatch.setattr(ceilings, "COPIED", {"cpu": 2**24})
    found = ceilings.measure(driver_of("cpu"), torch.float32)
    assert 1e9 < found.flops < 1e14
    assert 1e8 < found.bandwidth < 1e13


# -- a GPU, watched --------------------------------------------------------------------------------------------

FINE = Reading(1980, 1980, (), 40, (1,))
HOT = Reading(1200, 1980, ("thermal (hardware)",), 90, (1,))


class Gpu:
    """A worker on a GPU: a millisecond a call, of which the host queues for ``queued`` ns.

    ``after`` is what is read after each request, the last for all that follow.
    """

    def __init__(self, *after: Reading, queued: int = 200_000) -> None:
        self.after, self.queued, self.asked = [*after], queued, 0

    def ask(self, command: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Return samples; hot ones are twice as long."""
        self.asked += 1
        after = self.after.pop(0) if len(self.after) > 1 else self.after[0]
        calls = 1 if command["metric"] == "latency" else 10
        took = calls * (2_000_000 if after.reasons else 1_000_000)
        return {
            "samples": [took] * command["count"],
            "calls": calls,
            "device": [took - 50_000] * command["count"],
            "queued": [self.queued],
            "watched": [vars(FINE), vars(after)],
        }

    def close(self) -> None:
        """End."""


def sampled_on(worker: Any, *metrics: str) -> Member:
    """Sample metrics of a case on a GPU."""
    m = member(*metrics, device="cuda")
    m.worker = worker
    for metric in m.sampled():
        sample(m, metric, "speed")
    m.tell_pace()
    m.derive()
    return m


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a GPU recover at once."""
    monkeypatch.setattr(sampling, "PAUSE", 0.0)


def test_device_and_host_seconds_of_one_call_are_told() -> None:
    found = sampled_on(Gpu(FINE), "latency", "throughput").found["speed"]
    latency, throughput = found["latency"], found["throughput"]
    assert (latency.value, throughput.value) == (1e-3, pytest.approx(4000))
    assert latency.detail["device_seconds"] == pytest.approx(0.95e-3)
    assert throughput.detail["device_seconds"] == pytest.approx(0.995e-3)
    assert latency.detail["host_seconds"] == throughput.detail["host_seconds"] == pytest.approx(0.2e-3)
    assert latency.detail["conditions"]["sm_clock"] == [1980, 1980]
    assert "discarded" not in latency.detail
    assert "launch_bound" not in {**latency.detail, **throughput.detail}


def test_a_request_that_heat_spoiled_is_taken_again() -> None:
    worker = Gpu(FINE, FINE, HOT, FINE, HOT, FINE)  # two requests warm up
    latency = sampled_on(worker, "latency").found["speed"]["latency"]
    assert set(latency.samples) == {1_000_000}
    assert latency.detail["discarded"] == {"requests": 2, "reasons": ["thermal (hardware)"]}
    assert latency.detail["conditions"]["temperature"] == 40


def test_a_power_cap_is_told_and_spoils_nothing() -> None:
    capped = Reading(1300, 1980, ("power cap (software)",), 60, (1,))
    latency = sampled_on(Gpu(capped), "latency").found["speed"]["latency"]
    assert latency.status == "ok"
    assert latency.detail["conditions"]["reasons"] == ["power cap (software)"]
    assert latency.detail["conditions"]["sm_clock"] == [1300, 1980]


def test_a_gpu_that_never_recovers_has_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SAMPLING", sampling.StoppingRule(budget=0.1))
    monkeypatch.setattr(sampling, "PAUSE", 0.02)
    m = sampled_on(Gpu(HOT), "latency", "latency_p90")
    for name in ("latency", "latency_p90"):
        value = m.found["speed"][name]
        assert (value.status, value.value) == ("unsupported", None)
        assert value.reason.startswith("the GPU was held down in all of ")
        assert value.reason.endswith("requests for samples: thermal (hardware)")


def test_a_gpu_that_is_held_down_later_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SAMPLING", sampling.StoppingRule(min_samples=500, budget=0.1))
    monkeypatch.setattr(sampling, "REQUEST_SECONDS", 0.01)
    monkeypatch.setattr(sampling, "PAUSE", 0.02)
    latency = sampled_on(Gpu(*[FINE] * 8, HOT), "latency").found["speed"]["latency"]
    assert (latency.status, latency.stop, set(latency.samples)) == ("ok", "budget", {1_000_000})


def test_samples_of_a_comparison_are_taken_again_too() -> None:
    sampler = Sampler(member("latency", device="cuda"), "latency", "speed")
    sampler.member.worker = Gpu(HOT, HOT, FINE)  # type: ignore[assignment]
    assert sampler.request(3) == [1_000_000] * 3


def test_strangers_on_the_gpu_are_counted_and_our_own_workers_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "family", lambda: {1, 2})
    shared = Reading(1980, 1980, (), 40, (1, 2, 3))
    assert sampled_on(Gpu(shared), "latency").found["speed"]["latency"].detail["conditions"]["foreign"] == 1


@pytest.mark.parametrize(
    ("metrics", "queued", "bound"),
    [
        (("latency",), 980_000, {"latency"}),
        (("latency",), 960_000, set()),
        (("throughput",), 980_000, {"throughput"}),
        (("latency", "throughput"), 980_000, {"latency", "throughput"}),
        (("latency", "throughput"), 900_000, set()),
    ],
)
def test_launch_bound_is_what_takes_no_longer_than_it_is_queued(
    metrics: Sequence[str], queued: int, bound: set[str]
) -> None:
    found = sampled_on(Gpu(FINE, queued=queued), *metrics).found["speed"]
    assert {name for name, value in found.items() if value.detail.get("launch_bound")} == bound


class Processor:
    """A worker on the CPU: a millisecond a call; a call with a batch of none takes ``host`` seconds, or fails."""

    def __init__(self, host: float | None) -> None:
        self.host = host

    def ask(self, command: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Return samples, or the seconds of a call with a batch of none."""
        if command["do"] == "sample":
            return {"samples": [1_000_000] * command["count"], "calls": 1}
        if self.host is None:
            raise Died("killed", "the process ended with signal 8")
        return {"values": {"host_seconds": {"value": self.host}}}


@pytest.mark.parametrize(("host", "bound"), [(0.6e-3, True), (0.4e-3, None), (None, None)])
def test_on_a_cpu_launch_bound_is_what_takes_half_of_its_time_for_nobody(
    host: float | None, bound: bool | None
) -> None:
    m = member("latency")
    m.worker = Processor(host)  # type: ignore[assignment]
    sample(m, "latency", "speed")
    m.tell_pace()
    latency = m.found["speed"]["latency"]
    assert latency.status == "ok"
    assert (latency.detail.get("host_seconds"), latency.detail.get("launch_bound")) == (host, bound)


class Refuses(Gpu):
    """A worker that cannot capture."""

    def ask(self, command: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Fail for a graph alone."""
        if command["metric"] == "latency_graph":
            raise Died("unsupported", "cannot be captured: a wait")
        return super().ask(command, deadline)


def test_a_capture_that_fails_comes_last_and_takes_nothing_along() -> None:
    m = sampled_on(Refuses(FINE), "latency_graph", "latency", "latency_p90")
    assert m.sampled() == ["latency", "latency_graph"]
    found = m.found["speed"]
    assert (found["latency"].status, found["latency_p90"].status) == ("ok", "ok")
    assert (found["latency_graph"].status, found["latency_graph"].reason) == (
        "unsupported",
        "cannot be captured: a wait",
    )
    assert m.worker is not None


def test_a_graph_alone_is_no_time_to_set_beside_a_bound() -> None:
    assert member("latency_graph", "mfu").sampled() == ["throughput", "latency_graph"]


def test_a_percentile_for_which_samples_are_too_few_is_taken_once_more() -> None:
    m = member("latency", "latency_p90", "latency_p99")
    assert m.untold() == []  # nothing was timed
    m.timed["latency"] = Value(value=1.0, unit="s", samples=(1,) * 100)
    assert m.untold() == ["latency_p99"]
    assert m.only("speed", *m.untold()).sampled() == ["latency"]
