"""Writes what is generated, as ``python tests/readme.py``: tables and pictures of results/, and parts of the documents.

Tests hold both to what the records give.
"""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from zoo.cli import main
from zoo.report import Report
from zoo.resources import suites
from zoo.suite import read_suite

ROOT = Path(__file__).resolve().parents[1]
BY_HAND = ("timm",)  # its page is written by hand around its figures
DOCUMENTS = (ROOT / "README.md", ROOT / "plugins" / "README.md")


def generated(kind: str, argument: str) -> str:
    """Return what stands between a marker and its end."""
    if kind == "file":
        return f"```python\n{(ROOT / argument).read_text()}```\n"
    arguments = argument.split()[1:]
    done = CliRunner().invoke(main, [*arguments, "--results", str(ROOT / "results")], catch_exceptions=False)
    return done.stdout.replace("\n## ", "\n### ").removeprefix("## ").strip() + "\n"


def renewed(text: str) -> str:
    """Return a document with its generated parts made anew."""
    return re.sub(
        r"(<!-- (file|tables): (.+?) -->\n).*?(<!-- end -->)",
        lambda part: part[1] + generated(part[2], part[3]) + part[4],
        text,
        flags=re.DOTALL,
    )


def kept() -> list[str]:
    """Return the suites whose results are committed."""
    return sorted(folder.name for folder in (ROOT / "results").iterdir() if folder.is_dir() and folder.name in suites())


if __name__ == "__main__":
    for name in kept():
        if name not in BY_HAND:
            Report(read_suite(name), ROOT / "results" / name).write()
    for document in DOCUMENTS:
        document.write_text(renewed(document.read_text()))
