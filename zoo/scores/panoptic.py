"""Panoptic quality (Kirillov et al. 2019, Panoptic Segmentation, section 4), each number with its interval.

A target is one image: ``image_id``, ``map`` (H, W) of segment ids with 0 for void, and ``segments`` with ``id``,
``label``, ``thing`` and ``crowd``; ``categories`` {label: thing} are those that may be predicted, where the segments of
all targets do not name them all. A prediction has a ``map`` of the same size, and ``segments`` with ``id`` and
``label``.

The rules are those of cocodataset/panopticapi (commit 7bb4655). What is different:

1. The area of a segment is what is counted in its map; there, what its record says of a true one.
2. All crowds of a category excuse a predicted segment; there, the last one. COCO has one at most.
3. A true segment without a pixel, and pixels of a true segment without a record, are errors too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.errors import ZooError
from zoo.scores.bootstrap import Score, Values, redrawn, with_intervals
from zoo.scores.given import check_labels, check_pairs

Record = Mapping[str, Any]
VOID = 0
MATCH = 0.5  # a pair is a match above this IoU: there is one partner at most
EXCUSED = 0.5  # a segment counts for nothing where more of it is void or crowd
GROUPS = {"": (True, False), "_things": (True,), "_stuff": (False,)}
IOU, TP, FP, FN = range(4)


def panoptic_quality(predictions: Sequence[Record], targets: Sequence[Record]) -> dict[str, Score]:
    """Return PQ, SQ and RQ, of all categories, ``_things`` and ``_stuff``, as (value, low, high, images).

    They are fractions with a 95 % interval, means over the categories that occur in truth or prediction; a group in
    which none occurs is left out. The interval is that of other images, not of another training: images are drawn
    again. ZooError, with the image, for a prediction that is none.
    """
    check_pairs(predictions, targets)
    things = _categories(targets)
    column = {label: at for at, label in enumerate(things)}
    tallies = np.stack([_tally(p, t, column) for p, t in zip(predictions, targets, strict=True)])  # (I, C, 4)
    thing = np.array(list(things.values()), dtype=bool)
    values = {name: float(v[0]) for name, v in _qualities(tallies.sum(axis=0)[None], thing).items()}
    drawn = np.tensordot(redrawn(len(targets)).astype(np.float64), tallies, axes=1)  # (B, C, 4)
    known = {name: value for name, value in values.items() if not np.isnan(value)}
    return with_intervals(known, _qualities(drawn, thing), len(targets))


def _qualities(tallies: Values, thing: NDArray[np.bool_]) -> dict[str, Values]:
    """Return the nine numbers (B,) of tallies (B, C, 4); NaN where no category of a group occurs."""
    iou, tp, fp, fn = np.moveaxis(tallies, -1, 0)  # (B, C) each
    occurs = tp + fp + fn > 0
    size = np.where(occurs, tp + fp / 2 + fn / 2, 1)
    parts = {"PQ": iou / size, "SQ": iou / np.where(tp > 0, tp, 1), "RQ": tp / size}
    found = {}
    for group, members in GROUPS.items():
        counted = occurs & np.isin(thing, members)
        n = counted.sum(axis=1)
        for name, part in parts.items():
            mean = (part * counted).sum(axis=1) / np.maximum(n, 1)
            found[name + group] = np.where(n > 0, mean, np.nan)
    return found


# -- one image -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overlaps:
    """How many pixels each true segment shares with each predicted one (G + 1, P + 1); row and column 0 are void."""

    shared: NDArray[np.int64]

    @property
    def iou(self) -> Values:
        """The IoU (G, P) of each pair; of the union void pixels of the truth are left out."""
        inner = self.shared[1:, 1:]
        union = self.shared[1:].sum(axis=1)[:, None] + self.shared[1:, 1:].sum(axis=0) - inner
        ratio: Values = inner / union
        return ratio

    def excused(self, ignored: NDArray[np.bool_]) -> Values:
        """Return the share (P,) of each predicted segment that is void, or in a true segment that it ignores (G, P)."""
        pixels = self.shared[0, 1:] + (self.shared[1:, 1:] * ignored).sum(axis=0)
        share: Values = pixels / self.shared[:, 1:].sum(axis=0)
        return share


def _tally(prediction: Record, target: Record, column: Mapping[int, int]) -> Values:
    """Return the sum of IoUs, the matches, the false and the missed segments of each category (C, 4)."""
    truth, guesses, overlaps = _read(prediction, target, column)
    labels = np.array([column[s["label"]] for s in truth], dtype=np.int64)  # (G,)
    guessed = np.array([column[s["label"]] for s in guesses], dtype=np.int64)  # (P,)
    crowd = np.array([bool(s["crowd"]) for s in truth], dtype=bool)
    same = labels[:, None] == guessed
    iou = overlaps.iou
    match = same & ~crowd[:, None] & (iou > MATCH)
    excused = overlaps.excused(same & crowd[:, None]) > EXCUSED
    tally = np.zeros((len(column), 4))
    np.add.at(tally[:, IOU], labels, np.where(match, iou, 0).sum(axis=1))
    np.add.at(tally[:, TP], labels, match.any(axis=1))
    np.add.at(tally[:, FP], guessed, ~match.any(axis=0) & ~excused)
    np.add.at(tally[:, FN], labels, ~match.any(axis=1) & ~crowd)
    return tally


def _read(prediction: Record, target: Record, column: Mapping[int, int]) -> tuple[list[Record], list[Record], Overlaps]:
    """Return the true and the predicted segments, and how they overlap. ZooError when one of both is none."""
    true_where = f"the target of image {target['image_id']}"
    where = f"the prediction for image {target['image_id']}"
    true, found = _map(target, true_where), _map(prediction, where)
    if true.shape != found.shape:
        raise ZooError(f"{where} has a map of {found.shape}; expected {true.shape}, as its target")
    true_ids, found_ids, overlaps = _overlaps(true, found)
    truth = _ordered(target, true_ids, column, true_where)
    return truth, _ordered(prediction, found_ids, column, where), overlaps


def _overlaps(true: NDArray[np.int64], found: NDArray[np.int64]) -> tuple[list[int], list[int], Overlaps]:
    """Return the ids of segments in two maps, without void, and how many pixels they share."""
    pairs, counts = np.unique(true.ravel() << 32 | found.ravel(), return_counts=True)
    true_ids, rows = np.unique(np.append(pairs >> 32, VOID), return_inverse=True)
    found_ids, columns = np.unique(np.append(pairs & (1 << 32) - 1, VOID), return_inverse=True)
    shared = np.zeros((len(true_ids), len(found_ids)), dtype=np.int64)
    shared[rows[:-1], columns[:-1]] = counts
    return true_ids[1:].tolist(), found_ids[1:].tolist(), Overlaps(shared)


# -- checks --------------------------------------------------------------------------------------------------


def _categories(targets: Sequence[Record]) -> dict[int, bool]:
    """Return which labels are things. ZooError for a label that is both."""
    found: dict[int, bool] = {}
    for target in targets:
        told = [(s["label"], bool(s["thing"])) for s in target["segments"]]
        for label, thing in (*target.get("categories", {}).items(), *told):
            if found.setdefault(int(label), bool(thing)) != thing:
                raise ZooError(f"the target of image {target['image_id']} has label {label} as a thing and as stuff")
    return dict(sorted(found.items()))


def _map(record: Record, where: str) -> NDArray[np.int64]:
    """Return a map (H, W) on the CPU. ZooError when it is none."""
    if "map" not in record or "segments" not in record:
        raise ZooError(f"{where} has no {'segments' if 'map' in record else 'map'}; expected a map and its segments")
    ids = torch.as_tensor(record["map"])
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ZooError(f"{where} has a map {tuple(ids.shape)} of {ids.dtype}; expected whole numbers (H, W)")
    found: NDArray[np.int64] = ids.cpu().numpy().astype(np.int64)
    if found.size and not 0 <= found.min() <= found.max() < 1 << 31:
        told = f"{where} has a map with ids from {found.min()} to {found.max()}"
        raise ZooError(f"{told}; expected ids from 1 on, and {VOID} for no segment")
    return found


def _ordered(record: Record, ids: list[int], column: Mapping[int, int], where: str) -> list[Record]:
    """Return the segments of a map, in the order of its ids. ZooError unless there is one of each, of a category."""
    segments = {int(segment["id"]): segment for segment in record["segments"]}
    if len(segments) < len(record["segments"]):
        raise ZooError(f"{where} has {len(record['segments'])} segments and {len(segments)} ids; expected one for each")
    if set(ids) - set(segments):
        raise ZooError(f"{where} has segment {min(set(ids) - set(segments))} in its map and not among its segments")
    if set(segments) - set(ids):
        raise ZooError(f"{where} has segment {min(set(segments) - set(ids))} without a pixel in its map")
    check_labels((segment["label"] for segment in segments.values()), column, where)
    return [segments[number] for number in ids]
