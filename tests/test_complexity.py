"""The lectures' table of complexity: every cell measured, and marked where it is not what was declared."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from zoo import formats, published
from zoo.case import Case
from zoo.complexity import complexity_table
from zoo.errors import BadRecords
from zoo.expansion import Choice, expand
from zoo.record import CaseRecord, MachineRecord, Value
from zoo.registry import Registry, installed
from zoo.report import Report
from zoo.rows import rows_of
from zoo.runner import run
from zoo.schema import ComplexityTable, LayerRow
from zoo.store import Results
from zoo.suite import read_suite
from zoo.tables import Table

SPEC = ComplexityTable(
    kind="complexity", title="T", layers=[LayerRow(layer="self_attention", published="Self-Attention")]
)
MACHINE = MachineRecord("xeon", {"cpu": "Xeon", "cores": 2})
SIZES, WIDTHS = (64, 144, 256, 400), (32, 64, 96)


def static(model: str, n: int, width: int, **values: int) -> CaseRecord:
    case = Case(model, f"{n}tok", options={"width": width}).for_phase("static")
    return CaseRecord(case, {}, {name: Value(value=value) for name, value in values.items()})


def timed(model: str, n: int, seconds: float, batch_size: int = 1) -> CaseRecord:
    case = Case(model, f"{n}tok", batch_size=batch_size).for_phase("speed")
    value = Value(value=seconds, unit="s", interval=(0.99 * seconds, 1.01 * seconds))
    return CaseRecord(case, {}, {"latency": value}, environment=MACHINE.id)


def attention(macs: int = 0, chain: int = 7) -> list[CaseRecord]:
    """Return counts of attention, 4 n d^2 + 2 n^2 d, with so many more, and a chain that is as long at all sizes."""
    points = itertools.product(SIZES, WIDTHS)
    return [
        static("self_attention", n, d, macs=4 * n * d * d + 2 * n * n * d + macs * n, sequential_operations=chain,
               path_length=chain)
        for n, d in points
    ]  # fmt: skip


def make(records: list[CaseRecord], spec: ComplexityTable = SPEC, registry: Registry | None = None) -> Table:
    found = rows_of(Results(tuple(records), {MACHINE.id: MACHINE}))
    return complexity_table(spec, found, registry or installed())


def cells(table: Table) -> dict[str, str]:
    return {c.name: cell.full for c, cell in zip(table.columns, table.rows[0], strict=True)}


def test_what_is_counted_and_traced_stands_beside_what_was_published() -> None:
    table = make(attention())
    found = cells(table)
    assert found["complexity"] == found["complexity_measured"] == "O(n² d)"
    assert found["macs"] == "4 n d² + 2 n² d"
    assert found["sequential"] == found["sequential_measured"] == "O(1)"
    assert found["path"] == found["path_measured"] == "O(1)"
    assert any("Vaswani et al. 2017 Table 1" in line for line in table.footer)


def test_the_published_cells_are_quoted() -> None:
    table = make(attention())
    quoted = {c.name: cell.axis for c, cell in zip(table.columns, table.rows[0], strict=True) if cell.quoted}
    assert quoted == {"complexity": "O(n^2 * d)", "sequential": "O(1)", "path": "O(1)"}


def lecture() -> Table:
    """Return the suite's table with one count of each layer, which is enough for what is declared and quoted."""
    (spec,) = read_suite("complexity").suite.tables
    assert isinstance(spec, ComplexityTable)
    return make([static(row.layer, 64, 32, macs=1) for row in spec.layers], spec)


def test_every_cell_of_the_lecture_is_quoted_as_published() -> None:
    """Vaswani et al. (2017), Table 1: four layer types by three columns."""
    wanted = sorted((p.variant, p.metric, p.value) for p in published.read() if p.task == "asymptotics")
    table = lecture()
    places = {column.name: n for n, column in enumerate(table.columns)}
    columns = {
        "complexity": "complexity per layer",
        "sequential": "sequential operations",
        "path": "maximum path length",
    }
    (spec,) = read_suite("complexity").suite.tables
    assert isinstance(spec, ComplexityTable)
    found = sorted(
        (row.published, metric, line[places[name]].axis)
        for row, line in zip(spec.layers, table.rows, strict=True)
        for name, metric in columns.items()
        if line[places[name]].quoted
    )
    assert found == wanted
    assert len(wanted) == 12


@pytest.mark.parametrize(
    ("form", "cell"),
    [("terminal", "“O(n² d)”"), ("markdown", "| *O(n² d)* |"), ("html", "<i>O(n² d)</i>"), ("csv", ",O(n^2 * d),"),
     ("latex", r"\textit{O(n$^2$ d)}")],
)  # fmt: skip
def test_the_table_is_printed_in_every_format_with_its_quoted_cells(form: formats.Format, cell: str) -> None:
    assert cell in formats.render(lecture(), form)


def test_a_coefficient_that_is_not_the_declared_one_is_marked() -> None:
    table = make(attention(macs=5))
    assert cells(table)["macs"] == "4 n d² + 2 n² d + 5 n ≠ [1]"
    assert table.notes[0] == "declared: 4 n d² + 2 n² d"


