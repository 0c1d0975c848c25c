"""Facts about Pareto plots, breakdowns, rooflines and learning curves: what they draw, say and refuse."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import bars, labels, store
from zoo.case import Case
from zoo.errors import BadRecords, BadSuite
from zoo.labels import Box
from zoo.plots import plot, save
from zoo.record import CaseRecord, MachineRecord, Value
from zoo.report import Report
from zoo.rows import rows_of
from zoo.schema import BreakdownSpec, LearningSpec, ParetoSpec, Picture, PlotSpec, RooflineSpec
from zoo.store import Results
from zoo.style import folded
from zoo.suite import parse_suite, read_suite

XEON = MachineRecord("xeon-2core", {"cpu": "Xeon", "cores": 2})
EPYC = MachineRecord("epyc-2core", {"cpu": "EPYC", "cores": 2})
MACHINES = {m.id: m for m in (XEON, EPYC)}
OOM = Value("oom", reason="needs 9 GiB", detail={"predicted": True})


def record(
    model: str, values: dict[str, Value], size: str = "32px", machine: MachineRecord = XEON, **axes: Any
) -> CaseRecord:
    fingerprint = {"plugin": axes.pop("plugin", "a")}
    time = axes.pop("time", "")
    return CaseRecord(Case(model, size, **axes), fingerprint, values, environment=machine.id, time=time)


def trained(model: str, macs: int | None, top1: float | None, size: str = "32px", **axes: Any) -> CaseRecord:
    """Return a row with a cost and an accuracy of 0.01 more or less."""
    values = {}
    if macs is not None:
        values["macs"] = Value(value=macs, convention="mac")
    if top1 is not None:
        values["top1"] = Value(value=top1, interval=(top1 - 0.01, top1 + 0.01))
    return record(model, values, size, task="digits", **axes)


def timed(model: str, seconds: float, memory: int) -> CaseRecord:
    values = {"latency": Value(value=seconds, unit="s"), "peak_memory": Value(value=memory, unit="B")}
    return record(model, values, device="cpu")


def drawn(spec: Picture, *records: CaseRecord) -> dict[str, Any]:
    """Return the chart as Vega-Lite data."""
    chart: dict[str, Any] = plot(spec, rows_of(Results(records, MACHINES))).to_dict()
    return chart


def layers(chart: dict[str, Any], mark: str) -> list[dict[str, Any]]:
    return [layer for layer in chart["layer"] if layer["mark"]["type"] == mark]


def data(layer: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = layer["data"]["values"]
    return found


def points(chart: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the points of a scatter plot by name."""
    return {one["name"]: one for one in data(layers(chart, "point")[0])}


def names(chart: dict[str, Any]) -> list[str]:
    """Return the names beside points; each is drawn twice, on its halo."""
    return sorted({one["label"] for layer in layers(chart, "text") for one in data(layer)})


def said(chart: dict[str, Any]) -> str:
    return " / ".join(chart["title"]["subtitle"])


PARETO = ParetoSpec(name="p", title="T", x="macs", y="top1")
FOUR = (trained("a", 10**6, 0.8), trained("b", 2 * 10**6, 0.7), trained("c", 4 * 10**6, 0.9), trained("d", 10**7, 0.9))


# -- Pareto --------------------------------------------------------------------------------------------------


def test_the_front_is_filled_and_the_dominated_are_hollow() -> None:
    chart = drawn(PARETO, *FOUR)
    # a is cheapest, c is best; b costs more than a for less, d more than c for the same.
    assert {name: one["marked"] for name, one in points(chart).items()} == {
        "a": True,
        "b": False,
        "c": True,
        "d": False,
    }
    assert [layer["mark"]["filled"] for layer in layers(chart, "point")] == [False, True]
    assert "filled: on the Pareto front (less MACs and more top1) / hollow: dominated" in said(chart)


