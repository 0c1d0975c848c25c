"""Static cost of anything: models and layers by name, modules, functions; over real images; what cannot be had."""

from __future__ import annotations

import json
import math
import time

import psutil
import pytest
import torch
from PIL import Image
from torch import nn

import zoo
from zoo.errors import BadSize, BadSpec, UnknownName, ZooError
from zoo.images import scaled
from zoo.metrics.memory import Unmeasurable


def test_a_model_by_name_at_a_size():
    found = zoo.profile("vit_b16", 384)
    assert found.params.total == 86_859_496
    assert round(found.macs / 1e9, 3) == 55.484
    assert found.flops == 2 * found.macs
    assert found.subject.closed_form == found.macs


def test_counts_are_of_one_sample_and_memory_of_the_batch():
    one, four = zoo.profile("mixer_nano"), zoo.profile("mixer_nano", batch_size=4)
    assert one.macs == four.macs
    assert one.activations == four.activations
    assert four.memory.inputs == 4 * one.memory.inputs == 4 * 3 * 32 * 32 * 4
    assert one.memory.weights == four.memory.weights == 4 * one.params.total


def test_options_change_what_is_counted_and_unknown_ones_are_refused():
    plain, wide = zoo.profile("vit_nano"), zoo.profile("vit_nano", num_classes=100)
    assert wide.macs - plain.macs == 64 * (100 - 10)  # the classifier reads one token of width 64
    with pytest.raises(BadSpec, match="has no option 'classes'"):
        zoo.profile("vit_nano", classes=3)


def test_half_the_bytes_in_half_the_precision():
    full, half = zoo.profile("vit_nano"), zoo.profile("vit_nano", dtype="bfloat16")
    assert half.macs == full.macs
    assert 2 * half.count.bytes == pytest.approx(full.count.bytes, rel=0.01)  # norms keep their means in float32
    assert 2 * half.params.bytes == full.params.bytes


def test_backward_of_a_linear_layer_is_twice_forward_but_for_the_input():
    found = zoo.profile(nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 3)), inputs=(torch.ones(5, 8),))
    assert found.step.forward.macs == 5 * (8 * 6 + 6 * 3)
    assert found.step.backward.macs == 5 * (8 * 6 + 2 * 6 * 3)  # nothing asks for the gradient of the input


def test_a_module_is_analysed_without_being_touched():
    module = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3)).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    data = zoo.profile(module, inputs=(torch.ones(5, 8),)).to_json()
    assert data["macs"] == 5 * 8 * 3
    assert data["failures"] == {}
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_tied_weights_stay_tied_in_the_copy():
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    module[1].weight = module[0].weight
    assert zoo.profile(module, inputs=(torch.ones(1, 8),)).params.total == 8 * 8 + 2 * 8


def test_a_function_by_name_is_built_on_meta():
    found = zoo.profile("torchvision.models:resnet18", "224px")
    assert (found.params.total, found.macs) == (11_689_512, 1_814_073_344)
    assert zoo.profile("torchvision.models:resnet18", "224px", num_classes=10).params.total < 11_689_512


def test_a_function_that_reads_tensors_while_it_builds_is_built_and_then_put_on_meta():
    found = zoo.profile("torchvision.models:regnet_y_400mf", "224px")
    assert (found.params.total, round(found.macs / 1e9, 3)) == (4_344_144, 0.402)  # as torchvision says
    assert found.module.fc.weight.is_meta
    assert found.memory.weights > 4 * 4_344_144


@pytest.mark.parametrize(
    ("arguments", "options", "error", "said"),
    [
        (("vit_nona",), {}, UnknownName, "did you mean"),
        (("vit_nano", 33), {}, BadSize, "multiple"),
        (("vit_nano",), {"dtype": "int3"}, BadSpec, "expected one of float32"),
        (("vit_nano",), {"batch_size": 0}, BadSpec, "at least 1"),
        (("torchvision.models:resnet18",), {}, BadSpec, "give a size"),
        (("torchvision.models:no_such",), {}, ZooError, "no_such"),
        (("no_such_package:fn", 224), {}, ZooError, "no_such_package"),
    ],
)
def test_bad_input_is_one_sentence(arguments, options, error, said):
    with pytest.raises(error, match=said):
        zoo.profile(*arguments, **options).macs  # noqa: B018


