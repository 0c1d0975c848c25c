"""Suites: every mistake is one sentence with file, line and key; every axis becomes cases."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zoo.errors import BadSuite, UnknownName, ZooError
from zoo.expansion import Choice, expand
from zoo.registry import Registry
from zoo.resources import suites
from zoo.schema import Suite
from zoo.suite import parse_suite, read_suite, with_images


@pytest.fixture(scope="module")
def registry():
    return Registry.load()


def cases(path, registry, **choice):
    return expand(read_suite(str(path)), registry, Choice(**choice))


GOOD = """\
    schema: 1
    groups:
      - models: [vit_nano, "mixer_s*"]
        axes:
          size: [32, 64px]
          batch_size: [1, 8]
        metrics: [params, macs]
"""

MISTAKES = {
    "unknown key": (
        GOOD.replace("metrics:", "metrix:"),
        7,
        "groups[0].metrix: unknown key; expected one of axes, baseline, limits",
    ),
    "unknown key at the top": ("schema: 1\ngroop: []\n", 2, "groop: unknown key; expected one of groups"),
    "missing key": ("schema: 1\n", 1, "a suite has groups, or tables of the kind published; this one has neither"),
    "wrong type": (GOOD.replace("[params, macs]", "{a: 1}"), 7, "groups[0].metrics: Input should be a valid list"),
    "wrong schema": (
        GOOD.replace("schema: 1", "schema: 2"),
        1,
        "schema: Input should be less than or equal to 1, found 2",
    ),
    "empty grid": (GOOD.replace("[1, 8]", "[]"), 4, "the axis 'batch_size' has no values"),
    "no models": (GOOD.replace('[vit_nano, "mixer_s*"]', "[]"), 3, "groups[0].models"),
    "unknown model": (
        GOOD.replace("vit_nano", "vit_nono"),
        3,
        "there is no model named 'vit_nono'; did you mean vit_nano",
    ),
    "glob without match": (GOOD.replace("mixer_s*", "mixture*"), 3, "there is no model named 'mixture*'"),
    "unknown metric": (GOOD.replace("macs", "mags"), 7, "there is no metric named 'mags'; did you mean macs"),
    "metric of a task": (GOOD.replace("macs", "top1"), 7, "top1 is a metric of the task digits"),
    "unknown task": (GOOD + "        task: digest\n", 8, "there is no task named 'digest'; did you mean digits"),
    "unknown recipe": (GOOD + "        task: digits\n        recipe: slow\n", 9, "task digits has no recipe 'slow'"),
    "unknown dtype": (
        GOOD.replace("batch_size: [1, 8]", "dtype: [fp32]"),
        6,
        "'fp32' is not a dtype; expected one of float32",
    ),
    "batch of zero": (GOOD.replace("[1, 8]", "[0]"), 6, "0 is not a batch size; expected a whole number of at least 1"),
    "not a size": (GOOD.replace("64px", "big"), 5, "'big' is not a size"),
    "size of another axis": (
        GOOD.replace("64px", "64tok"),
        5,
        "model vit_nano takes a resolution, such as 32px, not 64tok",
    ),
    "axis that a model lacks": (
        GOOD.replace("batch_size: [1, 8]", "expansion: [4]"),
        6,
        "groups[0].axes.expansion: model vit_nano lacks the axis 'expansion'; its axes: size, batch_size",
    ),
    "option of the wrong type": (
        GOOD.replace("batch_size: [1, 8]", "num_classes: [ten]"),
        6,
        "'ten' does not fit the option num_classes",
    ),
    "tab": ("schema: 1\ngroups:\n\t- models: [vit_nano]\n", 3, "a tab character; YAML is indented with spaces"),
    "not YAML": ("schema: 1\ngroups: [", 2, "not valid YAML"),
    "key twice": (GOOD + "        metrics: [params]\n", 8, "this key is given twice"),
    "a list": ("- 1\n", None, "expected a mapping"),
    "empty": ("", None, "expected a mapping"),
    "memory": (GOOD + "        limits: {memory: lots}\n", 8, "'lots' is not an amount of memory"),
    "time": (GOOD + "        limits: {time: -1}\n", 8, "groups[0].limits.time"),
    "unclosed at the end": ("schema: 1\ngroups: [\n", 3, "not valid YAML"),
    "unclosed text": ('schema: 1\ntitle: "x', 2, "not valid YAML"),
    "unknown tag": ("schema: 1\ntitle: !foo bar\n", 2, "not valid YAML"),
    "impossible date": ("schema: 1\ntitle: 2024-13-45\n", None, "not valid YAML: month must be in 1..12"),
    "date": ("schema: 1\ntitle: 2024-10-05\n", 2, "title: Input should be a valid string"),
    "key that is no text": ("schema: 1\n? [a, b]\n: 1\n", 2, "a key must be plain text"),
    "key that is a mapping": ("schema: 1\ngroups: {{ x }}\n", 2, "a key must be plain text"),
    "number as key": (GOOD + "    1: 2\n", 8, "a key must be plain text"),
    "nested too deep": ("a: " + "[" * 3000, None, "not valid YAML"),
    "list as a value": (GOOD.replace("[32, 64px]", "[[32]]"), 5, "groups[0].axes.size"),
    "empty value": (GOOD.replace("[32, 64px]", "[null]"), 5, "this axis has an empty value"),
    "true as a batch": (GOOD.replace("[1, 8]", "[true]"), 6, "True is not a batch size"),
    "not a number": (GOOD.replace("batch_size: [1, 8]", "num_classes: [.nan]"), 6, "expected a finite number"),
    "option of a model entry": (
        GOOD.replace("vit_nano,", "{name: vit_nano, options: {depth: four}},"),
        3,
        "'four' does not fit the option depth of model vit_nano",
    ),
    "time that is true": (GOOD + "        limits: {time: yes}\n", 8, "groups[0].limits.time"),
    "time without end": (GOOD + "        limits: {time: 1e9}\n", 8, "groups[0].limits.time"),
    "baseline that is no model of the group": (
        GOOD.replace("macs", "latency") + "        baseline: vit_b16\n",
        8,
        "groups[0].baseline: 'vit_b16' is none of the group's models: vit_nano, mixer_s32, mixer_s16",
    ),
    "baseline off the axis": (
        GOOD.replace("macs", "latency") + "        baseline: {batch_size: 4}\n",
        8,
        "groups[0].baseline: batch_size=4 is none of the group's cases; expected 1, 8",
    ),
    "baseline of two axes": (
        GOOD.replace("macs", "latency") + "        baseline: {batch_size: 1, size: 32}\n",
        8,
        "groups[0].baseline: expected one model, or one axis with one of its values",
    ),
    "baseline of an axis that is not swept": (
        GOOD.replace("macs", "latency") + "        baseline: {compile: eager}\n",
        8,
        "compile=eager is none of the group's cases; expected one of the axes size, batch_size",
    ),
    "baseline with nothing to time": (GOOD + "        baseline: vit_nano\n", 8, "nothing is timed beside it"),
    "ratio to nothing": (GOOD.replace("macs", "latency_ratio"), 7, "latency_ratio needs a baseline"),
    "alias bomb of the wrong kind": ("schema: &a 1\ngroups: *b\n", 2, "not valid YAML"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_sentence_with_file_line_and_key(mistake, suite_file, registry):
    text, line, message = MISTAKES[mistake]
    path = suite_file(text)
    with pytest.raises(BadSuite) as caught:
        cases(path, registry)
    told = str(caught.value)
    assert told.startswith(f"{path}:{line}: " if line else f"{path}: "), told
    assert message in told
    assert "\n" not in told


def test_missing_file_and_not_utf8_are_told(tmp_path, registry):
    with pytest.raises(BadSuite, match="cannot be read: No such file"):
        cases(tmp_path / "nowhere.yaml", registry)
    (tmp_path / "latin.yaml").write_bytes("schema: 1\ntitle: caf\xe9\n".encode("latin-1"))
    with pytest.raises(BadSuite, match="is not UTF-8 text: byte 20 is 0xe9"):
        cases(tmp_path / "latin.yaml", registry)


def test_unknown_suite_gets_a_suggestion():
    with pytest.raises(UnknownName, match="did you mean lecture"):
        read_suite("lectures")


def test_axes_are_multiplied_and_bare_sizes_take_the_models_unit(suite_file, registry):
    found = cases(suite_file(GOOD), registry)
    # vit_nano, mixer_s32, mixer_s16 x 2 sizes x 2 batch sizes
    assert len(found) == 3 * 2 * 2
    assert {item.case.size for item in found} == {"32px", "64px"}
    assert len({item.case.id for item in found}) == len(found)


def test_illegal_sizes_in_a_sweep_are_rows_with_a_reason(suite_file, registry):
    found = cases(suite_file(GOOD.replace("64px", "30px")), registry)
    illegal = {(item.case.model, item.case.size) for item in found if item.illegal}
    assert ("vit_nano", "30px") in illegal
    assert ("vit_nano", "32px") not in illegal


def test_patch_of_no_pixels_is_told(suite_file, registry):
    text = "schema: 1\ngroups:\n  - {models: [vit_nano], axes: {patch_size: 0}, metrics: [params]}\n"
    with pytest.raises(BadSuite, match="multiples of patch_size, which is 0; expected a whole number >= 1"):
        cases(suite_file(text), registry)


def test_one_explicit_illegal_size_is_an_error(suite_file, registry):
    text = "schema: 1\ngroups:\n  - models: [vit_b16]\n    axes: {size: 225px}\n    metrics: [params]\n"
    with pytest.raises(BadSuite, match="nearest legal size: 224px or 240px"):
        cases(suite_file(text), registry)


def test_task_sets_the_models_options(suite_file, registry):
    text = "schema: 1\ngroups:\n  - {models: [vit_ti16], metrics: [top1], task: digits, seeds: [0, 1]}\n"
    found = cases(suite_file(text), registry)
    assert [(i.case.task, i.case.seed, i.case.options.get("num_classes")) for i in found] == [
        ("digits", 0, 10),
        ("digits", 1, 10),
    ]


def test_models_narrow_a_suite_and_a_stranger_takes_part_where_it_fits(suite_file, registry, tiny_file):
    narrowed = cases(suite_file(GOOD), registry, models=("mixer_s16",))
    assert {i.case.model for i in narrowed} == {"mixer_s16"}
    strange = cases(suite_file(GOOD), registry, models=("resnet_nano",))
    assert {i.case.model for i in strange} == {"resnet_nano"}
    with_file = Registry.load([str(tiny_file)])
    joined = cases(suite_file(GOOD), with_file, added=("tiny_conv",))
    assert {i.case.model for i in joined} == {"vit_nano", "mixer_s32", "mixer_s16", "tiny_conv"}


def test_a_recipe_may_be_another_one_or_have_another_budget(suite_file, registry):
    file = suite_file("schema: 1\ngroups:\n  - {models: [vit_nano], task: digits, recipe: equal, metrics: [top1]}\n")
    [item] = cases(file, registry, recipe="quick@7s")
    assert (item.case.recipe, item.assignment.recipe.seconds, item.assignment.recipe.steps) == ("quick@7s", 7.0, 0)
    with pytest.raises(ZooError, match=r"^--recipe: task digits has no recipe 'slow' for the model vit_nano; its"):
        cases(file, registry, recipe="slow")


def test_a_model_of_a_file_that_a_group_names_takes_part_there_only(suite_file, tiny_file):
    text = (
        "schema: 1\ngroups:\n  - {models: [tiny_conv], metrics: [params]}\n  - {models: [vit_nano], metrics: [macs]}\n"
    )
    found = cases(suite_file(text), Registry.load([str(tiny_file)]), added=("tiny_conv",))
    assert [(i.case.model, i.metrics) for i in found] == [("tiny_conv", ("params",)), ("vit_nano", ("macs",))]


def test_model_that_fits_no_group_is_told(suite_file, registry):
    with pytest.raises(
        ZooError, match=r"no group of the suite mine can take the model fnet_nano: .* takes a sequence_length"
    ):
        cases(suite_file(GOOD), registry, models=("fnet_nano",))


def test_axes_may_be_given_other_values(suite_file, registry):
    found = cases(suite_file(GOOD), registry, axes={"size": [48], "batch_size": [2]}, models=("vit_nano",))
    assert [(i.case.size, i.case.batch_size) for i in found] == [("48px", 2)]


def beside(found):
    """Return what each case is measured beside, both by model and the axes that vary."""
    return {
        tuple((c.model, c.size, c.batch_size, c.compile) for c in (item.case, item.baseline) if c) for item in found
    }


def test_each_case_is_measured_beside_the_baseline_at_the_same_point(suite_file, registry):
    text = GOOD.replace("mixer_s*", "mixer_s16").replace("macs", "latency") + "        baseline: vit_nano\n"
    points = [(size, batch, None) for size in ("32px", "64px") for batch in (1, 8)]
    expected = {((model, *p), ("vit_nano", *p)) for model in ("vit_nano", "mixer_s16") for p in points}
    assert beside(cases(suite_file(text), registry)) == expected


def test_an_option_may_stand_behind_a_models_name(suite_file, registry):
    text = "schema: 1\ngroups:\n  - {models: ['vit_nano:depth=2+heads=2', vit_nano], metrics: [macs]}\n"
    found = expand(read_suite(str(suite_file(text))), registry, Choice())
    assert [item.case.options for item in found] == [{"depth": 2, "heads": 2}, {}]


def test_a_baseline_is_one_entry_with_its_options(suite_file, registry):
    entries = "models: ['vit_nano:depth=2', vit_nano, 'vit_nano:depth=3'], metrics: [latency, latency_ratio]"

    def beside(baseline):
        path = suite_file(f"schema: 1\ngroups:\n  - {{{entries}, baseline: '{baseline}'}}\n")
        return {repr(item.baseline.options) for item in expand(read_suite(str(path)), registry, Choice())}

    assert beside("vit_nano") == {"{}"}
    assert beside("vit_nano:depth=3") == {"{'depth': 3}"}
    with pytest.raises(BadSuite, match="'vit_nano:depth=5' is none of the group's models: vit_nano:depth=2, "):
        beside("vit_nano:depth=5")
    entries = "models: ['vit_nano:depth=2', 'vit_nano:depth=3'], metrics: [latency, latency_ratio]"
    with pytest.raises(BadSuite, match="'vit_nano' is several of the group's models"):
        beside("vit_nano")


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (
            "{models: ['vit_nano:depth'], metrics: [macs]}",
            r"groups\[0\].models\[0\]: 'depth' in 'vit_nano:depth' is no option",
        ),
        ("{models: ['vit_nano:wings=2'], metrics: [macs]}", "model vit_nano has no option 'wings'"),
        (
            "{models: ['vit_nano:depth=2'], axes: {depth: 3}, metrics: [macs]}",
            "depth is an axis, and vit_nano has depth=2",
        ),
    ],
)
def test_a_wrong_option_behind_a_name_is_told(suite_file, registry, group, message):
    path = suite_file(f"schema: 1\ngroups:\n  - {group}\n")
    with pytest.raises(BadSuite, match=message):
        expand(read_suite(str(path)), registry, Choice())


def test_models_of_other_default_sizes_are_measured_beside_the_baselines_default(suite_file, registry):
    group = "{models: [vit_nano, fnet_nano], metrics: [latency], baseline: {model: vit_nano}}"
    found = cases(suite_file(f"schema: 1\ngroups:\n  - {group}\n"), registry)
    assert {(a[0], b[:2]) for a, b in beside(found)} == {(m, ("vit_nano", "32px")) for m in ("vit_nano", "fnet_nano")}


def test_an_axis_may_be_the_baseline(suite_file, registry):
    group = "{models: [vit_nano], axes: {size: [32, 64], compile: [eager, default]}, metrics: [latency], "
    found = cases(suite_file(f"schema: 1\ngroups:\n  - {group}baseline: {{compile: eager}}}}\n"), registry)
    expected = {(("vit_nano", s, 1, c), ("vit_nano", s, 1, None)) for s in ("32px", "64px") for c in (None, "default")}
    assert beside(found) == expected


def test_a_narrowed_suite_keeps_its_baseline(suite_file, registry):
    text = GOOD.replace("macs", "latency") + "        baseline: vit_nano\n"
    narrowed = cases(suite_file(text), registry, models=("mixer_s16",))
    assert {item.case.model for item in narrowed} == {"vit_nano", "mixer_s16"}


@pytest.mark.parametrize("name", sorted(suites()))
def test_shipped_suites_expand(name, registry, tmp_path):
    for label in range(10):
        (tmp_path / "cifar10_subset" / "train" / str(label)).mkdir(parents=True)
    file = read_suite(name)
    found = expand(file, registry, Choice(data=(tmp_path,)))
    assert bool(found) == bool(file.suite.groups)
    illegal = {item.case.model for item in found if item.illegal}
    assert illegal == ({"sasa_nano"} if name in ("accuracy", "resolutions") else set())  # it takes multiples of 32


names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
plain = st.one_of(st.booleans(), st.integers(-999, 999), st.floats(-1e6, 1e6), st.text("abc: #'\n-", max_size=6))
where = st.dictionaries(names, st.one_of(plain, st.lists(plain, max_size=2)), max_size=2)
groups = st.fixed_dictionaries(
    {
        "models": st.lists(
            st.one_of(names, st.fixed_dictionaries({"name": names, "options": st.dictionaries(names, plain)})),
            min_size=1,
            max_size=2,
        ),
        "metrics": st.lists(names, min_size=1, max_size=3),
    },
    optional={
        "axes": st.dictionaries(names, st.lists(plain, min_size=1, max_size=3), max_size=2),
        "task": names,
        "recipe": names,
        "seeds": st.lists(st.integers(0, 9), min_size=1, max_size=2),
        "baseline": st.one_of(names, st.dictionaries(names, plain, min_size=1, max_size=1)),
        "limits": st.fixed_dictionaries(
            {"time": st.floats(1, 1e5), "memory": st.sampled_from([123, "4 GiB", "1.5 MB"])}
        ),
    },
)
tables = st.fixed_dictionaries({"title": st.text(max_size=5), "columns": st.lists(names, min_size=1), "where": where})
plots = st.fixed_dictionaries({"name": names, "title": st.text(max_size=5), "y": names, "where": where})
documents = st.fixed_dictionaries(
    {"schema": st.just(1), "groups": st.lists(groups, min_size=1, max_size=2)},
    optional={"tables": st.lists(tables, max_size=1), "plots": st.lists(plots, max_size=1)},
)


@given(documents)
def test_suites_survive_a_round_trip_through_json_and_yaml(document):
    suite = Suite.model_validate(document)
    assert Suite.model_validate_json(suite.model_dump_json(by_alias=True)) == suite
    assert parse_suite(yaml.safe_dump(document), Path("mine.yaml")).suite == suite


def test_a_backend_of_attention_is_an_axis_and_auto_is_no_value(tmp_path, registry):
    path = tmp_path / "s.yaml"
    axes = "axes: {attention_backend: [auto, flash]}"
    path.write_text(f"schema: 1\ngroups: [{{models: [vit_nano], {axes}, metrics: [latency]}}]\n")
    assert [item.case.attention_backend for item in cases(path, registry)] == [None, "flash"]
    path.write_text(path.read_text().replace("flash", "fast"))
    with pytest.raises(BadSuite, match="expected one of auto, flash, efficient, cudnn, math"):
        cases(path, registry)


def test_the_suite_for_a_gpu_takes_every_architecture_at_three_sizes_or_more(registry):
    found = expand(read_suite("models-gpu"), registry, Choice())
    assert not [item.case.id for item in found if item.illegal]
    assert {item.case.device for item in found} == {"cuda"}
    sizes = {}
    for item in found:
        sizes.setdefault(item.case.model, set()).add(item.case.size)
    assert len(sizes) == 8
    assert min(map(len, sizes.values())) >= 3


IMAGES = """
    schema: 1
    images: {name: three, short: 800, long: 1333, sizes: {480x640: 2, 320x640: 1}}
    groups:
      - models: [detr_r50]
        axes: {size: images}
        metrics: [macs]