def test_the_front_is_a_step_line_that_keeps_the_best_so_far() -> None:
    (line,) = layers(drawn(PARETO, *FOUR), "line")
    assert line["mark"]["interpolate"] == "step-after"
    assert [(one["x"], one["y"]) for one in data(line)] == [(1, 80), (4, 90)]  # in millions and per cent
    more = drawn(ParetoSpec(name="p", title="T", x="throughput", y="top1"), *fast("a", 10, 0.9), *fast("b", 20, 0.8))
    assert layers(more, "line")[0]["mark"]["interpolate"] == "step-before"
    assert all(one["marked"] for one in points(more).values())


def fast(model: str, rate: float, top1: float) -> list[CaseRecord]:
    values = {"throughput": Value(value=rate, unit="1/s"), "top1": Value(value=top1)}
    return [record(model, values, task="digits", device="cpu")]


def test_costs_have_a_log_axis_and_scores_a_linear_one_in_per_cent() -> None:
    encoding = layers(drawn(PARETO, *FOUR), "point")[0]["encoding"]
    assert (encoding["x"]["scale"]["type"], encoding["x"]["title"]) == ("log", "MACs (M)")
    assert (encoding["y"]["scale"]["type"], encoding["y"]["title"]) == ("linear", "top1 (%)")
    assert max(encoding["y"]["axis"]["values"]) <= 100


def test_intervals_are_bars_on_the_axis_that_has_them() -> None:
    chart = drawn(PARETO, *FOUR)
    a = points(chart)["a"]
    assert (a["low"], a["high"]) == (pytest.approx(79), pytest.approx(81))
    assert (a["left"], a["right"]) == (None, None)
    assert "bars: 95 % intervals" in said(chart)


def test_both_lower_is_better_where_both_are_costs() -> None:
    spec = ParetoSpec(name="p", title="T", x="latency", y="peak_memory")
    chart = drawn(spec, timed("a", 0.01, 2**20), timed("b", 0.02, 2**21), timed("c", 0.03, 2**19))
    assert {name: one["marked"] for name, one in points(chart).items()} == {"a": True, "b": False, "c": True}
    assert "less latency and less peak memory" in said(chart)


def test_rows_without_one_of_the_two_are_named_with_the_reason() -> None:
    failed = record("f", {"macs": Value(value=5), "top1": OOM}, task="digits")
    chart = drawn(PARETO, *FOUR, trained("e", 10**6, None), failed)
    assert "not drawn: e 32px (no top1); f 32px (top1: OOM (predicted))" in said(chart)
    assert set(points(chart)) == set("abcd")


def test_what_varies_is_in_the_names_and_what_does_not_is_said_above() -> None:
    chart = drawn(PARETO, *(trained("a", m, t, size) for m, t, size in ((10**6, 0.8, "16px"), (10**7, 0.9, "24px"))))
    assert names(chart) == ["a 16px", "a 24px"]
    assert "task digits" in said(chart)
    chart = drawn(PARETO, trained("a", 10**6, 0.8, seed=0), trained("a", 10**6, 0.9, seed=1))
    assert names(chart) == ["a, seed 0", "a, seed 1"]


def test_machines_that_differ_are_in_the_names() -> None:
    chart = drawn(PARETO, trained("a", 10**6, 0.8), trained("a", 10**6, 0.9, machine=EPYC))
    assert names(chart) == ["a, machine epyc-2core", "a, machine xeon-2core"]


def test_a_model_has_the_colour_and_shape_of_the_suites_other_plots() -> None:
    chart = drawn(PARETO, *FOUR)
    lines = layers(drawn(PlotSpec(name="p", title="T", y="macs"), *FOUR), "point")
    looks = {data(layer)[0]["model"]: layer["mark"] for layer in lines if "model" in data(layer)[0]}
    for name, one in points(chart).items():
        assert (one["colour"], one["shape"]) == (looks[name]["color"], looks[name]["shape"])


def test_all_rows_of_a_model_have_its_colour() -> None:
    chart = drawn(PARETO, *(trained("a", 10**6 + n, 0.8, f"{16 + n}px") for n in range(3)), trained("b", 10**7, 0.9))
    assert len({(one["colour"], one["shape"]) for name, one in points(chart).items() if name.startswith("a")}) == 1


