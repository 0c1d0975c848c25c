"""A suite's tables and plots from its records, and the files they are saved in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from zoo import plots, store
from zoo import tables as tables_
from zoo.suite import read_suite


def tables(suite: str, folder: Path, form: Literal["terminal", "markdown", "csv"]) -> list[str]:
    """Return the tables of a suite, rendered as ``terminal``, ``markdown`` or ``csv``."""
    rows = tables_.rows(store.load(folder))
    return [tables_.render(tables_.make_table(spec, rows), form) for spec in read_suite(suite).suite.tables]


def write(suite: str, folder: Path, to: Path) -> list[Path]:
    """Save the tables of a suite as Markdown and CSV and its plots as SVG and PNG; return the files."""
    file = read_suite(suite)
    rows = tables_.rows(store.load(folder))
    written = []
    made = [tables_.make_table(spec, rows) for spec in file.suite.tables]
    if made:
        written.append(save(to / "tables.md", "\n\n".join(tables_.render(table, "markdown") for table in made) + "\n"))
    for spec, table in zip(file.suite.tables, made, strict=True):
        written.append(save(to / f"{file_name(spec.title)}.csv", tables_.render(table, "csv")))
    for plot in file.suite.plots:
        written += plots.save(plots.plot(plot, rows), to / plot.name)
    return written


def save(path: Path, text: str) -> Path:
    """Write a text file and return its path."""
    path.write_text(text, encoding="utf-8")
    return path


def file_name(title: str) -> str:
    """Return a title as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