"""


def test_images_stand_for_the_sizes_that_they_are_scaled_to(suite_file, registry):
    """480 x 640 becomes 800 x 1066; 320 x 640 would become 800 x 1600, so its long side decides: 666 x 1332."""
    assert [item.case.size for item in cases(suite_file(IMAGES), registry)] == ["800x1066px", "666x1332px"]


def test_a_folder_of_images_stands_for_the_suite_s_own(suite_file, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, size in (("a.png", (64, 48)), ("b.png", (64, 48)), ("c.png", (48, 64))):
        Image.new("RGB", size).save(folder / name)
    images = with_images(read_suite(str(suite_file(IMAGES))), folder).suite.images
    assert images
    assert (images.name, images.sizes) == ("mine", {"48x64": 2, "64x48": 1})
    assert images.scaled() == {"800x1066px": 2, "1066x800px": 1}


def test_sizes_of_images_that_are_none_are_told(suite_file, registry):
    for wrong in ("foo", "12tok"):
        with pytest.raises(BadSuite, match=r"images.sizes"):
            cases(suite_file(IMAGES.replace("320x640", wrong)), registry)


def test_images_that_a_suite_lacks_or_that_are_not_there_are_told(suite_file, registry, tmp_path):
    with pytest.raises(BadSuite, match=r"groups\[0\].axes.size: the suite has no images; expected a key images"):
        cases(suite_file(GOOD.replace("[32, 64px]", "images")), registry)
    with pytest.raises(ZooError, match="takes no images"):
        with_images(read_suite("lecture"), tmp_path)
    with pytest.raises(ZooError, match="there are no images in"):
        with_images(read_suite("coco"), tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "{kind: lists, title: T}",
            "tables[0].kind: there is no such kind of table; expected one of cases, ",
        ),
        ("{kind: published, title: T, columns: [{titel: X}]}", "titel: unknown key; expected one of also, measured"),
        ("{kind: complexity, title: T, layers: []}", "tables[0].layers: "),
        (
            "{kind: published, title: T, columns: [{title: A}], models: {a: {nam: b}}}",
            "expected one of name, options, size",
        ),
        ("{title: T, columns: [model]}\n      - {title: t!, columns: [model]}", "tables: 2 would be saved as 't'"),
        ("{title: T, columns: [model], sort: [macs]}", "sort: 'macs' is none of the columns: model"),
    ],
)
def test_mistakes_in_tables_of_any_kind_are_told_with_their_key(table, message, suite_file, registry):
    with pytest.raises(BadSuite) as caught:
        cases(suite_file(GOOD + f"    tables:\n      - {table}\n"), registry)
    assert message in str(caught.value)