def test_a_value_of_an_earlier_source_has_a_dagger() -> None:
    old = trained("a", 10**6, 0.8, "16px", plugin="old", time="2026-01-01")
    chart = drawn(PARETO, old, trained("a", 10**7, 0.9, "24px", plugin="new", time="2026-02-01"))
    assert names(chart) == ["a 16px†", "a 24px"]
    assert "† earlier source of the plugin" in said(chart)


def test_names_that_have_no_room_are_told() -> None:
    crowd = [trained(f"model_{n:02}", 10**6 + n, 0.8 + n / 1e5) for n in range(40)]  # all in one place
    chart = drawn(PARETO, *crowd)
    assert len(points(chart)) == 40
    shown = len(names(chart))
    assert 1 < shown < 20
    assert f"and {40 - shown - 4} more" in said(chart)  # four of them by name


def test_of_a_crowd_only_the_front_has_names() -> None:
    crowd = [trained(f"m{n:02}", 10**6 * (n + 2), 0.5 - n / 1000) for n in range(60)]
    chart = drawn(PARETO, trained("best", 10**6, 0.9), *crowd)
    assert names(chart) == ["best"]
    assert "only filled points have names" in said(chart)


# -- breakdown -----------------------------------------------------------------------------------------------


BARS = BreakdownSpec(name="p", title="T")


def counted(model: str, by_op: dict[str, float], macs: float | None = None, **more: Value) -> CaseRecord:
    value = Value(value=sum(by_op.values()) if macs is None else macs, convention="mac", detail={"by_op": by_op})
    return record(model, {"macs": value, **more}, machine=MachineRecord("", {}))


def pieces(chart: dict[str, Any]) -> dict[str, list[tuple[str, float, float]]]:
    found: dict[str, list[tuple[str, float, float]]] = {}
    for one in data(layers(chart, "bar")[0]):
        found.setdefault(one["name"], []).append((one["group"], one["start"], one["end"]))
    return found


VIT = {"aten.convolution": 100e6, "aten.addmm": 700e6, "aten.mm": 100e6, "aten.bmm": 100e6}


def test_a_bar_is_stacked_from_the_shares_of_its_groups() -> None:
    chart = drawn(BARS, counted("vit", VIT), counted("cnn", {"aten.convolution": 3e9, "aten.addmm": 1e9}))
    # (700 + 100) of 1000 million are linear, 100 attention, 100 convolutions.
    assert pieces(chart)["vit"] == [
        ("Linear layers", 0, 80),
        ("Attention, batched products", 80, 90),
        ("Convolutions", 90, 100),
    ]
    assert pieces(chart)["cnn"] == [("Linear layers", 0, 25), ("Convolutions", 25, 100)]
    assert [one["text"] for one in data(layers(chart, "bar")[0])][:3] == ["80 %", "10 %", "10 %"]


def test_without_percent_bars_are_as_long_as_their_macs() -> None:
    chart = drawn(
        BreakdownSpec(name="p", title="T", percent=False), counted("vit", VIT), counted("half", {"aten.mm": 5e8})
    )
    assert pieces(chart)["vit"][-1][-1] == pytest.approx(1000)
    assert pieces(chart)["half"] == [("Linear layers", 0, pytest.approx(500))]
    assert layers(chart, "bar")[0]["encoding"]["x"]["title"] == "MACs (M)"


def test_all_macs_stand_at_the_right_of_shares() -> None:
    texts = [one["text"] for layer in layers(drawn(BARS, counted("vit", VIT)), "text") for one in data(layer)]
    assert texts[-2:] == ["1.000", "MACs (G)"]


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("aten.addmm", "Linear layers"),
        ("aten.linear", "Linear layers"),
        ("aten._int_mm", "Linear layers"),
        ("aten.bmm", "Attention, batched products"),
        ("aten.baddbmm", "Attention, batched products"),
        ("scaled_dot_product_attention", "Attention, batched products"),
        ("mine.local_attention_backward", "Attention, batched products"),
        ("mul+sum", "Attention, batched products"),
        ("torchvision.deform_conv2d", "Convolutions"),
        ("lstm", "Recurrent layers"),
        ("aten._native_multi_head_attention", "Other"),  # with its projections
        ("aten.grid_sampler_2d", "Other"),
    ],
)
def test_an_operator_belongs_to_a_group_by_its_name(operator: str, group: str) -> None:
    assert bars.group_of(operator) == group


