"""Layers by name, for a number of tokens or a grid, with errors that say what is wrong; custom operators counted."""

import json

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo import Cost, FlopFormula, LayerSpec
from zoo.errors import BadSize, BadSpec, UnknownName
from zoo.metrics import macs
from zoo.registry import Registry, create_layer, layer_size, list_layers, using
from zoo.spec import read_layer

FILE = """
import torch
from zoo import Cost, FlopFormula, LayerSpec, ModelSpec, create_layer, hookimpl, image_classifier

@torch.library.custom_op("zoo_test_layers::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x

@double.register_fake
def _(x):
    return torch.empty_like(x)

def macs_of_double(x, out):
    return x[0] * x[1] * x[2]

class Doubled(torch.nn.Module):
    def forward(self, x):
        return double(x)

def build_layer(size, width, window=2):
    return Doubled()

class Model(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.patches, self.mix = torch.nn.Conv2d(3, 8, 4, 4), create_layer("doubled", (2, 2), 8)
        self.head = torch.nn.Linear(8, classes)

    def forward(self, images):
        return self.head(self.mix(self.patches(images).flatten(2).transpose(1, 2)).mean(1))

def build(size, num_classes=10):
    return Model(num_classes)

@hookimpl
def zoo_layers():
    yield LayerSpec("doubled", build=build_layer, grid=True, multiple_of="window", cost=Cost(mixing="1 n d"),
                    sequential="O(1)", path_length="O(1)")

@hookimpl
def zoo_flop_formulas():
    yield FlopFormula("zoo_test_layers::double", macs=macs_of_double)

@hookimpl
def zoo_models():
    yield ModelSpec("doubling", build=build, **image_classifier(32, multiple_of=4))
"""

SUITE = """
schema: 1
groups:
  - models: [doubling]
    axes: {size: [32px]}
    metrics: [macs, uncounted_ops]
"""


class Identity(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def build(size, width, window=2, heads=4):
    return Identity()


def spec(**more) -> LayerSpec:
    plain = {"cost": Cost(mixing="2 n m d"), "symbols": {"m": "window"}, "sequential": "O(1)", "path_length": "O(1)"}
    return LayerSpec("planted", build=build, **{**plain, **more})


def test_options_are_read_off_the_signature_behind_size_and_width():
    assert spec().knobs == {"window": 2, "heads": 4}


def test_letters_of_the_cost_stand_for_options():
    assert spec().values((3, 5), 8, {"window": 4}) == {"n": 15, "d": 8, "m": 4}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"symbols": {}}, "its cost has m, which symbols does not bind"),
        ({"symbols": {"m": "windows"}}, "'m' stands for 'windows'; expected an option"),
        ({"symbols": {"m": "window", "n": "heads"}}, "'n' stands for 'heads'"),
        ({"multiple_of": "size_of_window"}, "multiple_of names the option 'size_of_window'"),
        ({"heads": "head"}, "heads names the option 'head'"),
        ({"options": {"window": 0, "heads": 4}, "multiple_of": "window"}, "multiple_of is 0; expected a whole number"),
        ({"options": {"window": 2, "heads": "auto"}, "heads": "heads"}, "heads is 'auto'; expected a whole number"),
        ({"api": 0}, "written for api 0"),
        ({"options": {"dtype": 1}}, "may not be called 'dtype'"),
    ],
)
def test_a_layer_that_breaks_the_contract_is_refused(fault, message):
    with pytest.raises(BadSpec, match=message):
        spec(**fault)


def test_a_size_becomes_what_the_layer_takes():
    grid, line = spec(grid=True), spec()
    assert layer_size(line, (4, 6), line.knobs, 8) == 24
    assert layer_size(line, "24tok", line.knobs, 8) == 24
    assert layer_size(grid, 16, grid.knobs, 8) == (4, 4)
    assert layer_size(grid, (4, 6), grid.knobs, 8) == (4, 6)


@pytest.mark.parametrize(
    ("size", "width", "error", "message"),
    [
        (15, 8, BadSize, "15 tokens are no square grid"),
        ((4, 5), 8, BadSize, "multiples of 2, not 4x5; nearest: 4 or 6"),
        ((4, 4), 6, BadSpec, "cannot have 4 heads at width 6"),
    ],
)
def test_a_size_or_width_that_does_not_fit_is_told(size, width, error, message):
    planted = spec(grid=True, multiple_of="window", heads="heads")
    with pytest.raises(error, match=message):
        layer_size(planted, size, planted.knobs, width)


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("sasa", "sasa", {}),
        ("sasa:kernel_size=5+heads=4", "sasa", {"kernel_size": 5, "heads": 4}),
        ("favor:kernel=relu+causal=true+eps=0.5", "favor", {"kernel": "relu", "causal": True, "eps": 0.5}),
    ],
)
def test_a_layer_with_options_is_read(text, name, options):
    assert read_layer(text) == (name, options)


