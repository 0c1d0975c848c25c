"""Facts about what a suite may ask of a table: pivots, sorting, best in column, fronts, ratios, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from zoo.case import Case
from zoo.cli import main
from zoo.errors import BadRecords
from zoo.formats import render
from zoo.record import CaseRecord, MachineRecord, Value
from zoo.rows import MISSING, rows_of
from zoo.schema import TableSpec
from zoo.store import Results, line_of
from zoo.tables import Table, make_table

XEON, EPYC = (MachineRecord(name, {"cpu": name, "cores": 2}) for name in ("xeon", "epyc"))


def found(model: str, size: str = "224px", machine: MachineRecord | None = None, **values: Any) -> CaseRecord:
    """Return a record of a model with values, or (value, low, high)."""
    axes = {k: values.pop(k) for k in ("batch_size", "dtype") if k in values}
    case = Case(model, size, **axes).for_phase("speed" if machine else "static")
    kept = {
        name: Value(value=v[0], interval=v[1:], unit="s") if isinstance(v, tuple) else Value(value=v, convention="mac")
        for name, v in values.items()
    }
    return CaseRecord(case, {}, kept, environment=machine.id if machine else "", time="2026-01-01T00:00:00+00:00")


FOUR = (
    found("small", macs=1_000_000_000, params=9_000_000),
    found("middle", macs=2_000_000_000, params=8_000_000),
    found("large", macs=4_000_000_000, params=7_000_000),
    found("waste", macs=4_000_000_000, params=9_000_000),
)


def make(*records: CaseRecord, columns: str = "model macs params", **asked: Any) -> Table:
    results = Results(records, {m.id: m for m in (XEON, EPYC)})
    return make_table(TableSpec(title="T", columns=columns.split(), **asked), rows_of(results))


def column(table: Table, name: str) -> list[str]:
    place = [c.name for c in table.columns].index(name)
    return [row[place].full for row in table.rows]


def test_rows_are_sorted_by_columns_and_what_has_no_value_comes_last() -> None:
    made = make(*FOUR, found("none", params=1), sort=["-macs", "params"])
    assert column(made, "model") == ["large", "waste", "middle", "small", "none"]
    assert column(make(*FOUR, sort=["model"]), "model") == ["large", "middle", "small", "waste"]


def test_a_pivot_makes_a_column_of_each_value() -> None:
    made = make(found("a", "224px", macs=2), found("a", "384px", macs=3), found("b", "224px", macs=4), pivot="size",
                columns="model macs")  # fmt: skip
    assert [c.head for c in made.columns] == ["Model", "MACs, 224px", "MACs, 384px"]
    assert [[cell.full for cell in row] for row in made.rows] == [["a", "2", "3"], ["b", "4", MISSING]]
    assert "macs_224px,macs_224px_low" in render(made, "csv").splitlines()[0]


def test_the_best_of_a_column_is_marked_in_every_format() -> None:
    made = make(*FOUR, best=["macs"], columns="model macs")
    assert [row[1].best for row in made.rows] == [True, False, False, False]
    assert "1.000*" in render(made)
    assert "| **1.000** |" in render(made, "markdown")
    assert r"\textbf{1.000}" in render(made, "latex")
    assert "<b>1.000</b>" in render(made, "html")
    assert "macs: best" in render(made, "csv")


def test_what_an_interval_does_not_tell_from_the_best_is_best_too() -> None:
    timed = (
        found("quick", machine=XEON, latency=(1.0, 0.9, 1.1)),
        found("as quick", machine=XEON, latency=(1.15, 1.05, 1.2)),
        found("slow", machine=XEON, latency=(2.0, 1.9, 2.1)),
    )
    made = make(*timed, best=["latency"], columns="model latency")
    assert [row[1].best for row in made.rows] == [True, True, False]


def test_the_front_holds_what_nothing_else_beats() -> None:
    made = make(*FOUR, front=["macs", "params"])
    assert column(made, "front") == ["●", "●", "●", ""]
    assert any("on the Pareto front of MACs and Params" in line for line in made.footer)


def test_ratios_are_to_the_row_that_fits_the_baseline_at_the_same_axes() -> None:
    both = [
        found(m, s, macs=n) for m, s, n in (("a", "224px", 2), ("a", "384px", 6), ("b", "224px", 3), ("b", "384px", 3))
    ]
    made = make(*both, columns="model size macs", baseline={"model": "a"}, ratios=["macs"])
    assert column(made, "macs_ratio") == ["1.000×", "1.000×", "1.500×", "0.500×"]
    assert any("Ratios are to model a, all else the same." in line for line in made.footer)


def test_two_times_are_no_ratio() -> None:
    timed = (found("a", machine=XEON, latency=(1.0, 0.9, 1.1)), found("b", machine=XEON, latency=(2.0, 1.9, 2.1)))
    with pytest.raises(BadRecords, match="latency is timed, and two runs give no ratio; latency_ratio with a baseline"):
        make(*timed, columns="model latency", baseline={"model": "a"}, ratios=["latency"])


@pytest.mark.parametrize("asked", [{"best": ["latency"]}, {"front": ["latency", "latency"]}])
def test_machines_dtypes_and_batches_are_not_set_against_each_other(asked: dict[str, Any]) -> None:
    one = found("a", machine=XEON, latency=(1.0, 0.9, 1.1))
    for axis, other in (
        ("machine: epyc, xeon", found("b", machine=EPYC, latency=(2.0, 1.9, 2.1))),
        ("dtype: bfloat16, float32", found("b", machine=XEON, dtype="bfloat16", latency=(2.0, 1.9, 2.1))),
        ("batch_size: 1, 8", found("b", machine=XEON, batch_size=8, latency=(2.0, 1.9, 2.1))),
    ):
        with pytest.raises(BadRecords, match=f"the table 'T' would compare rows of different {axis}; choose one"):
            make(one, other, columns="model latency", **asked)


def test_without_a_comparison_they_are_columns_of_their_own() -> None:
    made = make(
        found("a", machine=XEON, latency=(1.0, 0.9, 1.1)),
        found("a", machine=EPYC, batch_size=8, latency=(2.0, 1.9, 2.1)),
        columns="model latency",
    )
    assert [c.head for c in made.columns][:3] == ["Model", "Batch size", "Machine"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sort": ["-latency"]}, "sort: '-latency' is none of the columns: model, macs"),
        ({"best": ["top1"]}, "best: 'top1' is none of the columns"),
        ({"front": ["macs"]}, "a front is of two metrics"),
        ({"ratios": ["macs"]}, "ratios need a baseline"),
        ({"pivot": "model"}, "'model' is a column already"),
        ({"pivot": "size", "sort": ["macs"]}, "a table with a pivot has no sort and no front"),
    ],
)
def test_what_a_table_cannot_have_is_said_when_the_suite_is_read(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TableSpec(title="T", columns=["model", "macs"], **asked)


def test_a_model_that_is_registered_no_longer_is_noted() -> None:
    results = rows_of(Results((found("here", macs=1), found("gone", macs=2))))
    made = make_table(TableSpec(title="T", columns=["model", "macs"]), results, known=lambda model: model == "here")
    assert column(made, "model") == ["here", "gone [1]"]
    assert made.notes == ("no plugin that is loaded has a model of this name",)


def test_a_half_written_record_is_told_and_the_rest_is_printed(tmp_path: Path) -> None:
    folder = tmp_path / "lecture"
    folder.mkdir()
    whole = line_of(found("vit_s16", macs=4_600_000_000, params=22_050_664))
    (folder / "static.jsonl").write_bytes(whole + whole[: len(whole) // 2] + b"\n" + whole)
    made = CliRunner().invoke(main, ["table", "lecture", "--results", str(tmp_path)])
    assert made.exit_code == 0
    assert "vit_s16" in made.stdout
    assert "static.jsonl:2: not a record, passed over: " in made.stderr


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_a_folder_without_records_is_one_sentence(what: str, tmp_path: Path) -> None:
    if what == "empty":
        (tmp_path / "lecture").mkdir()
    made = CliRunner().invoke(main, ["table", "lecture", "--results", str(tmp_path)])
    assert made.exit_code == 2
    assert made.stderr == f"zoo: there are no records in {tmp_path / 'lecture'}; zoo run SUITE writes them\n"


def test_a_pivot_that_no_record_has_is_told() -> None:
    with pytest.raises(BadRecords, match="pivot: 'depth' is no axis of these records: model, size"):
        make(*FOUR, columns="model macs", pivot="depth")


def test_another_metric_of_the_same_beginning_is_not_marked() -> None:
    both = (found("a", peak_memory=1, peak_memory_predicted=9), found("b", peak_memory=2, peak_memory_predicted=8))
    made = make(*both, columns="model peak_memory peak_memory_predicted", best=["peak_memory"])
    assert [[cell.best for cell in row[1:]] for row in made.rows] == [[True, False], [False, False]]


def options(model: str, macs: int, **chosen: int) -> CaseRecord:
    return replace(found(model, macs=macs), case=replace(found(model, macs=macs).case, options=chosen))


def test_a_baseline_has_the_same_options_or_is_refused() -> None:
    widths = [options(m, n * w, width=w) for m, n in (("rnn", 1), ("sa", 2)) for w in (32, 96)]
    made = make(*widths, columns="model width macs", baseline={"model": "rnn"}, ratios=["macs"])
    assert column(made, "macs_ratio") == ["1.000×", "1.000×", "2.00×", "2.00×"]
    depths = [options("rnn", w, width=w) for w in (32, 96)]
    with pytest.raises(
        BadRecords, match=r"the baseline .* of sa 224px is several rows: rnn 224px width=32, rnn 224px "
    ):
        make(*depths, found("sa", macs=5), columns="model macs", baseline={"model": "rnn"}, ratios=["macs"])


def test_a_baseline_of_machines_does_not_let_them_be_ranked() -> None:
    two = (found("a", machine=XEON, latency=(1.0, 0.9, 1.1)), found("b", machine=EPYC, latency=(2.0, 1.9, 2.1)))
    with pytest.raises(BadRecords, match="would compare rows of different machine"):
        make(*two, columns="model latency", baseline={"machine": "xeon"}, best=["latency"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"baseline": {"modle": "a"}, "ratios": ["macs"]}, "baseline: 'modle' is no axis of these records"),
        ({"best": ["model"]}, "'model' is an axis; best, front and ratios are of metrics"),
    ],
)
def test_a_mark_that_no_row_could_have_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRecords, match=message):
        make(*FOUR, columns="model macs", **asked)


def test_columns_of_a_pivot_stand_in_order() -> None:
    made = make(found("a", "384px", macs=3), found("b", "224px", macs=4), pivot="size", columns="model macs")
    assert [c.name for c in made.columns] == ["model", "macs_224px", "macs_384px"]


def test_a_glob_of_suites_goes_on_where_one_has_no_records(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["table", "*", "--results", str(tmp_path), "--save", str(tmp_path / "t")])
    assert done.exit_code == 0
    assert "zoo: not shown: there are no records in" in done.stderr
    assert (tmp_path / "t" / "wmt" / "tables.tex").exists()


def taught(model: str, seed: int, value: Value, size: str = "32px") -> CaseRecord:
    """Return the record of one training."""
    case = Case(model, size, task="digits", recipe="equal", seed=seed)
    return CaseRecord(case, {}, {"top1": value}, environment=EPYC.id, time="2026-01-01T00:00:00+00:00")


def reached(right: int) -> Value:
    """Return an accuracy on 100 samples."""
    return Value(value=right / 100, interval=((right - 5) / 100, (right + 3) / 100), n=100)


def test_seeds_are_one_row_with_their_mean_and_the_footer_says_how_far_they_differ() -> None:
    records = (taught("a", 0, reached(90)), taught("a", 1, reached(94)), taught("b", 0, reached(80)))
    made = make(*records, columns="model top1", over="seed")
    assert column(made, "top1") == ["92.0 [87.0, 95.0]", "80.0 [75.0, 83.0]"]
    assert "top1: mean of 2 seeds, which differ by up to 4.0 points; its interval is the mean of theirs." in made.footer
    assert len(make(*records, columns="model top1").rows) == 3


def test_a_mean_of_which_one_seed_failed_is_that_failure() -> None:
    failed = Value(status="diverged", reason="the loss was nan at step 7 of 30")
    made = make(taught("a", 0, reached(90)), taught("a", 1, failed), columns="model top1", over="seed")
    assert column(made, "top1") == ["diverged [1]"]
    assert made.notes[0].endswith("the loss was nan at step 7 of 30")


def test_sizes_that_were_tested_at_are_columns() -> None:
    records = []
    for size, right in (("16px", 60), ("32px", 95)):
        record = taught("a", 0, reached(right))
        records.append(replace(record, case=replace(record.case, test_size=size)))
    made = make(*records, columns="model size top1", pivot="test_size")
    assert column(made, "top1_16px") == ["60.0 [55.0, 63.0]"]
    assert column(made, "top1_32px") == ["95.0 [90.0, 98.0]"]