def test_other_operators_and_what_is_no_mac_are_named() -> None:
    fft = {"flops_fft": Value(value=5e6)}
    chart = drawn(BARS, counted("a", {"aten.mm": 9e6, "mine.gate": 1e6}), counted("fnet", {"aten.mm": 1e6}, **fft))
    assert "other: mine.gate" in said(chart)
    assert "in no count of MACs: Fourier transforms of fnet" in said(chart)


def test_macs_that_no_operator_accounts_for_are_other_ones() -> None:
    chart = drawn(BARS, counted("a", {"aten.mm": 6e6}, macs=10e6))
    assert pieces(chart)["a"] == [("Linear layers", 0, 60), ("Other", 60, 100)]


def test_a_share_that_only_rounds_to_all_is_not_called_all() -> None:
    chart = drawn(BARS, counted("cnn", {"aten.convolution": 999e6, "aten.addmm": 1e6}))
    assert [one["text"] for one in data(layers(chart, "bar")[0])] == ["", "> 99 %"]


def test_rows_without_macs_or_operators_are_named() -> None:
    old = record("old", {"macs": Value(value=5)}, machine=MachineRecord("", {}))
    chart = drawn(BARS, counted("a", {"aten.mm": 6e6}), counted("fourier", {}), old)
    assert "not drawn: fourier 32px (no MACs); old 32px (kept without its operators)" in said(chart)


# -- roofline ------------------------------------------------------------------------------------------------


ROOF = RooflineSpec(name="p", title="T")
CEILINGS = {"flops": 100e9, "bandwidth": 10e9}


def bounded(model: str, flops: float, moved: float, seconds: float, **axes: Any) -> CaseRecord:
    """Return a row that took twice the time that it takes at least, give or take a tenth."""
    ceilings = axes.pop("ceilings", CEILINGS)
    detail = {"flops": flops, "bytes": moved, "seconds": seconds, "bound": seconds / 2, "ceilings": ceilings}
    value = Value(value=50.0, unit="%", interval=(45.0, 55.0), convention="fused bound", detail=detail)
    return record(model, {"percent_of_bound": value}, device="cpu", mode="inference", threads=2, **axes)


def test_a_point_lies_at_its_intensity_and_its_rate() -> None:
    point = points(drawn(ROOF, bounded("a", 8e9, 4e9, 0.5)))["a"]
    # 8 GFLOP over 4 GB are 2 FLOPs a byte; in half a second they are 16 GFLOP/s, give or take a tenth.
    assert (point["x"], point["y"]) == (2, 16)
    assert (point["low"], point["high"]) == (pytest.approx(14.4), pytest.approx(17.6))
    assert point["up"] == "16.00 (50.0 % of the bound)"


def test_the_roof_rises_with_the_copy_up_to_the_product() -> None:
    (line,) = layers(drawn(ROOF, bounded("a", 8e9, 4e9, 0.5)), "line")
    first, ridge, last = data(line)
    # 100 GFLOP/s over 10 GB/s: from 10 FLOPs a byte on arithmetic limits.
    assert (ridge["x"], ridge["y"], last["y"]) == (10, 100, 100)
    assert first["y"] / first["x"] == pytest.approx(10)


def test_the_ceilings_are_written_on_the_roof() -> None:
    assert {"100.0 GFLOP/s", "10.00 GB/s"} <= set(names(drawn(ROOF, bounded("a", 8e9, 4e9, 0.5))))


def test_each_dtype_and_machine_has_a_roof_of_its_own_with_its_name() -> None:
    half = {"flops": 200e9, "bandwidth": 10e9}
    chart = drawn(ROOF, bounded("a", 8e9, 4e9, 0.5), bounded("a", 8e9, 2e9, 0.5, dtype="bfloat16", ceilings=half))
    assert sorted((data(line)[0]["roof"], data(line)[-1]["y"]) for line in layers(chart, "line")) == [
        ("bfloat16", 200),
        ("float32", 100),
    ]
    assert {"a, dtype bfloat16", "a, dtype float32", "bfloat16: 200 GFLOP/s, 10.00 GB/s"} <= set(names(chart))


