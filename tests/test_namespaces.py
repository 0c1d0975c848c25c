"""A namespace is looked up when one of its models is asked for by name or by its own glob, and never otherwise."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import pytest

from zoo import ModelSpec, Namespace, create_model, image_classifier, jsonio, list_models
from zoo.errors import BadSpec, UnknownName, ZooError
from zoo.expansion import Choice, expand
from zoo.plugins import Loader, Plugin
from zoo.registry import Registry, using
from zoo.suite import parse_suite

# Stands for another zoo: importing it is noticed, and one of its names is resolved without being listed.
FOREIGN = """
    from zoo import ModelSpec, image_classifier

    def names():
        return ["conv_small", "conv_large", "linear"]

    def spec(name):
        if name == "broken":
            raise OSError("the other zoo is closed")
        if name == "misnamed":
            return ModelSpec("other/x", build="tiny:build", options={"num_classes": 10}, **image_classifier(32))
        if name.partition(".")[0] not in names():
            return None
        return ModelSpec(f"other/{name}", build="tiny:build", options={"num_classes": 10}, **image_classifier(32))
"""
PLUGIN = """
    from zoo import Namespace, hookimpl

    @hookimpl
    def zoo_namespaces():
        yield Namespace("other/", list="foreign:names", resolve="foreign:spec", notes="somebody's")
"""
TINY = """
    import torch.nn as nn

    def build(size, num_classes):
        return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""
SUITE = "schema: 1\ngroups:\n  - models: [{models}]\n    metrics: [params]\n"


@pytest.fixture
def registry(site):
    """The installed plugins, and one with a namespace."""
    site.add("bridge", PLUGIN)
    for name, source in (("foreign", FOREIGN), ("tiny", TINY)):
        (site.folder / f"{name}.py").write_text(textwrap.dedent(source))
    found = Registry.load()
    with using(found):
        yield found


def models_of(registry: Registry, *patterns: str) -> list[str]:
    """Return the models of a suite that names these patterns."""
    suite = parse_suite(SUITE.format(models=", ".join(f'"{p}"' for p in patterns)), Path("s.yaml"))
    return [item.case.model for item in expand(suite, registry, Choice())]


def test_nothing_is_imported_until_a_name_or_a_glob_of_the_namespace_is_asked_for(registry):
    assert not [name for name in (*registry.models, *list_models("*"), *list_models("*conv*")) if "/" in name]
    assert "foreign" not in sys.modules
    assert list_models("other/conv*") == ["other/conv_small", "other/conv_large"]
    assert "foreign" in sys.modules


def test_a_plain_glob_does_not_reach_into_a_namespace_even_after_a_model_was_looked_up(registry):
    assert registry.model("other/linear") is registry.model("other/linear")
    assert registry.owners["model", "other/linear"].name == "bridge"
    assert "other/linear" not in registry.match_models("*")
    assert "other/linear" not in list_models("*linear")


def test_a_name_may_be_resolved_without_being_listed(registry):
    assert registry.match_models("other/linear.v2") == ["other/linear.v2"]
    assert models_of(registry, "other/linear.v2") == ["other/linear.v2"]


def test_an_unknown_name_is_compared_with_those_of_its_namespace(registry):
    for ask in (registry.model, registry.match_models, lambda name: models_of(registry, name)):
        with pytest.raises(ZooError, match=r"no model named 'other/conv_smal'; did you mean other/conv_small"):
            ask("other/conv_smal")
    with pytest.raises(UnknownName, match="no model named 'vit_b17'"):
        registry.model("vit_b17")


def test_what_a_namespace_does_wrong_names_the_plugin(registry):
    with pytest.raises(ZooError, match=r"namespace other/\* of plugin bridge of bridge 1.0 fails: OSError: the other"):
        registry.model("other/broken")
    with pytest.raises(ZooError, match=r"foreign:spec of plugin bridge .* expected a ModelSpec called other/misnamed"):
        registry.model("other/misnamed")


def test_a_suite_takes_a_glob_of_a_namespace_each_model_once(registry):
    assert models_of(registry, "other/*", "other/linear") == ["other/conv_small", "other/conv_large", "other/linear"]


def test_a_model_of_a_namespace_is_built_like_any_other(registry):
    assert create_model("other/linear", 64, num_classes=3)[-1].out_features == 3


def test_a_registered_name_may_not_lie_in_a_namespace():
    spec = ModelSpec("other/x", build="tiny:build", options={}, **image_classifier(32))
    theirs = Plugin("bridge", "b", "1", "b", {"zoo_namespaces": (Namespace("other/", "a:b", "a:c"),)})
    mine = Plugin("mine", "m", "1", "m", {"zoo_models": (spec,)})
    for first, second in ((theirs, mine), (mine, theirs)):
        loader = Loader()
        loader.add(first)
        with pytest.raises(BadSpec, match=r"'other/x' lies in the namespace other/\* of plugin bridge of b 1; plu"):
            loader.add(second)
        assert loader.plugins == [first]


def test_two_plugins_cannot_have_one_prefix():
    loader = Loader()
    for name in "ab":
        plugin = Plugin(name, name, "1", name, {"zoo_namespaces": (Namespace("other/", "a:b", "a:c"),)})
        if name == "a":
            loader.add(plugin)
        else:
            with pytest.raises(BadSpec, match=r"the namespace name 'other/\*' is already taken by plugin a of a 1"):
                loader.add(plugin)


@pytest.mark.parametrize("prefix", ["other", "other/x/", "/", "", "a b/", 3])
def test_a_prefix_is_a_name_and_a_slash(prefix):
    with pytest.raises(BadSpec, match="is not the prefix of a namespace"):
        Namespace(prefix, "a:b", "a:c")


def test_a_namespace_survives_the_way_to_another_process():
    namespace = Namespace("other/", list=models_of, resolve="a:b")
    assert namespace.list == f"{__name__}:models_of"
    assert jsonio.from_json(Namespace, jsonio.to_json(namespace)) == namespace


def test_list_shows_the_namespace_in_one_line_and_its_models_on_demand(registry, zoo):
    row = {
        "name": "other/*",
        "kind": "namespace",
        "family": "",
        "plugin": "bridge",
        "about": "somebody's",
    }
    assert row in json.loads(zoo("list", "--json").stdout)
    listed = json.loads(zoo("list", "other/*", "--json").stdout)
    assert [r["name"] for r in listed] == ["other/conv_small", "other/conv_large", "other/linear"]
    assert {r["kind"] for r in listed} == {"model"}
    assert "did you mean other/conv_small" in zoo("list", "other/conv_smal").stderr
    assert "bridge  bridge 1.0  1 namespaces" in zoo("plugins").stdout


def test_the_commands_take_its_names(registry, zoo, tmp_path):
    assert "plugin bridge of bridge 1.0" in zoo("show", "other/linear").stdout
    assert "other/linear  meta         passed" in zoo("check", "other/linear").stdout
    (tmp_path / "s.yaml").write_text(SUITE.format(models="vit_nano"))
    ran = zoo("run", "s.yaml", "--models", "other/conv*")
    assert ran.stderr.count(": ok in") == 2
