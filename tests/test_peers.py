"""The peers that ours are timed beside do the same work: with the same weights, the same outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from speed import loaded
from torch import Tensor, nn

import zoo
from zoo.expansion import Choice, expand
from zoo.registry import Registry
from zoo.suite import read_suite

peers = pytest.importorskip("peers")
pytest.importorskip("transformers")


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Return how far two outputs are apart, relative to the largest."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.inference_mode()
def test_torchs_transformer_gives_our_logits():
    theirs = peers.transformer(24).eval()
    ours = loaded("transformer_base", 24, theirs.core, attention_bias=True, final_norm=True)
    ours.embedding.load_state_dict(theirs.embedding.state_dict())
    source, target = torch.randint(peers.VOCABULARY, (2, 24)), torch.randint(peers.VOCABULARY, (2, 17))
    assert apart(ours(source, target), theirs(source, target)) < 1e-5


@torch.inference_mode()
def test_the_fnet_of_transformers_gives_our_hidden_states():
    theirs = peers.fnet(64).eval()
    ours = loaded("fnet_base", 64, theirs.model)
    ids = torch.randint(peers.FNET_VOCABULARY, (1, 64))
    for key, value in ours(ids).items():
        assert apart(value, theirs(ids)[key]) < 1e-5


@torch.inference_mode()
def test_the_detr_of_transformers_gives_our_boxes():
    theirs = peers.detr(128).eval()
    ours = loaded("detr_r50", "128x160px", theirs.model)
    images = torch.randn(1, 3, 128, 160)
    for key in ("logits", "boxes"):
        assert apart(ours(images)[key], theirs(images)[key]) < 1e-4


@pytest.mark.parametrize(
    ("name", "peer", "size"),
    [
        ("vit_b16", "timm/vit_base_patch16_224", 224),
        ("swin_b", "timm/swin_base_patch4_window7_224", 224),
        ("mixer_b16", "timm/mixer_b16_224", 224),
        ("resnet50", None, 64),
    ],
)
@torch.inference_mode()
def test_those_of_timm_and_torchvision_give_our_logits(name, peer, size):
    ours = zoo.create_model(name, size).eval()
    for parameter in ours.parameters():  # a head that begins at zero would say nothing
        if not parameter.any():
            nn.init.normal_(parameter)
    theirs: nn.Module = (zoo.create_model(peer, size) if peer else peers.resnet(size)).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, size, size)
    assert apart(ours(image), theirs(image)) < 1e-5


def test_every_case_of_the_suite_is_timed_beside_ours():
    here = Path(__file__).parent
    registry = Registry.load([str(here / "peers.py")])
    added = tuple(spec.name for plugin in registry.files for spec in plugin.models)
    found = expand(read_suite(str(here / "peers-gpu.yaml")), registry, Choice(added=added))
    assert len(found) == 7 * 3 * 2  # pairs, eager at two batches and compiled at the larger, of both
    assert set(added) < {item.case.model for item in found}
    assert all(item.baseline is not None and not item.illegal for item in found)