def test_a_chain_that_grows_where_none_was_declared_is_marked() -> None:
    records = [
        static("self_attention", n, 32, sequential_operations=3 * n + 3, path_length=7)
        for n in (16, 36, 64, 100, 144, 256)
    ]
    table = make(records)
    assert cells(table)["sequential_measured"] == "O(n) ≠ [1]"
    assert table.notes[0] == "sequential operations: measured O(n), published O(1)"


def test_a_time_has_its_exponent_at_the_largest_size_with_its_interval() -> None:
    """At n^2 alone the exponent is 2."""
    sizes = (256, 576, 1024, 2304, 4096, 8192)
    records = [static("self_attention", n, 256, macs=4 * n * 256**2 + 2 * n * n * 256) for n in sizes]
    records += [timed("self_attention", n, 1e-9 * n * n * (1 + 0.001 * (-1) ** i)) for i, n in enumerate(sizes)]
    table = make(records)
    cell = next(cell for c, cell in zip(table.columns, table.rows[0], strict=True) if c.name == "latency_exponent")
    assert cell.entry
    assert cell.entry.value.value == pytest.approx(2.0, abs=0.02)
    assert cell.entry.value.interval
    assert "at n = 8192" in next(c.head for c in table.columns if c.name == "latency_exponent")


def test_an_exponent_at_a_smaller_size_than_the_others_says_so_and_two_options_are_refused() -> None:
    spec = ComplexityTable(kind="complexity", title="T", layers=[LayerRow(layer=x) for x in ("rnn", "self_attention")])
    sizes = (256, 576, 1024, 2304, 4096)
    records = [timed("rnn", n, 1e-6 * n) for n in sizes] + [timed("self_attention", n, 1e-6 * n) for n in sizes[:-1]]
    assert "at n = 2304, the largest that has a value" in make(records, spec).notes
    narrow = timed("rnn", 256, 1e-5)
    records.append(replace(narrow, case=replace(narrow.case, options={"width": 64})))
    with pytest.raises(BadRecords, match="latency of rnn at n = 256 is of two options: its defaults and"):
        make(records, spec)


def test_times_of_two_batches_are_not_told_in_one_column() -> None:
    records = [timed("self_attention", n, 1e-9 * n * n, batch) for n in (256, 1024) for batch in (1, 8)]
    with pytest.raises(BadRecords, match="the table 'T' would mix batch_size: 1, 8; keep such records in folders"):
        make(records)


def test_a_layer_that_is_registered_no_longer_is_a_row_that_says_so() -> None:
    known = installed()
    less = replace(known, layers={k: v for k, v in known.layers.items() if k != "self_attention"})
    table = make(attention(), registry=less)
    assert table.notes == ("self_attention: no plugin that is loaded has a layer of this name",)
    assert len(table.rows[0]) == len(table.columns)


def test_a_table_of_layers_without_records_is_told() -> None:
    with pytest.raises(BadRecords, match="the table 'T': no record is of one of its layers: self_attention"):
        make([static("rnn", 64, 32, macs=1)])


# -- the suite itself ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Return the table of the suite, all its counts and depths taken anew."""
    out = tmp_path_factory.mktemp("runs")
    metrics = ("macs", "flops_fft", "sequential_operations", "path_length")
    outcome = run("complexity", metrics=metrics, out=out)
    made = Report(read_suite("complexity"), outcome.folder)
    assert not made.problems
    return made.tables[0][1]


@pytest.mark.slow
def test_every_coefficient_is_recovered_and_every_depth_is_the_declared_one(table: Table) -> None:
    names = [column.name for column in table.columns]
    for row in table.rows:
        found = dict(zip(names, row, strict=True))
        assert "≠" not in " ".join(cell.full for cell in row), row
        for what in ("complexity_measured", "macs", "sequential_measured", "path_measured"):
            assert found[what].text != "–", (found["layer"].text, what)
    assert len(table.rows) == 10


@pytest.mark.slow
def test_the_four_rows_of_the_lecture_are_measured_as_it_has_them(table: Table) -> None:
    names = [column.name for column in table.columns]
    found = {row[0].text: dict(zip(names, (cell.text for cell in row), strict=True)) for row in table.rows}
    lecture = {  # Vaswani et al. (2017), Table 1, with O() as it is printed here
        "Self-attention": ("O(n² d)", "O(1)", "O(1)"),
        "Recurrent": ("O(n d²)", "O(n)", "O(n)"),
        "Convolutional": ("O(n d² k)", "O(1)", "O(logₖ n)"),
        "Self-attention (restricted)": ("O(n d r)", "O(1)", "O(n/r)"),
    }
    measured = ("complexity_measured", "sequential_measured", "path_measured")
    assert {name: tuple(found[name][m] for m in measured) for name in lecture} == lecture


def test_the_suite_expands_to_legal_cases_alone(tmp_path: Path) -> None:
    items = expand(read_suite("complexity"), installed(), Choice())
    assert len(items) > 400
    assert not [item.illegal for item in items if item.illegal]