def test_one_machine_has_one_roof_the_most_that_it_reached() -> None:
    later = {"flops": 90e9, "bandwidth": 12e9}
    chart = drawn(ROOF, bounded("a", 8e9, 4e9, 0.5), bounded("b", 8e9, 4e9, 0.6, ceilings=later))
    (line,) = layers(chart, "line")
    assert (data(line)[1]["x"], data(line)[1]["y"]) == (pytest.approx(100 / 12), 100)


def test_rows_of_an_earlier_harness_are_named() -> None:
    old = Value(value=50.0, unit="%", detail={"bound": 1, "seconds": 2, "ceilings": CEILINGS})
    failed = record("f", {"percent_of_bound": OOM}, device="cpu", mode="inference", threads=2)
    rows = (bounded("a", 8e9, 4e9, 0.5), failed)
    chart = drawn(ROOF, *rows, record("old", {"mfu": old}, device="cpu", mode="inference", threads=2))
    assert "f 32px (percent_of_bound: OOM (predicted))" in said(chart)
    assert "old 32px (kept without flops and bytes)" in said(chart)


# -- learning ------------------------------------------------------------------------------------------------


LEARNING = LearningSpec(name="p", title="T")


def learned(model: str, *losses: float, task: str = "digits", **axes: Any) -> CaseRecord:
    """Return a row whose training noted a mean loss after every 10 steps."""
    curve = [[10 * (n + 1), loss] for n, loss in enumerate(losses)]
    return record(model, {"top1": Value(value=0.5, detail={"curve": curve})}, task=task, recipe="equal", **axes)


def test_a_training_is_a_line_of_its_losses_over_its_steps() -> None:
    chart = drawn(LEARNING, learned("a", 2.0, 1.0, 0.5, seed=0), learned("b", 3.0, 0.1, seed=1))
    assert [[(one["x"], one["y"]) for one in data(line)] for line in layers(chart, "line")] == [
        [(10, 2.0), (20, 1.0), (30, 0.5)],
        [(10, 3.0), (20, 0.1)],
    ]
    encoding = layers(chart, "line")[0]["encoding"]
    assert (encoding["x"]["scale"]["type"], encoding["y"]["scale"]["type"]) == ("linear", "log")
    texts = [one["name"] for layer in layers(chart, "text") for one in data(layer)]
    assert texts == ["a, seed 0", "b, seed 1"]
    assert "of the loss that the model learns by" in said(chart)
    assert "batch_size" not in said(chart)  # the cost's; the recipe has one of its own


def test_a_training_that_was_tested_several_times_is_one_line() -> None:
    failed = {"top1": Value("unsupported", reason="patches")}
    untested = record("b", failed, task="digits", recipe="equal", test_size="16px")
    rows = [learned("a", 2.0, 1.0, test_size="16px"), untested, learned("b", 3.0, 2.0, test_size="32px")]
    chart = drawn(LEARNING, *rows, learned("a", 2.0, 1.0, test_size="32px"))
    assert [one["name"] for layer in layers(chart, "text") for one in data(layer)] == ["a", "b"]
    assert "not drawn" not in said(chart)


def test_rows_without_a_curve_are_named_with_the_reason() -> None:
    bad = record("c", {"top1": Value("diverged", reason="the loss is nan at step 3")}, task="digits", recipe="equal")
    chart = drawn(LEARNING, learned("a", 2.0, 1.0), trained("b", 10**6, 0.8), bad)
    assert "not drawn: b 32px (kept without a curve); c 32px (diverged)" in said(chart)


def test_losses_of_two_tasks_have_no_axis_in_common() -> None:
    with pytest.raises(BadRecords, match="the losses of digits and listops have no axis in common"):
        drawn(LEARNING, learned("a", 2.0), learned("a", 2.0, task="listops"))


