"""COCO's twelve numbers of boxes, by pycocotools, each with its interval.

A target is one image: ``image_id``, ``size`` (H, W), ``boxes`` (T, 4) left, top, right, bottom in pixels, ``labels``
(T,) category ids, ``area`` (T,) in pixels, ``crowd`` (T,); where it has ``categories``, predicted labels must be among
them. A prediction has ``boxes`` (K, 4) in the same pixels, ``scores`` (K,) and ``labels`` (K,).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from zoo.errors import ZooError
from zoo.scores.bootstrap import Counts, Score, Values, redrawn, with_intervals
from zoo.scores.curves import Ranking
from zoo.scores.given import check_labels, check_pairs

Record = Mapping[str, Any]

ALL, SMALL, MEDIUM, LARGE = range(4)  # COCO's ranges of areas, in COCOeval's order
# name: (which thresholds of IoU, from 0.50 in steps of 0.05; range of areas; detections an image, None for precision)
NUMBERS: dict[str, tuple[slice, int, int | None]] = {
    "AP": (slice(None), ALL, None),
    "AP50": (slice(0, 1), ALL, None),
    "AP75": (slice(5, 6), ALL, None),
    "APs": (slice(None), SMALL, None),
    "APm": (slice(None), MEDIUM, None),
    "APl": (slice(None), LARGE, None),
    "AR1": (slice(None), ALL, 1),
    "AR10": (slice(None), ALL, 10),
    "AR100": (slice(None), ALL, 100),
    "ARs": (slice(None), SMALL, 100),
    "ARm": (slice(None), MEDIUM, 100),
    "ARl": (slice(None), LARGE, 100),
}


def coco_boxes(predictions: Sequence[Record], targets: Sequence[Record]) -> dict[str, Score]:
    """Return COCO's twelve numbers as (value, low, high, images), fractions with a 95 % interval.

    Left out is what has no meaning here, such as ``APl`` where no object is large. The interval is that of other
    images, not of another training: images are drawn again. ZooError, with the image, for a prediction that is none.
    """
    check_pairs(predictions, targets)
    ids = [int(target["image_id"]) for target in targets]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ZooError(f"image {twice} is there twice; each image is scored once")
    found = [_detections(p, t) for p, t in zip(predictions, targets, strict=True)]
    evaluation = _evaluated([_objects(target) for target in targets], found, ids)
    values = {name: float(v) for name, v in zip(NUMBERS, evaluation.stats, strict=True) if v > -1}
    if not values:
        return {}
    return with_intervals(values, drawn_numbers(evaluation, redrawn(len(ids))), len(ids))


def drawn_numbers(evaluation: Any, draws: Counts) -> dict[str, Values]:
    """Return the twelve numbers (B,) of draws (B, I) of the images that a COCOeval has evaluated, sorted by id."""
    images, areas = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    parts = [evaluation.evalImgs[i : i + images] for i in range(0, len(evaluation.evalImgs), images)]
    rankings = [Ranking.of(part, len(evaluation.params.iouThrs)) for part in parts]
    keys = {(area, most) for _, area, most in NUMBERS.values()}
    curves = {(area, most): [_curve(r, draws, most) for r in rankings[area::areas]] for area, most in keys}
    return {name: _mean([c[:, at] for c in curves[area, most]]) for name, (at, area, most) in NUMBERS.items()}


def _curve(ranking: Ranking, draws: Counts, most: int | None) -> Values:
    return ranking.precision(draws) if most is None else ranking.recall(draws, most)


def _mean(parts: Sequence[Values]) -> Values:
    """Return the mean (B,) over categories and thresholds of parts (B, t), of those categories that were drawn."""
    table = np.concatenate(parts, axis=1)
    known = ~np.isnan(table)
    n = known.sum(axis=1)
    return np.where(n > 0, np.where(known, table, 0).sum(axis=1) / np.maximum(n, 1), np.nan)


# -- to COCO's records ---------------------------------------------------------------------------------------


def _evaluated(objects: Sequence[list[dict[str, Any]]], found: Sequence[list[dict[str, Any]]], ids: list[int]) -> Any:
    """Return the COCOeval that has evaluated and summed up; what it prints is not shown."""
    labels = sorted({box["category_id"] for boxes in objects for box in boxes})
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(objects, ids, labels), _coco(found, ids, labels), "bbox")
        evaluation.evaluate()
        if evaluation.evalImgs:
            evaluation.accumulate()
            evaluation.summarize()
        else:
            evaluation.stats = np.full(len(NUMBERS), -1.0)
    return evaluation


def _coco(boxes: Sequence[list[dict[str, Any]]], ids: Sequence[int], labels: Iterable[int]) -> COCO:
    """Return an annotation set in memory. Its ids begin at 1: COCOeval takes an object with id 0 for none."""
    coco = COCO()
    rows = [{"image_id": i, "iscrowd": 0, **row} for i, some in zip(ids, boxes, strict=True) for row in some]
    coco.dataset = {
        "images": [{"id": i} for i in ids],
        "categories": [{"id": label} for label in labels],
        "annotations": [{"id": number, **row} for number, row in enumerate(rows, 1)],
    }
    coco.createIndex()
    return coco


def _objects(target: Record) -> list[dict[str, Any]]:
    boxes = _sides(torch.as_tensor(target["boxes"]).double().reshape(-1, 4))
    rest = (torch.as_tensor(target[key]).tolist() for key in ("labels", "area", "crowd"))
    return [
        {"bbox": box, "category_id": label, "area": area, "iscrowd": int(crowd)}
        for box, label, area, crowd in zip(boxes, *rest, strict=True)
    ]


def _detections(prediction: Record, target: Record) -> list[dict[str, Any]]:
    boxes, scores, labels = _checked(prediction, target)
    return [
        {"bbox": box, "score": score, "category_id": label, "area": box[2] * box[3]}
        for box, score, label in zip(_sides(boxes), scores.tolist(), labels.tolist(), strict=True)
    ]


def _sides(corners: torch.Tensor) -> list[list[float]]:
    """Return boxes as COCO writes them: left, top, width, height."""
    sides: list[list[float]] = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
    return sides


def _checked(prediction: Record, target: Record) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the boxes, scores and labels of a prediction on the CPU. ZooError when it is none."""
    where = f"the prediction for image {target['image_id']}"
    for key in ("boxes", "scores", "labels"):
        if key not in prediction:
            raise ZooError(f"{where} has no {key}; expected boxes, scores and labels")
    boxes, scores, labels = (torch.as_tensor(prediction[key]).detach().cpu() for key in ("boxes", "scores", "labels"))
    boxes = boxes.reshape(0, 4) if not boxes.numel() else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1] or labels.shape != boxes.shape[:1]:
        shapes = ", ".join(f"{key} {tuple(v.shape)}" for key, v in _named(boxes, scores, labels))
        raise ZooError(f"{where} has {shapes}; expected boxes (K, 4), scores (K,), labels (K,)")
    boxes, scores = boxes.double(), scores.double()
    _check_numbers(where, boxes, scores)
    _check_labels(where, labels, target)
    return boxes, scores, labels


def _named(*values: torch.Tensor) -> Iterable[tuple[str, torch.Tensor]]:
    return zip(("boxes", "scores", "labels"), values, strict=True)


def _check_numbers(where: str, boxes: torch.Tensor, scores: torch.Tensor) -> None:
    bad = ~(boxes.isfinite().all(1) & scores.isfinite() & (boxes[:, 2:] >= boxes[:, :2]).all(1))
    if bad.any():
        k = int(bad.nonzero()[0])
        raise ZooError(
            f"{where} has a box {boxes[k].tolist()} with score {float(scores[k])} (number {k} of {len(boxes)}); "
            "expected finite numbers, and left, top, right, bottom"
        )


def _check_labels(where: str, labels: torch.Tensor, target: Record) -> None:
    if not labels.numel():
        return
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ZooError(f"{where} has labels of type {labels.dtype}; expected whole numbers, the ids of categories")
    check_labels(labels.tolist(), target.get("categories", labels.tolist()), where)
