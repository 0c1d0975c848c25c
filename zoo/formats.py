"""A table as text: for a terminal, in Markdown, LaTeX and HTML, and its raw numbers as CSV."""

from __future__ import annotations

import csv
import html
import io
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Literal

from zoo.spec import Scalar
from zoo.tables import Cell, Column, Table
from zoo.units import clean

Format = Literal["terminal", "markdown", "latex", "csv", "html"]


def render(table: Table, format: Format = "terminal", width: int | None = None) -> str:
    """Return a table as text. ``width`` is the terminal's, in characters; when piped, lines are as long as need be.

    CSV holds raw SI numbers and no formatted text: value, low, high, status and n of each metric. LaTeX needs the
    package booktabs.
    """
    if format == "terminal":
        return render_terminal(table, width)
    others = {"markdown": render_markdown, "latex": render_latex, "csv": render_csv, "html": render_html}
    return others[format](table)


def document(parts: Sequence[str], format: Format) -> str:
    """Return rendered tables as one text: with LaTeX a document that compiles as it is, with HTML a page."""
    if format == "latex":
        page = "landscape," if any(part.startswith(WIDE) for part in parts) else ""
        return LATEX_DOCUMENT.format(body="\n".join(parts), page=page)
    if format == "html":
        return HTML_PAGE.format(body="\n".join(parts))
    return "\n".join(parts)


def render_terminal(table: Table, width: int | None) -> str:
    """Return a table in box-drawing characters; where it is too wide, cells are folded at spaces, never cut."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    shown = [[cell.marked(str, ("“", "”"), ("", "*")) for cell in row] for row in table.rows]
    columns = [[clean(c.head), *(row[n] for row in shown)] for n, c in enumerate(table.columns)]
    gaps = 3 * (len(columns) - 1)
    widths = fitted_widths(columns, width - gaps if width else None)
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column, texts, size in zip(table.columns, columns, widths, strict=True):
        grid.add_column(Text(texts[0]), justify="right" if column.right else "left", overflow="fold", width=size)
    for row in shown:
        grid.add_row(*map(Text, row))
    out = io.StringIO()
    whole = max(sum(widths) + gaps, width or 100)
    console = Console(file=out, width=whole, color_system=None, force_terminal=False)
    console.print(Text(table.title), grid, "", sep="\n")
    for line in (*numbered(table.notes), *table.footer):
        console.print(Text(line, overflow="fold"))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def fitted_widths(columns: Sequence[Sequence[str]], available: int | None) -> list[int]:
    """Return the widths of columns of texts: their longest text, less to fit, never below their longest word."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, texts)) for texts in columns]
    words = [max(cell_len(word) for text in texts for word in text.split() or [""]) for texts in columns]
    while available is not None and sum(widths) > available:
        slack = [width - word for width, word in zip(widths, words, strict=True)]
        if max(slack) <= 0:
            break
        widths[slack.index(max(slack))] -= 1
    return widths


def numbered(notes: Sequence[str]) -> list[str]:
    """Return footnotes with their numbers."""
    return [f"[{n}] {text}" for n, text in enumerate(notes, 1)]


def render_markdown(table: Table) -> str:
    """Return a table in GitHub's Markdown."""
    heads = [[escaped(clean(c.head)) for c in table.columns], ["---:" if c.right else ":---" for c in table.columns]]
    body = [[cell.marked(escaped, ("*", "*"), ("**", "**")) for cell in row] for row in table.rows]
    lines = [f"**{escaped(table.title)}**", "", *(f"| {' | '.join(cells)} |" for cells in (*heads, *body)), ""]
    lines += [f"- {escaped(line)}" for line in (*numbered(table.notes), *table.footer)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return text that Markdown prints as it stands: no link either."""
    return re.sub(r"([\\|*`<]|\](?=\())", r"\\\1", text)


def render_csv(table: Table) -> str:
    """Return the raw numbers of a table, units in the heads; ``notes`` holds what a reader of the numbers must know."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*(head for c in table.columns for head in csv_heads(c)), "notes"])
    for row in table.rows:
        cells = [text for column, cell in zip(table.columns, row, strict=True) for text in csv_cells(column, cell)]
        writer.writerow([*cells, csv_notes(table, row)])
    return out.getvalue()


# What LaTeX reads as a command, and the characters of ours that its fonts call by a name.
LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "…": r"\ldots{}",
    "–": "--",
    "−": "$-$",
    "²": "$^2$",
    "µ": r"$\mu$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "×": r"$\times$",
    "√": r"$\surd$",
    "●": r"$\bullet$",
    "≠": r"$\neq$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "∞": r"$\infty$",
    "α": r"$\alpha$",
    "“": "``",
    "”": "''",
    "ₖ": "$_k$",
    "ₘ": "$_m$",
    "ᵣ": "$_r$",
}
HEAD = 16  # characters of a line of a head
PORTRAIT = 120  # characters of a line of a table that a page holds upright
WIDE = "% wide"
LATEX_DOCUMENT = r"""\documentclass{{article}}
\usepackage{{booktabs,graphicx}}
\usepackage[{page}margin=2cm]{{geometry}}
\begin{{document}}
{body}\end{{document}}
"""


