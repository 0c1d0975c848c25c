"""DETR against transformers: the same weights, converted, give the same outputs, losses and detections."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest
import torch
import zoo_detr
from models import build
from torch import Tensor, nn
from zoo_detr.matching import DetrLoss, HungarianMatcher
from zoo_detr.postprocess import BoxDetections
from zoo_detr.weights import from_transformers

from zoo import ModelSpec

transformers = pytest.importorskip("transformers")

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in zoo_detr.zoo_models()}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
SMALL = {
    "num_classes": 11,
    "queries": 9,
    "width": 64,
    "heads": 8,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "ff_width": 96,
    "frozen": 2,
}
TRUNKS = {
    "resnet18": {"block": "basic", "stages": "2-2-2-2"},
    "resnet26": {"block": "bottleneck", "stages": "2-2-2-2"},
    "resnet50": {"block": "bottleneck", "stages": "3-4-6-3"},
}


def theirs(kind: str, trunk: str, attention: str = "sdpa", dilation: bool = False, **options: object) -> nn.Module:
    """Build a model of transformers: random weights, and frozen norms that are not the identity."""
    torch.manual_seed(3)
    options = {**SMALL, **options}
    config = transformers.DetrConfig(
        backbone=trunk,
        dilation=dilation,
        num_labels=options["num_classes"],
        num_queries=options["queries"],
        d_model=options["width"],
        encoder_layers=options["encoder_layers"],
        decoder_layers=options["decoder_layers"],
        encoder_attention_heads=options["heads"],
        decoder_attention_heads=options["heads"],
        encoder_ffn_dim=options["ff_width"],
        decoder_ffn_dim=options["ff_width"],
        attn_implementation=attention,
    )
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms would start at 0 and 1
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for name, buffer in model.named_buffers():
            if name.endswith(("weight", "running_var")):
                buffer.copy_(torch.rand_like(buffer) * 0.5 + 0.5)
            elif name.endswith(("bias", "running_mean")):
                buffer.copy_(torch.randn_like(buffer) * 0.2)
    return level(model)


def level(model: nn.Module) -> nn.Module:
    """Scale the projection of the feature map to about 1, so that positions and attention matter beside it."""
    detector = getattr(model, "detr", model).model
    seen: list[Tensor] = []
    hook = detector.input_projection.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 96))
        detector.input_projection.weight.div_(seen[0].std())
    hook.remove()
    return model


def ours(reference: nn.Module, name: str, trunk: str, **options: object) -> nn.Module:
    """Build our model and give it the converted tensors, each of them and nothing else."""
    model = build(name, 64, **{**SMALL, **TRUNKS[trunk], **options})
    model.load_state_dict(from_transformers(reference.state_dict(), model), strict=True)
    return model


def batch(dtype: torch.dtype, *sizes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return images of several sizes in one batch, (B, 3, H, W), and where they are padded, (B, H, W)."""
    height, width = (max(size[i] for size in sizes) for i in (0, 1))
    draw = torch.Generator().manual_seed(len(sizes))
    images = torch.zeros(len(sizes), 3, height, width, dtype=dtype)
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        images[i, :, :h, :w] = torch.randn(3, h, w, generator=draw, dtype=torch.float64)
        padding[i, :h, :w] = False
    return images, padding


def off(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value; shapes and dtypes are the same."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    return float((found - expected).abs().max() / expected.abs().max())


SIZES = [
    [(65, 97)],
    [(64, 64), (64, 64)],
    [(97, 133), (120, 61), (33, 90)],
]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    ("trunk", "attention", "dilation"),
    [("resnet18", "eager", False), ("resnet26", "sdpa", False), ("resnet26", "sdpa", True)],
)
def test_detections_are_those_of_transformers(dtype, sizes, trunk, attention, dilation):
    reference = theirs("DetrForObjectDetection", trunk, attention, dilation)
    model, reference = ours(reference, "detr_r50", trunk, dilation=dilation).to(dtype), reference.to(dtype)
    images, padding = batch(dtype, *sizes)
    with torch.no_grad():
        found, expected = model(images, padding), reference(images, pixel_mask=(~padding).long())
    assert off(found["logits"], expected.logits) < TOLERANCE[dtype]
    assert off(found["boxes"], expected.pred_boxes) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sizes", SIZES)
def test_masks_are_those_of_transformers(dtype, sizes):
    options = {"width": 128, "queries": 3}
    reference = theirs("DetrForSegmentation", "resnet18", **options)
    model, reference = ours(reference, "detr_r50_panoptic", "resnet18", **options).to(dtype), reference.to(dtype)
    images, padding = batch(dtype, *sizes)
    with torch.no_grad():
        found, expected = model(images, padding), reference(images, pixel_mask=(~padding).long())
    for key, other in (("logits", expected.logits), ("boxes", expected.pred_boxes), ("masks", expected.pred_masks)):
        assert off(found[key], other) < TOLERANCE[dtype]


def test_an_image_without_a_mask_is_that_of_transformers():
    reference = theirs("DetrForObjectDetection", "resnet18").double()
    images, _ = batch(torch.float64, (70, 99))
    with torch.no_grad():
        found, expected = ours(reference, "detr_r50", "resnet18").double()(images), reference(images)
    assert off(found["logits"], expected.logits) < 1e-9


