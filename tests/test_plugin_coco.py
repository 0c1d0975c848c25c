"""The coco plugin: folders of COCO and VOC as samples, and one sentence for every fault in them."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from zoo_coco.data import load_detection, load_panoptic
from zoo_coco.files import categories, panoptic_categories, things
from zoo_digits.coco import write_coco
from zoo_digits.scenes import CATEGORIES, NAMES, load

from zoo import ZooError
from zoo.scores.detection import coco_boxes

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
HEIGHT, WIDTH = 20, 30


def write_image(file, height=HEIGHT, width=WIDTH, seed=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return pixels


def content(**changes):
    """Return an annotation file of two images, the first with a box and a crowd, the second with nothing."""
    box = {"id": 5, "image_id": 7, "category_id": 3, "bbox": [2.5, 4, 10, 8], "area": 61.5, "iscrowd": 0}
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
            {"id": 9, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}],
        "annotations": [box | changes, {**box, "id": 6, "category_id": 8, "bbox": [0, 0, 30, 20], "iscrowd": 1}],
    }


def write_coco_folder(path, what=None, file="annotations/instances_{}2017.json", images="{}2017"):
    """Write a folder of COCO with both splits."""
    for split in ("train", "val"):
        target = path / file.format(split)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(what or content()))
        for seed, name in enumerate(("a.png", "b.png")):
            write_image(path / images.format(split) / name, seed=seed)
    return path


LAYOUTS = [
    ("annotations/instances_{}2017.json", "{}2017"),
    ("annotations/instances_{}2014.json", "images/{}2014"),
    ("annotations/{}.json", "{}"),
    ("annotations/{}.json", "images"),
    ("{}/_annotations.coco.json", "{}"),
    ("{}/annotations.json", "{}/images"),
    ("{}.json", "images/{}"),
    ("{}.json", "."),
]


@pytest.mark.parametrize(("file", "images"), LAYOUTS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_layouts_that_tools_write_are_found(tmp_path, split, file, images):
    samples = load_detection(split, write_coco_folder(tmp_path, file=file, images=images))
    assert [target["image_id"] for _, target in samples] == [7, 9]
    assert categories(tmp_path) == {3: "cat", 8: "dog"}


def test_a_sample_is_an_image_and_its_boxes(tmp_path):
    samples = load_detection("train", write_coco_folder(tmp_path))
    image, target = samples[0]
    assert (len(samples), image.dtype, image.shape) == (2, torch.uint8, (3, HEIGHT, WIDTH))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), write_image(tmp_path / "same.png"))
    assert (target["image_id"], target["size"]) == (7, (HEIGHT, WIDTH))
    assert target["boxes"].tolist() == [[2.5, 4, 12.5, 12], [0, 0, 30, 20]]  # 2.5 + 10, 4 + 8
    assert target["boxes"].dtype == target["area"].dtype == torch.float32
    assert (target["labels"].tolist(), target["labels"].dtype) == ([3, 8], torch.int64)
    assert (target["area"].tolist(), target["crowd"].tolist()) == ([61.5, 61.5], [False, True])
    assert target["categories"] == {3: True, 8: True}


def test_an_image_without_boxes_is_legal(tmp_path):
    _, target = load_detection("test", write_coco_folder(tmp_path))[1]
    assert (target["boxes"].shape, target["labels"].shape, target["crowd"].dtype) == ((0, 4), (0,), torch.bool)


def test_a_grey_image_has_three_channels(tmp_path):
    write_coco_folder(tmp_path)
    Image.fromarray(np.full((HEIGHT, WIDTH), 7, dtype=np.uint8)).save(tmp_path / "val2017" / "a.png")
    image, _ = load_detection("test", tmp_path)[0]
    assert image.shape == (3, HEIGHT, WIDTH)
    assert (image == 7).all()


def test_one_file_for_both_splits_takes_images_from_the_folders_of_the_splits(tmp_path):
    (tmp_path / "annotations.json").write_text(json.dumps(content()))
    write_image(tmp_path / "train" / "a.png")
    write_image(tmp_path / "val" / "b.png")
    assert [target["image_id"] for _, target in load_detection("train", tmp_path)] == [7]
    assert [target["image_id"] for _, target in load_detection("test", tmp_path)] == [9]


def test_one_file_for_both_splits_without_folders_is_refused(tmp_path):
    (tmp_path / "annotations.json").write_text(json.dumps(content()))
    write_image(tmp_path / "a.png")
    with pytest.raises(ZooError, match=r"annotations.json has no image to train on in a folder train"):
        load_detection("train", tmp_path)


def test_overshoot_by_rounding_is_clipped(tmp_path):
    write_coco_folder(tmp_path, content(bbox=[-0.4, -1, 30.9, 21.5]))
    assert load_detection("test", tmp_path)[0][1]["boxes"][0].tolist() == [0, 0, 30, 20]


def test_boxes_without_area_are_not_trained_on_and_may_not_be_tested_on(tmp_path):
    write_coco_folder(tmp_path, content(bbox=[3, 4, 5, 0]))
    assert load_detection("train", tmp_path)[0][1]["labels"].tolist() == [8]
    with pytest.raises(
        ZooError, match=r"val2017.json: annotation 5 has a box without area: left 3, top 4, right 8, bot"
    ):
        load_detection("test", tmp_path)


def test_a_record_may_leave_out_area_and_crowd(tmp_path):
    what = content()
    del what["annotations"][0]["area"], what["annotations"][0]["iscrowd"]
    _, target = load_detection("train", write_coco_folder(tmp_path, what))[0]
    assert (target["area"][0], target["crowd"][0]) == (80, False)


# -- faults --------------------------------------------------------------------------------------------------

RECORDS = [
    ({"category_id": 4}, r"instances_train2017.json: annotation 5 has category_id 4, .* the categories: 3, 8"),
    ({"category_id": "cat"}, "annotation 5 has category_id 'cat'; expected a whole number"),
    ({"image_id": 8}, "annotation 5 has image_id 8, which is no image of this file"),
    ({"image_id": [8]}, r"annotation 5 has image_id \[8\]; expected a whole number"),
    (
        {"bbox": [25, 4, 10, 8]},
        "annotation 5 has a box outside of its image of 30x20 pixels: left 25, top 4, right 35, b",
    ),
    ({"bbox": [5, 4, -2, 8]}, "annotation 5 has a box that ends before it begins: left 5, top 4, right 3, bottom 12"),
    ({"bbox": [5, 4, 2]}, r"annotation 5 has bbox \[5, 4, 2\]; expected left, top, width and height"),
    ({"bbox": [5, 4, 2, float("nan")]}, "annotation 5 has in its bbox nan; expected a number"),
    ({"area": None}, "annotation 5 has area None; expected a number"),
    ({"iscrowd": 2}, "annotation 5 has iscrowd 2; expected 0 or 1"),
]


@pytest.mark.parametrize(("changes", "message"), RECORDS)
def test_a_bad_annotation_is_named(tmp_path, changes, message):
    write_coco_folder(tmp_path, content(**changes))
    with pytest.raises(ZooError, match=message):
        load_detection("train", tmp_path)


def changed(key, at, **changes):
    """Return the annotation file with one row changed."""
    what = content()
    what[key][at] = what[key][at] | changes
    return what


FILES = [
    ([1, 2], "is no annotation file of COCO: it has no list of images"),
    ({"images": []}, "it has no list of annotations"),
    ({"images": [], "annotations": [3], "categories": []}, "it has no list of annotations"),
    (content() | {"categories": None}, "it has no list of categories"),
    (changed("images", 1, id=7), "image id 7 is there twice"),
    (changed("images", 1, id=None), "image 'b.png' has id None; expected a whole number from 0 on"),
    (changed("images", 1, height=0), "image 9 has height 0; expected a whole number from 1 on"),
    (changed("images", 1, file_name=None), "image 9 has file_name None; expected a text"),
    (changed("images", 1, file_name="c.png"), r"image 9 has file_name 'c.png', which is in none of .*train2017"),
    (changed("categories", 1, id=3), "category id 3 is there twice, as 'cat' and 'dog'"),
    ({"images": [], "annotations": [], "categories": []}, "has no image to train on"),
]


@pytest.mark.parametrize(("what", "message"), FILES)
def test_a_bad_file_is_named(tmp_path, what, message):
    write_coco_folder(tmp_path, what)
    with pytest.raises(ZooError, match=f"instances_train2017.json.* ?{message}"):
        load_detection("train", tmp_path)


def test_a_file_that_is_no_json_is_named(tmp_path):
    write_coco_folder(tmp_path)
    (tmp_path / "annotations/instances_train2017.json").write_text("{")
    with pytest.raises(ZooError, match=r"instances_train2017.json cannot be read .* expected a JSON file in COCO's"):
        load_detection("train", tmp_path)


def test_a_damaged_image_is_named(tmp_path):
    samples = load_detection("train", write_coco_folder(tmp_path))
    whole = (tmp_path / "train2017/a.png").read_bytes()
    for damaged in (b"", b"no image", whole[: len(whole) // 2]):
        (tmp_path / "train2017/a.png").write_bytes(damaged)
        with pytest.raises(ZooError, match=r"train2017/a.png of image 7 cannot be read as an image"):
            samples[0]


def test_an_image_of_another_size_is_named(tmp_path):
    samples = load_detection("train", write_coco_folder(tmp_path))
    write_image(tmp_path / "train2017/a.png", height=25)
    with pytest.raises(ZooError, match=r"a.png has 30x25 pixels, and image 7 is annotated for 30x20"):
        samples[0]


def test_an_empty_folder_is_told_what_was_looked_for(tmp_path):
    looked = r"looked for annotations/instances_val\*.json, .*, annotations.json, .*ImageSets/Main/ with Annotations"
    with pytest.raises(ZooError, match=f"there is no annotation file to test on in .*; {looked}"):
        load_detection("test", tmp_path)
    with pytest.raises(ZooError, match=r"in .*/nowhere, which is no folder; looked for"):
        load_detection("test", tmp_path / "nowhere")
    with pytest.raises(ZooError, match=r"looked for annotations/panoptic_train\*.json"):
        load_panoptic("train", tmp_path)


def test_several_annotation_files_of_a_split_are_refused(tmp_path):
    write_coco_folder(tmp_path)
    write_coco_folder(tmp_path, file="annotations/instances_{}2014.json")
    with pytest.raises(ZooError, match=r"several annotation files to train on: .*_train2014.json, .*_train2017.json"):
        load_detection("train", tmp_path)


def test_a_split_that_is_not_there_is_refused(tmp_path):
    for path in (write_coco_folder(tmp_path / "coco"), write_voc(tmp_path / "voc")):
        with pytest.raises(ZooError, match="has no split 'val'; its splits: train, test"):
            load_detection("val", path)


def test_files_are_read_without_torch():
    code = "import sys, zoo_coco.files; print(any(m in sys.modules for m in ('torch', 'numpy', 'PIL')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# -- VOC -----------------------------------------------------------------------------------------------------

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"""


