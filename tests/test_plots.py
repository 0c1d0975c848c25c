"""Facts about plots: which lines and marks are drawn, where axes and labels lie, what is refused, and the files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from zoo.case import Case
from zoo.errors import BadRecords
from zoo.labels import spread
from zoo.plots import TICK_GAP, plot, save, x_axis, y_axis
from zoo.record import CaseRecord, MachineRecord, Value
from zoo.rows import rows_of
from zoo.schema import PlotSpec
from zoo.store import Results
from zoo.style import SHAPES, Axis, log_ticks, places_of

XEON = MachineRecord("xeon-2core", {"cpu": "Xeon 8259CL", "cores": 2})
OOM = Value("oom", reason="needs 9 GiB", detail={"predicted": True})


def seconds(value: float, interval: tuple[float, float] | None = None) -> Value:
    return Value(value=value, unit="s", interval=interval)


def timed(model: str, size: str, value: Value, metric: str = "latency", **axes: Any) -> CaseRecord:
    case = Case(model, size, **axes).for_phase("speed")
    return CaseRecord(case, {"plugin": axes.get("dtype", "a")}, {metric: value}, environment=XEON.id)


def drawn(*records: CaseRecord, y: str = "latency", **where: Any) -> dict[str, Any]:
    """Return the chart as Vega-Lite data."""
    spec = PlotSpec(name="p", title="T", y=y, where=where)
    chart: dict[str, Any] = plot(spec, rows_of(Results(records, {XEON.id: XEON}))).to_dict()
    return chart


def layers(chart: dict[str, Any], mark: str) -> list[dict[str, Any]]:
    return [layer for layer in chart["layer"] if layer["mark"]["type"] == mark]


def data(layer: dict[str, Any]) -> list[tuple[int, float]]:
    return [(point["x"], point["y"]) for point in layer["data"]["values"]]


def test_each_model_is_one_line_in_the_unit_of_the_axis() -> None:
    b = [timed("b", size, seconds(value)) for size, value in (("384px", 0.03), ("224px", 0.01))]
    chart = drawn(*b, timed("a", "224px", seconds(0.02)))
    assert [data(line) for line in layers(chart, "line")] == [[(224, pytest.approx(20))], [(224, 10), (384, 30)]]
    assert chart["layer"][0]["encoding"]["y"]["title"] == "Latency (ms)"
    assert chart["layer"][0]["encoding"]["x"]["title"] == "Resolution (pixels)"


def test_both_axes_are_logarithmic_with_ticks_at_the_sizes() -> None:
    encoding = drawn(*(timed("a", f"{s}tok", seconds(s / 1e3)) for s in (128, 256, 512)))["layer"][0]["encoding"]
    assert (encoding["x"]["scale"]["type"], encoding["y"]["scale"]["type"]) == ("log", "log")
    assert encoding["x"]["axis"]["values"] == [128, 256, 512]
    assert encoding["x"]["title"] == "Sequence length (tokens)"


def test_what_failed_is_a_hollow_triangle_at_the_top_with_its_status() -> None:
    chart = drawn(timed("a", "224px", seconds(0.01)), timed("a", "384px", OOM), timed("b", "384px", OOM))
    triangles = [layer for layer in layers(chart, "point") if layer["mark"]["shape"] == "triangle-up"]
    marks = [layer for layer in triangles if "tooltip" in layer["encoding"]]  # without b's name at the right
    assert [layer["mark"]["filled"] for layer in marks] == [False, False]
    assert [layer["encoding"]["y"]["value"] for layer in marks] == [9, 9 + 13]  # one below the other
    assert [layer["data"]["values"][0]["shown"] for layer in marks] == ["OOM (predicted)"] * 2
    assert "hollow triangle: no value (OOM (predicted))" in chart["title"]["subtitle"]


def test_a_size_that_a_model_cannot_take_has_no_mark() -> None:
    illegal = Value("unsupported", reason="not a multiple of 16")
    chart = drawn(timed("a", "224px", seconds(0.01)), timed("a", "225px", illegal))
    assert all("triangle" not in layer["mark"]["shape"] for layer in layers(chart, "point"))


def test_an_interval_is_a_bar() -> None:
    chart = drawn(timed("a", "224px", seconds(0.01, (0.009, 0.011))), timed("a", "384px", seconds(0.02)))
    assert layers(chart, "rule")[0]["data"]["values"][0]["high"] == pytest.approx(11)
    assert "bars: 95 % interval of the median within one process" in chart["title"]["subtitle"]


def test_another_axis_that_varies_is_named_beside_the_line() -> None:
    records = [timed("a", "224px", seconds(b / 100), batch_size=b) for b in (1, 8)]
    texts = [layer["data"]["values"][0]["name"] for layer in layers(drawn(*records), "text")]
    assert texts == ["a, batch_size 1", "a, batch_size 8"]


def test_the_subtitle_says_what_all_lines_share() -> None:
    subtitle = drawn(timed("a", "224px", seconds(0.01), threads=2))["title"]["subtitle"]
    assert subtitle == ["batch_size 1 · dtype float32 · device cpu · mode inference · threads 2 · xeon-2core"]


def test_a_model_keeps_its_colour_from_plot_to_plot() -> None:
    records = [timed(m, "224px", seconds(0.01)) for m in "abc"]
    colours = [layers(drawn(*records, model=which), "line")[-1]["mark"]["color"] for which in ("*", "c")]
    assert colours[0] == colours[1]


def test_two_models_of_one_plot_never_share_a_colour_while_seven_suffice() -> None:
    models = [f"m{n}" for n in range(9)]  # m0 and m7 have one place in a palette of seven
    assert places_of(["m0", "m6"], models) == {"m0": 0, "m6": 6}
    assert places_of(["m0", "m7"], models) == {"m0": 0, "m7": 1}


def test_lines_of_one_colour_differ_in_shape() -> None:
    records = [timed(f"m{n}", "224px", seconds(0.01)) for n in range(8)]
    lines = [layer["mark"] for layer in layers(drawn(*records), "point")[:8]]
    assert lines[0]["color"] == lines[7]["color"]
    assert (lines[0]["shape"], lines[7]["shape"]) == (SHAPES[0], SHAPES[1])


def test_what_the_counts_of_a_line_leave_out_is_said() -> None:
    ops = [
        {"name": n, "calls": 1, "elements": 9, "material": m} for n, m in (("aten::fft", True), ("aten::add", False))
    ]
    counts = timed("f", "224px", Value(value=5, detail={"uncounted": ops}), "macs")
    assert "not counted for f: aten::fft" in drawn(counts, y="macs")["title"]["subtitle"]


# -- axes and labels -----------------------------------------------------------------------------------------


def test_sizes_too_close_to_print_share_a_label_but_the_ends_have_theirs() -> None:
    axis = x_axis(range(128, 4097, 128))
    assert (axis.ticks[0], axis.ticks[-1]) == (128, 4096)
    assert min(axis.pixel(b) - axis.pixel(a) for a, b in itertools.pairwise(axis.ticks)) >= TICK_GAP


def test_the_top_of_the_y_axis_is_free_for_what_failed() -> None:
    axis = y_axis([1.0, 100.0], reserved=40)
    assert axis.length - axis.pixel(100.0) >= 40
    assert Axis(1, 100, (), 300).pixel(10) == pytest.approx(150)  # half of two decades


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.9, 12, (1, 1.5, 2, 3, 4, 5, 6, 8, 10)),
        (0.8, 120, (1, 2, 5, 10, 20, 50, 100)),
        (0.05, 11_000, (0.1, 1, 10, 100, 1000, 10_000)),
        (21.7, 28.9, (22, 23, 24, 25, 26, 27, 28)),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert log_ticks(low, high, most=9) == ticks


def test_labels_keep_their_distance_and_order() -> None:
    # 100 and 104 are pushed 15 apart around their middle, 102; 200 stays.
    assert spread([200, 104, 100], 15) == [200, 109.5, 94.5]


# -- refusals ------------------------------------------------------------------------------------------------


def test_pixels_and_tokens_on_one_axis_are_refused() -> None:
    with pytest.raises(BadRecords, match=r"sizes in px \(a\) and tok \(b\) have no x axis in common"):
        drawn(timed("a", "224px", seconds(1)), timed("b", "512tok", seconds(1)))


def test_a_size_of_two_numbers_is_refused() -> None:
    with pytest.raises(BadRecords, match="a 800x1066px xeon-2core has the size 800x1066px, which is not one number"):
        drawn(timed("a", "800x1066px", seconds(1)))


def test_two_conventions_on_one_axis_are_refused() -> None:
    counts = [timed(m, "224px", Value(value=5, convention=c), "macs") for m, c in (("a", "MAC"), ("b", "FMA"))]
    with pytest.raises(BadRecords, match=r"macs would mix conventions: 'MAC' .* 'FMA'"):
        drawn(*counts, y="macs")


def test_zero_on_a_log_axis_is_refused() -> None:
    with pytest.raises(BadRecords, match="uncounted_ops of a 224px xeon-2core is 0, which a log axis cannot show"):
        drawn(timed("a", "224px", Value(value=0), "uncounted_ops"), y="uncounted_ops")


def test_a_plot_without_any_value_is_refused() -> None:
    with pytest.raises(BadRecords, match=r"no latency was measured \(status: oom\)"):
        drawn(timed("a", "224px", OOM))


def test_an_x_other_than_size_is_refused() -> None:
    with pytest.raises(BadRecords, match="x is 'batch_size'; only 'size' can be drawn along x"):
        plot(PlotSpec(name="p", title="T", y="latency", x="batch_size"), [])


# -- files ---------------------------------------------------------------------------------------------------


def test_a_chart_is_saved_as_svg_and_png(tmp_path: Path) -> None:
    records = (timed("a", "224px", seconds(0.01)), timed("a", "384px", seconds(0.03)))
    chart = plot(PlotSpec(name="p", title="T", y="latency"), rows_of(Results(records, {XEON.id: XEON})))
    svg, png = save(chart, tmp_path / "new" / "v1.0")
    assert (svg.name, png.name) == ("v1.0.svg", "v1.0.png")
    assert "Resolution (pixels)" in svg.read_text(encoding="utf-8")
    assert ">384<" in svg.read_text(encoding="utf-8")
    assert png.read_bytes().startswith(b"\x89PNG")