def test_the_published_shape_is_that_of_transformers():
    shape = dict(SPECS["detr_r50"].knobs)
    reference = theirs("DetrForObjectDetection", "resnet50", **shape)
    model = ours(reference, "detr_r50", "resnet50", **shape)
    assert sum(p.numel() for p in reference.parameters()) == sum(p.numel() for p in model.parameters()) == 41_524_768
    images, padding = batch(torch.float64, (95, 65), (64, 96))
    with torch.no_grad():
        found = model.double()(images, padding)
        expected = reference.double()(images, pixel_mask=(~padding).long())
    assert off(found["logits"], expected.logits) < 1e-9
    assert off(found["boxes"], expected.pred_boxes) < 1e-9


def test_gradients_are_those_of_transformers():
    reference = theirs("DetrForObjectDetection", "resnet18").double()
    model = ours(reference, "detr_r50", "resnet18").double()
    images, padding = batch(torch.float64, (65, 97), (90, 64))
    found, expected = model(images, padding), reference(images, pixel_mask=(~padding).long())
    (found["logits"].square().sum() + found["boxes"].sum()).backward()
    (expected.logits.square().sum() + expected.pred_boxes.sum()).backward()
    # transformers 5 freezes nothing of a timm trunk, so it has more of them
    grads = from_transformers({k: p.grad for k, p in reference.named_parameters() if p.requires_grad}, model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(grads) - trained == {name for name, p in model.named_parameters() if not p.requires_grad}
    largest = max(float(grad.abs().max()) for grad in grads.values())
    for name in trained:
        assert (model.get_parameter(name).grad - grads[name]).abs().max() < 1e-9 * largest


def targets(sizes: Iterator[int], seed: int = 0) -> list[dict[str, Tensor]]:
    """Return random objects, so many an image."""
    draw = torch.Generator().manual_seed(seed)
    return [
        {"labels": torch.randint(11, (n,), generator=draw), "boxes": 0.2 + 0.3 * torch.rand(n, 4, generator=draw)}
        for n in sizes
    ]


def test_losses_are_those_of_transformers():
    reference = theirs("DetrForObjectDetection", "resnet18")
    model = ours(reference, "detr_r50", "resnet18")
    images, padding = batch(torch.float32, (65, 97), (90, 64), (64, 64))
    objects = targets([3, 1, 0])
    labels = [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in objects]
    with torch.no_grad():
        found = DetrLoss(11)(model(images, padding), objects)
        expected = reference(images, pixel_mask=(~padding).long(), labels=labels)
    assert float(sum(found.values())) == pytest.approx(float(expected.loss), rel=1e-5)
    for ours_, theirs_, weight in (("class", "loss_ce", 1), ("l1", "loss_bbox", 5), ("giou", "loss_giou", 2)):
        assert float(found[ours_]) == pytest.approx(weight * float(expected.loss_dict[theirs_]), rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_matching_and_losses_of_random_outputs_are_those_of_transformers_to_a_millionth(seed):
    from transformers.loss.loss_for_object_detection import HungarianMatcher as Theirs
    from transformers.loss.loss_for_object_detection import ImageLoss

    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 20, 12, generator=draw, dtype=torch.float64)
    boxes = 0.1 + 0.4 * torch.rand(4, 20, 4, generator=draw, dtype=torch.float64)
    objects = [{**target, "boxes": target["boxes"].double()} for target in targets([3, 1, 7, 0], seed)]
    labels = [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in objects]
    matcher = Theirs(class_cost=1, bbox_cost=5, giou_cost=2)
    theirs_ = {"logits": logits, "pred_boxes": boxes}
    for mine, other in zip(
        HungarianMatcher()({"logits": logits, "boxes": boxes}, objects), matcher(theirs_, labels), strict=True
    ):
        assert [index.tolist() for index in mine] == [index.tolist() for index in other]
    found = DetrLoss(11)({"logits": logits, "boxes": boxes}, objects)
    expected = ImageLoss(matcher, 11, 0.1, ["labels", "boxes"]).double()(theirs_, labels)
    for mine, other, weight in (("class", "loss_ce", 1), ("l1", "loss_bbox", 5), ("giou", "loss_giou", 2)):
        assert float(found[mine]) == pytest.approx(weight * float(expected[other]), abs=1e-6)


def test_boxes_in_pixels_are_those_of_transformers():
    reference = theirs("DetrForObjectDetection", "resnet18")
    images, padding = batch(torch.float32, (65, 97), (90, 64))
    processor = transformers.DetrImageProcessorPil()
    with torch.no_grad():
        found = BoxDetections()(ours(reference, "detr_r50", "resnet18")(images, padding), [(480, 640), (427, 640)])
        outputs = reference(images, pixel_mask=(~padding).long())
    expected = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(480, 640), (427, 640)])
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine["scores"], other["scores"], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(mine["boxes"], other["boxes"], rtol=1e-4, atol=1e-2)
        assert torch.equal(mine["labels"], other["labels"])


@pytest.mark.parametrize("kind", ["DetrForObjectDetection", "DetrForSegmentation"])
def test_files_that_transformers_saves_are_recognised_and_load(tmp_path, kind):
    from safetensors.torch import load_file

    reference = theirs(kind, "resnet18")
    reference.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "detr_r50" if kind == "DetrForObjectDetection" else "detr_r50_panoptic"
    assert [s.id for s in SPECS[name].weights if any(fnmatchcase(k, s.key) for k in tensors)] in (
        ["transformers4"],
        ["transformers5"],
    )
    model, again = (build(name, 64, **{**SMALL, **TRUNKS["resnet18"]}) for _ in range(2))
    model.load_state_dict(from_transformers(tensors, model), strict=True)
    again.load_state_dict(from_transformers(reference.state_dict(), again), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
