"""What follows from samples: percentiles of enough of them, and how near a time comes to what is possible."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zoo.case import Case
from zoo.metrics import PHASES, ceilings
from zoo.metrics.driver import driver_of
from zoo.plan import Work
from zoo.record import Value
from zoo.sampling import Member, Sampler, percentile_value
from zoo.statistics import percentile
from zoo.suite import Limits, Planned


def member(*wanted: str, batch_size: int = 4) -> Member:
    """Return a case of which some metrics are wanted."""
    case = Case("model", "32px", batch_size)
    work = Work(Planned(case, wanted, Limits()), {**dict.fromkeys(PHASES, ()), "speed": wanted})  # type: ignore[arg-type]
    unknown: Any = None
    return Member(work, unknown, None, 0, {})


def bound(seconds: float, flops: float) -> Value:
    """Return the least time of a call, on a machine of 1 TFLOP/s."""
    detail = {"flops": flops, "ceilings": {"flops": 1e12, "bandwidth": 1e10}}
    return Value(value=seconds, unit="s", detail=detail)


def test_half_as_fast_as_possible_is_fifty_per_cent() -> None:
    m = member("throughput", "percent_of_bound", "mfu")
    m.bound, m.timed["throughput"] = bound(0.5, 2e11), Value(value=4.0, unit="1/s", interval=(2.0, 8.0), n=9)
    m.derive()
    found = m.found["speed"]
    # Four samples a batch and four a second: a second a batch, of which half was needed, and 0.2 s of arithmetic.
    assert (found["percent_of_bound"].value, found["percent_of_bound"].interval) == (50.0, (25.0, 100.0))
    assert (found["mfu"].value, found["mfu"].n) == (pytest.approx(20.0), 9)


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
