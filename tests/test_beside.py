"""The picture of ours against published numbers shows each row's difference, and says what it cannot show."""

from __future__ import annotations

from typing import Any

import pytest

from zoo.beside import beside
from zoo.case import Case
from zoo.errors import BadRecords
from zoo.quoted import Maker
from zoo.record import CaseRecord, Value
from zoo.registry import installed
from zoo.report import chart_of
from zoo.rows import rows_of
from zoo.schema import PublishedPlot, PublishedTable
from zoo.store import Results
from zoo.suite import read_suite

SWIN = next(t for t in read_suite("imagenet").suite.tables if isinstance(t, PublishedTable) and t.title == "Swin")
SPEC = PublishedPlot(kind="published", name="swin", title="Swin", table="Swin", column="FLOPs (G)")


def counted(model: str, size: str, macs: float) -> CaseRecord:
    return CaseRecord(Case(model, size).for_phase("static"), {}, {"macs": Value(value=macs, convention="mac")})


def data(*records: CaseRecord, spec: PublishedPlot = SPEC) -> list[dict[str, Any]]:
    """Return the points of the chart, as its data have them."""
    maker = Maker(SWIN, rows_of(Results(records)), installed())
    drawn = beside(spec, maker).to_dict()
    found = [row for layer in drawn["layer"] for row in layer.get("data", {}).get("values", []) if "marked" in row]
    return list({row["name"]: row for row in found}.values())


def test_a_point_is_how_far_ours_is_from_what_was_printed() -> None:
    """Swin-T prints 4.5 G: 4.5 G is no difference, and Swin-S of 8.7 G with 9.57 G is 10 % more."""
    points = data(counted("swin_t", "224px", 4.5e9), counted("swin_s", "224px", 9.57e9))
    found = {row["name"]: (row["x"], row["y"], row["marked"]) for row in points}
    assert found["swin_t"] == (4.5, pytest.approx(0.0), True)
    assert found["swin_s"] == (8.7, pytest.approx(10.0), False)


def test_without_a_row_that_has_both_there_is_no_picture() -> None:
    with pytest.raises(BadRecords, match="the plot 'swin': no row of 'Swin' has a published number and ours"):
        data()


def test_a_column_without_ours_is_told_with_those_that_have_them() -> None:
    with pytest.raises(BadRecords, match=r"'top-1' is no column with ours beside it; those are Params \(M\), "):
        data(spec=SPEC.model_copy(update={"column": "top-1"}))


def test_a_table_that_the_suite_does_not_have_is_told() -> None:
    spec = SPEC.model_copy(update={"table": "Swan"})
    with pytest.raises(BadRecords, match="the plot 'swin': 'Swan' is no table of published numbers of imagenet"):
        chart_of(spec, read_suite("imagenet"), [], installed())
