"""The bridge to timm: its names, their sizes and options, and that they are built as timm builds them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from models import macs, on_meta, params

from zoo import BadSize, BadSpec, ZooError, create_model, jsonio, list_models, load_weights, published
from zoo.registry import installed
from zoo.spec import ModelSpec, resolve
from zoo.testing import assert_conforms


def spec(name: str) -> ModelSpec:
    """Return the spec of one of timm's models."""
    return installed().model(f"timm/{name}")


def test_every_name_of_timm_is_one_of_ours():
    assert list_models("timm/*") == [f"timm/{name}" for name in timm.list_models()]
    assert list_models("timm/resnet1?") == ["timm/resnet18"]


def test_every_spec_stands_and_survives_the_way_to_a_worker():
    for name in list_models("timm/*"):
        found = installed().model(name)
        assert jsonio.from_json(ModelSpec, jsonio.to_json(found)) == found


@pytest.mark.parametrize("tagged", timm.list_models("vit_base_patch16*", pretrained=True)[:5])
def test_a_checkpoint_of_timm_is_a_name_with_its_own_size_and_classes(tagged):
    cfg = timm.get_pretrained_cfg(tagged)
    found = spec(tagged)
    with torch.device("meta"):
        theirs = timm.create_model(tagged)
    assert found.size().pair == cfg.input_size[1:]
    assert found.knobs["num_classes"] == cfg.num_classes
    assert params(on_meta(f"timm/{tagged}")) == params(theirs)


@pytest.mark.parametrize("name", ["nonesuch", "resnet50.nonesuch", "vit_tiny_patch16_224_in21k", "", "*x", "__name__"])
def test_what_timm_has_not_is_unknown(name):
    with pytest.raises(ZooError, match="there is no model named"):
        spec(name)


def test_the_spec_says_where_weights_come_from():
    [layout] = spec("vit_base_patch16_224").weights
    assert layout.source.startswith("https://huggingface.co/timm/vit_base_patch16_224.")
    assert (layout.licence, layout.preprocess["mean"]) == ("apache-2.0", "0.5 0.5 0.5")
    assert spec("vit_base_patch16_224").family == "vision_transformer"


@pytest.mark.parametrize(
    ("name", "millions", "giga"),
    [
        # by hand, as the zoo's own vit_b16, resnet50, swin_t and mixer_b16 have them
        ("vit_base_patch16_224", 86.568, 17.564),
        ("resnet50", 25.557, 4.089),
        ("swin_tiny_patch4_window7_224", 28.288, 4.491),
        ("mixer_b16_224", 59.880, 12.602),
    ],
)
def test_counts_are_those_known(name, millions, giga):
    model = on_meta(f"timm/{name}")
    assert round(params(model) / 1e6, 3) == millions
    assert macs(model, 1, 3, 224, 224) / 1e9 == pytest.approx(giga, abs=0.005)


def test_a_model_that_is_built_for_a_size_is_built_anew():
    larger = on_meta("timm/vit_tiny_patch16_224", 384)
    assert larger.pos_embed.shape == (1, 1 + 24**2, 192)
    assert larger(torch.empty(1, 3, 384, 384, device="meta")).shape == (1, 1000)
    assert on_meta("timm/vit_tiny_patch16_224", "224x448px").pos_embed.shape == (1, 1 + 14 * 28, 192)
    assert spec("vit_tiny_patch16_224").sizes.rebuilds


def test_a_convolution_takes_any_size_as_it_is():
    assert not spec("resnet18").sizes.rebuilds
    assert on_meta("timm/resnet18", "97x64px")(torch.empty(1, 3, 97, 64, device="meta")).shape == (1, 1000)


# One of each rule of the bridge: patch, stride, grid of a module, multiples of the default, a single size.
@pytest.mark.parametrize(
    ("name", "legal", "illegal"),
    [
        ("vit_base_patch14_dinov2", "532x518px", 520),
        ("swinv2_tiny_window8_256", "288x256px", 260),
        ("hrnet_w18_small", "256x224px", 225),
        ("naflexvit_base_patch16_gap", "400x384px", 390),
        ("halonet26t", 512, 288),
        ("efficientformer_l1", 224, 256),
        ("convit_tiny", 256, "256x224px"),
    ],
)
def test_legal_sizes_run_and_others_are_refused(name, legal, illegal):
    at = spec(name).size(legal)
    outcome = on_meta(f"timm/{name}", legal)(torch.empty(1, 3, *at.pair, device="meta"))
    assert outcome.shape[0] == 1
    with pytest.raises(BadSize, match="is not legal"):
        create_model(f"timm/{name}", illegal)


def test_classes_and_channels_are_options():
    model = on_meta("timm/resnet18", num_classes=7, in_chans=1)
    assert model(torch.empty(2, 1, 64, 64, device="meta")).shape == (2, 7)
    with pytest.raises(BadSpec, match=r"timm/resnet18 has no option 'classes'; its options: in_chans, num_classes"):
        create_model("timm/resnet18", classes=7)


def test_what_timm_refuses_is_one_sentence():
    with pytest.raises(ZooError, match=r"timm cannot build resnet18 with in_chans=-1: "):
        create_model("timm/resnet18", in_chans=-1)
    with pytest.raises(AttributeError, match="timm has no model 'nonesuch'"):
        resolve("zoo_timm.model:nonesuch")


def test_a_file_of_timm_loads_into_the_model_of_its_name(tmp_path):
    theirs = timm.create_model("test_vit").eval()
    torch.save(theirs.state_dict(), tmp_path / "test_vit.pth")
    ours = create_model("timm/test_vit", weights=tmp_path / "test_vit.pth").eval()
    image = torch.randn(1, 3, 160, 160)
    assert torch.equal(ours(image), theirs(image))
    assert load_weights(ours, tmp_path / "test_vit.pth", spec("test_vit").weights).id == "timm"


def test_published_counts_are_quoted_with_their_file():
    system, variant = spec("vit_base_patch16_224").published
    quoted = {(p.value, p.resolution_or_seqlen) for p in published.of(system, variant) if p.metric == "infer_gmacs"}
    # with the products of attention, and without: two files of timm's
    assert {("17.58", "224"), ("16.87", "224")} <= quoted


def test_torch_is_imported_only_for_a_name_of_timm():
    code = "import sys, zoo; zoo.list_models({!r}); print('torch' in sys.modules)"
    for pattern, expected in (("*", "False"), ("timm/test_vit", "True")):
        done = subprocess.run([sys.executable, "-c", code.format(pattern)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_it_conforms():
    assert_conforms("timm/test_vit")


def test_a_run_takes_its_names(zoo, suite_file):
    path = suite_file("schema: 1\ngroups:\n  - models: ['timm/test_vit*']\n    metrics: [params, macs]\n")
    ran = zoo("run", str(path), "--models", "timm/test_vit,timm/test_vit2")
    assert ran.stderr.count(": ok in") == 2
    assert "[2/2] timm/test_vit2 size=160px" in ran.stderr
