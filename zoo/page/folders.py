"""Which suites' records lie below a folder, and what is known of each suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zoo import store
from zoo.errors import BadRecords, ZooError
from zoo.plan import known_options
from zoo.registry import installed
from zoo.resources import suites
from zoo.rows import Row, rows_of
from zoo.suite import SuiteFile, read_suite

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Folder:
    """The records of one suite: ``file`` is the suite of that name, ``problem`` says why a known one cannot be read.

    ``label`` tells folders of one name apart.
    """

    path: Path
    name: str
    label: str
    results: store.Results
    rows: tuple[Row, ...]
    file: SuiteFile | None
    problem: str = ""

    @property
    def title(self) -> str:
        """What the suite calls itself; its name where it does not."""
        return (self.file.suite.title if self.file else "") or self.name


def read_folders(root: Path, tell: Tell) -> list[Folder]:
    """Read every suite's records below a folder. BadRecords when it is missing, or holds none."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise BadRecords(f"{root} {what}; expected a folder with the records of suites, as zoo run writes it")
    found = record_files(root)
    quoted = [root / name for name in suites() if (root / name).is_dir()]
    quoted += [root] if root.resolve().name in suites() else []
    for folder in quoted:
        if folder not in found and not any(folder.rglob("*.jsonl")):
            found[folder] = []  # tables of published numbers need no records
    if not any(found.values()) and not any(quotes(folder.resolve().name) for folder in found):
        raise BadRecords(f"there are no records in {root}; zoo run SUITE writes them")
    names = [folder.resolve().name for folder in found]
    folders, known = [], known_options(installed())
    for (folder, files), name in zip(found.items(), names, strict=True):
        tell(f"reading {folder}")
        results = store.read_files(files)
        label = name if names.count(name) == 1 else str(folder.relative_to(root))
        rows = tuple(rows_of(results, known))
        folders.append(Folder(folder, name, label, results, rows, *known_suite(name)))
    return folders


def quotes(name: str) -> bool:
    """Tell whether a suite has nothing to measure, so that its tables are whole without records."""
    file, _ = known_suite(name)
    return file is not None and not file.suite.groups


def record_files(root: Path) -> dict[Path, list[Path]]:
    """Return the files of records below a folder, by the suite's folder that they belong to."""
    found: dict[Path, list[Path]] = {}
    for file in sorted(root.rglob("*.jsonl"), key=lambda f: (f.name != store.STATIC, str(f))):
        owner = file.parent.parent if file.name == store.RECORDS else file.parent
        found.setdefault(owner if owner.is_relative_to(root) else root, []).append(file)
    return dict(sorted(found.items()))


def known_suite(name: str) -> tuple[SuiteFile | None, str]:
    """Return the suite that ships under a name, if any, or why it cannot be read."""
    if name not in suites():
        return None, ""
    try:
        return read_suite(name), ""
    except ZooError as error:
        return None, str(error)
