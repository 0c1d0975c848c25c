"""The Faster R-CNN plugin: torchvision's detector with the same weights, exact parameters, training, image sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import zoo_rcnn
import zoo_rcnn.model
from models import params
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FrozenBatchNorm2d

from zoo import ModelSpec, ZooError, load_weights, published
from zoo.spec import resolve

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in zoo_rcnn.zoo_models()}
(TORCHVISION,) = SPECS["faster_rcnn_r50_fpn"].weights
LOSSES = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
Found = list[dict[str, Tensor]]


def make(name: str, size: int | str | None = None, **options: object) -> nn.Module:
    """Build a variant for inference."""
    spec = SPECS[name]
    built: nn.Module = resolve(str(spec.build))(spec.size(size).native, **spec.with_options(options))
    return built.eval()


def on_meta(name: str, size: int | str | None = None, **options: object) -> nn.Module:
    """Build a variant on the meta device."""
    with torch.device("meta"):
        return make(name, size, **options)


def images(*sizes: tuple[int, int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return random images."""
    draw = torch.Generator().manual_seed(7)
    return [torch.rand(3, *size, generator=draw, dtype=dtype) for size in sizes]


def detect(model: nn.Module, pictures: Sequence[Tensor]) -> Found:
    """Run a detector on images."""
    with torch.no_grad():
        found: Found = model(list(pictures))
    return found


def difference(a: Found, b: Found) -> float:
    """Return the largest difference of boxes and scores; both find the same number of the same classes, and some."""
    assert all(len(one["labels"]) for one in a)
    assert [one["labels"].tolist() for one in a] == [one["labels"].tolist() for one in b]
    return max(float((x[key] - y[key]).abs().max()) for x, y in zip(a, b, strict=True) for key in ("boxes", "scores"))


@pytest.fixture(scope="module")
def nano() -> nn.Module:
    """The small one for 64 pixels, drawn once."""
    torch.manual_seed(0)
    return make("faster_rcnn_nano", 64)


# -- parameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("faster_rcnn_r50_fpn", 41_755_286),  # as torchvision says of its COCO_V1 weights
        ("faster_rcnn_r101_fpn", 60_695_190),
        ("faster_rcnn_r50_dc5", 165_636_818),
    ],
)
def test_parameters_are_exact(name, expected):
    model = on_meta(name)
    frozen = 3 * 64 * 7**2 + 64 * (64 + 9 * 64 + 256 + 256) + 2 * (256 * 64 + 9 * 64**2 + 64 * 256)  # stem, stage 1
    assert params(model) == expected
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == frozen == 222_400


def test_parameters_of_the_dilated_one_are_in_its_head():
    trunk, d = 23_454_912, 2048  # ResNet-50 without norms and classifier
    proposals = d * (9 * d + 1) + (d + 1) * 15 * (1 + 4)  # 5 sides x 3 ratios at each place: a score and a box
    head = (49 * d + 1) * 1024 + 1025 * 1024 + 1025 * 91 * (1 + 4)
    assert trunk + proposals + head == 165_636_818


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.published])
def test_parameters_are_those_published(name):
    printed = [p for p in published.of(*SPECS[name].published) if p.metric == "params" and p.unit == "M"]
    assert printed
    assert all(abs(float(p.value) - params(on_meta(name)) / 1e6) < 1 for p in printed)  # 60.7 is printed as 60


def test_no_norm_is_trained():
    for name in SPECS.keys() - {"faster_rcnn_nano"}:
        assert not any(".bn" in n or "downsample.1" in n for n, _ in on_meta(name).named_parameters())


@pytest.mark.parametrize("layers", range(6))
def test_the_trunk_trains_from_its_end(layers):
    model = on_meta("faster_rcnn_nano", trainable_layers=layers)
    trained = {n.split(".")[2] for n, p in model.named_parameters() if ".body." in n and p.requires_grad}
    assert trained == set(["layer4", "layer3", "layer2", "layer1", "conv1"][:layers])
    assert all(p.requires_grad for n, p in model.named_parameters() if ".body." not in n)


def test_a_narrow_trunk_is_narrow_throughout_and_one_of_64_is_torchvisions():
    narrow = dict(zoo_rcnn.model.make_trunk("basic", "1-1-1-1", 5, 1e-5, width=16, norm="batch").named_parameters())
    usual = dict(ResNet(BasicBlock, [1, 1, 1, 1]).named_parameters())
    kept = {name for name in usual if not name.startswith("fc.")}
    assert kept == {name for name in narrow if not name.startswith("fc.")}
    for name in kept:
        wide = [
            side if (at, name) == (1, "conv1.weight") or at > 1 else side // 4
            for at, side in enumerate(usual[name].shape)
        ]
        assert list(narrow[name].shape) == wide, name
    torchvisions = ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=FrozenBatchNorm2d)
    ours = zoo_rcnn.model.make_trunk("basic", "1-1-1-1", 5, 1e-5)
    assert str(ours) == str(torchvisions).replace("ResNet", "NarrowResNet", 1)


