"""Writes the generated parts of the documents: ``python tests/readme.py``. A test holds the documents to them."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from zoo.cli import main

ROOT = Path(__file__).resolve().parents[1]
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


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(renewed(document.read_text()))