def test_a_loss_without_a_logarithm_and_no_curve_at_all_are_errors() -> None:
    with pytest.raises(BadRecords, match=r"the loss of a 32px xeon-2core is -0.5 at step 20, which has no logarithm"):
        drawn(LEARNING, learned("a", 2.0, -0.5))
    with pytest.raises(BadRecords, match=r"no row has a learning curve; not drawn: a 32px \(kept without a curve\)"):
        drawn(LEARNING, trained("a", 10**6, 0.8))
    with pytest.raises(BadRecords, match="no row has a learning curve; none has a task"):
        drawn(LEARNING, counted("a", VIT))


# -- names ---------------------------------------------------------------------------------------------------

FRAME = Box(0, 0, 400, 300)
places = st.lists(st.tuples(st.floats(10, 390), st.floats(10, 290)), max_size=20)


@settings(deadline=None)
@given(places)
def test_no_name_lies_on_another_or_on_a_mark_or_leaves_the_frame(at: list[tuple[float, float]]) -> None:
    texts = [f"model_{n}" for n in range(len(at))]
    placed = labels.place(at, texts, FRAME)
    boxes = [label.box for label in placed if label]
    assert not any(one.overlap(other) for n, one in enumerate(boxes) for other in boxes[:n])
    assert not any(box.overlap(labels.around(x, y)) for box in boxes for x, y in at)
    assert not any(box.outside(FRAME) > 1e-6 for box in boxes)
    assert placed == labels.place(at, texts, FRAME)


def test_a_lone_name_stands_at_the_right_and_at_the_edge_at_the_left() -> None:
    inside, edge = labels.place([(100, 100), (395, 200)], ["a", "b"], FRAME)
    assert inside is not None
    assert edge is not None
    assert (inside.align, edge.align) == ("left", "right")


def test_a_name_keeps_off_a_line_where_it_can() -> None:
    bar = Box(110, 90, 114, 110)  # right of the point
    (label,) = labels.place([(100, 100)], ["name"], FRAME, [bar])
    assert label is not None
    assert not label.box.overlap(bar)


def test_text_is_folded_between_its_parts() -> None:
    first, second = "x" * 50 + ",", "y" * 30 + " ·"
    assert folded(f"{first} {second} {'z' * 40}") == [first, f"{second} {'z' * 40}"]
    assert folded(" ".join(["word"] * 30)) == [" ".join(["word"] * 15)] * 2  # 149 characters on two lines


# -- refusals ------------------------------------------------------------------------------------------------


def test_an_unknown_metric_is_an_error_with_what_is_like_it() -> None:
    with pytest.raises(BadRecords, match=r"the plot 'p': there is no metric named 'macz'; did you mean macs"):
        drawn(ParetoSpec(name="p", title="T", x="macz", y="top1"), *FOUR)


def test_no_row_with_both_metrics_is_an_error_that_says_what_each_lacks() -> None:
    with pytest.raises(
        BadRecords, match=r"no row has both macs and top1; not drawn: a 32px \(no top1\); b 32px \(no macs\)"
    ):
        drawn(PARETO, trained("a", 10**6, None), trained("b", None, 0.9))


def test_zero_on_a_log_axis_is_an_error() -> None:
    with pytest.raises(BadRecords, match="macs of z 32px xeon-2core is 0, which a log axis cannot show"):
        drawn(PARETO, *FOUR, trained("z", 0, 0.5))


def test_two_conventions_on_one_axis_are_an_error() -> None:
    other = record("f", {"macs": Value(value=5, convention="flop"), "top1": Value(value=0.5)}, task="digits")
    with pytest.raises(BadRecords, match="macs would mix conventions: 'mac'"):
        drawn(PARETO, *FOUR, other)


def test_two_machines_of_one_name_are_an_error() -> None:
    twin = MachineRecord("xeon-2core", {"cpu": "Xeon", "cores": 64})
    records = [trained("a", 10**6, 0.8), trained("b", 10**6, 0.8, machine=twin)]
    with pytest.raises(BadRecords, match="two machines go by the name xeon-2core"):
        plot(PARETO, rows_of(Results(records, {XEON.id: XEON, twin.id: twin})))


