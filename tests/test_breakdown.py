"""A profile as people read it: units, tables, what is said below them, and the picture."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from PIL import Image

import zoo
from zoo.breakdown import by_module, by_operator, icicle, memory_text, notes, quantity, save, seconds_text, table
from zoo.cli import main, read_bytes, read_ceilings
from zoo.errors import ZooError


def run(*arguments):
    return CliRunner().invoke(main, ["profile", *arguments])


@pytest.fixture(scope="module")
def vit():
    return zoo.profile("vit_nano").to_json()


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0, "0"), (999, "999"), (17_563_830_784, "17.56 G"), (2.036e16, "20.36 P")]
)
def test_numbers_have_four_digits_and_a_prefix(value, text):
    assert quantity(value) == text


def test_bytes_and_seconds_have_the_unit_that_suits_them():
    assert [memory_text(n) for n in (None, 512, 2048, 3 * 2**30)] == ["–", "512 B", "2 KiB", "3 GiB"]
    assert [seconds_text(s) for s in (2.5, 0.0012, 3e-6)] == ["2.5 s", "1.2 ms", "3 µs"]


def test_a_table_has_one_line_a_model_and_no_empty_column(vit):
    head, line = table([vit])
    assert head == ("Model", "Size", "Params", "MACs", "Backward MACs", "Activations", "Peak memory", "Training peak")
    assert line[:4] == ("vit_nano", "32px", "208.1 k", "15.14 M")


def test_a_table_in_another_convention_says_so(vit):
    head, line = table([vit], "fvcore")
    assert head[3] == "MACs (fvcore)"
    assert line[3] == quantity(vit["conventions"]["fvcore"])
    assert any(note.startswith("fvcore: what fvcore") for note in notes([vit], "fvcore"))


def test_what_is_not_counted_is_marked_and_named(vit):
    op = {"name": "mine.attend", "calls": 2, "elements": 5, "material": True}
    odd = {**vit, "uncounted": [op], "uncounted_at_most": None}
    assert table([odd])[1][3].endswith(" *")
    assert any("mine.attend x2" in note for note in notes([odd]))


def test_what_could_not_be_had_is_said_once_with_its_reason():
    data = zoo.profile("faster_rcnn_nano").to_json()
    told = [note for note in notes([data]) if "proposals depend" in note]
    assert len(told) == 1
    assert "–" not in table([data])[1][2]


def test_operators_and_modules_add_up(vit):
    operators, modules = by_operator(vit), by_module(vit)
    assert operators[0] == ("Operator", "MACs", "share")
    assert operators[1][0] == "aten.addmm"
    assert modules[1][:2] == ("vit_nano", "VisionTransformer")
    assert [row[0] for row in modules[2:]] == ["  patch_embed", "  blocks", "  norm", "  head"]


def test_the_picture_has_a_box_for_each_module_with_a_share(tmp_path):
    found = zoo.profile("vit_nano")
    chart = icicle(found.tree, "vit_nano", "at 32px")
    boxes = chart.to_dict()["data"]["values"] if "values" in chart.to_dict().get("data", {}) else None
    boxes = boxes or chart.to_dict()["layer"][0]["data"]["values"]
    whole = boxes[0]
    assert (whole["start"], whole["end"], whole["share"]) == (0.0, 1.0, "100.0%")
    assert {box["module"] for box in boxes} >= {"patch_embed", "blocks", "blocks.0", "blocks.0.attn"}
    save(chart, tmp_path / "vit.png")
    with Image.open(tmp_path / "vit.png") as image:
        assert image.width > 1000
    with pytest.raises(ZooError, match=r"expected a name that ends in \.svg"):
        save(chart, tmp_path / "vit.bmp")


def test_a_picture_of_nothing_is_refused():
    with pytest.raises(ZooError, match="no MACs to draw"):
        icicle(zoo.profile("fourier", 16, width=8).tree, "fourier")


# -- the command ---------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_operators_and_modules():
    result = run("mixer_nano")
    assert result.exit_code == 0
    assert "MACs" in result.output
    assert "aten.addmm" in result.output
    assert "counts of one sample (float32, batch 1)" in result.output


def test_several_models_by_glob_code_and_layer_in_one_table():
    result = run("mixer_n*", "torchvision.models:resnet18", "--size", "64", "--quick", "--json")
    assert [row["model"] for row in json.loads(result.output)] == ["mixer_nano", "torchvision.models:resnet18"]


def test_one_that_fails_is_told_and_the_others_are_there():
    result = run("vit_nano", "mixer_nano", "--set", "mlp_ratio=3", "--quick")
    assert result.exit_code in (0, 1)
    assert "nano" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("vit_nona",), "did you mean"),
        (("vit_nano", "--size", "33"), "33px"),
        (("vit_nano", "--convention", "macs"), "expected one of mac, flop"),
        (("vit_nano", "--set", "num_classes=1,2"), "one value"),
        (("vit_nano", "--ceilings", "fast"), "172e9,12.5e9"),
        (("vit_nano", "--memory", "lots"), "16GiB"),
        (("detr_nano", "--images", "nowhere"), "expected a folder of images"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(arguments, said):
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


def test_a_machine_and_its_memory():
    result = run("mixer_nano", "--ceilings", "172e9,12.5e9", "--memory", "8MiB")
    assert "fused bound" in result.output
    assert "largest batch" in result.output


@pytest.mark.parametrize(
    ("text", "expected"), [("16GiB", 16 * 2**30), ("500MB", 500_000_000), ("1.5k", 1500), ("64", 64), (None, None)]
)
def test_bytes_as_people_write_them(text, expected):
    assert read_bytes(text) == expected


def test_ceilings_are_two_numbers():
    found = read_ceilings("172e9, 12.5e9")
    assert found is not None
    assert (found.flops, found.bandwidth) == (172e9, 12.5e9)
    with pytest.raises(ZooError):
        read_ceilings("172e9,0")


def test_over_images(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    result = run("detr_nano", "--images", str(tmp_path), "--convention", "detr2020")
    assert result.exit_code == 0
    assert "mean (detr2020)" in result.output
