"""One self-contained HTML file of all results: sorts, filters and tells where each number comes from, offline."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from zoo import __version__, units
from zoo.page.content import Content, zoo_versions
from zoo.page.folders import Folder, Tell, read_folders
from zoo.registry import Registry

# Longer than this since the last word, and the next step is told.
QUIET = 1.0
MOST_WARNINGS = 8


@dataclass(frozen=True)
class Page:
    """A page as text, and how many records it shows."""

    text: str
    records: int


class Teller:
    """Passes on what is being done, when the step before took long."""

    def __init__(self, tell: Tell) -> None:
        """Begin the clock."""
        self.tell, self.last = tell, time.monotonic()

    def __call__(self, text: str) -> None:
        """Be told of a step that begins."""
        if time.monotonic() - self.last > QUIET:
            self.tell(text)
            self.last = time.monotonic()


def make(root: Path, plugins: Sequence[str] = (), tell: Tell = lambda _: None) -> Page:
    """Return the page of every suite's records below a folder, or of one suite's folder.

    ``plugins`` are single files, ``tell`` hears of steps when they take long. BadRecords when there are no records.
    """
    told = Teller(tell)
    folders = read_folders(root, told)
    registry = Registry.load(plugins)
    by_name = {plugin.name: path for plugin, path in zip(registry.files, plugins, strict=False)}
    collected = Content(registry, by_name)
    for folder in folders:
        collected.add_folder(folder, told, "Tables and charts" if len(folders) == 1 else "")
    told("all records")
    collected.add_all(folders)
    told("writing the page")
    charts = any("chart" in part for section in collected.sections for part in section["parts"])
    return Page(assemble(root, folders, collected.data(), charts), sum(len(f.results.records) for f in folders))


def assemble(root: Path, folders: Sequence[Folder], data: dict[str, Any], charts: bool) -> str:
    """Return the page's text: what is known without a script as HTML, the rest as JSON that a script draws."""
    style, script = part("page.css"), part("page.js")
    library = vega() if charts else ""
    warnings = shortened([w.removeprefix(f"{root}/") for f in folders for w in f.results.warnings])
    return Template(part("page.html")).substitute(
        policy=policy([script, library], [style]),
        title=html.escape(title_of(folders)),
        heading=html.escape(title_of(folders)),
        about=html.escape(about(root, folders)),
        warnings="".join(f'<p class="warning">{html.escape(units.clean(w))}</p>\n' for w in warnings),
        style=style,
        data=as_script(data),
        script=script,
        library=f"<script>{library}</script>\n" if library else "",
    )


def shortened(warnings: list[str]) -> list[str]:
    """Return the first of many warnings, and how many there are."""
    more = len(warnings) - MOST_WARNINGS
    return warnings if more <= 0 else [*warnings[:MOST_WARNINGS], f"and {counted(more, 'line')} more like these"]


def part(name: str) -> str:
    """Return one of the files that the page is made of."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    from vl_convert import javascript_bundle

    code: str = javascript_bundle("globalThis.vegaEmbed = vegaEmbed;")
    return code.replace("</script", r"<\/script").replace("<!--", r"<\!--").replace("\r", "")


def as_script(data: Any) -> str:
    """Return data as JSON that no reader of HTML or JavaScript takes for anything else."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate cannot be written as UTF-8.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """Return a Content-Security-Policy that runs these scripts and styles and nothing else, and asks nobody."""

    def hashes(texts: Sequence[str]) -> str:
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts if text]
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    # Vega evaluates expressions by its interpreter, so that no 'unsafe-eval' is needed. "data:" is the empty icon.
    return (
        f"default-src 'none'; script-src {hashes(scripts)}; style-src {hashes(styles)}; img-src data:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def title_of(folders: Sequence[Folder]) -> str:
    """Return what the page is called: as its suite is, where there is one only."""
    return units.clean(folders[0].title) if len(folders) == 1 else "Results of the attention-zoo"


def about(root: Path, folders: Sequence[Folder]) -> str:
    """Say when the page was made, of how much, and by which versions."""
    records = [r for f in folders for r in f.results.records]
    known = {i: m for f in folders for i, m in f.results.machines.items()}
    machines = {m.slug for i, m in known.items() if any(r.environment == i for r in records)}
    versions = zoo_versions(records, known)
    parts = [
        f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by attention-zoo {__version__}",
        f"{counted(len(records), 'record')} of {counted(len(folders), 'suite')} in {root.resolve().name or root}",
        counted(len(machines), "machine"),
        *([f"measured with attention-zoo {', '.join(versions)}"] if versions else []),
    ]
    return " · ".join(parts)


def counted(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
