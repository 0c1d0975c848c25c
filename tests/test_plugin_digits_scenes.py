"""Digit-scenes: what is in them, that a scene never changes, and what is true of every target."""

from __future__ import annotations

import hashlib
import json
import time

import numpy as np
import pytest
import torch
from PIL import Image
from zoo_digits import data
from zoo_digits.coco import write_coco
from zoo_digits.painting import colour, extent, ground
from zoo_digits.scenes import BACKGROUND, CATEGORIES, CLUTTER, FIRST, VISIBLE, Scenes, load

from zoo import ZooError
from zoo.scores.detection import coco_boxes
from zoo.scores.panoptic import panoptic_quality


@pytest.fixture(scope="module")
def samples():
    """Return all scenes to test on."""
    return list(load("test"))


def test_there_are_16000_scenes_to_train_on_and_200_to_test_on():
    assert (len(load("train")), len(load("test")), len(load("train", scenes=5))) == (16_000, 200, 5)
    assert len(list(load("train", scenes=3))) == len(load("train")[15_997:]) == 3


def test_a_scene_is_a_small_image_with_its_boxes(samples):
    for number, (image, target) in enumerate(samples):
        assert (image.shape, image.dtype) == ((3, 128, 128), torch.uint8)
        assert image.is_contiguous()
        assert (target["image_id"], target["size"]) == (number, (128, 128))
        n = len(target["labels"])
        assert 1 <= n <= 6
        assert (target["boxes"].shape, target["boxes"].dtype) == ((n, 4), torch.float32)
        assert (target["labels"].dtype, target["area"].dtype) == (torch.int64, torch.float32)
        assert (target["crowd"].shape, target["crowd"].any()) == ((n,), False)
        assert ((target["labels"] >= 1) & (target["labels"] <= 10)).all()
        assert ((target["boxes"] >= 0) & (target["boxes"] <= 128)).all()


def test_a_box_is_that_of_the_pixels_that_can_be_seen(samples):
    for _, target in samples:
        things = [s for s in target["segments"] if s["thing"]]
        boxes = [extent((target["map"] == s["id"]).numpy()) for s in things]
        assert target["boxes"].tolist() == [list(map(float, box)) for box in boxes]
        assert [s["label"] for s in things] == target["labels"].tolist()
        sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
        assert torch.equal(target["area"], sides[:, 0] * sides[:, 1])


def test_every_pixel_belongs_to_one_segment(samples):
    for _, target in samples:
        assert target["map"].dtype == torch.uint8
        ids, areas = target["map"].unique(return_counts=True)
        assert ids.tolist() == [s["id"] for s in target["segments"]]
        assert areas.tolist() == [s["area"] for s in target["segments"]]
        assert [s["label"] for s in target["segments"] if not s["thing"]] in ([BACKGROUND, CLUTTER], [BACKGROUND])
        assert all(CATEGORIES[s["label"]] == s["thing"] for s in target["segments"])
        assert not any(s["crowd"] for s in target["segments"])


def test_half_of_every_digit_can_be_seen():
    scenes, hidden = load("test", scenes=60), 0
    for number in range(60):
        canvas, labels = scenes.compose(number)
        layers = slice(FIRST, FIRST + len(labels))
        assert (canvas.seen == np.bincount(canvas.owner.ravel(), minlength=len(canvas.seen))).all()
        ink = canvas.needed[layers] / VISIBLE
        assert (canvas.seen[layers] >= ink / 2).all()
        hidden += int((canvas.seen[layers] < ink).sum())
    assert hidden > 60 / 4


def test_small_medium_and_large_occur_in_both_splits(samples):
    for some in (samples, list(load("train", scenes=200))):
        area = torch.cat([target["area"] for _, target in some])
        small, large = int((area < 32**2).sum()), int((area > 96**2).sum())
        assert small > len(area) / 4
        assert len(area) - small - large > len(area) / 4
        assert large > len(area) / 40


def test_all_digits_occur(samples):
    counts = torch.cat([target["labels"] for _, target in samples]).bincount(minlength=11)
    assert counts[1:].min() > 40


def test_a_scene_does_not_depend_on_others_nor_on_torch():
    torch.manual_seed(1)
    np.random.seed(1)
    alone, target = load("test", scenes=8)[7]
    torch.manual_seed(2)
    later, again = list(load("test", scenes=9))[7]
    assert torch.equal(alone, later)
    assert torch.equal(target["map"], again["map"])
    assert torch.equal(target["boxes"], again["boxes"])


