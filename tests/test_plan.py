"""The plan: what is timed beside a baseline stands together, all else where the suite has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from zoo.errors import BadSuite
from zoo.expansion import Choice, expand
from zoo.plan import Prints, Work, make_plan
from zoo.record import CaseRecord, Value
from zoo.registry import Registry
from zoo.store import Store
from zoo.suite import read_suite

Planner = Callable[..., list[Work]]


@pytest.fixture(scope="module")
def registry() -> Registry:
    """The zoo's own models."""
    return Registry.load()


@pytest.fixture
def plan(suite_file: Callable[[str], Path], registry: Registry, tmp_path: Path) -> Planner:
    """Return a function that plans the groups of a suite, some metrics of some models being kept already."""

    def make(*groups: str, kept: dict[str, tuple[str, ...]] | None = None) -> list[Work]:
        path = suite_file("schema: 1\ngroups:\n" + "".join(f"  - {{{group}}}\n" for group in groups))
        file = read_suite(str(path))
        items = expand(file, registry, Choice())
        store, prints = Store(tmp_path / "runs", "here"), Prints(registry, "here")
        for item in items:
            for metric in (kept or {}).get(item.case.model, ()):
                phase = "speed" if metric in ("latency", "latency_ratio", "energy") else "static"
                print_ = prints.of(item.case, phase, item.baseline)
                status = Value(status="error", reason="x") if metric == "energy" else Value(value=1)
                record = CaseRecord(item.case.for_phase(phase), print_, {metric: status})
                store.newest[record.case.id, metric] = record
        return make_plan(file, items, store, prints, retry=False, fresh=False).work

    return make


def told(works: list[Work]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return model, baseline and timed metrics of each piece of work."""
    return [(w.planned.case.model, w.block.partition(" ")[0], w.wanted["speed"]) for w in works]


def test_what_has_no_baseline_stays_where_it_is(plan: Planner) -> None:
    works = plan("models: [vit_nano, mixer_nano], metrics: [params]", "models: [vit_nano], metrics: [macs, latency]")
    assert [(w.planned.case.model, w.block) for w in works] == [("vit_nano", ""), ("mixer_nano", ""), ("vit_nano", "")]


def test_a_plain_group_before_takes_no_ratio_away(plan: Planner) -> None:
    models = "models: [vit_nano, mixer_nano]"
    works = plan(
        f"{models}, metrics: [params, latency]", f"{models}, metrics: [latency, latency_ratio], baseline: vit_nano"
    )
    alone, beside = ("latency",), ("latency_ratio", "latency")
    assert told(works)[:2] == [("vit_nano", "", alone), ("mixer_nano", "", alone)]
    assert told(works)[2:] == [("vit_nano", "vit_nano", beside), ("mixer_nano", "vit_nano", ("latency_ratio",))]


def test_a_baseline_of_which_all_is_kept_is_timed_once_more(plan: Planner) -> None:
    group = "models: [mixer_nano, vit_nano], metrics: [latency, latency_ratio], baseline: vit_nano"
    works = plan(group, kept={"vit_nano": ("latency", "latency_ratio")})
    both = ("latency", "latency_ratio")
    assert told(works) == [("vit_nano", "vit_nano", both), ("mixer_nano", "vit_nano", both)]
    assert works[0].why == "mixer_nano is measured beside it"


def test_a_baseline_that_lacks_something_else_is_timed_beside_the_others_all_the_same(plan: Planner) -> None:
    group = "models: [vit_nano, mixer_nano], metrics: [latency, latency_ratio, energy], baseline: vit_nano"
    works = plan(group, kept={"vit_nano": ("latency", "latency_ratio", "energy")})
    timed = ("latency", "latency_ratio")
    assert told(works) == [
        ("vit_nano", "", ("energy",)),
        ("vit_nano", "vit_nano", timed),
        ("mixer_nano", "vit_nano", (*timed, "energy")),
    ]


def test_everything_kept_is_no_work(plan: Planner) -> None:
    group = "models: [vit_nano, mixer_nano], metrics: [latency, latency_ratio], baseline: vit_nano"
    assert plan(group, kept=dict.fromkeys(("vit_nano", "mixer_nano"), ("latency", "latency_ratio"))) == []


def test_a_case_has_one_baseline(plan: Planner) -> None:
    groups = [f"models: [vit_nano, mixer_nano], metrics: [latency], baseline: {b}" for b in ("vit_nano", "mixer_nano")]
    with pytest.raises(
        BadSuite, match=r"groups\[1\].baseline: vit_nano .* is measured beside another baseline already"
    ):
        plan(*groups)