def test_a_layer_by_name_and_width():
    found = zoo.profile("self_attention", 512, width=64)
    assert found.macs == 4 * 512 * 64**2 + 2 * 512**2 * 64 == found.subject.closed_form


def test_what_cannot_be_had_is_said_and_the_rest_is_there():
    data = zoo.profile("faster_rcnn_nano").to_json()
    assert data["params"] > 0
    assert data["macs"] is None
    assert "proposals depend on" in data["failures"]["count"]
    with pytest.raises(Unmeasurable, match="no one count"):
        zoo.profile("faster_rcnn_nano").macs  # noqa: B018


def test_everything_as_json():
    data = zoo.profile("fnet_vision_nano").to_json(depth=None)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["conventions"]["flop"] == 2 * data["macs"]
    assert data["conventions"]["flop+elementwise"] == 2 * data["macs"] + data["flops_fft"] + data["flops_elementwise"]
    assert sum(data["by_op"].values()) == data["macs"]
    assert data["modules"][0]["macs"] == data["macs"]


def test_the_tree_adds_up_at_every_level():
    found = zoo.profile("swin_nano")
    for _, part in found.tree.walk():
        own = sum(part.by_op.values())
        assert own == part.macs >= sum(child.macs for child in part.children)
    assert found.tree.macs == found.macs
    assert next(found.tree.walk(1))[0] == ""
    assert {path.count(".") for path, _ in found.tree.walk(2)} == {0, 1}


@pytest.mark.parametrize("training", [False, True])
def test_the_largest_batch_fits_and_one_more_does_not(training):
    found, allowed = zoo.profile("mixer_nano"), 8 * 2**20
    most = found.largest_batch(allowed, training)

    def peak(batch_size):
        other = zoo.profile("mixer_nano", batch_size=batch_size)
        return (other.training_memory() if training else other.memory).peak

    assert most > 1
    assert peak(most) <= allowed < peak(most + 1)


def test_a_batch_of_one_that_batch_norm_cannot_train_on_counts_as_two():
    assert zoo.profile("resnet_nano").largest_batch(2**30, training=True) > 2


# -- real images ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ((480, 640), (800, 1066)),  # 640 x 800 / 480 = 1066.7, rounded down
        ((640, 480), (1066, 800)),
        ((300, 600), (666, 1332)),  # the long side would be 1600: the short one is round(1333 / 2)
        ((500, 500), (800, 800)),
    ],
)
def test_images_are_scaled_as_detr_scales_them(image, expected):
    assert scaled(*image, 800, 1333) == expected


@pytest.fixture
def folder(tmp_path):
    for name, size in (("a.jpg", (64, 48)), ("b.png", (48, 64)), ("c.jpg", (64, 48))):
        Image.new("RGB", size, (200, 100, 50)).save(tmp_path / name)
    return tmp_path


def test_the_mean_over_images_is_that_of_their_counts(folder):
    found = zoo.over_images("detr_nano", folder, 96, 160)
    assert found.sizes == ("96x128px", "128x96px", "96x128px")
    wide, tall = (zoo.profile("detr_nano", size).macs for size in found.sizes[:2])
    assert found.mean() == pytest.approx((2 * wide + tall) / 3)
    assert found.spread() == pytest.approx(abs(wide - tall) / math.sqrt(3), abs=1e-6)


def test_an_annotation_file_has_the_sizes_too(folder):
    images = [{"id": 2, "height": 64, "width": 48}, {"id": 1, "height": 48, "width": 64}]
    (folder / "sizes.json").write_text(json.dumps({"images": images}))
    assert zoo.over_images("detr_nano", folder / "sizes.json", 96, 160).sizes == ("96x128px", "128x96px")


