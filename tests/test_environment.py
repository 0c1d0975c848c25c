"""The machine: a slug of the hardware, a description that names nobody, a hash that follows the source."""

import getpass
import json
import platform

import pytest

from zoo import environment


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Intel(R) Xeon(R) Processor @ 2.50GHz", "xeon"),
        ("Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz", "xeon-platinum-8259cl"),
        ("AMD EPYC 7B13 64-Core Processor", "epyc-7b13"),
        ("AMD Ryzen 7 7840U w/ Radeon 780M Graphics", "ryzen-7-7840u-w"),
        ("Neoverse-N1", "neoverse-n1"),
        ("", "cpu"),
    ],
)
def test_slug_keeps_what_tells_processors_apart(name, slug):
    assert environment.cpu_slug(name) == slug


def test_slug_of_a_gpu_is_its_name(monkeypatch):
    monkeypatch.setattr(environment, "gpu_name", lambda: "NVIDIA H200")
    assert environment.slug("cuda") == "h200"
    assert environment.describe("cuda")["gpu"] == "NVIDIA H200"


def test_what_decides_a_number_on_a_gpu_is_recorded(monkeypatch):
    monkeypatch.setattr(environment, "gpu_name", lambda: "NVIDIA H200")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    told = environment.describe("cuda")
    assert told["allocator"] == {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}
    settings = {"float32_matmul_precision": "highest", "cudnn_allow_tf32": False, "cudnn_benchmark": False}
    assert told["settings"] == environment.describe()["settings"] == settings
    assert "allocator" not in environment.describe()


def test_description_names_versions_but_no_host_user_or_path():
    told = environment.describe()
    assert {"torch", "timm", "torchvision", "python", "cpu", "cores", "memory", "launch"} <= set(told)
    text = json.dumps(told)
    assert platform.node() not in text
    assert getpass.getuser() not in text
    assert "/home" not in text


def test_source_hash_follows_every_file_of_a_plugin(tmp_path, monkeypatch):
    package = tmp_path / "hashed_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "model.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = environment.source_hash("hashed_plugin.model:build")
    assert before == environment.source_hash("hashed_plugin.other:build")
    (package / "model.py").write_text("x = 2\n")
    assert environment.source_hash("hashed_plugin.model:build") != before
    assert environment.source_hash("not_there_at_all.model:build") == "unknown"


def test_cores_and_memory_are_what_this_process_may_use():
    assert environment.usable_cores() >= 1
    assert environment.available_memory() > 2**28
