"""Texts to classify as bytes, from anybody's files: Long Range Arena reads IMDb's reviews so, up to 4,000 bytes.

Three layouts are read, each named by its path:

a folder with ``train.tsv`` and ``test.tsv`` (or ``.csv``)    lines with the columns label and text
one file ``.tsv`` or ``.csv``                                  the same; one text of five is for testing
a folder with ``train/LABEL/*.txt`` and ``test/LABEL/*.txt``   as IMDb is laid out; its ``unsup`` has no label
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor

from zoo import ZooError

VOCABULARY = 256  # a token is a byte, and 0 is padding
SPLITS = ("train", "test")
TESTED = 5  # one text of so many, where one file holds all
UNLABELLED = "unsup"

Labelled = tuple[str, str, str]  # label, text, where it was found


class Tabs(csv.excel_tab):
    """A table whose quotation marks are part of its texts."""

    quoting = csv.QUOTE_NONE


FORMATS: dict[str, type[csv.Dialect]] = {".tsv": Tabs, ".csv": csv.excel}


def load_file(split: str, path: str | Path, length: int) -> list[tuple[Tensor, int]]:
    """Return the texts of ``"train"`` or ``"test"``: their first ``length`` bytes (n,), int64, and their label's place.

    A label's place is its place in :func:`classes`. ZooError names file and line of what cannot be read.
    """
    if length < 1:
        raise ZooError(f"{length} bytes are no text; expected a length of at least 1")
    texts = read(split, Path(path))
    labels = labels_of(texts, path) if split == "train" else classes(path)
    known = {label: place for place, label in enumerate(labels)}
    samples = []
    for label, text, where in texts:
        if label not in known:
            raise ZooError(f"{where}: no text to train on has the label {label!r}; expected one of {', '.join(known)}")
        samples.append((tokens_of(text, where)[:length], known[label]))
    return samples


def classes(path: str | Path) -> list[str]:
    """Return the labels of the texts to train on in order: that of numbers where all of them are."""
    return labels_of(read("train", Path(path)), path)


def describe(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return the options that texts set in a model, and no settings."""
    return {"vocab_size": VOCABULARY, "num_classes": len(classes(path))}, {}


def labels_of(texts: Sequence[Labelled], path: str | Path) -> list[str]:
    """Return the labels of texts in order. ZooError when there is only one."""
    labels = {label for label, _, _ in texts}
    if len(labels) < 2:
        raise ZooError(f"{path}: every text has the label {labels.pop()!r}; expected two labels or more")
    return sorted(labels, key=int) if all(label.isdecimal() for label in labels) else sorted(labels)


def tokens_of(text: str, where: str) -> Tensor:
    """Return the UTF-8 bytes of a text (n,). ZooError for a byte 0, which stands for padding."""
    content = text.encode()
    if 0 in content:
        raise ZooError(f"{where}: the text has the byte 0, which stands for padding")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).long()


# -- the three layouts ---------------------------------------------------------------------------------------


def read(split: str, path: Path) -> list[Labelled]:
    """Return the labelled texts of a split. ZooError says what was looked for, where there are none."""
    if split not in SPLITS:
        raise ZooError(f"labelled texts have no split {split!r}; their splits: {', '.join(SPLITS)}")
    if path.is_file():
        found = [labelled for labelled in read_table(path) if (split == "test") == is_for_testing(labelled[1])]
    else:
        found = list(read_table(table) if (table := table_of(split, path)) else read_folder(split, path))
    if not found:
        raise ZooError(f"{path} has no texts for {split}")
    return found


def is_for_testing(text: str) -> bool:
    """Tell whether a text of a single file is for testing: a text that is there twice is in one split."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) % TESTED == 0


def table_of(split: str, folder: Path) -> Path | None:
    """Return the table of a split, None where a folder has none."""
    return next((file for ending in FORMATS if (file := folder / f"{split}{ending}").is_file()), None)


def read_table(file: Path) -> Iterator[Labelled]:
    """Yield the texts of a table whose first line names its columns, ``label`` and ``text`` among them.

    A text of a CSV file may be quoted, and go over several lines; one of a TSV file is what stands between two tabs.
    """
    if file.suffix not in FORMATS:
        raise ZooError(f"{file} is no table; expected the ending {' or '.join(FORMATS)}")
    content = StringIO(decoded(file), newline="")
    reader = csv.reader(content, FORMATS[file.suffix], strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if not {"label", "text"} <= set(header):
            raise ZooError(f"{file}:1: its columns are {', '.join(header) or 'none'}; expected label and text")
        for row in reader:
            yield of_row(dict(zip(header, row, strict=False)), f"{file}:{reader.line_num}")
    except csv.Error as error:
        raise ZooError(f"{file}:{reader.line_num}: {error}") from None


def of_row(row: dict[str, str], where: str) -> Labelled:
    """Return label and text of a row; ``where`` is the line that it ends on."""
    for column in ("label", "text"):
        if not row.get(column, "").strip():
            raise ZooError(f"{where}: the row has no {column}")
    return row["label"].strip(), row["text"], where


def read_folder(split: str, path: Path) -> Iterator[Labelled]:
    """Yield the texts of ``path/split/LABEL/*.txt``, sorted by label and name."""
    folders = sorted(f for f in (path / split).glob("*/") if f.name != UNLABELLED and f.is_dir())
    if not folders:
        tables = " or ".join(f"{split}{ending}" for ending in FORMATS)
        raise ZooError(f"{path} holds no texts for {split}; expected {tables}, or {split}/LABEL/*.txt")
    for folder in folders:
        for file in sorted(folder.glob("*.txt")):
            text = decoded(file)
            if not text.strip():
                raise ZooError(f"{file} is empty; expected a text")
            yield folder.name, text, str(file)


def decoded(file: Path) -> str:
    """Return the text of a file. ZooError names the first line that is no UTF-8."""
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ZooError(f"{file}:{line}: no UTF-8: byte 0x{content[error.start]:02x}") from None
