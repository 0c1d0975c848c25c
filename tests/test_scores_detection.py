"""COCO's twelve numbers: what pycocotools says, and intervals that equal its own accumulation over redrawn images."""

from __future__ import annotations

import contextlib
import io
import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from zoo import ZooError
from zoo.scores.bootstrap import redrawn, with_intervals
from zoo.scores.detection import NUMBERS, coco_boxes, drawn_numbers

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco_tiny.zip"
REAL = "coco_tiny/annotations/instances_val2017.json"


@pytest.fixture(scope="module")
def real():
    """Return the annotations of 80 real images of COCO."""
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is not here")
    with zipfile.ZipFile(SHARED) as archive:
        return json.loads(archive.read(REAL))


def made(images=25, labels=6, seed=0):
    """Return the annotations of generated images: all three ranges of areas, crowds, and one image without a box."""
    draw = np.random.default_rng(seed)
    found = []
    for image in range(1, images):
        for _ in range(draw.integers(1, 8)):
            left, top, width, height = [*draw.uniform(0, 300, 2), *np.exp(draw.uniform(2, 5.5, 2))]
            row = {"image_id": image, "category_id": int(draw.integers(1, labels + 1)), "id": len(found) + 1}
            row |= {"bbox": [left, top, width, height], "area": width * height * draw.uniform(0.4, 1)}
            found.append(row | {"iscrowd": int(draw.random() < 0.1)})
    return {
        "images": [{"id": i, "height": 600, "width": 600} for i in range(images)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, labels + 1)],
        "annotations": found,
    }


def targets_of(annotations):
    """Return the targets of an annotation file, one for each of its images."""
    found = []
    for image in annotations["images"]:
        boxes = [a for a in annotations["annotations"] if a["image_id"] == image["id"]]
        corners = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in boxes)]
        target = {"image_id": image["id"], "size": (image["height"], image["width"])}
        target["boxes"] = torch.tensor(corners, dtype=torch.float64).reshape(-1, 4)
        target["labels"] = torch.tensor([a["category_id"] for a in boxes], dtype=torch.int64)
        target["area"] = torch.tensor([a["area"] for a in boxes], dtype=torch.float64)
        target["crowd"] = torch.tensor([a["iscrowd"] for a in boxes], dtype=torch.bool)
        found.append(target)
    return found


def results_of(annotations, how, seed=0):
    """Return predictions derived from the ground truth, as COCO writes results: one dictionary a box."""
    draw = np.random.default_rng(seed)
    labels = sorted({c["id"] for c in annotations["categories"]})
    found = []
    for row in annotations["annotations"]:
        box, label, image = np.array(row["bbox"]), row["category_id"], row["image_id"]
        if row["iscrowd"]:
            continue
        if how in ("jittered", "everything"):
            box = box + draw.normal(0, 0.12, 4) * [box[2], box[3], box[2], box[3]]
            box[2:] = np.maximum(box[2:], 1)
        if how in ("missing", "everything") and draw.random() < 0.3:
            continue
        copies = 3 if how in ("duplicated", "everything") else 1
        for copy in range(copies):
            score = 1.0 if how == "perfect" else round(float(draw.uniform(0.05, 1)) / (1 + copy), 2)
            kind = int(draw.choice(labels)) if how == "everything" and draw.random() < 0.2 else label
            found.append({"image_id": image, "category_id": kind, "bbox": box.tolist(), "score": score})
    return found


def predictions_of(annotations, results):
    """Return results as the predictions of each image."""
    found = []
    for image in annotations["images"]:
        mine = [r for r in results if r["image_id"] == image["id"]]
        corners = [(x, y, x + w, y + h) for x, y, w, h in (r["bbox"] for r in mine)]
        prediction = {"boxes": torch.tensor(corners, dtype=torch.float64).reshape(-1, 4)}
        prediction["scores"] = torch.tensor([r["score"] for r in mine], dtype=torch.float64)
        prediction["labels"] = torch.tensor([r["category_id"] for r in mine], dtype=torch.int64)
        found.append(prediction)
    return found


