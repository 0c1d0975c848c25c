"""A parallel corpus in two text files, a sentence a line: ``train.src`` beside ``train.tgt``, or ``train.en`` beside
``train.de``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from zoo import ZooError, reserved_byte
from zoo_translation.corpus import Pair

DIRECTION = re.compile(r"(?:^|[._-])([a-z]{2,3})-([a-z]{2,3})$")


def load_files(split: str, path: str | Path, direction: str = "") -> Sequence[Pair]:
    """Return the pairs of a split, ``"train"`` or ``"test"``, whose two files lie in the folder ``path``.

    Source and target are what ``direction`` says (``"en-de"``: ``train.en`` to ``train.de``), else ``train.src`` and
    ``train.tgt``, else what the folder's name ends with (``multi30k.en-de``). ZooError says what was looked for and
    what is wrong: line numbers begin at 1.
    """
    source, target = find(split, Path(path), direction)
    sources, targets = list(lines(source)), list(lines(target))
    if len(sources) != len(targets):
        counts = f"{source.name} has {len(sources):,} lines and {target.name} {len(targets):,}"
        raise ZooError(f"{source.parent}: {counts}; expected as many, each the translation of the other's")
    return list(zip(sources, targets, strict=True))


def find(split: str, folder: Path, direction: str) -> tuple[Path, Path]:
    """Return the source and the target file of a split. ZooError says what was looked for, and what there is."""
    if not folder.is_dir():
        raise ZooError(f"{folder} is no folder; expected one that holds {split}.src and {split}.tgt")
    asked = DIRECTION.search(direction)
    if direction and not asked:
        raise ZooError(f"{direction!r} is no direction; expected such as 'en-de'")
    named = DIRECTION.search(folder.resolve().name)
    endings = [asked.groups()] if asked else [("src", "tgt"), *([named.groups()] if named else [])]
    for source, target in endings:
        pair = folder / f"{split}.{source}", folder / f"{split}.{target}"
        if all(file.is_file() for file in pair):
            return pair
    wanted = " or ".join(f"{split}.{source} and {split}.{target}" for source, target in endings)
    raise ZooError(f"{folder} has no {wanted}{hint(split, folder)}")


def hint(split: str, folder: Path) -> str:
    """Say what a folder holds instead, and how the source is told from the target."""
    there = sorted(file.name for file in folder.iterdir())
    held = f"; it holds {', '.join(there[:8])}{', ...' if there[8:] else ''}" if there else "; it is empty"
    languages = [name.rpartition(".")[2] for name in there if name.rpartition(".")[0] == split]
    if len(languages) != 2:
        return held
    one, other = languages
    return f"{held}; let the folder's name end in the direction, .{one}-{other} or .{other}-{one}"


def lines(file: Path) -> Iterator[str]:
    """Yield the lines of a file, ended by LF or CR LF and nothing else: a text may hold any other separator.

    ZooError names the first line that is empty, no UTF-8, or has a reserved byte.
    """
    content = file.read_bytes()
    if not content.strip():
        raise ZooError(f"{file} is empty; expected a sentence a line")
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), 1):
        line = line.removesuffix(b"\r")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            problem = f"no UTF-8: byte 0x{line[error.start]:02x} at position {error.start}"
            raise ZooError(f"{file}:{number}: {problem}") from None
        if problem := "is empty; expected a sentence" if not text.strip() else reserved_byte(line):
            raise ZooError(f"{file}:{number}: the line {problem}")
        yield text
