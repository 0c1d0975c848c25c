"""A suite's tables and plots from its records, and the files they are saved in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from zoo import plots, store
from zoo import tables as tables_
from zoo.errors import BadRecords
from zoo.suite import SuiteFile

Spec = TypeVar("Spec")
Made = TypeVar("Made")


def tables(file: SuiteFile, folder: Path, form: tables_.Format) -> tuple[list[str], list[str]]:
    """Return the tables of a suite, rendered, and why others cannot be shown."""
    rows = tables_.rows(store.load(folder))
    made, problems = each(file.suite.tables, lambda spec: tables_.make_table(spec, rows, file.name))
    return [tables_.render(table, form) for _, table in made], problems


def write(file: SuiteFile, folder: Path) -> list[Path]:
    """Save the tables as Markdown and CSV and the plots as SVG and PNG, beside the records; return the files."""
    rows = tables_.rows(store.load(folder))
    made, _ = each(file.suite.tables, lambda spec: tables_.make_table(spec, rows, file.name))
    drawn, _ = each(file.suite.plots, lambda spec: plots.plot(spec, rows))
    written = [save(folder / f"{file_name(spec.title)}.csv", tables_.render(table, "csv")) for spec, table in made]
    if made:
        page = "\n\n".join(tables_.render(table, "markdown").strip() for _, table in made)
        written.insert(0, save(folder / "tables.md", page + "\n"))
    for spec, chart in drawn:
        written += plots.save(chart, folder / spec.name)
    return written


def each(specs: Iterable[Spec], make: Callable[[Spec], Made]) -> tuple[list[tuple[Spec, Made]], list[str]]:
    """Make what can be made of each, and say why the others cannot."""
    made, problems = [], []
    for spec in specs:
        try:
            made.append((spec, make(spec)))
        except BadRecords as error:
            problems.append(str(error))
    return made, problems


def save(path: Path, text: str) -> Path:
    """Write a text file and return its path."""
    path.write_text(text, encoding="utf-8")
    return path


def file_name(title: str) -> str:
    """Return a title as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
