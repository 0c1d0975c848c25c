"""Facts about tables: what stands in a row, what may share a column, how a number reads, what is refused."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zoo import formats, tables
from zoo.case import Case
from zoo.errors import BadRecords
from zoo.formats import render
from zoo.plan import Known
from zoo.record import CaseRecord, MachineRecord, Value
from zoo.rows import Row, load_records, rows_of
from zoo.schema import TableSpec
from zoo.store import Results, line_of
from zoo.tables import make_table
from zoo.units import common_scale, interval_text, number_text, value_text

ENVIRONMENT = {"cpu": "Xeon 8259CL", "cores": 2, "memory": 8 * 2**30, "torch": "2.12.0", "timm": "1.0.22"}
XEON = MachineRecord("xeon-2core", ENVIRONMENT)
H200 = MachineRecord("h200", {**ENVIRONMENT, "gpu": "H200"})
COUNTED = "1 multiply-accumulate = 1 MAC"


def static(model: str, size: str = "224px", macs: int = 4_600_000_000, **kw: Any) -> CaseRecord:
    values = {"params": Value(value=22_050_664), "macs": Value(value=macs, convention=kw.pop("convention", COUNTED))}
    return record(Case(model, size, **kw).for_phase("static"), values, machine=None)


def timed(model: str, size: str = "224px", machine: MachineRecord = XEON, plugin: str = "a", **kw: Any) -> CaseRecord:
    value = kw.pop("value", Value(value=0.0123, unit="s", interval=(0.0121, 0.0125), n=30))
    return record(Case(model, size, **kw).for_phase("speed"), {"latency": value}, machine, plugin)


def record(
    case: Case, values: dict[str, Value], machine: MachineRecord | None = XEON, plugin: str = "a", day: int = 1
) -> CaseRecord:
    fingerprint = {"plugin": plugin, "torch": "2.12.0"}
    environment = machine.id if machine else ""
    return CaseRecord(case, fingerprint, values, environment=environment, time=f"2026-01-{day:02}T00:00:00+00:00")


def results(*records: CaseRecord) -> Results:
    return Results(records, {m.id: m for m in (XEON, H200)})


def table(*records: CaseRecord, columns: str = "model size params macs latency", **where: Any) -> list[dict[str, str]]:
    """Return the printed cells by column head."""
    made = make_table(TableSpec(title="T", columns=columns.split(), where=where), rows_of(results(*records)))
    return [{c.head: cell.full for c, cell in zip(made.columns, row, strict=True)} for row in made.rows]


def printed(*records: CaseRecord, columns: str = "model size params macs latency", **where: Any) -> str:
    spec = TableSpec(title="T", columns=columns.split(), where=where)
    return render(make_table(spec, rows_of(results(*records)), "cost"))


def only(*records: CaseRecord) -> Row:
    (row,) = rows_of(results(*records))
    return row


# -- what was timed beside a baseline ------------------------------------------------------------------------


def beside(model: str, ratio: float, verdict: str, **conditions: float) -> CaseRecord:
    """Return the record of a case that was timed beside another, in eight sets of processes."""
    half = 0.01 * ratio
    detail = {"verdict": verdict, "processes": 8}
    value = Value(value=ratio, interval=(ratio - half, ratio + half), convention="beside the baseline", detail=detail)
    latency = Value(value=0.1 * ratio, unit="s", interval=(0.09 * ratio, 0.11 * ratio), n=99, detail={"processes": 8})
    made = timed(model)
    return replace(made, metrics={"latency": latency, "latency_ratio": value}, conditions=conditions)


def test_a_ratio_is_printed_with_its_verdict_and_what_the_baseline_differs_from_itself() -> None:
    found = [beside("vit_s16", 1.002, "baseline", noise=0.012), beside("swin_t", 1.5, "slower", noise=0.012)]
    text = printed(*found, columns="model latency latency_ratio")
    assert "1.002 ± 0.010 baseline" in text
    assert "slower" in text
    assert "Latency ratio: to the group's baseline, side by side" in text
    assert "Latency: 95 % interval of the mean over fresh processes (8), n = 99." in text
    assert "A case that is called in turn with itself differs by at most 1.2%." in text
    assert "other processes" not in text


def test_a_number_that_others_disturbed_says_so() -> None:
    text = printed(beside("vit_s16", 1.0, "baseline", others=1.24, steal=0.051), columns="model latency")
    assert "Timed while other processes kept up to 1.2 cores busy: vit_s16 224px xeon-2core." in text
    assert "Timed while the host took up to 5% of the cores' time: vit_s16 224px xeon-2core." in text


def test_a_column_of_times_with_and_without_a_baseline_says_what_both_intervals_are() -> None:
    alone = timed("vit_b16")
    text = printed(alone, beside("vit_s16", 1.0, "baseline"), columns="model latency")
    words = "of the median within one process, or of the mean over fresh processes where there is a baseline"
    assert words in " ".join(text.split())


def test_csv_tells_the_verdict_among_the_notes() -> None:
    spec = TableSpec(title="T", columns=["model", "latency_ratio"])
    made = make_table(spec, rows_of(results(beside("swin_t", 1.5, "slower"))))
    assert "latency_ratio: slower" in render(made, "csv")


# -- rows ----------------------------------------------------------------------------------------------------


def test_a_table_may_tell_macs_as_a_paper_counted_them():
    kept = static("detr_r50", convention="mac", macs=86_200_000_000)
    kept.metrics["macs"].detail["conventions"] = {"mac": 86_200_000_000, "detr2020": 87_500_000_000}
    spec = TableSpec(title="T", columns=["model", "macs"], convention="detr2020")
    text = render(make_table(spec, rows_of(results(kept))))
    assert "FLOPs, detr2020 (G)" in text
    assert "87.5" in text
    assert "as DETR's authors counted" in text


def test_a_convention_that_was_not_kept_is_refused():
    spec = TableSpec(title="T", columns=["model", "macs"], convention="fvcore")
    with pytest.raises(BadRecords, match="without the convention fvcore"):
        make_table(spec, rows_of(results(static("vit_s16", convention="mac"))))


@pytest.mark.parametrize(("at_most", "marked"), [(0.002, False), (0.02, True), (None, True)])
def test_a_number_is_marked_whose_uncounted_part_may_be_more_than_a_hundredth(at_most, marked):
    kept = static("odd", convention="mac")
    op = {"name": "aten.sort", "calls": 1, "elements": 10, "material": True}
    kept.metrics["macs"].detail.update(uncounted=[op], uncounted_at_most=at_most)
    made = make_table(TableSpec(title="T", columns=["model", "macs"]), rows_of(results(kept)))
    assert any("aten.sort" in text for text in made.notes) == marked


def test_counts_and_times_of_one_case_are_one_row() -> None:
    row = only(static("vit_s16"), timed("vit_s16"))
    assert row.machine == "xeon-2core"
    assert sorted(row.values) == ["latency", "macs", "params"]


def test_static_counts_join_the_rows_of_every_machine() -> None:
    found = rows_of(results(static("vit_s16"), timed("vit_s16"), timed("vit_s16", machine=H200, device="cuda")))
    assert [(row.machine, "macs" in row.values) for row in found] == [("xeon-2core", True), ("h200", True)]


def test_every_seed_of_a_trained_model_has_its_cost() -> None:
    case = Case("vit_nano", "32px", task="digits", recipe="short")
    trained = [record(Case(**{**vars(case), "seed": s}), {"top1": Value(value=0.9, n=360)}) for s in (0, 1)]
    found = rows_of(results(timed("vit_nano", "32px"), *trained))
    assert [(row.case.seed, sorted(row.values)) for row in found] == [
        (0, ["latency", "top1"]),
        (1, ["latency", "top1"]),
    ]


def test_the_newest_value_of_each_metric_wins_and_no_other_is_lost() -> None:
    case = Case("vit_s16", "224px")
    old = record(case, {"latency": Value(value=1.0, unit="s"), "peak_memory": Value(value=5, unit="B")})
    row = only(old, record(case, {"latency": Value(value=2.0, unit="s")}, day=2))
    assert {name: entry.value.value for name, entry in row.values.items()} == {"latency": 2.0, "peak_memory": 5}


def test_a_value_of_another_plugin_source_is_stale() -> None:
    case = Case("vit_s16", "224px")
    old = record(case, {"peak_memory": Value(value=5, unit="B")}, plugin="old")
    new = record(case, {"latency": Value(value=2.0, unit="s")}, plugin="new", day=2)
    assert {name: e.stale for name, e in only(old, new).values.items()} == {"peak_memory": True, "latency": False}


def test_layers_that_options_name_have_sources_of_their_own() -> None:
    def mixing(layer: str, plugin: str, size: str, day: int) -> CaseRecord:
        case = Case("metaformer_nano", size, options={"mixer": layer})
        return record(case, {"latency": Value(value=1.0, unit="s")}, plugin=plugin, day=day)

    def stale(*records: CaseRecord) -> list[bool]:
        return [row.values["latency"].stale for row in rows_of(results(*records))]

    fourier = mixing("fourier", "a-b-fourier", "16tok", 1)
    assert stale(fourier, mixing("favor", "a-b-favor", "16tok", 2)) == [False, False]
    assert stale(fourier, mixing("fourier", "a-b-other", "32tok", 2)) == [True, False]
    assert stale(fourier, mixing("favor", "c-b-favor", "16tok", 2)) == [True, False]


def test_a_stale_size_is_marked_among_fresh_ones() -> None:
    text = printed(
        timed("vit_s16", plugin="old"), record(Case("vit_s16", "384px"), timed("x").metrics, plugin="new", day=2)
    )
    assert "12.3 ± 0.2†" in text
    assert "† taken with an earlier source" in text


# -- columns and rows of a table -----------------------------------------------------------------------------


def test_a_row_holds_axes_and_metrics_in_the_order_asked_for() -> None:
    assert table(static("vit_s16"), timed("vit_s16")) == [
        {"Model": "vit_s16", "Size": "224px", "Params (M)": "22.1", "MACs (G)": "4.60", "Latency (ms)": "12.3 ± 0.2"}
    ]


def test_a_never_measured_metric_is_a_dash_and_a_row_without_any_is_left_out() -> None:
    records = [static("vit_s16"), static("swin_t"), timed("vit_s16")]
    assert [row["Latency (ms)"] for row in table(*records)] == ["12.3 ± 0.2", "–"]
    assert [row["Model"] for row in table(*records, columns="model latency")] == ["vit_s16"]


def test_where_takes_globs_lists_and_bare_sizes() -> None:
    records = [timed(model, size) for model in ("vit_s16", "swin_t") for size in ("224px", "384px", "512px")]
    shown = table(*records, columns="model size latency", model="vit*", size=[224, "384px"])
    assert [(row["Model"], row["Size"]) for row in shown] == [("vit_s16", "224px"), ("vit_s16", "384px")]


def test_sizes_sort_by_number() -> None:
    records = [timed("vit_s16", size) for size in ("1024px", "224px", "96px")]
    assert [row["Size"] for row in table(*records, columns="model size latency")] == ["96px", "224px", "1024px"]


def test_axes_that_vary_become_columns_after_the_axes() -> None:
    records = [timed("vit_s16", batch_size=b, dtype=d) for b, d in ((1, "float32"), (8, "bfloat16"))]
    assert list(table(*records, columns="model latency")[0]) == ["Model", "Batch size", "Dtype", "Latency (ms)"]


def test_machines_become_a_column() -> None:
    shown = table(timed("vit_s16"), timed("vit_s16", machine=H200), columns="model latency")
    assert [row["Machine"] for row in shown] == ["h200", "xeon-2core"]


def test_an_option_that_varies_becomes_a_column() -> None:
    shown = table(timed("vit_s16"), timed("vit_s16", options={"heads": 4}), columns="model latency")
    assert [row["heads"] for row in shown] == ["default", "4"]


# The records' print of the plugin is "a".
KNOWN = {"a": Known({"heads": 8, "mixer": "window"}, "a"), "b": Known({}, "a"), "older": Known({"heads": 8}, "c")}


def of_known_models(*records: CaseRecord, **where: Any) -> list[tuple[str, ...]]:
    """Return model, heads and mixer of the rows of models whose options are known."""
    spec = TableSpec(title="T", columns=["model", "heads", "mixer", "params"], where=where)
    made = make_table(spec, rows_of(results(*records), KNOWN.get))
    return [tuple(cell.text for cell in row[:3]) for row in made.rows]


def test_an_option_left_alone_is_told_by_its_default_where_the_model_is_known() -> None:
    every = [static("a", options={"heads": 4}), static("a"), static("a", options={"mixer": "axial"})]
    # Numbers go by value; of names the default is first.
    assert of_known_models(*every) == [("a", "4", "window"), ("a", "8", "window"), ("a", "8", "axial")]
    assert of_known_models(*every, heads="default", mixer="default") == [("a", "8", "window")]
    assert of_known_models(*every, heads=8) == [("a", "8", "window"), ("a", "8", "axial")]


def test_an_option_that_a_model_does_not_have_is_no_default() -> None:
    every = [static("a", options={"heads": 4, "mixer": "axial"}), static("b"), static("gone")]
    assert of_known_models(*every) == [("a", "4", "axial"), ("b", "–", "–"), ("gone", "default", "default")]
    assert of_known_models(*every, heads="default") == [("gone", "default", "default")]


def test_a_default_that_may_have_changed_since_is_not_told() -> None:
    every = [static("older"), static("older", options={"heads": 4})]
    assert [row[1] for row in of_known_models(*every)] == ["default", "4"]


def test_a_model_that_only_was_counted_adds_no_column() -> None:
    assert "Device" not in table(static("vit_s16"), timed("vit_s16", threads=2), static("swin_t"))[0]


def test_a_table_of_counts_has_one_row_for_all_machines_and_seeds() -> None:
    seeds = [record(Case("vit_s16", "224px", task="digits", seed=s), {"top1": Value(value=0.5)}) for s in (0, 1)]
    records = [static("vit_s16"), *seeds, timed("vit_s16", machine=H200)]
    assert len(rows_of(results(*records))) == 3
    assert table(*records, columns="model macs") == [{"Model": "vit_s16", "MACs (G)": "4.60"}]


def test_the_footer_says_what_holds_for_all_rows() -> None:
    text = printed(static("vit_s16"), timed("vit_s16", threads=2))
    assert f"MACs: {COUNTED}." in text
    assert "All rows: batch_size 1, dtype float32, device cpu, mode inference, threads 2." in text
    assert "Machine xeon-2core: Xeon 8259CL, 2 cores, 8.00 GiB memory; torch 2.12.0, timm 1.0.22." in text
    assert "Latency: 95 % interval of the median within one process, n = 30." in text
    assert "Newest record: 2026-01-01." in text
    assert "Made by: zoo table cost" in text


def test_an_interval_is_called_wilson_only_when_it_is() -> None:
    # 324 of 360 = 0.9. Wilson, z = 1.96: centre (0.9 + 3.8415/720) / (1 + 3.8415/360) = 0.89578,
    # half width 1.96 sqrt(0.09 / 360 + 3.8415 / (4 * 360^2)) / 1.01067 = 0.03111.
    wilson, other = (0.86467, 0.92689), (0.85, 0.95)
    for interval, words in ((wilson, "95 % Wilson interval, n = 360"), (other, "95 % interval, n = 360")):
        trained = record(Case("v", "32px", task="digits"), {"top1": Value(value=0.9, interval=interval, n=360)})
        assert f"top1: {words}." in printed(trained, columns="model top1")


# -- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (86.567, "86.6"),
        (17.56, "17.56"),
        (4.6, "4.60"),
        (632.04, "632"),
        (12345.6, "12346"),
        (0.0825, "0.0825"),
        (0, "0"),
    ],
)
def test_a_number_has_three_digits_or_four_after_a_one(number: float, text: str) -> None:
    assert number_text(number) == text


@pytest.mark.parametrize(
    ("x", "low", "high", "text"),
    [
        (12.3, 12.1, 12.5, "12.3 ± 0.2"),  # half width 0.2: one decimal
        (12.3, 12.1, 12.9, "12.3 [12.1, 12.9]"),  # 0.2 down, 0.6 up
        (12.34, 12.22, 12.46, "12.34 ± 0.12"),  # 0.12 begins with a 1: two digits
        (93.5, 91.0, 95.2, "93.5 [91.0, 95.2]"),
        (12345.0, 11667.0, 13023.0, "12300 ± 700"),  # 678 reads 700 in hundreds
        (12.345, 12.3449, 12.3451, "12.35 ± 0.01"),  # narrower than the last of four digits
        (99.9, 99.9, 99.9, "99.90 ± 0.01"),
        (0.0, 0.0, 1.06, "0.00 [0.00, 1.06]"),
    ],
)
def test_an_interval_decides_the_digits(x: float, low: float, high: float, text: str) -> None:
    shown, _ = interval_text(x, low, high)
    assert shown == text


def test_an_interval_that_was_widened_to_the_last_digit_is_said_to_be() -> None:
    tight = Value(value=0.012345, unit="s", interval=(0.0123449, 0.0123451), n=9)
    assert "narrower than the last digit" in printed(timed("vit_s16", value=tight))
    assert "narrower than the last digit" not in printed(timed("vit_s16"))


def test_a_column_has_one_unit() -> None:
    # 5 MiB = 5 242 880 B, 3 GiB = 3072 MiB; the lower median is 5 MiB.
    values = [Value(value=n, unit="B") for n in (5 * 2**20, 3 * 2**30)]
    scale = common_scale("peak_memory", values)
    assert scale is not None
    assert scale.label == "MiB"
    assert [value_text(v, scale, ())[0] for v in values] == ["5.00", "3072"]


def test_values_far_apart_keep_units_of_their_own() -> None:
    records = [static("a", macs=2_500), static("b", macs=17_560_000_000)]
    assert [row["MACs"] for row in table(*records, columns="model macs")] == ["2.50 k", "17.56 G"]


def test_small_counts_are_exact() -> None:
    assert table(static("a", macs=1234), columns="model macs") == [{"Model": "a", "MACs": "1234"}]


def test_fractions_read_as_percent() -> None:
    trained = record(Case("v", "32px", task="digits"), {"top1": Value(value=0.935, interval=(0.91, 0.952), n=360)})
    assert table(trained, columns="model top1") == [{"Model": "v", "top1 (%)": "93.5 [91.0, 95.2]"}]


# -- what has no number --------------------------------------------------------------------------------------


def test_each_failure_has_its_word_and_its_reason_once() -> None:
    failed = [
        timed("a", value=Value("oom", reason="needs 9 GiB", detail={"predicted": True})),
        timed("b", value=Value("oom", reason="needs 9 GiB")),
        timed("c", value=Value("timeout", reason="took 300 s")),
        timed("d", value=Value("unsupported", reason="not a multiple of 16")),
    ]
    made = make_table(TableSpec(title="T", columns=["model", "latency"]), rows_of(results(*failed)))
    assert [row[1].full for row in made.rows] == ["OOM (predicted) [1]", "OOM [1]", "time-out [2]", "unsupported [3]"]
    assert made.notes == ("needs 9 GiB", "took 300 s", "not a multiple of 16")


def test_what_a_count_leaves_out_is_a_footnote() -> None:
    ops = [
        {"name": "aten::fft_fft2", "calls": 12, "elements": 1_200_000, "material": True},
        {"name": "aten::add", "calls": 3, "elements": 9, "material": False},
    ]
    macs = Value(value=10**10, convention=COUNTED, detail={"uncounted": ops})
    text = printed(record(Case("f", "224px").for_phase("static"), {"macs": macs}, machine=None), columns="model macs")
    assert "10.00 [1]" in text
    assert "[1] not counted: aten::fft_fft2 (12 calls, 1.200 M elements)" in text


@pytest.mark.parametrize(
    ("device", "detail", "note"),
    [
        ("cuda", {"launch_bound": True}, "launch-bound: the host takes as long to queue a call"),
        ("cpu", {"launch_bound": True}, "launch-bound: a call with a batch of none takes half of the time"),
        ("cuda", {"conditions": {"foreign": 1}}, "another process computed on the GPU meanwhile"),
        ("cuda", {"conditions": {"foreign": 3}}, "3 other processes computed on the GPU meanwhile"),
        ("cuda", {"conditions": {"foreign": 0, "sm_clock": None}}, None),
        ("cuda", {"conditions": {"foreign": None}}, None),
    ],
)
def test_what_a_time_was_taken_under_is_a_footnote(device: str, detail: dict[str, Any], note: str | None) -> None:
    value = Value(value=0.01, unit="s", detail=detail)
    made = make_table(
        TableSpec(title="T", columns=["model", "latency"]), rows_of(results(timed("m", device=device, value=value)))
    )
    assert [text.startswith(note or "") for text in made.notes] == ([True] if note else [])


def test_what_some_models_lack_is_not_said_of_all_rows() -> None:
    spec = TableSpec(title="T", columns=["model", "params"])
    records = (static("a", options={"heads": 4}), static("b"))
    made = make_table(spec, rows_of(results(*records), KNOWN.get))
    assert not any("heads 4" in line for line in made.footer)


def test_a_small_peak_says_that_it_may_be_too_low() -> None:
    def said(size: int, convention: str = "VmHWM") -> bool:
        value = Value(value=size, unit="B", convention=convention)
        one = record(Case("m", "224px", device="cpu"), {"peak_memory": value})
        return "may be up to 0.34 MiB higher" in printed(one, columns="model peak_memory")

    assert said(2**20)
    assert not said(2**26)
    assert not said(2**20, "cuda allocator")


def test_what_a_gpu_told_of_its_clock_and_its_memory_stands_below_the_table() -> None:
    def seen(clocks: list[int], *reasons: str) -> dict[str, Any]:
        return {"conditions": {"sm_clock": clocks, "full_clock": 1980, "reasons": [*reasons], "foreign": 0}}

    fast = Value(value=0.01, unit="s", detail=seen([1900, 1980]))
    capped = Value(value=0.02, unit="s", detail={**seen([1500, 1755], "power cap"), "discarded": {"requests": 2}})
    peaks = [
        Value(value=n, unit="B", convention="cuda allocator", detail={"predicted": p, "workspaces": 32 << 20})
        for n, p in (((32 << 20) + 10**9, 98 * 10**7), ((32 << 20) + 2 * 10**9, 202 * 10**7), (10**8, 10**6))
    ]
    records = [timed(name, device="cuda", value=value) for name, value in (("a", fast), ("b", capped))]
    records += [record(Case(f"m{n}", "224px", device="cuda"), {"peak_memory": v}) for n, v in enumerate(peaks)]
    text = printed(*records, columns="model latency peak_memory")
    assert "GPU clock: 1500 to 1980 MHz, of at most 1980." in text
    assert "GPU clock held down by power cap: b 224px xeon-2core." in text
    assert "Requests for samples that were thrown away and made again: 2." in text
    assert "Predicted peaks: 0.980 to 1.010 times the 2 above 500 MB, less cuBLAS's workspaces." in text


def test_a_value_of_other_library_versions_is_a_footnote() -> None:
    older = MachineRecord("xeon-2core", {**ENVIRONMENT, "torch": "2.11.0"})
    records = (timed("a", machine=older), record(Case("b", "224px"), timed("b").metrics, day=2))
    made = make_table(
        TableSpec(title="T", columns=["model", "latency"]), rows_of(Results(records, {m.id: m for m in (XEON, older)}))
    )
    assert made.notes == ("measured with torch 2.11.0 (newest value: 2.12.0)",)


# -- refusals ------------------------------------------------------------------------------------------------


def test_two_conventions_in_one_column_are_refused() -> None:
    with pytest.raises(
        BadRecords, match=r"macs would mix conventions: '1 multiply.*' \(a 224px\) and 'FMA = 2' \(b 224px\)"
    ):
        table(static("a"), static("b", convention="FMA = 2"))


def test_two_units_in_one_column_are_refused() -> None:
    with pytest.raises(BadRecords, match=r"latency would mix units: 's' .* and 'ms' "):
        table(timed("a"), timed("b", value=Value(value=3, unit="ms")))


def test_two_machines_of_one_name_are_refused() -> None:
    twin = MachineRecord("xeon-2core", {**ENVIRONMENT, "cpu": "Xeon 6130"})
    found = rows_of(Results((timed("a"), timed("b", machine=twin)), {m.id: m for m in (XEON, twin)}))
    with pytest.raises(
        BadRecords, match=r"two machines go by the name xeon-2core: cpu is 'Xeon 8259CL' .* 'Xeon 6130'"
    ):
        make_table(TableSpec(title="T", columns=["model", "latency"]), found)


def test_an_unknown_axis_a_condition_without_rows_and_an_absent_metric_are_refused() -> None:
    with pytest.raises(BadRecords, match="'sise' is no axis of these records; their axes: model, size"):
        table(timed("a"), sise=224)
    with pytest.raises(BadRecords, match="none of the 1 rows of these records fits where: size=96"):
        table(timed("a"), size=96)
    with pytest.raises(BadRecords, match="no record has any of top1"):
        table(timed("a"), columns="model top1")


# -- printing ------------------------------------------------------------------------------------------------


def test_markup_and_control_characters_print_as_they_stand() -> None:
    text = printed(timed("a", options={"x": "[red]\x1b[31m:smile:"}), columns="model x latency")
    assert "[red][31m:smile:" in text
    assert "\x1b" not in text


def test_a_narrow_terminal_folds_at_spaces_and_cuts_nothing() -> None:
    made = make_table(
        TableSpec(title="T", columns=["model", "latency"]), rows_of(results(timed("a_long_name_of_a_model")))
    )
    text = render(made, width=20)
    assert "a_long_name_of_a_model" in text
    assert "…" not in text


def test_markdown_escapes_pipes() -> None:
    made = make_table(
        TableSpec(title="T", columns=["model", "x", "latency"]),
        rows_of(results(timed("vit_s16", options={"x": "a|b"}))),
    )
    text = render(made, "markdown")
    assert "| Model | x | Latency (ms) |\n| :--- | :--- | ---: |\n| vit_s16 | a\\|b | 12.3 ± 0.2 |\n" in text


def test_csv_holds_raw_numbers_with_units_in_the_heads() -> None:
    failed = timed("b", value=Value("oom", reason="needs 9 GiB"))
    made = make_table(TableSpec(title="T", columns=["model", "latency"]), rows_of(results(timed("a"), failed)))
    first, second = csv.DictReader(io.StringIO(render(made, "csv")))
    assert first == {
        "model": "a",
        "latency_s": "0.0123",
        "latency_low_s": "0.0121",
        "latency_high_s": "0.0125",
        "latency_status": "ok",
        "latency_n": "30",
        "notes": "",
    }
    assert (second["latency_s"], second["latency_status"], second["notes"]) == ("", "oom", "latency: needs 9 GiB")


def test_records_load_as_a_data_frame(tmp_path: Any) -> None:
    (tmp_path / "static.jsonl").write_bytes(line_of(static("a")) + line_of(static("b")))
    (tmp_path / "xeon-2core").mkdir()
    failed = timed("b", value=Value("oom", reason="needs 9 GiB"))
    (tmp_path / "xeon-2core" / "records.jsonl").write_bytes(line_of(XEON) + line_of(timed("a")) + line_of(failed))
    frame = load_records(tmp_path)
    assert frame["model"].tolist() == ["a", "b"]
    assert frame["latency"].tolist()[0] == 0.0123
    assert frame["latency_low"].tolist()[0] == 0.0121
    assert frame["latency_status"].tolist() == ["ok", "oom"]
    assert frame["status"].tolist() == ["ok", "oom"]
    assert frame["macs"].tolist() == [4_600_000_000] * 2
    assert frame["machine"].tolist() == ["xeon-2core"] * 2


def test_a_size_that_pads_or_rebuilds_says_so_under_the_table():
    value = Value(value=7_345_000_000, convention="mac", detail={"size": "feature maps are padded to the window"})
    padded = record(Case("swin_t", "256px").for_phase("static"), {"macs": value}, machine=None)
    assert "feature maps are padded to the window" in printed(padded, columns="model size macs")


@pytest.mark.parametrize(("size", "said"), [("48px", True), ("32px", False)])
def test_a_run_says_what_another_size_changes(suite_file, zoo, size, said):
    suite = f"""
        schema: 1
        groups:
          - models: [swin_nano, mixer_nano]
            axes: {{size: [{size}]}}
            metrics: [params, macs]
        tables:
          - {{title: Static, columns: [model, size, params, macs]}}
        """
    done = zoo("run", str(suite_file(suite)))
    assert ("feature maps are padded" in done.stdout) == said, done.stdout + done.stderr
    assert ("token-mixing MLPs are as wide as the patches" in done.stdout) == said


def test_latex_and_html_escape_what_plugins_name(tmp_path: Path) -> None:
    made = tables.Table(
        "50 % of <script>alert(1)</script> & co_",
        (tables.Column("model", "Model", False), tables.Column("latency", "Latency (µs)", True, "s")),
        ((tables.Cell("{x}_1^2~\\#$"), tables.Cell("1.0 ± 0.2 [1]")),),
        ("a < b",),
        ("Made by: zoo table x",),
    )
    page = formats.document([render(made, "html")], "html")
    assert "<script>" not in page
    assert "50 % of &lt;script&gt;alert(1)&lt;/script&gt; &amp; co_" in page
    assert '<td class="number">1.0 ± 0.2 [1]</td>' in page
    assert "<p>[1] a &lt; b</p>" in page
    paper = formats.document([render(made, "latex")], "latex")
    assert r"50 \% of $<$script$>$alert(1)$<$/script$>$ \& co\_" in paper
    assert r"\{x\}\_1\textasciicircum{}2\textasciitilde{}\textbackslash{}\#\$ & 1.0 $\pm$ 0.2 [1] \\" in paper
    assert r"\begin{tabular}{lr}" in paper
    assert paper.startswith(r"\documentclass")
    assert paper.isascii()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_as_it_is(tmp_path: Path) -> None:
    every = "".join(map(chr, range(32, 127))) + "µ±–†×…²−"
    made = tables.Table(every, (tables.Column("model", "Model", False),), ((tables.Cell(every),),), (every,), (every,))
    (tmp_path / "t.tex").write_text(formats.document([render(made, "latex")] * 2, "latex"))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:].decode(errors="replace")
    assert (tmp_path / "t.pdf").stat().st_size > 1000
