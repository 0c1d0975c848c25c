"""A suite's tables and plots from its records, and the files they are saved in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from zoo import formats, plots, store, tables
from zoo.errors import BadRecords, ZooError
from zoo.plan import known_options
from zoo.registry import Registry, installed
from zoo.rows import Row, rows_of
from zoo.schema import AnyPlot, AnyTable, file_name
from zoo.suite import SuiteFile

# How the files of a format end.
ENDINGS: dict[formats.Format, str] = {
    "terminal": "txt", "markdown": "md", "latex": "tex", "csv": "csv", "html": "html",
}  # fmt: skip

if TYPE_CHECKING:
    import altair as alt

Spec = TypeVar("Spec")
Made = TypeVar("Made")


class Report:
    """The tables of one suite from the records in a folder, which are read once.

    ``problems`` says why some of its tables cannot be shown, ``undrawn`` why some of its plots were not written,
    ``warnings`` which lines of the records could not be read.
    """

    def __init__(self, file: SuiteFile, folder: Path) -> None:
        """Read the records and make the tables. BadRecords when there are none."""
        self.file, self.folder = file, folder
        self.undrawn: list[str] = []
        quotes = any(spec.kind == "published" for spec in file.suite.tables)
        found = store.Results() if quotes and not any(folder.rglob("*.jsonl")) else store.load(folder)
        self.rows, self.warnings = rows_of(found, known_options(installed())), found.warnings
        self.tables, self.problems = each(file.suite.tables, lambda spec: table_of(spec, file, self.rows, installed()))

    def rendered(self, form: formats.Format) -> list[str]:
        """Return the tables as text."""
        return [formats.render(table, form) for _, table in self.tables]

    def document(self, form: formats.Format) -> str:
        """Return all tables as one text, a document of its own where the format has such."""
        return formats.document(self.rendered(form), form)

    def texts(self) -> Iterator[tuple[Path, str]]:
        """Yield the files that the tables are kept in: one page of Markdown, and CSV for each."""
        if self.tables:
            page = "\n\n".join(text.strip() for text in self.rendered("markdown"))
            yield self.folder / "tables.md", page + "\n"
        for (spec, _), text in zip(self.tables, self.rendered("csv"), strict=True):
            yield self.folder / f"{file_name(spec.title)}.csv", text

    def charts(self) -> list[tuple[AnyPlot, alt.LayerChart]]:
        """Return the plots that can be drawn; ``undrawn`` says why the others cannot."""
        drawn, self.undrawn = each(
            self.file.suite.plots, lambda spec: chart_of(spec, self.file, self.rows, installed())
        )
        return drawn

    def write(self) -> list[Path]:
        """Save the tables as Markdown and CSV and the plots as SVG and PNG, beside the records; return the files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        written = [save(path, text) for path, text in self.texts()]
        for plot, chart in self.charts():
            written += plots.save(chart, self.folder / plot.name)
        return written


def table_of(spec: AnyTable, file: SuiteFile, rows: Sequence[Row], registry: Registry) -> tables.Table:
    """Make one table of a suite, of whichever kind. BadRecords says why it cannot be shown."""
    if spec.kind == "published":
        from zoo.quoted import published_table

        return published_table(spec, rows, registry, file.suite.images, file.name)
    if not rows:
        raise BadRecords(f"the table {spec.title!r}: there are no records yet; zoo run {file.name} takes them")
    if spec.kind == "complexity":
        from zoo.complexity import complexity_table

        return complexity_table(spec, rows, registry, file.name)
    return tables.make_table(spec, rows, file.name, registry.has)


def chart_of(spec: AnyPlot, file: SuiteFile, rows: Sequence[Row], registry: Registry) -> alt.LayerChart:
    """Draw one plot of a suite, of whichever kind. BadRecords says why it cannot be drawn."""
    if spec.kind != "published":
        return plots.plot(spec, rows)
    from zoo.beside import beside
    from zoo.quoted import Maker

    for table in file.suite.tables:
        if table.kind == "published" and table.title == spec.table:
            return beside(spec, Maker(table, rows, registry, file.suite.images, file.name))
    raise BadRecords(f"the plot {spec.name!r}: {spec.table!r} is no table of published numbers of {file.name}")


def each(specs: Iterable[Spec], make: Callable[[Spec], Made]) -> tuple[list[tuple[Spec, Made]], list[str]]:
    """Make what can be made of each, and say why the others cannot."""
    made, problems = [], []
    for spec in specs:
        try:
            made.append((spec, make(spec)))
        except ZooError as error:
            problems.append(str(error))
    return made, problems


def save(path: Path, text: str) -> Path:
    """Write a text file and return its path."""
    path.write_text(text, encoding="utf-8")
    return path
