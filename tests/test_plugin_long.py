"""The plugin of long sequences: what its samples are, that the answers are right, and what is wrong with a file."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from statistics import median

import pytest
import torch
import zoo_digits.data
from zoo_long import listops, pixels, texts

from zoo import ZooError
from zoo.scores.classification import majority

# -- ListOps -------------------------------------------------------------------------------------------------

INNERMOST = re.compile(r"\[(MIN|MAX|MED|SM) ([\d ]+) \]")
EVALUATED = {"MIN": min, "MAX": max, "MED": lambda values: int(median(values)), "SM": lambda values: sum(values) % 10}


def share(samples) -> float:
    """Return what a constant answer gets right."""
    return majority([label for _, label in samples])


def evaluate(text: str) -> int:
    """Replace what holds digits only by its value, until a digit is left."""
    while "[" in text:
        text = INNERMOST.sub(lambda found: str(EVALUATED[found[1]](list(map(int, found[2].split())))), text)
    return int(text)


def shape(text: str) -> tuple[int, list[int]]:
    """Return how deep an expression is, digits included, and how many arguments each of its operators has."""
    depth = deepest = 0
    open_, counts = [], []
    for token in text.split():
        if token == "]":
            counts.append(open_.pop())
            depth -= 1
            continue
        if open_:
            open_[-1] += 1
        deepest = max(deepest, depth + 1)
        if token.startswith("["):
            open_.append(0)
            depth += 1
    return deepest, counts


def expressions(length: int, n: int, split: str = "train") -> list[tuple[str, int]]:
    """Return the first expressions of a length as text, with their values."""
    return [(listops.written(tokens), value) for tokens, value in listops.load(split, length)[:n]]


def test_a_small_expression_by_hand():
    assert evaluate("[MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]") == 5  # as Nangia and Bowman print it
    assert evaluate("[SM 9 8 [MED 1 2 ] ]") == 8  # the middle of 1 and 2, rounded down, is 1


@pytest.mark.parametrize(("length", "n"), [(32, 1000), (128, 800), (512, 200)])
def test_an_independent_evaluator_agrees_with_every_label(length, n):
    assert [evaluate(text) for text, _ in expressions(length, n)] == [value for _, value in expressions(length, n)]


@pytest.mark.parametrize("length", [32, 128, 256, 512, 1024])
def test_lengths_are_more_than_half_of_what_is_asked_and_at_most_that(length):
    lengths = [len(tokens) for tokens, _ in listops.load("train", length)[:150]]
    assert length // 2 < min(lengths)
    assert max(lengths) <= length
    assert max(lengths) > 0.9 * length


def test_samples_are_token_ids_and_a_digit():
    for tokens, value in listops.load("test", 128)[:50]:
        assert tokens.dtype == torch.int64
        assert tokens.ndim == 1
        assert 0 < tokens.min() <= tokens.max() < listops.VOCABULARY == 16
        assert type(value) is int
        assert 0 <= value < listops.CLASSES


def test_trees_keep_the_published_rules():
    shapes = [shape(text) for text, _ in expressions(512, 200)]
    counts = Counter(count for _, found in shapes for count in found)
    assert max(depth for depth, _ in shapes) == 10
    assert set(counts) == set(range(2, 11))
    assert all(0.09 < share / counts.total() < 0.14 for share in counts.values())  # as likely each, 1/9


def test_operators_and_digits_are_as_likely_as_each_other():
    tokens = Counter(" ".join(text for text, _ in expressions(256, 300)).replace("]", "").split())
    for kind in (listops.TOKENS[1:11], listops.TOKENS[11:15]):
        shares = [tokens[token] / sum(tokens[t] for t in kind) for token in kind]
        assert max(shares) < 1.1 / len(kind)
        assert min(shares) > 0.9 / len(kind)


def test_an_argument_is_an_operator_one_time_in_four():
    # Of all trees; those of a given length are a choice of them.
    draw, counted = listops.Random("a seed").random, Counter()
    for _ in range(3000):
        counted.update(n > 0 for level in listops.tree(draw, 0, 10**9)[1:9] for n in level)
    assert counted[True] / counted.total() == pytest.approx(0.25, abs=0.005)


def test_a_tree_is_accepted_by_its_length_alone():
    draw = listops.Random("another").random
    levels = next(found for _ in range(10_000) if (found := listops.tree(draw, 20, 40)))
    nodes = [n for level in levels for n in level]
    assert 20 < sum(2 if n else 1 for n in nodes) <= 40
    assert len(nodes) == 1 + sum(nodes)  # each but the first is somebody's argument


def test_labels_are_as_uneven_as_the_rules_make_them():
    values = Counter(value for _, value in listops.load("test", 128))
    assert set(values) == set(range(10))
    assert {value for value, _ in values.most_common(2)} == {0, 9}  # what the least and the largest tend to
    assert share(listops.load("test", 128)) == 0.148
    assert share(listops.load("test", 512)) == 0.165


def test_no_expression_is_in_both_splits():
    train, test = ({text for text, _ in expressions(32, 500, split)} for split in ("train", "test"))
    assert len(train) == len(test) == 500
    assert not train & test


def test_expressions_are_the_same_for_ever():
    content = "\n".join(f"{text} = {value}" for text, value in expressions(128, 100))
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == "76d335671d23c506"


def test_a_sample_is_made_when_it_is_asked_for_and_kept():
    samples = listops.load("train", 64)
    assert len(samples) == 10_000
    assert len(listops.load("test", 64)) == 1_000
    assert torch.equal(samples[9_999][0], samples[-1][0])
    assert set(samples.made) == {9_999}
    with pytest.raises(IndexError):
        samples[10_000]


def test_what_is_handed_out_may_be_changed():
    samples = listops.load("train", 64)
    before = samples[0][0].clone()
    samples[0][0].zero_()
    assert torch.equal(samples[0][0], before)


@pytest.mark.parametrize(
    ("split", "length", "said"),
    [
        ("dev", 128, "ListOps has no split 'dev'; its splits: train, test"),
        ("train", 31, "ListOps has no expressions of 31 tokens; expected 32 to 4096"),
        ("train", 5000, "ListOps has no expressions of 5000 tokens; expected 32 to 4096"),
    ],
)
def test_expressions_that_are_not_there_are_refused(split, length, said):
    with pytest.raises(ZooError, match=said):
        listops.load(split, length)


# -- pixels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 9, 16, 32])
def test_an_image_is_a_sequence_of_its_pixels(side):
    samples = pixels.load("test", side**2)
    assert len(samples) == 360
    ids = torch.stack([tokens for tokens, _ in samples])
    assert ids.shape == (360, side**2)
    assert ids.dtype == torch.int64
    assert 1 <= ids.min() <= ids.max() <= 256 < pixels.VOCABULARY


def test_pixels_as_they_are_scanned_are_those_of_the_task_digits():
    for split in ("train", "test"):
        ours, theirs = pixels.load(split, 64), zoo_digits.data.load(split)
        assert [label for _, label in ours] == [label for _, label in theirs]
        grey = torch.stack([image[0] for image, _ in theirs]).flatten(1)  # -1..1
        assert torch.equal(torch.stack([ids for ids, _ in ours]), 1 + (255 * (grey + 1) / 2).round().long())


def test_larger_images_show_the_same():
    small, large = (torch.stack([ids for ids, _ in pixels.load("test", side**2)]).float() for side in (8, 32))
    shrunk = torch.nn.functional.avg_pool2d(large.view(-1, 1, 32, 32), 4).flatten(1)
    assert torch.corrcoef(torch.stack([small.flatten(), shrunk.flatten()]))[0, 1] > 0.97


def test_labels_of_digits_are_even():
    assert share(pixels.load("test", 64)) == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize(
    ("length", "near"),
    [(100_000, "4096"), (1000, "961 or 1024"), (49, "64"), (0, "64"), (-1, "64"), (4225, "4096")],
)
def test_a_length_that_is_no_image_is_refused_with_the_nearest(length, near):
    said = f"{length} pixels are no image of digits; expected a square number from 64 to 4096, nearest: {near}$"
    with pytest.raises(ZooError, match=said):
        pixels.load("train", length)


def test_a_split_of_pixels_that_is_not_there_is_refused():
    with pytest.raises(ZooError, match="the pixels of digits have no split 'dev'; their splits: train, test"):
        pixels.load("dev", 64)


# -- texts ---------------------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path):
    """A function that writes files, by their path in a folder, and returns the folder."""

    def made(files: dict[str, str | bytes]):
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path

    return made


def shown(samples: list[tuple[torch.Tensor, int]]) -> list[tuple[str, int]]:
    """Return samples with their text."""
    return [(bytes(ids.tolist()).decode(), label) for ids, label in samples]


TABLE = 'label\ttext\npos\tgood \u201cfilm\u201d\nneg\t"bad\n'


def test_a_table_has_a_label_and_a_text_a_line(write):
    folder = write({"train.tsv": TABLE, "test.tsv": "id\ttext\tLabel\n7\tso so\tneg\n"})
    assert texts.classes(folder) == ["neg", "pos"]
    assert shown(texts.load_file("train", folder, 100)) == [("good “film”", 1), ('"bad', 0)]
    assert shown(texts.load_file("test", str(folder), 100)) == [("so so", 0)]


def test_a_text_of_a_csv_file_may_be_quoted_and_go_over_lines(write):
    folder = write({"train.csv": 'label,text\n10,"a, ""b""\nc"\n9,d\n'})
    assert texts.classes(folder) == ["9", "10"]  # as numbers
    assert shown(texts.load_file("train", folder, 100)) == [('a, "b"\nc', 1), ("d", 0)]


def test_texts_are_cut_to_so_many_bytes(write):
    folder = write({"train.tsv": "label\ttext\na\té1234\nb\tx\n"})
    (long, _), (short, _) = texts.load_file("train", folder, 4)
    assert long.tolist() == [0xC3, 0xA9, 0x31, 0x32]
    assert long.dtype == torch.int64
    assert short.tolist() == [ord("x")]


def test_a_folder_a_label_is_read_as_imdb_is_laid_out(write):
    folder = write(
        {
            "train/pos/1_9.txt": "fine",
            "train/neg/0_1.txt": "poor",
            "train/unsup/0_0.txt": "nobody said",
            "test/pos/0_7.txt": "good",
            "train/urls_pos.txt": "not a review",
        }
    )
    assert shown(texts.load_file("train", folder, 100)) == [("poor", 0), ("fine", 1)]
    assert shown(texts.load_file("test", folder, 100)) == [("good", 1)]


def test_one_file_is_split_by_its_texts(write):
    rows = [f"{'ab'[i % 2]}\ttext {i % 150}" for i in range(300)]
    path = write({"all.tsv": "label\ttext\n" + "\n".join(rows)}) / "all.tsv"
    train, test = (shown(texts.load_file(split, path, 100)) for split in ("train", "test"))
    assert len(train) + len(test) == 300
    assert 30 < len(test) < 90
    assert not {text for text, _ in train} & {text for text, _ in test}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, r" holds no texts for train; expected train.tsv or train.csv, or train/LABEL/\*.txt"),
        ({"train.tsv": ""}, r"train.tsv:1: its columns are none; expected label and text"),
        ({"train.tsv": "text\tclass\nx\ty\n"}, r"train.tsv:1: its columns are text, class; expected label and text"),
        ({"train.tsv": "label\ttext\n"}, r" has no texts for train"),
        ({"train.tsv": "label\ttext\na\tx\nb\t \n"}, r"train.tsv:3: the row has no text"),
        ({"train.tsv": "label\ttext\na\tx\nb\n"}, r"train.tsv:3: the row has no text"),
        ({"train.tsv": "label\ttext\na\tx\n\ty\n"}, r"train.tsv:3: the row has no label"),
        ({"train.csv": 'label,text\na,x\nb,"y" z\n'}, r"train.csv:3: .*expected after"),
        ({"train.csv": 'label,text\na,x\nb,"y\n'}, r"train.csv:3: unexpected end of data"),
        ({"train.tsv": b"label\ttext\na\tx\nb\ty\xff\n"}, r"train.tsv:3: no UTF-8: byte 0xff"),
        ({"train.tsv": "label\ttext\na\tx\na\ty\n"}, r": every text has the label 'a'; expected two labels or more"),
        (
            {"train.tsv": "label\ttext\na\tx\nb\ty\0\n"},
            r"train.tsv:3: the text has the byte 0, which stands for",
        ),
        ({"train/a/1.txt": "x", "train/b/2.txt": " "}, r"2.txt is empty; expected a text"),
        ({"train/a/1.txt": "x", "train/b/2.txt": b"x\n\xe9"}, r"2.txt:2: no UTF-8: byte 0xe9"),
    ],
)
def test_files_that_hold_no_labelled_texts_are_refused_with_the_reason(write, files, said):
    with pytest.raises(ZooError, match=said):
        texts.load_file("train", write(files), 100)


def test_a_label_that_is_only_in_the_test_is_refused(write):
    folder = write({"train.tsv": TABLE, "test.tsv": "label\ttext\npos\tx\nmeh\ty\n"})
    with pytest.raises(ZooError, match=r"test.tsv:3: no text to train on has the label 'meh'; expected .* neg, pos"):
        texts.load_file("test", folder, 100)


def test_a_file_of_another_format_a_split_and_a_length_are_refused(write):
    folder = write({"train.tsv": TABLE, "all.json": "{}"})
    with pytest.raises(ZooError, match=r"all.json is no table; expected the ending .tsv or .csv"):
        texts.load_file("train", folder / "all.json", 100)
    with pytest.raises(ZooError, match="labelled texts have no split 'dev'; their splits: train, test"):
        texts.load_file("dev", folder, 100)
    with pytest.raises(ZooError, match="0 bytes are no text; expected a length of at least 1"):
        texts.load_file("train", folder, 0)


# -- what learns nothing -------------------------------------------------------------------------------------