# -- equality with torchvision -------------------------------------------------------------------------------


def torchvision_model(**options: object) -> nn.Module:
    """Build torchvision's R50-FPN without weights for 32 x 64 pixels: its norms are then batch norms."""
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, min_size=32, max_size=64, **options)
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.3, 0.7)
    model.roi_heads.box_predictor.cls_score.weight.data.mul_(20)  # some classes pass the threshold
    return model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A model of torchvision, and its file."""
    model, path = torchvision_model(), tmp_path_factory.mktemp("rcnn") / "fasterrcnn.pth"
    torch.save(model.state_dict(), path)
    return model, path


def test_names_and_shapes_are_those_of_torchvision():
    with torch.device("meta"):
        theirs = FasterRCNN(resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3), 91)
    ours = on_meta("faster_rcnn_r50_fpn")
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert [n for n, p in ours.named_parameters() if p.requires_grad] == [
        n for n, p in theirs.named_parameters() if p.requires_grad
    ]


def test_a_file_of_torchvision_gives_what_torchvision_finds(saved):
    theirs, path = saved
    ours = make("faster_rcnn_r50_fpn", "32x64px")
    assert load_weights(ours, path, (TORCHVISION,)) is TORCHVISION
    pictures = images((32, 64), (24, 64))
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
    frozen = FasterRCNN(backbone, 91, min_size=32, max_size=64).eval()
    frozen.load_state_dict(ours.state_dict())
    assert difference(detect(ours, pictures), detect(frozen, pictures)) == 0.0
    wide = [picture.double() for picture in pictures]
    assert difference(detect(ours.double(), wide), detect(theirs.double(), wide)) < 1e-9
    theirs.float()


def test_a_file_of_the_old_names_loads(nano, tmp_path):
    old = {}
    for name, tensor in nano.state_dict().items():
        name = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name)
        old[name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = tensor
    assert {"backbone.fpn.inner_blocks.0.weight", "rpn.head.conv.bias"} <= old.keys()
    torch.save(old, tmp_path / "old.pth")
    other = make("faster_rcnn_nano", 64)
    load_weights(other, tmp_path / "old.pth", (TORCHVISION,))
    pictures = images((64, 64))
    assert difference(detect(nano, pictures), detect(other, pictures)) == 0.0


def test_a_file_for_other_classes_is_refused_with_its_shapes(nano, tmp_path):
    torch.save(nano.state_dict(), tmp_path / "nano.pth")
    with pytest.raises(ZooError, match=r"cls_score.weight is 11x128, expected 5x128"):
        load_weights(make("faster_rcnn_nano", num_classes=5), tmp_path / "nano.pth", (TORCHVISION,))


def test_unknown_names_are_passed_on():
    convert = resolve(str(TORCHVISION.convert))
    unknown = {"roi_heads.mask_head.0.weight": torch.empty(0), "rpn.head.conv.1.0.weight": torch.empty(0)}
    assert convert(unknown, nn.Identity()) == unknown


# -- images --------------------------------------------------------------------------------------------------


def test_an_image_of_the_models_size_is_computed_as_it_is():
    model, (picture,) = on_meta("faster_rcnn_r50_fpn"), images((800, 1066))
    batch, _ = model.transform([picture])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    assert batch.image_sizes == [(800, 1066)]
    assert batch.tensors.shape == (1, 3, 800, 1088)  # padded to 34 x 32
    torch.testing.assert_close(batch.tensors[0, :, :, :1066], (picture - mean[:, None, None]) / std[:, None, None])
    assert not batch.tensors[0, :, :, 1066:].any()


def test_images_of_other_sizes_are_scaled_to_that_of_the_model():
    model = on_meta("faster_rcnn_r50_fpn", "800x1333px")
    batch, _ = model.transform(images((480, 640), (427, 1000)))
    assert batch.image_sizes == [(800, 1066), (569, 1333)]
    assert on_meta("faster_rcnn_nano", 128).transform(images((64, 64)))[0].image_sizes == [(128, 128)]


def test_images_of_several_sizes_are_found_boxes_in(nano):
    sizes = [(64, 64), (48, 80), (100, 50)]
    found = detect(nano, images(*sizes))
    assert len(found) == 3
    for one, (height, width) in zip(found, sizes, strict=True):
        n = len(one["boxes"])
        assert 0 < n <= 100
        assert one["boxes"].shape == (n, 4)
        assert one["labels"].shape == one["scores"].shape == (n,)
        left, top, right, bottom = one["boxes"].unbind(1)
        for low, high, side in ((left, right, width), (top, bottom, height)):
            assert (low >= 0).all()
            assert (low < high).all()
            assert (high <= side + 1e-3).all()
        assert 1 <= one["labels"].min() <= one["labels"].max() <= 10
        assert 0.05 < one["scores"].min() <= one["scores"].max() <= 1
        assert torch.equal(one["scores"], one["scores"].sort(descending=True).values)


def test_batched_images_are_found_the_same_in_as_single_ones(nano):
    double, pictures = (
        make("faster_rcnn_nano").double(),
        images((128, 128), (128, 128), (128, 128), dtype=torch.float64),
    )
    double.load_state_dict(nano.state_dict())
    together = detect(double, pictures)
    for one, picture in zip(together, pictures, strict=True):
        assert difference([one], detect(double, [picture])) < 1e-9


def test_the_same_image_is_found_the_same_in_again(nano):
    first = detect(nano, images((64, 64)))
    detect(nano, images((32, 50)))
    assert difference(first, detect(nano, images((64, 64)))) == 0.0


def test_bfloat16_autocast_runs(nano):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = detect(nano, images((64, 64)))
    assert len(found["boxes"]) > 0
    assert found["boxes"].isfinite().all()


def test_the_dilated_trunk_has_one_level_of_stride_16():
    model = make("faster_rcnn_r50_dc5", "64x96px", stages="1-1-1-1", hidden=8, num_classes=3)
    with torch.no_grad():
        assert {k: v.shape for k, v in model.backbone(torch.randn(1, 3, 64, 96)).items()} == {"0": (1, 2048, 4, 6)}
    (found,) = detect(model, images((64, 96)))
    assert found["boxes"].isfinite().all()
    assert model.rpn.anchor_generator.num_anchors_per_location() == [15]


# -- training ------------------------------------------------------------------------------------------------


def targets(*boxes: list[list[float]]) -> Found:
    """Return targets with these boxes (left, top, right, bottom) in pixels, of classes 1, 2, ..."""
    return [{"boxes": torch.tensor(b).reshape(-1, 4), "labels": torch.arange(1, len(b) + 1)} for b in boxes]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("faster_rcnn_nano", {}),
        ("faster_rcnn_nano", {"trainable_layers": 3}),
        ("faster_rcnn_r50_dc5", {"stages": "1-1-1-1", "hidden": 8, "num_classes": 4, "anchor_size": 8}),
    ],
)
def test_training_gives_four_losses_that_reach_every_trainable_parameter(name, options):
    torch.manual_seed(3)
    model = make(name, 64, **options).train()
    boxes = targets([[10, 20, 40, 60], [30, 8, 50, 30]], [[5, 5, 60, 40]])
    losses = model(images((64, 64), (48, 64)), boxes)
    assert losses.keys() == LOSSES
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for parameter_name, parameter in model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == parameter.requires_grad, parameter_name


def test_an_image_without_boxes_can_be_learned_from(nano):
    losses = nano.train()(images((64, 64), (64, 64)), targets([[10, 20, 40, 60]], []))
    nano.eval()
    assert all(loss.isfinite() for loss in losses.values())


# -- options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["faster_rcnn_nano", "faster_rcnn_r50_dc5"])
def test_every_option_changes_the_model(name):
    others = {
        "num_classes": 7,
        "block": "bottleneck",
        "stages": "2-1-1-1",
        "channels": 16,
        "hidden": 64,
        "anchor_size": 16,
        "trainable_layers": 2,
        "norm_eps": 0.0,
        "trunk_width": 8,
        "norm": "frozen",
        "proposals": 50,
        "rois": 32,
    }

    def shown(**options: object) -> tuple[object, ...]:
        model = on_meta(name, **options)
        trained = [n for n, p in model.named_parameters() if p.requires_grad]
        kept = model.rpn._pre_nms_top_n, model.rpn._post_nms_top_n, model.roi_heads.fg_bg_sampler.batch_size_per_image
        return str(model), trained, model.rpn.anchor_generator.sizes, kept

    for option in SPECS[name].knobs:
        assert shown(**{option: others[option]}) != shown()


def test_anchors_double_with_each_level():
    assert on_meta("faster_rcnn_nano").rpn.anchor_generator.sizes == ((8,), (16,), (32,), (64,), (128,))
    assert on_meta("faster_rcnn_r50_dc5").rpn.anchor_generator.sizes == ((32, 64, 128, 256, 512),)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"block": "plain"}, "no block 'plain'; its blocks: basic, bottleneck"),
        ({"stages": "3-4-6"}, "stages='3-4-6' is not the shape of a ResNet"),
        ({"stages": "3-0-6-3"}, "expected four block counts such as 3-4-6-3"),
        ({"trainable_layers": 6}, "trainable_layers=6 is not legal: a trunk has from 0 to 5"),
        ({"trunk_width": 0}, "trunk_width=0 is not legal: expected at least 1 channel"),
        ({"norm": "layer"}, "norm='layer' is not legal: a trunk has one of frozen, batch"),
    ],
)
def test_options_that_cannot_be_are_refused(options, reason):
    with pytest.raises(ZooError, match=reason):
        on_meta("faster_rcnn_nano", **options)


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.published])
def test_published_numbers_are_there(name):
    for glob in SPECS[name].published[1:]:
        assert published.of("Faster R-CNN", glob)


def test_what_cannot_be_checked_says_why():
    for spec in SPECS.values():
        assert spec.data_dependent
        assert all(spec.skips.values())
