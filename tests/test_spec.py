"""Specs: sizes, rules and options as a plugin author and a user meet them."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo import jsonio
from zoo.case import Case
from zoo.errors import BadSize, BadSpec
from zoo.recipe import Recipe
from zoo.spec import (
    CASE_AXES,
    InputSpec,
    Metric,
    ModelSpec,
    Size,
    SizeRule,
    WeightSpec,
    image_classifier,
    import_string,
    resolve,
)
from zoo.task import TaskSpec


@pytest.mark.parametrize(
    ("text", "values", "native"),
    [
        ("224px", (224,), 224),
        ("224x224px", (224,), 224),
        ("800x1066px", (800, 1066), (800, 1066)),
        ("512tok", (512,), 512),
        ("512+512tok", (512, 512), (512, 512)),
    ],
)
def test_size_is_read_and_written(text, values, native):
    size = Size.parse(text)
    assert (size.values, size.native) == (values, native)
    assert Size.parse(str(size)) == size


def test_bare_number_takes_the_axis():
    assert str(Size.parse(224, "px")) == "224px"
    assert str(Size.parse("512", "tok")) == "512tok"


@pytest.mark.parametrize(
    "text", ["", "px", "224", "0px", "224x224tok", "512+512px", "-3px", "224 pixels", "1e3px", "True"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(BadSize):
        Size.parse(text)


@pytest.mark.parametrize(
    ("rule", "size", "reason"),
    [
        (
            SizeRule("224px", 16),
            "225px",
            "expected a multiple of 16, at least 16px; nearest legal size: 224px or 240px",
        ),
        (SizeRule("224px", 32, min=64), "16px", "nearest legal size: 64px"),
        (SizeRule("128tok", max=512), "513tok", "expected from 1 to 512tok; nearest legal size: 512tok"),
        (SizeRule("224px", 16), "512tok", "512tok is a sequence length; expected a resolution such as 224px"),
    ],
)
def test_illegal_size_names_the_nearest_legal_ones(rule, size, reason):
    with pytest.raises(BadSize) as caught:
        rule.check(Size.parse(size), {})
    assert reason in str(caught.value)


@pytest.mark.parametrize("step", [0, -4, True])
def test_multiples_of_nothing_are_refused(step):
    with pytest.raises(BadSpec, match="expected a whole number >= 1"):
        SizeRule("32px", step)


def test_no_option_may_be_called_like_an_axis():
    assert {f.name for f in dataclasses.fields(Case)} | {"machine"} == set(CASE_AXES)


def test_step_may_be_an_option():
    rule = SizeRule("32px", "patch_size")
    rule.check(Size.parse("36px"), {"patch_size": 4})
    with pytest.raises(BadSize, match="a multiple of 8"):
        rule.check(Size.parse("36px"), {"patch_size": 8})


@given(st.integers(1, 3000), st.integers(1, 64), st.integers(1, 200), st.one_of(st.none(), st.integers(200, 2000)))
def test_nearest_sizes_are_legal(value, step, low, high):
    rule = SizeRule("1px", step, low, high)
    for near in rule.nearest(value, step):
        rule.check(Size((near,), "px"), {})


def build(size, num_classes=10, width=64, ratio=4.0, name="x"):
    """Stand in for a model."""


def test_smallest_spec_grows_its_defaults():
    spec = ModelSpec("tiny_conv", build=build, **image_classifier(default=32, multiple_of=4))
    assert spec.build == f"{__name__}:build"
    assert resolve(str(spec.build)) is build
    assert spec.knobs == {"num_classes": 10, "width": 64, "ratio": 4.0, "name": "x"}
    assert spec.sizes.default == "32px"
    assert spec.input.make == "zoo.data:make_images"
    assert spec.family == "tiny_conv"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "<script>"}, "is not a model name"),
        ({"api": 2}, "was written for api 2; this is api 1"),
        ({"build": "no colon"}, "is not an import string"),
        ({"build": lambda size: None}, "has no importable name"),
        ({"sizes": SizeRule("512tok")}, "is not a resolution"),
        ({"options": {"seed": 1}}, "may not be called 'seed', which is an axis of every case"),
        ({"options": {"dims": (1, 2)}}, "expected a plain value"),
        ({"options": {"ratio": float("nan")}}, "expected a plain value"),
        ({"published": "ViT"}, "expected .system, variant, ..."),
        ({"sizes": SizeRule("32px", "patch")}, "multiples of the option 'patch', which it does not have"),
    ],
)
def test_spec_that_breaks_the_contract_is_refused(change, message):
    arguments = {"name": "mine", "build": build, **image_classifier(default=32), **change}
    with pytest.raises(BadSpec, match=message):
        ModelSpec(**arguments)


def test_option_without_default_is_refused():
    def no_default(size, width):
        """Stand in for a model."""

    no_default.__qualname__ = "no_default"
    with pytest.raises(BadSpec, match="'width' of no_default needs a default"):
        ModelSpec("mine", build=no_default, **image_classifier(default=32))


def test_unknown_option_is_named_with_those_there_are():
    spec = ModelSpec("mine", build=build, **image_classifier(default=32))
    with pytest.raises(BadSpec, match="model mine has no option 'depth'; its options: name, num_classes, ratio, width"):
        spec.with_options({"depth": 2})


def test_import_string_of_a_method_resolves():
    assert resolve(import_string(Size.parse)).__func__ is Size.parse.__func__


names = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True).filter(lambda name: name not in CASE_AXES)
codes = st.from_regex(r"[a-z]{1,8}\.[a-z]{1,8}:[a-z]{1,8}", fullmatch=True)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(-1e9, 1e9), st.text(max_size=8))
options = st.dictionaries(names, scalars, max_size=4)
weights = st.builds(WeightSpec, id=names, key=names, convert=st.one_of(st.just(""), codes), preprocess=options)
models = st.builds(
    ModelSpec,
    name=names,
    build=codes,
    input=st.builds(
        InputSpec, st.just("image"), st.just("resolution"), tokens=st.one_of(st.just(""), codes), params=options
    ),
    sizes=st.builds(
        SizeRule,
        st.just("32px"),
        st.sampled_from([1, 2, 8, 32]),
        st.integers(1, 32),
        st.one_of(st.none(), st.integers(64)),
    ),
    options=options,
    adapters=st.dictionaries(names, codes, max_size=2),
    closed_form=st.one_of(st.just(""), codes),
    weights=st.lists(weights, max_size=2).map(tuple),
    published=st.one_of(st.just(()), st.tuples(names, names, names)),
    notes=st.text(max_size=20),
)
tasks = st.builds(
    TaskSpec,
    name=names,
    kind=names,
    data=codes,
    evaluate=codes,
    metrics=st.lists(st.builds(Metric, names, higher_is_better=st.booleans()), min_size=1, max_size=2).map(tuple),
    recipes=st.lists(
        st.builds(Recipe, names, st.integers(1, 100), st.integers(1, 8), st.floats(1e-6, 1)), min_size=1, max_size=2
    ).map(tuple),
    model_options=options,
)


@given(st.one_of(models, tasks))
def test_specs_survive_a_json_round_trip(spec):
    text = json.dumps(jsonio.to_json(spec), allow_nan=False)
    assert jsonio.from_json(type(spec), json.loads(text)) == spec


@pytest.mark.parametrize("sizes", [SizeRule("33px", 4), SizeRule("64px", 4, max=40)])
def test_a_default_size_that_breaks_its_own_rule_is_refused(sizes):
    with pytest.raises(BadSpec, match=r"its default size breaks its own rule: .* nearest legal size"):
        ModelSpec("odd", "odd:build", InputSpec("image", "resolution"), sizes)


def test_what_inputs_are_made_of_may_be_an_option():
    tokens = InputSpec("tokens", "sequence_length", params={"vocab_size": "words", "pad": 0})
    spec = ModelSpec("text", "text:build", tokens, SizeRule("8tok"), options={"words": 100, "pad": 7})
    assert spec.input_params({}) == {"vocab_size": 100, "pad": 0}
    assert spec.input_params({"words": 7}) == {"vocab_size": 7, "pad": 0}
