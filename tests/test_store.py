"""The store: append-only, safe against a kill, merged per metric, newest first."""

import pytest

from zoo import store
from zoo.case import Case
from zoo.errors import BadRecords
from zoo.record import CaseRecord, MachineRecord, Value
from zoo.store import Store

CASE = Case("vit_nano", "32px", threads=2)
PRINT = {"plugin": "a", "machine": "m"}


def record(**metrics: float) -> CaseRecord:
    return CaseRecord(CASE, PRINT, {name: Value(value=value) for name, value in metrics.items()})


def test_static_records_and_measured_ones_lie_apart(tmp_path):
    with Store(tmp_path, "xeon-2core") as kept:
        kept.append(CaseRecord(CASE.for_phase("static"), {"plugin": "a"}, {"params": Value(value=1)}))
        kept.append(MachineRecord("xeon-2core", {"cores": 2}))
        kept.append(record(latency=0.1))
    assert (tmp_path / "static.jsonl").read_text().count("\n") == 1
    assert (tmp_path / "xeon-2core" / "records.jsonl").read_text().count("\n") == 2


def test_later_run_of_one_metric_keeps_the_others(tmp_path):
    with Store(tmp_path, "m") as kept:
        kept.append(record(latency=0.1, throughput=9.0))
    with Store(tmp_path, "m") as kept:
        kept.append(record(latency=0.2))
    with Store(tmp_path, "m") as kept:
        values = {name: record.metrics[name].value for (_, name), record in kept.newest.items()}
    assert values == {"latency": 0.2, "throughput": 9.0}


@pytest.mark.parametrize("keep", [1, 20, -2])
def test_torn_last_line_is_cut_off_and_the_rest_is_read(tmp_path, keep):
    with Store(tmp_path, "m") as kept:
        kept.append(record(latency=0.1))
    file = tmp_path / "m" / "records.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:keep])
    assert len(store.load(tmp_path).records) == 1
    with Store(tmp_path, "m") as kept:
        kept.append(record(latency=0.3))
    results = store.load(tmp_path)
    assert [r.metrics["latency"].value for r in results.records] == [0.1, 0.3]
    assert results.warnings == ()


def test_line_in_the_middle_that_is_no_record_is_told_and_passed_over(tmp_path):
    with Store(tmp_path, "m") as kept:
        kept.append(record(latency=0.1))
    file = tmp_path / "m" / "records.jsonl"
    file.write_bytes(b'{"schema":7}\nnonsense\n' + file.read_bytes())
    results = store.load(tmp_path)
    assert len(results.records) == 1
    assert [w.split(":")[1] for w in results.warnings] == ["1", "2"]


def test_second_run_on_the_same_folder_is_refused(tmp_path):
    with Store(tmp_path, "m"), pytest.raises(BadRecords, match="another run is writing"), Store(tmp_path, "other"):
        pass


def test_folder_without_records_is_told(tmp_path):
    with pytest.raises(BadRecords, match="zoo run SUITE writes them"):
        store.load(tmp_path)
