"""A suite's tables and plots from its records, and the files they are saved in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from zoo import plots, store, tables
from zoo.errors import BadRecords
from zoo.suite import SuiteFile

Spec = TypeVar("Spec")
Made = TypeVar("Made")


class Report:
    """The tables of one suite from the records in a folder, which are read once.

    ``problems`` says why some of its tables cannot be shown.
    """

    def __init__(self, file: SuiteFile, folder: Path) -> None:
        """Read the records and make the tables. BadRecords when there are none."""
        self.file, self.folder = file, folder
        self.rows = tables.rows(store.load(folder))
        self.tables, self.problems = each(file.suite.tables, lambda spec: tables.make_table(spec, self.rows, file.name))

    def rendered(self, form: tables.Format) -> list[str]:
        """Return the tables as text."""
        return [tables.render(table, form) for _, table in self.tables]

    def document(self, form: tables.Format) -> str:
        """Return all tables as one text, a document of its own where the format has such."""
        return tables.document(self.rendered(form), form)

    def write(self) -> list[Path]:
        """Save the tables as Markdown and CSV and the plots as SVG and PNG, beside the records; return the files."""
        written = []
        if self.tables:
            page = "\n\n".join(text.strip() for text in self.rendered("markdown"))
            written.append(save(self.folder / "tables.md", page + "\n"))
        for (spec, _), text in zip(self.tables, self.rendered("csv"), strict=True):
            written.append(save(self.folder / f"{file_name(spec.title)}.csv", text))
        drawn, _ = each(self.file.suite.plots, lambda spec: plots.plot(spec, self.rows))
        for plot, chart in drawn:
            written += plots.save(chart, self.folder / plot.name)
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