def test_an_option_without_value_is_told():
    with pytest.raises(BadSpec, match=r"'kernel_size' in 'sasa:kernel_size' is no option"):
        read_layer("sasa:kernel_size")


def test_a_layer_of_a_single_file_is_built_by_name(tmp_path):
    path = tmp_path / "layers.py"
    path.write_text(FILE)
    with using(Registry.load([str(path)])):
        assert "doubled" in list_layers("dou*")
        assert create_layer("doubled", (2, 4), 8)(torch.ones(1, 8, 8)).sum() == 128
        with pytest.raises(UnknownName, match="did you mean doubled"):
            create_layer("dubled", 4, 8)
        with pytest.raises(BadSpec, match="layer doubled has no option 'heads'"):
            create_layer("doubled", 4, 8, heads=2)
    assert "doubled" not in list_layers()


def test_workers_know_the_layers_and_operators_of_a_single_file(tmp_path, zoo, suite_file):
    path = tmp_path / "layers.py"
    path.write_text(FILE)
    suite = suite_file(SUITE)
    done = zoo("run", str(suite), "--plugin", str(path))
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "runs" / "mine" / "static.jsonl").read_text().splitlines()[-1])
    # 64 patches of 4 x 4 x 3 to 8 channels, doubled, and 8 x 10 for the classes
    assert record["metrics"]["macs"]["value"] == 64 * 48 * 8 + 64 * 8 + 80
    assert record["metrics"]["uncounted_ops"]["value"] == 0
    checked = zoo("check", "doubl*", "--plugin", str(path))
    assert "doubled  cost         passed" in checked.stdout, checked.stdout


def test_an_operator_without_formula_is_named(tmp_path):
    @torch.library.custom_op("zoo_test_layers::triple", mutates_args=())
    def triple(x: Tensor) -> Tensor:
        return 3 * x

    class Tripled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return triple(x)

    assert [op.name for op in macs.count(Tripled(), (torch.ones(2, 3),)).uncounted] == ["zoo_test_layers.triple"]
    counted = macs.count(Tripled(), (torch.ones(2, 3),), custom={"zoo_test_layers::triple": f"{__name__}:six"})
    assert (counted.macs, counted.uncounted) == (6, ())


def six(x, out):
    assert x == out == (2, 3)
    return 6


@pytest.mark.parametrize("op", ["aten::mm", "mine", "mine.op"])
def test_a_formula_is_for_an_operator_of_ones_own(op):
    with pytest.raises(BadSpec):
        FlopFormula(op, macs=six)


def test_layers_are_listed_and_shown(tmp_path, zoo):
    path = tmp_path / "layers.py"
    path.write_text(FILE)
    listed = json.loads(zoo("list", "doubled", "--kind", "layer", "--json", "--plugin", str(path)).stdout)
    assert listed[0]["kind"] == "layer"
    assert "path_length: O(1)" in zoo("show", "doubled", "--plugin", str(path)).stdout


def test_public_names_reach_layers():
    assert zoo.create_layer is create_layer
    assert zoo.list_layers is list_layers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("self_atention", "there is no layer named 'self_atention'; did you mean self_attention"),
        ("self_attention:window=3", "layer self_attention has no option 'window'; its options: heads"),
        ("self_attention:heads=x", "'x' does not fit the option heads of layer self_attention"),
    ],
)
def test_a_suite_that_names_a_layer_that_will_not_do_is_told(zoo, suite_file, text, message):
    suite = f"""
        schema: 1
        groups:
          - models: [metaformer_nano]
            axes: {{mixer: ["{text}"]}}
            metrics: [params]
        """
    done = zoo("run", str(suite_file(suite)))
    assert done.returncode == 2
    assert message in done.stderr
    assert "mine.yaml:4: groups[0].axes.mixer" in done.stderr or "mine.yaml:5" in done.stderr, done.stderr


def test_an_option_that_is_given_twice_is_told():
    with pytest.raises(BadSpec, match="gives the option 'k' twice"):
        read_layer("a:k=3+k=5")


def test_options_in_a_row_with_commas_are_told():
    with pytest.raises(BadSpec, match=r"options are separated by '\+'"):
        read_layer("conv1d:kernel_size=5,heads=4")


def test_a_window_of_nothing_is_told():
    planted = spec(grid=True, multiple_of="window")
    with pytest.raises(BadSpec, match="window=0; expected a whole number"):
        layer_size(planted, (4, 4), {"window": 0, "heads": 4}, 8)