def test_nothing_to_break_down_or_to_put_below_a_roof_is_an_error() -> None:
    with pytest.raises(BadRecords, match=r"no row has MACs by operator; not drawn: a 32px \(no MACs\)"):
        drawn(BARS, counted("a", {}))
    with pytest.raises(BadRecords, match=r"no row has FLOPs, bytes and a time; not drawn: a 32px"):
        drawn(ROOF, bounded("a", 8e9, 0, 0.5))
    with pytest.raises(BadRecords, match="no record has any of percent_of_bound, mfu"):
        drawn(ROOF, *FOUR)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("kind: pie", r"plots\[0\].kind: there is no such kind of plot; expected one of scaling, pareto"),
        ("kind: pareto, x: macs", r"plots\[0\].y: this key is missing"),
        ("kind: pareto, x: macs, y: macs", "x and y are both 'macs'; expected two metrics"),
        ("kind: breakdown, y: macs", r"plots\[0\].y: unknown key; expected one of kind, name, percent, title, where"),
        ("kind: breakdown, percent: 3", r"plots\[0\].percent: Input should be a valid boolean, found 3"),
    ],
)
def test_a_mistake_in_a_plot_is_told_with_line_and_key(keys: str, message: str) -> None:
    text = f"schema: 1\ngroups: [{{models: [a], metrics: [macs]}}]\nplots:\n  - {{name: p, title: T, {keys}}}\n"
    with pytest.raises(BadSuite, match=rf"mine.yaml:4: .*{message}"):
        parse_suite(text, Path("mine.yaml"))


def test_a_plot_that_says_no_kind_is_scaling() -> None:
    text = "schema: 1\ngroups: [{models: [a], metrics: [macs]}]\nplots: [{name: p, title: T, y: macs}]\n"
    (found,) = parse_suite(text, Path("mine.yaml")).suite.plots
    assert isinstance(found, PlotSpec)


# -- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "records", "text"),
    [
        (PARETO, FOUR, "top1 (%)"),
        (BARS, (counted("vit", VIT),), "Linear layers"),
        (ROOF, (bounded("a", 8e9, 4e9, 0.5),), "100.0 GFLOP/s"),
        (LEARNING, (learned("a", 2.0, 1.0),), "Training loss"),
    ],
)
def test_each_kind_is_saved_as_svg_and_png(spec: Picture, records: Any, text: str, tmp_path: Path) -> None:
    svg, png = save(plot(spec, rows_of(Results(records, MACHINES))), tmp_path / spec.name)
    assert text in svg.read_text(encoding="utf-8")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_the_pictures_of_the_lecture_are_those_of_its_records(tmp_path: Path) -> None:
    kept = Path(__file__).parents[1] / "results" / "lecture"
    made = Report(read_suite("lecture"), kept)
    for spec in made.file.suite.plots:
        svg, _ = save(plot(spec, made.rows), tmp_path / spec.name)
        assert texts_of(svg) == texts_of(kept / svg.name), spec.name


def texts_of(svg: Path) -> list[str]:
    """Return all that is written in a picture; where exactly it stands is the renderer's business."""
    return re.findall(r">([^<]+)<|aria-label=\"([^\"]+)\"", svg.read_text(encoding="utf-8"))


def test_a_plot_that_cannot_be_drawn_is_told_and_the_others_are_written(tmp_path: Path) -> None:
    folder, suite = tmp_path / "mine", tmp_path / "mine.yaml"
    suite.write_text(
        "schema: 1\ngroups: [{models: [a], metrics: [macs]}]\n"
        "plots: [{name: ok, title: T, kind: breakdown}, {name: bad, title: T, kind: pareto, x: macs, y: top1}]\n"
    )
    with store.Store(folder, "xeon-2core") as kept:
        kept.append(replace(counted("a", {"aten.mm": 6e6}), environment=""))
    made = Report(read_suite(str(suite)), folder)
    assert {path.name for path in made.write()} == {"ok.svg", "ok.png"}
    assert made.undrawn == ["the plot 'bad': no row has both macs and top1; not drawn: a 32px (no top1)"]
