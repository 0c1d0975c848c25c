"""FNet against transformers: the same weights, converted, give the same outputs."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import torch
import zoo_fnet
from models import build
from torch import Tensor, nn
from zoo_fnet.weights import from_transformers

from zoo.spec import resolve

transformers = pytest.importorskip("transformers")

OPTIONS = {"width": 64, "depth": 3, "ff_ratio": 3, "max_positions": 130, "dropout": 0.1}
HEADS = {"pretraining_heads": True}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def theirs(kind: str = "FNetModel", **options: object) -> nn.Module:
    """Build a model of transformers with random weights, of the same shape as :func:`ours`."""
    torch.manual_seed(3)
    config = transformers.FNetConfig(
        hidden_size=64, num_hidden_layers=3, intermediate_size=192, max_position_embeddings=130, **options
    )
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms would start at 0 and 1
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def ours(tensors: dict[str, Tensor], **options: object) -> nn.Module:
    """Build an FNet and give it the converted tensors, each of them and nothing else."""
    model = build("fnet_nano", 130, **OPTIONS, **options)
    model.load_state_dict(from_transformers(tensors, model), strict=True)
    return model


def texts(batch_size: int, n: int) -> tuple[Tensor, Tensor]:
    """Return random token ids and types (B, N)."""
    draw = torch.Generator().manual_seed(n)
    return torch.randint(32_000, (batch_size, n), generator=draw), torch.randint(4, (batch_size, n), generator=draw)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("batch_size", "n"), [(1, 1), (2, 7), (3, 64), (1, 127), (2, 130)])
def test_outputs_are_those_of_transformers(dtype, batch_size, n):
    reference = theirs()
    model, reference = ours(reference.state_dict()).to(dtype), reference.to(dtype)
    ids, kinds = texts(batch_size, n)
    with torch.no_grad():
        got, expected = model(ids, kinds), reference(input_ids=ids, token_type_ids=kinds)
    for key, other in (("hidden", expected.last_hidden_state), ("pooled", expected.pooler_output)):
        assert got[key].dtype == other.dtype == dtype
        assert (got[key] - other).abs().max() < TOLERANCE[dtype]


def test_types_left_out_are_the_same_in_both():
    reference, (ids, _) = theirs().double(), texts(2, 9)
    with torch.no_grad():
        got, expected = ours(reference.state_dict()).double()(ids), reference(input_ids=ids)
    assert (got["hidden"] - expected.last_hidden_state).abs().max() < 1e-9


def test_gradients_are_those_of_transformers():
    reference = theirs().double()
    model, (ids, kinds) = ours(reference.state_dict()).double(), texts(2, 9)
    model(ids, kinds)["pooled"].square().sum().backward()
    reference(input_ids=ids, token_type_ids=kinds).pooler_output.square().sum().backward()
    expected = from_transformers({name: p.grad for name, p in reference.named_parameters()}, model)
    for name, parameter in model.named_parameters():
        assert (parameter.grad - expected[name]).abs().max() < 1e-9


def test_a_file_of_pre_training_loads_without_its_heads():
    reference, (ids, kinds) = theirs("FNetForPreTraining").double(), texts(2, 33)
    tensors = reference.state_dict()
    assert any(name.startswith("cls.") for name in tensors)
    with torch.no_grad():
        expected = reference.fnet(input_ids=ids, token_type_ids=kinds).last_hidden_state
        assert (ours(tensors).double()(ids, kinds)["hidden"] - expected).abs().max() < 1e-9


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_heads_of_pre_training_are_those_of_transformers(dtype):
    reference, (ids, kinds) = theirs("FNetForPreTraining").to(dtype), texts(2, 33)
    model = ours(reference.state_dict(), **HEADS).to(dtype)
    with torch.no_grad():
        got, expected = model(ids, kinds), reference(input_ids=ids, token_type_ids=kinds)
    for key, other in (("words", expected.prediction_logits), ("order", expected.seq_relationship_logits)):
        assert (got[key] - other).abs().max() < TOLERANCE[dtype] * other.abs().max()


def test_old_files_with_buffers_load():
    tensors = theirs().state_dict()
    tensors["embeddings.position_ids"] = torch.arange(130)[None]
    tensors["embeddings.token_type_ids"] = torch.zeros(1, 130, dtype=torch.long)
    assert torch.equal(ours(tensors).pooler.bias, tensors["pooler.dense.bias"])


@pytest.mark.parametrize("kind", ["FNetModel", "FNetForPreTraining"])
def test_the_layout_is_recognised(kind):
    (spec,) = {spec.name: spec for spec in zoo_fnet.zoo_models()}["fnet_base"].weights
    assert any(fnmatchcase(name, spec.key) for name in theirs(kind).state_dict())
    assert not any(fnmatchcase(name, spec.key) for name in build("fnet_nano").state_dict())
    assert resolve(str(spec.convert)) is from_transformers


@pytest.mark.parametrize(("name", "width", "depth"), [("fnet_base", 768, 12), ("fnet_large", 1024, 24)])
def test_full_size_models_have_the_same_tensors(name, width, depth):
    with torch.device("meta"):
        config = transformers.FNetConfig(hidden_size=width, num_hidden_layers=depth, intermediate_size=4 * width)
        model, reference = build(name, **HEADS), transformers.FNetForPreTraining(config)
    converted = from_transformers(reference.state_dict(), model)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in reference.parameters())
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in model.state_dict().items()}