def render_latex(table: Table) -> str:
    """Return a table as a float with booktabs' rules, as wide as the page at most; its notes stand below."""
    columns = "".join("r" if c.right else "l" for c in table.columns)
    heads = " & ".join(latex_head(c) for c in table.columns)
    texts = [[*folded(c.head), *(row[n].full for row in table.rows)] for n, c in enumerate(table.columns)]
    wide = sum(max(map(len, column)) + 2 for column in texts) > PORTRAIT
    body = [
        " & ".join(cell.marked(latex, (r"\textit{", "}"), (r"\textbf{", "}")) for cell in row) for row in table.rows
    ]
    # What begins with a bracket or a star would be read as an argument of the line above.
    body = [f"{'{}' if row[:1] in ('[', '*') else ''}{row} \\\\" for row in body]
    notes = [f"{latex(line)}\\par" for line in (*numbered(table.notes), *table.footer)]
    lines = [
        *([WIDE] if wide else []),
        r"\begin{table}[htbp]",
        r"\centering",
        f"\\caption{{{latex(table.title)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        f"\\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        heads + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par\medskip\begin{minipage}{\linewidth}\footnotesize\raggedright",
        *notes,
        r"\end{minipage}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_head(column: Column) -> str:
    """Return a column's head, on several lines where it is long."""
    lines = [latex(line) for line in folded(column.head)]
    if len(lines) == 1:
        return lines[0]
    side = "r" if column.right else "l"
    body = r" \\ ".join(lines)
    return f"\\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}{body}\\end{{tabular}}"


def folded(head: str) -> list[str]:
    """Return a head in lines of about ``HEAD`` characters, broken at spaces."""
    return textwrap.wrap(clean(head), HEAD, break_long_words=False) or [""]


def latex(text: str) -> str:
    """Return text that LaTeX prints as it stands; of what its fonts lack, the letter without its marks, or ``?``."""
    return "".join(LATEX.get(c) or (c if c.isascii() else latin(c)) for c in text)


def latin(c: str) -> str:
    """Return a character that is not ASCII as pdflatex has it: letters of Latin-1 as they are."""
    if c.isalpha() and ord(c) < 0x180:
        return c
    plain = unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode()
    return "".join(LATEX.get(p, p) for p in plain) or "?"


HTML_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>attention-zoo</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.45 system-ui, sans-serif }}
body {{ margin: 2rem auto; max-width: 72rem; padding: 0 1rem }}
figure {{ margin: 0 0 3rem; overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }}
caption {{ font-weight: 600; padding-bottom: .5rem; text-align: left }}
th, td {{ padding: .25rem .75rem; text-align: left }}
thead {{ border-bottom: 1px solid; border-top: 2px solid }}
tbody {{ border-bottom: 2px solid }}
.number {{ text-align: right }}
figcaption {{ font-size: .85rem; max-width: 60rem; padding-top: .5rem }}
figcaption p {{ margin: .1rem 0 }}
</style>
{body}</html>
"""


def render_html(table: Table) -> str:
    """Return a table as a figure with its notes below; every text is escaped."""
    kinds = [' class="number"' if c.right else "" for c in table.columns]
    heads = "".join(f"<th{k}>{html.escape(clean(c.head))}</th>" for c, k in zip(table.columns, kinds, strict=True))
    body = [
        "<tr>" + "".join(f"<td{k}>{html_cell(cell)}</td>" for cell, k in zip(row, kinds, strict=True)) + "</tr>"
        for row in table.rows
    ]
    notes = [f"<p>{html.escape(line)}</p>" for line in (*numbered(table.notes), *table.footer)]
    lines = [
        "<figure><table>",
        f"<caption>{html.escape(table.title)}</caption>",
        f"<thead><tr>{heads}</tr></thead>",
        "<tbody>",
        *body,
        "</tbody></table>",
        "<figcaption>",
        *notes,
        "</figcaption></figure>",
    ]
    return "\n".join(lines) + "\n"


def html_cell(cell: Cell) -> str:
    """Return a cell's text, escaped; what is quoted is slanted."""
    return cell.marked(html.escape, ("<i>", "</i>"), ("<b>", "</b>"))


CSV_UNITS = {"1": "", "1/s": "_per_s"}


def csv_heads(column: Column) -> list[str]:
    """Return the heads of a column's parts: ``latency_s, latency_low_s, latency_high_s, latency_status, latency_n``."""
    if not column.metric:
        return [column.name]
    unit = CSV_UNITS.get(column.unit, f"_{column.unit}")
    numbers = [f"{column.name}{part}{unit}" for part in ("", "_low", "_high")]
    return [*numbers, f"{column.name}_status", f"{column.name}_n"]


def csv_cells(column: Column, cell: Cell) -> list[Scalar]:
    """Return a cell's parts; empty where there is none."""
    if not column.metric:
        return [cell.axis]
    if cell.entry is None:
        return [None] * 5
    value = cell.entry.value
    return [value.value, *(value.interval or (None, None)), value.status, value.n]


def csv_notes(table: Table, row: Sequence[Cell]) -> str:
    """Return the footnotes of a row as text."""
    texts = []
    for column, cell in zip(table.columns, row, strict=True):
        texts += [f"{column.name}: {table.notes[n - 1]}" for n in cell.notes]
        if cell.entry and cell.entry.stale:
            texts.append(f"{column.name}: stale")
        if cell.best:
            texts.append(f"{column.name}: best")
        if cell.entry and "verdict" in cell.entry.value.detail:
            texts.append(f"{column.name}: {cell.entry.value.detail['verdict']}")
    return "; ".join(texts)
