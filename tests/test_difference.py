"""What changed between two result folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.case import Case
from zoo.difference import Agreement, agreements, changes
from zoo.errors import BadRecords
from zoo.record import CaseRecord, MachineRecord, Value
from zoo.store import Store

CASE = Case("vit_nano", "32px", threads=2)


def folder(path: Path, slug: str = "epyc-2core", **metrics: Value) -> Path:
    """Write the metrics of one case."""
    machine = MachineRecord(slug, {"cpu": slug})
    with Store(path, slug) as store:
        store.append(machine)
        store.append(CaseRecord(CASE, {}, metrics, environment=machine.id))
    return path


def timed(seconds: float, spread: float = 0.01) -> Value:
    """Return a latency with an interval of so much to either side."""
    around = (seconds * (1 - spread), seconds * (1 + spread))
    return Value(value=seconds, unit="s", interval=around, n=3, samples=(1, 2, 3))


@pytest.mark.parametrize(
    ("metric", "before", "after", "verdict"),
    [
        ("latency", timed(1.0), timed(1.2), "worse"),
        ("latency", timed(1.2), timed(1.0), "better"),
        ("throughput", timed(1.0), timed(1.2), "better"),
        ("latency", timed(1.0), timed(1.01), "same"),
        ("latency", timed(1.0, 0.2), timed(1.1, 0.2), "ambiguous"),
        ("latency", timed(1.0), timed(1.04), "ambiguous"),  # two runs may differ by that much
        ("macs", Value(value=100), Value(value=100), "same"),
        ("macs", Value(value=100), Value(value=101), "worse"),
        ("top1", Value(value=0.9), Value(value=0.8), "worse"),
        ("top1", Value(value=0.9, interval=(0.85, 0.95)), Value(value=0.91, interval=(0.86, 0.96)), "ambiguous"),
        ("latency", timed(1.0), Value(status="oom", reason="too large"), "worse"),
        ("latency", Value(status="oom", reason="too large"), timed(1.0), "better"),
        ("latency", Value(status="oom", reason="x"), Value(status="oom", reason="y"), "same"),
    ],
)
def test_what_is_said_of_the_second(tmp_path: Path, metric: str, before: Value, after: Value, verdict: str) -> None:
    a, b = folder(tmp_path / "a", **{metric: before}), folder(tmp_path / "b", **{metric: after})
    (found,) = changes(a, b)
    assert found.verdict == verdict


def test_a_narrower_margin_tells_more(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", latency=timed(1.0, 0.001)), folder(tmp_path / "b", latency=timed(1.04, 0.001))
    assert [change.verdict for change in changes(a, b, margin=0.02)] == ["worse"]
    assert [change.verdict for change in changes(a, b)] == ["same"]


def test_how_far_two_runs_agree_is_told_for_what_a_machine_decides(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", latency=timed(1.0), energy=Value(value=2.0, unit="J"), macs=Value(value=7))
    b = folder(tmp_path / "b", latency=timed(1.01), energy=Value(value=2.1, unit="J"), macs=Value(value=7))
    assert [*agreements(changes(a, b, 0.02), 0.02)] == [
        Agreement("latency", 1, 1, 1.01, 1.01),
        Agreement("energy", 1, 0, 1.05, 1.05),
    ]


def test_two_machines_have_a_ratio_and_no_verdict(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", latency=timed(1.0)), folder(tmp_path / "b", "h200", latency=timed(0.1))
    (found,) = changes(a, b)
    assert (found.verdict, found.ratio) == ("", 0.1)
    assert found.note == "two machines, epyc-2core and h200: no verdict"


def test_only_what_both_have_is_compared(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", latency=timed(1.0), params=Value(value=3))
    assert [change.metric for change in changes(a, folder(tmp_path / "b", params=Value(value=3)))] == ["params"]


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadRecords, match="no records"):
        list(changes(tmp_path, tmp_path))
