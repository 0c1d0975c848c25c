"""A broken plugin is reported with its reason and leaves the others loaded. Entry points are real ones."""

import json

import pytest

from zoo.errors import UnknownName, ZooError
from zoo.registry import Registry

GOOD = """
    from zoo import ModelSpec, hookimpl, image_classifier

    @hookimpl
    def zoo_models():
        yield ModelSpec("healthy", build="healthy:build", options={"num_classes": 10}, **image_classifier(default=32))

    def build(size, num_classes): ...
"""

FAULTS = {
    "import_error": ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
    "wrong_argument": (
        """
        from zoo import hookimpl

        @hookimpl
        def zoo_models(registry):
            return []
        """,
        "hook",
    ),
    "misspelt_hook": (
        """
        from zoo import hookimpl

        @hookimpl
        def zoo_model():
            return []
        """,
        "zoo_model",
    ),
    "unmarked_hook": ("def zoo_models():\n    return []\n", "zoo_models is not marked with @hookimpl"),
    "raising_hook": (
        """
        from zoo import hookimpl

        @hookimpl
        def zoo_models():
            yield 1 / 0
        """,
        "ZeroDivisionError: division by zero (raising_hook.py:6)",
    ),
    "wrong_record": (
        """
        from zoo import hookimpl

        @hookimpl
        def zoo_models():
            yield {"name": "a dictionary"}
        """,
        "expected ModelSpec records",
    ),
    "taken_name": (
        """
        from zoo import ModelSpec, hookimpl, image_classifier

        @hookimpl
        def zoo_models():
            yield ModelSpec("own_name", build="taken_name:build", **image_classifier(default=32))
            yield ModelSpec("vit_b16", build="taken_name:build", **image_classifier(default=32))
        """,
        "the model name 'vit_b16' is already taken by plugin zoo_vit of attention-zoo",
    ),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "newer_api": (
        """
        from zoo import ModelSpec, hookimpl, image_classifier

        @hookimpl
        def zoo_models():
            yield ModelSpec("future", build="newer_api:build", api=99, **image_classifier(default=32))
        """,
        "was written for api 99",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_plugin_leaves_the_others_loaded(site, fault):
    source, reason = FAULTS[fault]
    site.add(fault, source, version="2.5")
    site.add("healthy", GOOD)
    registry = Registry.load()
    assert {"healthy", "vit_b16", "resnet50"} <= set(registry.models)
    [failure] = registry.failures
    assert (failure.name, failure.distribution, failure.version) == (fault, fault.replace("_", "-"), "2.5")
    assert reason in failure.reason
    assert "\n" not in failure.reason


def test_stolen_name_stays_with_its_owner_and_the_thief_gives_back_all_its_names(site):
    source, _ = FAULTS["taken_name"]
    site.add("taken_name", source)
    registry = Registry.load()
    assert registry.owners["model", "vit_b16"].name == "zoo_vit"
    assert "own_name" not in registry.models
    [failure] = registry.failures
    assert "plugin zoo_vit of attention-zoo" in failure.reason
    assert "plugin taken_name of taken-name 1.0 wants it too" in failure.reason


def test_one_plugin_may_not_use_a_name_twice(site):
    site.add(
        "doubled",
        """
        from zoo import ModelSpec, hookimpl, image_classifier

        @hookimpl
        def zoo_models():
            for _ in range(2):
                yield ModelSpec("again", build="doubled:build", **image_classifier(default=32))
        """,
    )
    [failure] = Registry.load().failures
    assert "'again'" in failure.reason
    assert "twice" in failure.reason


def test_asking_for_a_missing_model_shows_the_failures_and_what_is_near(site):
    site.add("import_error", FAULTS["import_error"][0])
    with pytest.raises(UnknownName) as caught:
        Registry.load().model("vit_b61")
    assert "did you mean vit_b16" in str(caught.value)
    assert "plugin import_error of import-error 1.0 is not loaded: ModuleNotFoundError" in str(caught.value)


def test_zoo_plugins_names_distribution_version_and_reason(site, zoo):
    for fault in ("import_error", "misspelt_hook"):
        site.add(fault, FAULTS[fault][0])
    told = {row["name"]: row for row in json.loads(zoo("plugins", "--json").stdout)}
    assert told["zoo_vit"]["distribution"] == "attention-zoo"
    assert told["zoo_vit"]["failure"] is None
    assert "not_there_at_all" in told["import_error"]["failure"]
    plain = zoo("plugins").stdout
    assert "import_error  import-error 1.0  FAILED: ModuleNotFoundError" in plain
    assert "misspelt_hook  misspelt-hook 1.0  FAILED: " in plain


def test_a_failure_is_told_when_models_are_listed_and_the_list_goes_on(site, zoo):
    site.add("raising_hook", FAULTS["raising_hook"][0])
    done = zoo("list", "vit_*")
    assert done.returncode == 0
    assert "vit_b16" in done.stdout
    assert "plugin raising_hook of raising-hook 1.0 is not loaded: ZeroDivisionError" in done.stderr


def test_single_file_joins_the_registry(tiny_file):
    registry = Registry.load([str(tiny_file)])
    spec = registry.model("tiny_conv")
    assert spec.knobs == {"num_classes": 10, "width": 64}
    assert spec.build == f"{tiny_file}:build"
    assert registry.owners["model", "tiny_conv"].name == "tiny_conv"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import os; os._exit(7)", "ends its process on import (exit code 7)"),
        ("1 / 0", "ZeroDivisionError: division by zero (mine.py:1)"),
        ("x = 1", "registers nothing"),
        ("def zoo_models(): return []", "not marked with @hookimpl"),
        ("print('hello')\nprint('{}')\nfrom zoo import hookimpl", "registers nothing"),
        ("def broken(:", "SyntaxError"),
        (
            "from zoo import ModelSpec, hookimpl, image_classifier\n"
            "def build(size, dims=(1, 2)): ...\n"
            "@hookimpl\n"
            "def zoo_models():\n"
            "    yield ModelSpec('mine', build=build, **image_classifier(default=32))\n",
            "the option dims defaults to (1, 2); expected a plain value",
        ),
        (
            "from zoo import ModelSpec, hookimpl, image_classifier\n"
            "def build(size): ...\n"
            "@hookimpl\n"
            "def zoo_models():\n"
            "    yield ModelSpec('mine', build=build, notes=3, **image_classifier(default=32))\n",
            "a record does not fit its type",
        ),
    ],
)
def test_bad_single_file_gets_one_sentence(tmp_path, source, expected):
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(ZooError) as caught:
        Registry.load([str(path)])
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_file_and_wrong_suffix_are_told(tmp_path):
    with pytest.raises(ZooError, match="there is no such file"):
        Registry.load([str(tmp_path / "nowhere.py")])
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ZooError, match=r"ends in \.py"):
        Registry.load([str(tmp_path / "mine.txt")])


def test_single_file_may_not_take_a_built_in_name(tmp_path):
    path = tmp_path / "thief.py"
    path.write_text(
        "from zoo import ModelSpec, hookimpl, image_classifier\n"
        "def build(size): ...\n"
        "@hookimpl\n"
        "def zoo_models():\n"
        "    yield ModelSpec('resnet50', build=build, **image_classifier(default=32))\n"
    )
    with pytest.raises(ZooError, match="'resnet50' is already taken by plugin zoo_resnet of attention-zoo"):
        Registry.load([str(path)])
