"""What is committed under results/ is what its records give today: every table, number and picture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from readme import BY_HAND, ROOT, kept

from zoo.report import Report
from zoo.suite import read_suite

RESULTS = ROOT / "results"
AGAIN = "run python tests/readme.py"


def test_every_suite_of_the_lectures_has_its_tables_committed() -> None:
    wanted = {
        "lecture",
        "complexity",
        "pixels",
        "coco",
        "panoptic",
        "imagenet",
        "wmt",
        "vit-variants",
        "datasets",
        "retrieval",
    }
    assert wanted <= set(kept())


@pytest.mark.parametrize("name", [name for name in kept() if name not in BY_HAND])
def test_committed_tables_are_what_the_records_give(name: str) -> None:
    made = Report(read_suite(name), RESULTS / name)
    assert not made.problems
    for path, text in made.texts():
        assert rounded(path.read_text(encoding="utf-8")) == rounded(text), f"{path} differs; {AGAIN}"


def rounded(text: str) -> str:
    """Return a text with its long numbers at ten digits: a fit's last ones are the libraries' own."""
    return re.sub(r"\d+\.\d{9,}(e[+-]\d+)?", lambda number: f"{float(number[0]):.10g}", text)


def said(svg: Path) -> list[str]:
    """Return what a picture says: its texts and the values of its marks, wherever a font puts them."""
    return re.findall(r'aria-label="([^"]*)"|<text[^>]*>([^<]*)', svg.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [name for name in kept() if read_suite(name).suite.plots])
def test_committed_pictures_are_what_the_records_give(name: str, tmp_path: Path) -> None:
    made = Report(read_suite(name), RESULTS / name)
    drawn = made.charts()
    assert not made.undrawn
    for plot, chart in drawn:
        svg = tmp_path / f"{plot.name}.svg"
        chart.save(str(svg))
        kept = RESULTS / name / svg.name
        assert said(kept) == said(svg), f"{kept} differs; {AGAIN}"
        assert len(said(svg)) > 10
