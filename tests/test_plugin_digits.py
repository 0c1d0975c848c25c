"""The digits plugin: what its samples are, and that their split never changes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import zoo_digits
from zoo_digits.data import load

from zoo import ZooError
from zoo.spec import resolve

TASK = next(iter(zoo_digits.zoo_tasks()))


def test_samples_are_grey_images_in_three_channels_and_labels():
    images = torch.stack([image for image, _ in load("train")])
    assert images.shape == (1437, 3, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (-1, 1)
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])
    assert {type(label) for _, label in load("train")} == {int}


def test_every_sample_is_in_one_split():
    assert len(load("train")) + len(load("test")) == 1437 + 360 == 1797


def test_every_label_is_split_alike():
    train, test = (Counter(label for _, label in load(split)) for split in ("train", "test"))
    assert set(train) == set(test) == set(range(10))
    assert all(abs(test[label] - (train[label] + test[label]) / 5) < 1 for label in range(10))


def test_the_split_is_always_the_same():
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(load("test"), load("test"), strict=True))
    assert [label for _, label in load("test")[:12]] == [0, 2, 4, 7, 1, 6, 8, 9, 5, 3, 0, 2]


def test_a_split_that_is_not_there_is_refused():
    with pytest.raises(ZooError, match="no split 'validation'; its splits: train, test"):
        load("validation")


def test_the_task_names_code_that_exists():
    assert resolve(TASK.data) is load
    scores = resolve(TASK.evaluate)([1, 2, 3, 4], [1, 2, 3, 5])
    assert set(scores) == {metric.name for metric in TASK.metrics}
    assert scores["top1"][0] == 3 / 4


def test_the_default_recipe_is_quick():
    assert TASK.recipe(None).name == "quick"
