"""Cases and records: ids that say every axis, statuses, and the way through JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo import store
from zoo.case import Case
from zoo.record import STATUSES, CaseRecord, MachineRecord, Value, gravest

finite = st.floats(allow_nan=False, allow_infinity=False)
ok_values = st.builds(
    Value,
    value=st.one_of(finite, st.integers(-(2**60), 2**60)),
    interval=st.one_of(st.none(), st.tuples(finite, finite)),
    n=st.one_of(st.none(), st.integers(0, 1000)),
    samples=st.lists(st.integers(0, 2**40), max_size=5).map(tuple),
    detail=st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=5)), max_size=2),
)
bad_values = st.builds(Value, status=st.sampled_from(STATUSES[1:]), reason=st.text(min_size=1, max_size=30))
text = st.text(min_size=1, max_size=12)
cases = st.builds(
    Case,
    model=text,
    size=st.sampled_from(["224px", "800x1066px", "512tok"]),
    batch_size=st.integers(1, 512),
    device=st.sampled_from([None, "cpu", "cuda"]),
    mode=st.sampled_from([None, "inference"]),
    threads=st.one_of(st.none(), st.integers(1, 64)),
    task=st.one_of(st.none(), text),
    seed=st.one_of(st.none(), st.integers(0, 9)),
    options=st.dictionaries(text, st.one_of(st.booleans(), st.integers(), text, finite), max_size=3),
)
records = st.builds(
    CaseRecord,
    case=cases,
    fingerprint=st.dictionaries(text, text, max_size=3),
    metrics=st.dictionaries(text, st.one_of(ok_values, bad_values), max_size=3),
    seconds=st.one_of(st.none(), st.floats(0, 1e6)),
)
machines = st.builds(MachineRecord, text, st.dictionaries(text, st.one_of(text, st.integers()), max_size=3))


@given(st.one_of(records, machines))
def test_records_survive_a_line_of_json(record):
    line = store.line_of(record)
    assert line.count(b"\n") == 1
    assert line.startswith(b'{"schema":1')
    assert store.parse(json.loads(line)) == record


def test_id_says_every_axis():
    case = Case(
        "vit_nano", "32px", batch_size=8, threads=2, task="digits", recipe="quick", seed=1, options={"width": 64}
    )
    assert case.id == (
        "vit_nano size=32px batch_size=8 dtype=float32 device=cpu mode=inference threads=2"
        " task=digits recipe=quick seed=1 width=64"
    )


def test_static_metrics_belong_to_fewer_axes_than_measured_ones():
    case = Case("vit_nano", "32px", threads=2, task="digits", recipe="quick", seed=1)
    assert case.for_phase("static").id == "vit_nano size=32px batch_size=1 dtype=float32"
    assert case.for_phase("speed").id == case.for_phase("memory").id
    assert "task" not in case.for_phase("speed").id
    assert "threads=2" in case.for_phase("speed").id
    assert case.for_phase("task") == case


def test_status_of_a_case_is_its_gravest():
    assert gravest([]) == "ok"
    assert gravest(["ok", "oom", "unsupported"]) == "oom"
    assert gravest(["timeout", "error", "killed"]) == "error"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_no_value_that_is_not_a_number(value):
    with pytest.raises(ValueError, match="finite number"):
        Value(value=value)


def test_failure_needs_a_reason():
    with pytest.raises(ValueError, match="has a reason and no value"):
        Value(status="oom")