def directly(annotations, results):
    """Return the COCOeval of pycocotools, used as its authors show."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(annotations))
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


HOW = ["perfect", "jittered", "missing", "duplicated", "lower", "everything"]


def equal_numbers(annotations, how):
    results = results_of(annotations, how)
    expected = dict(zip(NUMBERS, directly(annotations, results).stats, strict=True))
    found = coco_boxes(predictions_of(annotations, results), targets_of(annotations))
    assert {name: value for name, (value, *_) in found.items()} == {n: v for n, v in expected.items() if v != -1}
    assert all(
        0 <= low <= value <= high <= 1 and n == len(annotations["images"]) for value, low, high, n in found.values()
    )


@pytest.mark.parametrize("how", HOW)
def test_numbers_are_those_of_pycocotools(how):
    equal_numbers(made(), how)


@pytest.mark.parametrize("how", HOW)
def test_numbers_of_real_images_are_those_of_pycocotools(real, how):
    equal_numbers(real, how)


def test_perfect_predictions_have_precision_one_and_crowds_are_nobodys_loss():
    annotations = made()
    assert sum(a["iscrowd"] for a in annotations["annotations"]) > 5
    found = coco_boxes(predictions_of(annotations, results_of(annotations, "perfect")), targets_of(annotations))
    assert all(found[name][0] == pytest.approx(1) for name in NUMBERS if name.startswith("AP"))
    assert found["AR100"][0] == 1


def test_a_box_inside_a_crowd_is_no_mistake():
    truth = target(boxes=[(0, 0, 40, 40), (50, 50, 90, 90)], crowd=[False, True])
    boxes = [(0, 0, 40, 40), (55, 55, 65, 65), (70, 70, 80, 80)]
    assert coco_boxes([prediction(boxes, scores=[0.5, 0.9, 0.8])], [truth])["AP"][0] == pytest.approx(1)
    alone = target(boxes=[(0, 0, 40, 40)])
    # Two false ones come first: precision 1/3 at every recall.
    assert coco_boxes([prediction(boxes, scores=[0.5, 0.9, 0.8])], [alone])["AP"][0] == pytest.approx(1 / 3)


def test_numbers_without_such_objects_are_left_out():
    found = coco_boxes([prediction([(0, 0, 40, 40)])], [target(boxes=[(0, 0, 40, 40)])])
    assert set(NUMBERS) - set(found) == {"APs", "APl", "ARs", "ARl"}
    assert coco_boxes([prediction([(0, 0, 40, 40)])], [target(boxes=[])]) == {}


def test_nothing_predicted_scores_nothing():
    found = coco_boxes([prediction([])] * 3, [target([(0, 0, 40, 40)], image_id=i) for i in range(3)])
    assert found["AP"] == (0, 0, 0, 3)


def test_one_image_says_nothing_of_others():
    assert coco_boxes([prediction([(0, 0, 40, 40)])], [target([(0, 0, 40, 40)])])["AR100"] == (1, 0, 1, 1)


def test_nothing_is_printed(capsys):
    coco_boxes([prediction([(0, 0, 40, 40)])], [target(boxes=[(0, 0, 40, 40)])])
    assert capsys.readouterr() == ("", "")


# -- intervals -----------------------------------------------------------------------------------------------


def accumulated(evaluation, counts):
    """Return the twelve numbers that pycocotools accumulates over a list of images with repetitions."""
    images = len(evaluation.params.imgIds)
    rows = [evaluation.evalImgs[i : i + images] for i in range(0, len(evaluation.evalImgs), images)]
    picked = [row[i] for row in rows for i in np.repeat(np.arange(images), counts)]
    again = COCOeval(evaluation.cocoGt, evaluation.cocoDt, "bbox")
    again.evalImgs, again._paramsEval = picked, again.params
    again.params.imgIds = list(range(sum(counts)))
    with contextlib.redirect_stdout(io.StringIO()):
        again.accumulate()
        again.summarize()
    return again.stats


@pytest.mark.parametrize("seed", [0, 1])
def test_a_draw_equals_accumulating_over_the_images_drawn(seed):
    annotations = made(images=15, seed=seed)
    results = results_of(annotations, "everything", seed)
    for i, result in enumerate(results):  # no two alike: the order among equals is nobody's
        result["score"] += i * 1e-6
    evaluation = directly(annotations, results)
    draws = redrawn(15, draws=8, seed=seed)
    found = drawn_numbers(evaluation, draws)
    for b, counts in enumerate(draws):
        mine = np.nan_to_num([found[name][b] for name in NUMBERS], nan=-1)
        assert mine == pytest.approx(accumulated(evaluation, counts), abs=1e-12)


def test_each_image_drawn_once_is_the_value_itself():
    annotations = made()
    evaluation = directly(annotations, results_of(annotations, "everything"))
    found = drawn_numbers(evaluation, np.ones((1, 25), dtype=np.int64))
    assert [found[name][0] for name in NUMBERS] == pytest.approx(evaluation.stats, abs=1e-12)


def test_the_interval_is_always_the_same():
    annotations = made()
    given = predictions_of(annotations, results_of(annotations, "jittered")), targets_of(annotations)
    assert coco_boxes(*given) == coco_boxes(*given)


def test_more_images_have_a_narrower_interval():
    widths = []
    for images in (10, 160):
        annotations = made(images=images)
        scores = coco_boxes(predictions_of(annotations, results_of(annotations, "missing")), targets_of(annotations))
        widths.append(scores["AP"][2] - scores["AP"][1])
    assert widths[1] < widths[0] / 2


def test_a_draw_without_meaning_is_left_out():
    found = with_intervals({"APl": 0.5}, {"APl": np.array([np.nan, 0.4, 0.6])}, images=3)
    assert found["APl"] == pytest.approx((0.5, 0.405, 0.595, 3))


def test_two_hundred_images_take_seconds():
    annotations = made(images=200, labels=10)
    given = predictions_of(annotations, results_of(annotations, "everything")), targets_of(annotations)
    start = time.process_time()
    coco_boxes(*given)
    assert time.process_time() - start < 20


# -- predictions that are none -------------------------------------------------------------------------------

NAN = float("nan")


def target(boxes, crowd=None, image_id=7, **more):
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    area = (corners[:, 2:] - corners[:, :2]).prod(1)
    return {
        "image_id": image_id,
        "size": (100, 100),
        "boxes": corners,
        "labels": torch.ones(len(corners), dtype=torch.int64),
        "area": area,
        "crowd": torch.tensor(crowd or [False] * len(corners)),
        **more,
    }


def prediction(boxes, scores=None, labels=None):
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {
        "boxes": corners,
        "scores": torch.tensor(scores or [0.5] * len(corners)),
        "labels": torch.ones(len(corners), dtype=torch.int64) if labels is None else torch.tensor(labels),
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            prediction([(0, 0, float("nan"), 4)]),
            r"image 7 has a box \[0.0, 0.0, nan, 4.0\] with score 0.5 \(number 0 of 1",
        ),
        (prediction([(0, 0, 4, 4)], scores=[float("inf")]), "image 7 has a box .* with score inf .* expected finite"),
        (prediction([(9, 0, 4, 4)]), "image 7 has a box .* expected finite numbers, and left, top, right, bottom"),
        (prediction([(0, 0, 4, 4)], labels=[3]), "image 7 has label 3, which is no category; the categories: 1, 2"),
        (prediction([(0, 0, 4, 4)], labels=[1.0]), "image 7 has labels of type torch.float32; expected whole numbers"),
        (
            prediction([(0, 0, 4, 4)], labels=[1, 2]),
            r"image 7 has boxes \(1, 4\), scores \(1,\), labels \(2,\); expected",
        ),
        ({"boxes": torch.zeros(0, 4), "scores": torch.zeros(0)}, "image 7 has no labels; expected boxes, scores and"),
    ],
)
def test_a_prediction_that_is_none_is_refused_with_its_image(wrong, message):
    with pytest.raises(ZooError, match=message):
        coco_boxes([wrong], [target([(0, 0, 4, 4)], categories=(1, 2))])


def test_a_label_that_no_image_has_is_legal_where_it_is_a_category():
    found = coco_boxes([prediction([(0, 0, 4, 4)], labels=[2])], [target([(0, 0, 4, 4)], categories=(1, 2))])
    assert found["AP"][0] == 0


def test_predictions_and_images_are_as_many():
    with pytest.raises(ZooError, match="0 predictions for 1 images; expected one for each"):
        coco_boxes([], [target([(0, 0, 4, 4)])])
    with pytest.raises(ZooError, match="image 7 is there twice"):
        coco_boxes([prediction([])] * 2, [target([])] * 2)
