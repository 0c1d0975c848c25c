"""Panoptic quality: drawn cases and random maps, beside a count over sets of pixels written for this file."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
import torch

from zoo import ZooError
from zoo.scores.panoptic import panoptic_quality

# A letter is a segment, '.' is void: label, crowd. Labels 1 and 2 are things, 8 and 9 stuff.
LETTERS = {
    **dict.fromkeys("abcd", (1, False)),
    **dict.fromkeys("mnop", (2, False)),
    **dict.fromkeys("AB", (1, True)),
    **dict.fromkeys("M", (2, True)),
    "s": (8, False),
    "w": (9, False),
}
CATEGORIES = {1: True, 2: True, 8: False, 9: False}
GROUPS = {"": (1, 2, 8, 9), "_things": (1, 2), "_stuff": (8, 9)}


def drawn(rows):
    """Return a map as drawn, and its segments; an id is beyond two bytes, as COCO's are."""
    letters = sorted(set("".join(rows)) - {"."})
    number = {letter: 70_000 + 3 * at for at, letter in enumerate(letters)} | {".": 0}
    ids = torch.tensor([[number[letter] for letter in row] for row in rows], dtype=torch.int32)
    return ids, [{"id": number[k], "label": LETTERS[k][0], "crowd": LETTERS[k][1]} for k in letters]


def target(rows, image_id=7):
    ids, segments = drawn(rows)
    segments = [s | {"thing": CATEGORIES[s["label"]], "area": int((ids == s["id"]).sum())} for s in segments]
    return {"image_id": image_id, "map": ids, "segments": segments, "categories": CATEGORIES}


def prediction(rows):
    ids, segments = drawn(rows)
    return {"map": ids, "segments": [{"id": s["id"], "label": s["label"]} for s in segments]}


def counted(predictions, targets):
    """Return the nine numbers, pixel by pixel, in fractions: section 4 of the paper and COCO's rules, word for word."""
    tally = defaultdict(lambda: [Fraction(0), 0, 0, 0])
    for found, true in zip(predictions, targets, strict=True):
        places = [(y, x) for y in range(true["map"].shape[0]) for x in range(true["map"].shape[1])]
        truth = {s["id"]: {at for at in places if int(true["map"][at]) == s["id"]} for s in true["segments"]}
        guess = {s["id"]: {at for at in places if int(found["map"][at]) == s["id"]} for s in found["segments"]}
        void = {at for at in places if int(true["map"][at]) == 0}
        partners = set()
        for segment in true["segments"]:
            if segment["crowd"]:
                continue
            mine, matched = truth[segment["id"]], False
            for other in found["segments"]:
                theirs = guess[other["id"]]
                iou = Fraction(len(mine & theirs), len((mine | theirs) - void))
                if other["label"] == segment["label"] and iou > Fraction(1, 2):
                    tally[segment["label"]][0] += iou
                    tally[segment["label"]][1] += 1
                    partners.add(other["id"])
                    matched = True
            tally[segment["label"]][3] += not matched
        for other in found["segments"]:
            crowds = [truth[s["id"]] for s in true["segments"] if s["crowd"] and s["label"] == other["label"]]
            lost = guess[other["id"]] & void.union(*crowds)
            if other["id"] not in partners and 2 * len(lost) <= len(guess[other["id"]]):
                tally[other["label"]][2] += 1
    numbers = {}
    for group, labels in GROUPS.items():
        rows = [tally[label] for label in labels if sum(tally[label][1:])]
        if rows:
            half = [tp + Fraction(fp + fn, 2) for _, tp, fp, fn in rows]
            numbers["PQ" + group] = sum(row[0] / size for row, size in zip(rows, half, strict=True)) / len(rows)
            numbers["SQ" + group] = sum(row[0] / max(row[1], 1) for row in rows) / len(rows)
            numbers["RQ" + group] = sum(row[1] / size for row, size in zip(rows, half, strict=True)) / len(rows)
    return numbers


def same(predictions, targets):
    """Return the numbers, held to the count over pixels."""
    found = {name: value for name, (value, *_) in panoptic_quality(predictions, targets).items()}
    expected = counted(predictions, targets)
    assert set(found) == set(expected)
    assert found == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-12)
    return found