def test_a_detector_that_depends_on_what_it_sees_runs_on_the_images(folder):
    found = zoo.over_images("faster_rcnn_nano", folder, 96, 160, limit=2)
    assert len(found.sizes) == 2
    assert all(count > 1e7 for count in found.totals["mac"])
    Image.new("RGB", (100, 48), (200, 100, 50)).save(folder / "b.png")  # wider than the first, and scaled no more
    wide = zoo.over_images("faster_rcnn_nano", folder, 96, 200, limit=2)
    assert wide.sizes == ("96x128px", "96x200px")
    assert wide.totals["mac"][1] > 1.2 * wide.totals["mac"][0]  # its box head is the same
    (folder / "sizes.json").write_text(json.dumps({"images": [{"id": 1, "height": 48, "width": 64}]}))
    with pytest.raises(ZooError, match="give the folder"):
        zoo.over_images("faster_rcnn_nano", folder / "sizes.json", 96, 160)


class Looking(nn.Module):
    """A convolution that looks at the image first, as transformers' DETR does at its mask."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.layer(x if x.mean().item() > 0 else x[..., :1])


@pytest.mark.parametrize("what", [Looking, Looking()])
def test_a_module_that_looks_at_its_input_is_counted_on_images(folder, what):
    with pytest.raises(Unmeasurable, match=r"does not run on the meta device .* --images"):
        zoo.profile(what, "96x128px").macs  # noqa: B018
    assert zoo.over_images(what, folder, 96, 160).totals["mac"] == (96 * 128 * 3 * 2,) * 3


def test_a_module_that_runs_on_no_image_is_said(folder):
    with pytest.raises(ZooError, match=r"Linear does not run on an image of 96x128px \(RuntimeError: .*mat1"):
        zoo.over_images(nn.Linear(7, 3), folder, 96, 160)


def test_no_images_is_said(tmp_path):
    with pytest.raises(ZooError, match="no images"):
        zoo.over_images("detr_nano", tmp_path)
    with pytest.raises(ZooError, match="expected a folder of images, or a COCO annotation file"):
        zoo.over_images("detr_nano", tmp_path / "missing.json")


# -- very large inputs ---------------------------------------------------------------------------------------

MILLION = 2**20


@pytest.mark.parametrize("name", zoo.list_layers())
def test_a_million_tokens_of_every_layer_take_two_seconds_and_no_memory(name):
    spec = zoo.layer_spec(name)
    side = 1024 // int(spec.step(spec.knobs)) * int(spec.step(spec.knobs))
    zoo.profile(name, f"{side}x{side}" if spec.grid else MILLION, width=64)
    before, began = resident(), time.process_time()
    found = zoo.profile(name, f"{side}x{side}" if spec.grid else MILLION, width=64)
    assert found.macs == found.subject.closed_form
    assert found.memory.peak > 512 * 2**20
    assert time.process_time() - began < 2
    assert resident() - before < 200 * 2**20  # one activation alone has 256 MiB


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("fnet_base", MILLION, {"max_positions": MILLION}),
        ("performer_base", MILLION, {}),
        ("vit_b16", 16_384, {}),
        ("swin_t", 16_384, {}),
    ],
)
def test_a_million_tokens_and_an_image_of_16384_pixels_take_two_seconds_and_no_memory(name, size, options):
    first = zoo.profile(name, **options)  # loads what is needed
    assert first.macs * first.memory.peak > 0
    before, began = resident(), time.process_time()
    found = zoo.profile(name, size, **options)
    assert found.macs == found.subject.closed_form
    assert found.memory.peak > 3 * 2**30
    assert time.process_time() - began < 2
    assert resident() - before < 200 * 2**20


def resident() -> int:
    """Return the bytes that this process holds."""
    return psutil.Process().memory_info().rss