def test_splits_are_different_scenes_of_different_digits():
    train, test = load("train", scenes=1), load("test", scenes=1)
    assert not torch.equal(train[0][0], test[0][0])
    assert len(train.digits) == len(data.load("train"))
    assert len(test.digits) == len(data.load("test"))
    images = {split: {image.tobytes() for image in scenes.digits} for split, scenes in (("a", train), ("b", test))}
    assert not images["a"] & images["b"]


def test_the_first_scenes_are_what_they_always_were():
    """Another hash is another data set: should numpy or Pillow draw otherwise, old scores are of old scenes."""
    content = b"".join(target["map"].numpy().tobytes() for _, target in load("test")[:4])
    assert hashlib.sha256(content).hexdigest()[:16] == "627cec9049033233"


def test_what_is_painted_is_lighter_than_the_ground():
    draw = np.random.default_rng(0)
    for _ in range(50):
        assert colour(draw).mean() > 130
        assert np.quantile(ground(draw).colours, 0.999) < 120


def test_a_scene_takes_milliseconds():
    scenes = load("train")
    start = time.process_time()
    for number in range(50):
        scenes.compose(number)
    assert (time.process_time() - start) / 50 < 0.02


def test_a_split_that_is_not_there_is_refused():
    with pytest.raises(ZooError, match="digit-scenes has no split 'validation'; its splits: train, test"):
        load("validation")


def test_scenes_end():
    with pytest.raises(IndexError):
        load("test", scenes=2)[2]
    assert torch.equal(load("test", scenes=2)[-1][0], load("test")[1][0])
    assert isinstance(load("test"), Scenes)


def test_the_truth_scores_one(samples):
    targets = [target for _, target in samples]
    truth = [{"boxes": t["boxes"], "labels": t["labels"], "scores": torch.ones(len(t["labels"]))} for t in targets]
    found = coco_boxes(truth, targets)
    assert len(found) == 12
    assert all(found[name][0] == pytest.approx(1) for name in found if name.startswith("AP"))


def test_the_true_map_scores_one(samples):
    targets = [target for _, target in samples]
    found = panoptic_quality(targets, targets)
    assert len(found) == 9
    assert {value for value, *_ in found.values()} == {1}


# -- as files ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a folder with eight scenes in COCO's formats."""
    folder = tmp_path_factory.mktemp("scenes")
    write_coco(folder, "test", scenes=8)
    return folder


def test_images_are_written_without_loss(written, samples):
    for number in range(8):
        with Image.open(written / "val2017" / f"{number:012}.png") as image:
            assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), samples[number][0])


def test_boxes_are_written_as_coco_writes_them(written, samples):
    found = json.loads((written / "annotations/instances_val2017.json").read_text())
    assert [c["name"] for c in found["categories"]] == [*"0123456789"]
    assert [a["id"] for a in found["annotations"]] == list(range(1, len(found["annotations"]) + 1))
    first = [a for a in found["annotations"] if a["image_id"] == 0]
    left, top, right, bottom = samples[0][1]["boxes"][0].tolist()
    assert first[0]["bbox"] == [left, top, right - left, bottom - top]
    assert [a["category_id"] for a in first] == samples[0][1]["labels"].tolist()


def test_maps_are_written_as_coco_writes_them(written, samples):
    found = json.loads((written / "annotations/panoptic_val2017.json").read_text())
    assert {c["id"]: bool(c["isthing"]) for c in found["categories"]} == CATEGORIES
    for annotation, (_, target) in zip(found["annotations"], samples, strict=False):
        with Image.open(written / "annotations/panoptic_val2017" / annotation["file_name"]) as image:
            red, green, blue = np.array(image, dtype=np.int64).transpose(2, 0, 1)
        assert np.array_equal(red + 256 * green + 65536 * blue, target["map"].numpy())
        assert [s["id"] for s in annotation["segments_info"]] == [s["id"] for s in target["segments"]]
        left, top, width, height = annotation["segments_info"][-1]["bbox"]
        assert [left, top, left + width, top + height] == list(
            extent((target["map"] == target["segments"][-1]["id"]).numpy())
        )