def voc_object(name="wolf", difficult=0, xmin=1, ymin=1, xmax=10, ymax=20):
    return OBJECT.format(name=name, difficult=difficult, xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)


def write_voc(path, objects=None, lists=None):
    """Write a folder of VOC with the images a, b, c."""
    objects = objects or {"a": voc_object(), "b": voc_object("ape", 1, 3, 4, 5, 6) + voc_object("wolf"), "c": ""}
    for stem, inner in objects.items():
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        (path / "Annotations").mkdir(parents=True, exist_ok=True)
        (path / f"Annotations/{stem}.xml").write_text(f"<annotation>{size}{inner}</annotation>")
        write_image(path / f"JPEGImages/{stem}.png")
    (path / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    for name, stems in (lists or {"train": "a", "val": "b", "trainval": "a\nb", "test": "c\n"}).items():
        (path / f"ImageSets/Main/{name}.txt").write_text(stems)
    return path


def test_voc_counts_from_one_and_names_the_last_pixel(tmp_path):
    _, target = load_detection("train", write_voc(tmp_path))[1]
    assert target["boxes"].tolist() == [[2, 3, 5, 6], [0, 0, 10, 20]]  # pixels 3 to 5 and 4 to 6; 1 to 10 and 1 to 20
    assert target["area"].tolist() == [9, 200]
    assert (target["image_id"], target["size"]) == (2, (HEIGHT, WIDTH))


def test_voc_names_are_numbered_in_alphabetical_order_over_all_splits(tmp_path):
    _, target = load_detection("train", write_voc(tmp_path))[1]
    assert categories(tmp_path) == {1: "ape", 2: "wolf"}
    assert target["labels"].tolist() == [1, 2]
    assert target["categories"] == {1: True, 2: True}


def test_voc_difficult_objects_need_not_be_found(tmp_path):
    _, target = load_detection("train", write_voc(tmp_path))[1]
    assert target["crowd"].tolist() == [True, False]


def test_voc_trains_on_what_it_does_not_test_on(tmp_path):
    write_voc(tmp_path)
    ids = {split: [t["image_id"] for _, t in load_detection(split, tmp_path)] for split in ("train", "test")}
    assert ids == {"train": [1, 2], "test": [3]}
    (tmp_path / "ImageSets/Main/test.txt").unlink()
    ids = {split: [t["image_id"] for _, t in load_detection(split, tmp_path)] for split in ("train", "test")}
    assert ids == {"train": [1], "test": [2]}


VOC = [
    ({"a": voc_object(xmax=35)}, r"Annotations/a.xml: object 1 has a box outside of its image of 30x20 pixels"),
    ({"a": voc_object(xmin=12)}, r"a.xml: object 1 has a box that ends before it begins: left 11, top 0, right 10"),
    ({"a": voc_object(xmin=11)}, r"a.xml: object 1 has a box without area: left 10, top 0, right 10, bottom 20"),
    ({"a": voc_object(xmin="x")}, r"a.xml: object 1 has bndbox/xmin 'x'; expected a number"),
    ({"a": voc_object(name="")}, r"a.xml: object 1 has no name"),
    ({"a": "<object><name>ape</name></object>"}, r"a.xml: object 1 has no bndbox/xmin"),
    ({"a": "<object>"}, r"a.xml cannot be read \(mismatched tag.*\); expected an XML file in VOC's format"),
]


@pytest.mark.parametrize(("objects", "message"), VOC)
def test_a_bad_record_of_voc_is_named(tmp_path, objects, message):
    write_voc(tmp_path, objects, {"train": "a", "val": "b"})
    with pytest.raises(ZooError, match=message):
        load_detection("train", tmp_path)


LISTS = [
    ({"train": "a\nd", "val": "b"}, r"ImageSets/Main lists 'd' to train on, and there is no Annotations/d.xml"),
    ({"train": "", "val": "b"}, r"ImageSets/Main/train.txt lists no image to train on; expected one name a line"),
    ({"val": "b"}, r"ImageSets/Main/train.txt lists no image to train on"),
    ({"train": "a\nb", "val": "b"}, r"'b' is in .*train.txt and in .*val.txt: what is tested on may not be trained on"),
]


@pytest.mark.parametrize(("lists", "message"), LISTS)
def test_a_bad_list_of_voc_is_named(tmp_path, lists, message):
    with pytest.raises(ZooError, match=message):
        load_detection("train", write_voc(tmp_path, lists=lists))


def test_a_missing_image_of_voc_is_named(tmp_path):
    write_voc(tmp_path)
    (tmp_path / "JPEGImages/a.png").unlink()
    with pytest.raises(ZooError, match=r"a.xml has no image; looked for .*JPEGImages/a.jpg, .*a.jpeg, .*a.png"):
        load_detection("train", tmp_path)


# -- panoptic ------------------------------------------------------------------------------------------------


def write_panoptic(path, segments=None, numbers=None, categories=None):
    """Write a panoptic folder with one image: a thing, numbered beyond two bytes, on stuff, and void around."""
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    ids[2:18, 2:28] = 300
    ids[5:10, 5:15] = 70_000
    ids = ids if numbers is None else numbers
    default = [
        {"id": 300, "category_id": 8, "iscrowd": 0, "bbox": [2, 2, 26, 16], "area": 1},
        {"id": 70_000, "category_id": 3, "iscrowd": 1, "bbox": [5, 5, 10, 5], "area": 50},
    ]
    segments = default if segments is None else segments
    what = {
        "images": [{"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"image_id": 7, "file_name": "a.png", "segments_info": segments}],
        "categories": categories or [{"id": 3, "name": "cat", "isthing": 1}, {"id": 8, "name": "sky", "isthing": 0}],
    }
    (path / "annotations/panoptic_train2017").mkdir(parents=True)
    (path / "annotations/panoptic_train2017.json").write_text(json.dumps(what))
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(path / "annotations/panoptic_train2017/a.png")
    write_image(path / "train2017/a.png")
    return path


def test_a_panoptic_sample_has_a_map_and_its_segments(tmp_path):
    _, target = load_panoptic("train", write_panoptic(tmp_path))[0]
    assert (target["map"].dtype, target["map"].shape) == (torch.int32, (HEIGHT, WIDTH))
    assert target["map"].unique().tolist() == [0, 300, 70_000]
    assert (target["map"] == 70_000).nonzero()[0].tolist() == [5, 5]
    assert target["segments"] == [
        {"id": 300, "label": 8, "thing": False, "crowd": False, "area": 16 * 26 - 50},
        {"id": 70_000, "label": 3, "thing": True, "crowd": True, "area": 50},
    ]
    assert (target["boxes"].tolist(), target["labels"].tolist()) == ([[5, 5, 15, 10]], [3])
    assert (things(tmp_path), panoptic_categories(tmp_path)) == ({3: True, 8: False}, {3: "cat", 8: "sky"})


SEGMENT = {"id": 1, "category_id": 3, "iscrowd": 0, "bbox": [0, 0, 30, 20], "area": 600}
ONES = np.ones((HEIGHT, WIDTH), dtype=np.int64)
PANOPTIC = [
    ([SEGMENT, {**SEGMENT, "id": 2}], ONES, r"2017/a.png: segment 2 of image 7 has segments_info and no pixel"),
    ([], ONES, r"a.png: segment 1 of image 7 is in the map and has no segments_info"),
    ([{**SEGMENT, "category_id": 4}], ONES, "image 7, segment 1, has category_id 4, which is no category"),
    ([SEGMENT, SEGMENT], ONES, "image 7 has segment 1 twice"),
    ([{**SEGMENT, "id": 0}], ONES, "a segment has id 0; expected a whole number from 1 on"),
    ("all", ONES, "has segments_info 'all'; expected a list of segments"),
    ([SEGMENT], ONES[:, :9], "a.png has 9x20 pixels, and image 7 is annotated for 30x20"),
]


@pytest.mark.parametrize(("segments", "numbers", "message"), PANOPTIC)
def test_a_bad_map_is_named(tmp_path, segments, numbers, message):
    write_panoptic(tmp_path, segments, numbers)
    with pytest.raises(ZooError, match=message):
        load_panoptic("train", tmp_path)[0]


def test_a_category_is_a_thing_or_stuff(tmp_path):
    write_panoptic(tmp_path, categories=[{"id": 3, "name": "cat"}, {"id": 8, "name": "sky", "isthing": 0}])
    with pytest.raises(ZooError, match=r"panoptic_train2017.json: category 3 has isthing None; expected 0 or 1"):
        load_panoptic("train", tmp_path)


def test_a_missing_map_is_named(tmp_path):
    samples = load_panoptic("train", write_panoptic(tmp_path))
    (tmp_path / "annotations/panoptic_train2017/a.png").unlink()
    with pytest.raises(ZooError, match=r"panoptic_train2017/a.png of image 7 cannot be read as an image"):
        samples[0]


# -- sets that are there -------------------------------------------------------------------------------------


def test_digit_scenes_are_read_back_as_they_were_written(tmp_path):
    for split in ("train", "test"):
        write_coco(tmp_path, split, scenes=6)
        found, maps = load_detection(split, tmp_path), load_panoptic(split, tmp_path)
        assert len(found) == len(maps) == 6
        for (image, target), read, mapped in zip(load(split, scenes=6), found, maps, strict=True):
            assert torch.equal(image, read[0])
            assert torch.equal(image, mapped[0])
            assert torch.equal(target["map"], mapped[1]["map"])
            assert target["segments"] == mapped[1]["segments"]
            for key in ("boxes", "labels", "crowd"):
                assert torch.equal(target[key], read[1][key])
                assert torch.equal(target[key], mapped[1][key])
            assert torch.equal(target["area"], read[1]["area"])
            assert (target["image_id"], target["size"]) == (read[1]["image_id"], read[1]["size"])
    assert things(tmp_path) == CATEGORIES
    assert panoptic_categories(tmp_path) == NAMES
    assert categories(tmp_path) == {label: name for label, name in NAMES.items() if CATEGORIES[label]}


def unpacked(tmp_path, name):
    """Unpack a set that lies beside the repository, where it does."""
    if not (SHARED / f"{name}.zip").exists():
        pytest.skip(f"{SHARED / name}.zip is not here")
    with zipfile.ZipFile(SHARED / f"{name}.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path / name


def test_the_small_part_of_coco_is_read_whole(tmp_path):
    path = unpacked(tmp_path, "coco_tiny")
    for split, boxes in (("train", 705), ("test", 815)):
        targets = [target for _, target in load_detection(split, path)]
        assert (len(targets), sum(len(t["labels"]) for t in targets)) == (80, boxes)
    assert len(categories(path)) == 80
    objects = [(t, ~t["crowd"]) for t in targets]
    truth = [{"boxes": t["boxes"][o], "labels": t["labels"][o], "scores": torch.ones(int(o.sum()))} for t, o in objects]
    assert coco_boxes(truth, targets)["AP"][0] == pytest.approx(1)


def test_bccd_is_read_whole(tmp_path):
    path = unpacked(tmp_path, "bccd") / "BCCD"
    counts = {split: len(load_detection(split, path)) for split in ("train", "test")}
    assert counts == {"train": 292, "test": 72}
    assert categories(path) == {1: "Platelets", 2: "RBC", 3: "WBC"}
    listings = [load_detection(split, path).listing for split in counts]
    assert sum(len(picture.boxes) for listing in listings for picture in listing.pictures) == 4888
    image, target = load_detection("test", path)[0]
    assert image.shape == (3, *target["size"]) == (3, 480, 640)
