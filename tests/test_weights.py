"""Checkpoints: safe reading, layouts told by their names, and errors that say what does not fit."""

import argparse
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zoo import WeightSpec, load_weights
from zoo.errors import BadWeights
from zoo.weights import read_tensors


class Ran(Exception):
    """Code in a file was run."""


class Bomb:
    """Raises when it is unpickled by a reader that runs code."""

    def __reduce__(self):
        return (explode, ())


def explode():
    raise Ran


def linear() -> nn.Linear:
    return nn.Linear(3, 2)


def renamed(tensors, model):
    return {name.removeprefix("net."): tensor for name, tensor in tensors.items()}


def broken(tensors, model):
    return {"weight": tensors["no_such_name"]}


OTHER = WeightSpec("other", key="net.*", convert=renamed)
STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_every_kind_of_file_loads(tmp_path, suffix):
    path = tmp_path / f"state{suffix}"
    if suffix == ".pth":
        torch.save(STATE, path)
    elif suffix == ".safetensors":
        save_file(STATE, path)
    else:
        np.savez(path, **{name: tensor.numpy() for name, tensor in STATE.items()})
    model = linear()
    assert load_weights(model, path) is None
    assert torch.equal(model.weight, STATE["weight"])


@pytest.mark.parametrize("container", ["model", "state_dict"])
def test_containers_of_training_scripts_are_opened_and_their_arguments_are_harmless(tmp_path, container):
    path = tmp_path / "checkpoint.pth"
    torch.save({container: STATE, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, path)
    assert set(read_tensors(path)) == {"weight", "bias"}


def test_a_layout_is_told_by_its_names_and_converted(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({f"net.{name}": tensor for name, tensor in STATE.items()}, path)
    model = linear()
    assert load_weights(model, path, (OTHER,)) == OTHER
    assert torch.equal(model.bias, STATE["bias"])


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    path = tmp_path / "bomb.pth"
    torch.save({"weight": Bomb()}, path)
    with pytest.raises(BadWeights, match="could run code"):
        load_weights(linear(), path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BadWeights):
        load_weights(linear(), path)


def test_a_pickled_array_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez(path, weight=np.array([Bomb()], dtype=object))
    with pytest.raises(BadWeights, match="cannot be read as npz"):
        load_weights(linear(), path)


def test_an_archive_that_would_explode_is_refused(tmp_path):
    path = tmp_path / "zeros.npz"
    np.savez_compressed(path, weight=np.zeros((1000, 1000)))
    with pytest.raises(BadWeights, match="would grow more than 50 times"):
        load_weights(linear(), path)


def test_an_archive_of_something_else_is_refused(tmp_path):
    path = tmp_path / "text.npz"
    np.savez(path, weight=np.array(["no number"]))
    with pytest.raises(BadWeights, match="cannot be read as npz"):
        load_weights(linear(), path)


def test_bfloat16_arrays_of_numpy_files_are_read(tmp_path):
    path = tmp_path / "state.npz"
    raw = STATE["weight"].bfloat16().view(torch.uint16).numpy().view("V2")
    np.savez(path, weight=raw, bias=STATE["bias"].numpy())
    assert torch.equal(read_tensors(path)["weight"], STATE["weight"])


def test_a_file_may_leave_out_how_many_steps_a_batch_norm_has_taken(tmp_path):
    trained, fresh = nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm1d(3))
    trained(torch.randn(5, 3))
    tensors = {f"0.{name}": tensor for name, tensor in trained.state_dict().items() if "tracked" not in name}
    torch.save(tensors, tmp_path / "old.pth")
    load_weights(fresh, tmp_path / "old.pth")
    assert torch.equal(fresh[0].running_mean, trained.running_mean)
    torch.save({"0.running_mean": torch.zeros(3)}, tmp_path / "part.pth")
    with pytest.raises(BadWeights, match=r"3 missing: 0\.weight, 0\.bias, 0\.running_var"):
        load_weights(fresh, tmp_path / "part.pth")


def test_what_does_not_fit_is_named_with_its_shape_and_the_model_stays_as_it_was(tmp_path):
    path = tmp_path / "wrong.pth"
    torch.save({"weight": torch.zeros(3, 3), "extra": torch.zeros(1)}, path)
    model = linear()
    before = model.weight.clone()
    with pytest.raises(BadWeights) as error:
        load_weights(model, path)
    said = str(error.value)
    assert "1 missing: bias" in said
    assert "1 not known: extra" in said
    assert "weight is 3x3, expected 2x3" in said
    assert torch.equal(model.weight, before)


def test_a_file_of_another_model_names_the_layouts_that_are_read(tmp_path):
    path = tmp_path / "foreign.pth"
    torch.save({"something": torch.zeros(1)}, path)
    with pytest.raises(BadWeights, match="layouts that this model reads: other"):
        load_weights(linear(), path, (OTHER,))


def test_a_conversion_that_fails_is_told_with_the_layout(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"net.weight": STATE["weight"]}, path)
    with pytest.raises(BadWeights, match="looks like the layout broken, but cannot be converted: 'no_such_name'"):
        load_weights(linear(), path, (WeightSpec("broken", key="net.*", convert=broken),))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.pth", None, "there is no such file"),
        ("state.h5", b"", "not a known kind of checkpoint"),
        ("state.pth", b"version https://git-lfs.github.com/spec/v1", "no file of torch.save; a download that failed"),
        ("state.pth", b"PK nonsense", "cannot be read as torch|could run code"),
        ("state.safetensors", b"nonsense", "cannot be read as safetensors"),
        ("state.npz", b"nonsense", "cannot be read as npz"),
    ],
)
def test_a_file_that_cannot_be_read_gets_one_sentence(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadWeights, match=message):
        load_weights(linear(), path)


def endless() -> dict[str, object]:
    content: dict[str, object] = {}
    content["model"] = content
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (endless(), "expected tensors only, also found model"),
        ({**STATE, "weight": STATE["weight"].to(torch.int8)}, "1 of another kind: weight is int8"),
        ({**STATE, "weight": STATE["weight"].to(torch.complex64)}, "weight is complex64"),
        ({**STATE, "weight": STATE["weight"].to_sparse()}, "1 of another kind: weight"),
        ({**STATE, "weight": STATE["weight"].to("meta")}, "1 of another kind: weight"),
        (torch.zeros(3), "expected a mapping of names to tensors, not Tensor"),
        ({"weight": 3}, "expected tensors only, also found weight"),
        ({}, "holds no tensors"),
    ],
)
def test_a_file_without_named_tensors_gets_one_sentence(tmp_path, content, message):
    path = tmp_path / "state.pth"
    torch.save(content, path)
    with pytest.raises(BadWeights, match=message):
        load_weights(linear(), path)