# name: truth, prediction, PQ by hand where it is a short sum (None: left to the count over pixels)
CASES = {
    "perfect": (["aass", "aass"], ["aass", "aass"], 1),
    "ids of its own": (["aass", "ddss"], ["bbss", "aass"], 1),
    "a pixel off": (["aass", "aass"], ["aaas", "aass"], (4 / 5 + 3 / 4) / 2),
    "half is no match": (["aaaa", "...."], ["aass", "aass"], 0),  # IoU 2/4; and all of stuff is wrong
    "more than half is": (["aaa", "aaa"], ["aaa", "ass"], (4 / 6 + 0) / 2),
    "wrong category": (["aass", "aass"], ["mmss", "mmss"], 1 / 3),  # of labels 1, 2 and 8
    "wrong kind": (["aass", "aass"], ["wwss", "wwss"], 1 / 3),
    "missed": (["aass", "ddss"], ["aass", "..ss"], (1 / 1.5 + 1) / 2),
    "invented": (["ssss", "ssss"], ["ssss", "bsss"], (0 + 7 / 8) / 2),
    "split": (["aaaa", "aaaa"], ["aabb", "aabb"], 0),
    "split unevenly": (["aaaa", "aaaa"], ["aaab", "aaab"], 6 / 8 / 1.5),
    "merged": (["aabb", "aabb"], ["aaaa", "aaaa"], 0),
    "merged unevenly": (["aaab", "aaab"], ["aaaa", "aaaa"], 6 / 8 / 1.5),
    "empty prediction": (["aass", "aass"], ["....", "...."], 0),
    "void in the prediction": (["aaaa", "ssss"], ["aaa.", "sss."], 3 / 4),
    "void in the truth is free": (["aa..", "ss.."], ["aaaa", "ssss"], 1),
    "mostly void": (["aa..", "...."], ["aabb", "..bb"], 1),
    "half void counts": (["sb..", "s..."], ["ssmm", "smm."], None),
    "exactly half void counts": (["ss..", "ss.."], ["smm.", "smm."], None),
    "a crowd is not missed": (["AAss", "AAss"], ["..ss", "..ss"], 1),
    "in a crowd": (["AAss", "AAss"], ["bass", "bass"], 1),
    "in another category's crowd": (["AAss", "AAss"], ["mmss", "mmss"], 1 / 2),
    "mostly in a crowd": (["AAAs", "AAAs"], ["bbbb", "bbbs"], None),
    "half in a crowd counts": (["AAss", "AAss"], ["sbbs", "sbbs"], None),
    "a crowd and void together": (["AA..", "ssss"], [".bb.", "ssss"], 1),
    "two crowds together": (["AABB", "ssss"], [".bb.", "ssss"], 1),
    "a match takes no pixels from a crowd": (["aaAA", "aaAA"], ["aaaA", "aaa."], None),
    "beside a crowd of another category": (["aaMM", "aaMM"], ["aann", "aamm"], 1),
    "only void": (["....", "...."], ["aass", "aass"], None),
    "no stuff": (["aamm", "aamm"], ["aamm", "aamm"], 1),
    "no things": (["ssww", "ssww"], ["ssww", "swww"], (3 / 4 + 4 / 5) / 2),
    "stuff in pieces is one": (["saas", "saas"], ["saas", "saa."], (1 + 3 / 4) / 2),
    "everything": (["aabbA.", "aabbAA", "mmssww", "nnssw."], ["aabbbA", "aaabAA", "mmmsww", "nss.ww"], None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_as_counted_pixel_by_pixel(name):
    true, found, expected = CASES[name]
    numbers = same([prediction([row.lower() for row in found])], [target(true)])
    if expected is not None:
        assert numbers["PQ"] == pytest.approx(expected)


def test_an_image_of_void_alone_has_no_number():
    assert same([prediction(["aass"])], [target(["...."])]) == {}


def test_a_group_that_does_not_occur_is_left_out():
    assert set(same([prediction(["aa"])], [target(["aa"])])) == {
        "PQ",
        "SQ",
        "RQ",
        "PQ_things",
        "SQ_things",
        "RQ_things",
    }


def test_a_category_is_summed_over_images_before_it_is_divided():
    predictions = [prediction(["aas"]), prediction(["sss"])]
    targets = [target(["aas"], 1), target(["aas"], 2)]
    found = same(predictions, targets)
    # a: IoU 1, one missed. s: IoU 1, and 1 of 3 is no match: one false, one missed.
    assert found["PQ_things"] == pytest.approx(1 / 1.5)
    assert found["PQ_stuff"] == pytest.approx(1 / 2)


def random_image(draw, height=9, width=11):
    """Return a map of rectangles painted over each other, as rows of letters."""
    rows = np.full((height, width), ".")
    letters = list(LETTERS)
    for letter in draw.choice(letters, size=draw.integers(0, 9), replace=False):
        top, left = draw.integers(0, height), draw.integers(0, width)
        rows[top : top + draw.integers(1, 7), left : left + draw.integers(1, 8)] = letter
    return rows


def random_pair(draw):
    """Return a random truth, and a prediction that resembles it."""
    true = random_image(draw)
    found = np.char.lower(np.roll(true, draw.integers(-1, 2, 2), axis=(0, 1)))
    if draw.random() < 0.5:
        other = np.char.lower(random_image(draw))
        found = np.where(draw.random(found.shape) < 0.15, other, found)
    return ["".join(row) for row in true], ["".join(row) for row in found]


@pytest.mark.parametrize("seed", range(12))
def test_random_maps_are_as_counted_pixel_by_pixel(seed):
    draw = np.random.default_rng(seed)
    pairs = [random_pair(draw) for _ in range(12)]
    found = same([prediction(p) for _, p in pairs], [target(t, at) for at, (t, _) in enumerate(pairs)])
    assert 0 < found["PQ"] < 1


# -- intervals -----------------------------------------------------------------------------------------------


def many(n, seed=0):
    draw = np.random.default_rng(seed)
    pairs = [random_pair(draw) for _ in range(n)]
    return [prediction(p) for _, p in pairs], [target(t, at) for at, (t, _) in enumerate(pairs)]


def test_intervals_hold_the_value_and_shrink_with_images():
    few, some = panoptic_quality(*many(10)), panoptic_quality(*many(250))
    assert len(some) == 9
    assert all(0 <= low <= value <= high <= 1 and n == 250 for value, low, high, n in some.values())
    assert some["PQ"][2] - some["PQ"][1] < (few["PQ"][2] - few["PQ"][1]) / 2


def test_the_interval_is_always_the_same():
    assert panoptic_quality(*many(8)) == panoptic_quality(*many(8))


def test_one_image_says_nothing_of_others():
    assert panoptic_quality([prediction(["aa"])], [target(["aa"])])["PQ"] == (1, 0, 1, 1)


def test_intervals_are_those_of_images_scored_again():
    """The spread of drawn images is that of new images: within a third, for 250 images and 60 sets of them."""
    predictions, targets = many(250)
    spread = np.std([panoptic_quality(*many(40, seed))["PQ"][0] for seed in range(60)]) * np.sqrt(40 / 250)
    _, low, high, _ = panoptic_quality(predictions, targets)["PQ"]
    assert (high - low) / (2 * 1.96) == pytest.approx(spread, rel=0.34)


# -- predictions that are none -------------------------------------------------------------------------------

TRUE = target(["aas"])


def broken(**changes):
    return prediction(["aas"]) | changes


def relabelled(**changes):
    first, *rest = prediction(["aas"])["segments"]
    return [first | changes, *rest]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (broken(segments=[]), "the prediction for image 7 has segment 70000 in its map and not among its segments"),
        (broken(map=torch.full((1, 3), 70_000)), "for image 7 has segment 70003 without a pixel in its map"),
        (
            broken(segments=relabelled(label=4)),
            "for image 7 has label 4, which is no category; the categories: 1, 2, ",
        ),
        (broken(segments=relabelled(id=70_003)), "for image 7 has 2 segments and 1 ids; expected one for each"),
        (
            broken(map=torch.full((1, 3), -1)),
            "image 7 has a map with ids from -1 to -1; expected ids from 1 on, and",
        ),
        (
            broken(map=torch.zeros(2, 3, dtype=torch.int32)),
            r"image 7 has a map of \(2, 3\); expected \(1, 3\), as",
        ),
        (
            broken(map=torch.zeros(1, 3)),
            r"image 7 has a map \(1, 3\) of torch.float32; expected whole numbers",
        ),
        ({"map": torch.zeros(1, 3)}, "image 7 has no segments; expected a map and its segments"),
    ],
)
def test_a_prediction_that_is_none_is_refused_with_its_image(wrong, message):
    with pytest.raises(ZooError, match=message):
        panoptic_quality([wrong], [TRUE])


def test_a_target_that_is_none_is_refused_with_its_image():
    for segments, message in (([], "has segment 70000 in its map"), (TRUE["segments"] * 2, "4 segments and 2 ids")):
        with pytest.raises(ZooError, match=f"the target of image 7 .*{message}"):
            panoptic_quality([broken()], [TRUE | {"segments": segments}])
    other = TRUE | {"categories": {1: False}}
    with pytest.raises(ZooError, match="the target of image 7 has label 1 as a thing and as stuff"):
        panoptic_quality([broken()], [other])


def test_predictions_and_images_are_as_many():
    with pytest.raises(ZooError, match="2 predictions for 1 images; expected one for each"):
        panoptic_quality([broken()] * 2, [TRUE])
