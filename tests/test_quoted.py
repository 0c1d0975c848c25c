"""Every table of the lectures is complete, in all formats, number by number as results/published has it."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from zoo import formats, published
from zoo.case import Case
from zoo.cli import main
from zoo.errors import BadRecords
from zoo.published import Published
from zoo.quoted import as_number, published_table, resolution, rounding
from zoo.record import CaseRecord, MachineRecord, Value
from zoo.registry import installed
from zoo.report import Report
from zoo.rows import MISSING, rows_of
from zoo.schema import Images, PublishedTable
from zoo.store import Results
from zoo.suite import read_suite
from zoo.tables import Table

SUITES = ("complexity", "pixels", "coco", "panoptic", "imagenet", "wmt", "vit-variants", "datasets", "retrieval")
QUOTED = [name for name in SUITES if name != "complexity"]
FORMATS: tuple[formats.Format, ...] = ("terminal", "markdown", "latex", "csv", "html")
NONE = Path("nowhere")


def specs() -> Iterator[tuple[str, PublishedTable]]:
    for name in QUOTED:
        for spec in read_suite(name).suite.tables:
            if isinstance(spec, PublishedTable):
                yield name, spec


# -- reading each format back --------------------------------------------------------------------------------


def from_terminal(text: str, heads: list[str]) -> list[list[str]]:
    lines = text.splitlines()
    rule = next(n for n, line in enumerate(lines) if line.startswith("──"))
    body = lines[rule + 1 : lines.index("", rule)]
    return [re.split(r"\s{3,}", line.strip()) for line in body]


def from_markdown(text: str, heads: list[str]) -> list[list[str]]:
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    cells = [re.split(r"(?<!\\) \| ", row.removeprefix("| ").removesuffix(" |")) for row in rows]
    return [[re.sub(r"\\([\\|*`<])", r"\1", cell) for cell in row] for row in cells]


def from_latex(text: str, heads: list[str]) -> list[list[str]]:
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    rows = [line.removesuffix(r" \\") for line in body.strip().splitlines()]
    return [[from_tex(cell) for cell in re.split(r"(?<!\\) & ", row)] for row in rows]


def from_tex(cell: str) -> str:
    for plain, command in sorted(formats.LATEX.items(), key=lambda pair: -len(pair[1])):
        cell = cell.replace(command, "\\" if plain == "\\" else plain) if plain not in "{}" else cell
    return cell.replace(r"\{", "{").replace(r"\}", "}")


def from_html(text: str, heads: list[str]) -> list[list[str]]:
    body = text.split("<tbody>")[1].split("</tbody>")[0]
    return [
        [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", body)
    ]


def from_csv(text: str, heads: list[str]) -> list[list[str]]:
    return [row[: len(heads)] for row in csv.reader(io.StringIO(text))][1:]


READERS: dict[str, Callable[[str, list[str]], list[list[str]]]] = {
    "terminal": from_terminal, "markdown": from_markdown, "latex": from_latex, "html": from_html, "csv": from_csv,
}  # fmt: skip
QUOTES = {"terminal": "“{}”", "markdown": "*{}*", "latex": "\\textit{{{}}}", "html": "<i>{}</i>", "csv": "{}"}


def expected_numbers(spec: PublishedTable) -> dict[tuple[str, ...], dict[str, list[Published]]]:
    """Return the published numbers of a table by row and column, picked here by exact words, not by its code."""

    def fits(value: str, glob: str) -> bool:
        return re.fullmatch(re.escape(glob).replace(r"\*", ".*").replace(r"\?", "."), value) is not None

    found: dict[tuple[str, ...], dict[str, list[Published]]] = {}
    for p in published.read():
        globs = {k: [v] if isinstance(v, str) else v for k, v in spec.where.items()}
        if not all(any(fits(getattr(p, k), glob) for glob in v) for k, v in globs.items()):
            continue
        for column in spec.columns:
            if column.metric and fits(p.metric, column.metric) and fits(p.task, column.task) and p.value:
                key = tuple(getattr(p, k) for k in spec.rows)
                found.setdefault(key, {}).setdefault(column.title, []).append(p)
    return found


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("name", "title"), [(name, spec.title) for name, spec in specs()])
def test_every_cell_is_what_was_published(name: str, title: str, form: formats.Format) -> None:
    spec = next(s for n, s in specs() if (n, s.title) == (name, title))
    table = published_table(spec, [], installed(), read_suite(name).suite.images, name)
    heads = [column.head for column in table.columns]
    if form == "csv":
        heads = [head for column in table.columns for head in formats.csv_heads(column)]
    lines = READERS[form](formats.render(table, form), heads)
    assert all(len(line) == len(heads) for line in lines)
    wanted, seen = expected_numbers(spec), 0
    for line in lines:
        cells = dict(zip(heads, line, strict=True))
        key = tuple("" if text == MISSING else text for text in line[: len(spec.rows)])
        for column in (c for c in spec.columns if c.metric):
            numbers = wanted[key].get(column.title, [])
            if not numbers and "resolution_or_seqlen" in spec.rows:  # stated for the system, at any resolution
                numbers = wanted.get((key[0], ""), {}).get(column.title, [])
            text = cells[column.title]
            if not numbers:
                assert text == ("" if form == "csv" else MISSING)
                continue
            assert len({p.value for p in numbers}) == 1
            quoted = text if not (column.spread or column.also) else re.sub(r" [±/] [\d.]+", "", text)
            assert quoted == QUOTES[form].format(numbers[0].value)
            seen += 1
    assert seen >= len(lines)


def test_every_number_that_the_lectures_print_is_in_one_of_their_tables() -> None:
    shown = set()
    for name in SUITES:
        for spec in read_suite(name).suite.tables:
            if isinstance(spec, PublishedTable):
                table = published_table(spec, [], installed(), read_suite(name).suite.images, name)
                shown |= {cell.axis for row in table.rows for cell in row if cell.quoted}
    told = " ".join(map(str, shown))
    lectures = [p for p in published.read() if p.confidence == "lecture" and p.value and p.task != "asymptotics"]
    assert len(lectures) > 600
    assert not [p for p in lectures if not re.search(rf"(?<![\d.]){re.escape(p.value)}(?![\d])", told)]


# -- ours beside theirs --------------------------------------------------------------------------------------

VARIANTS = next(spec for name, spec in specs() if name == "vit-variants")
COCO = next(spec for name, spec in specs() if name == "coco")


def counted(model: str, size: str, **values: float) -> CaseRecord:
    case = Case(model, size).for_phase("static")
    return CaseRecord(
        case, {"plugin": "a"}, {name: Value(value=value, convention="mac") for name, value in values.items()}
    )


def cells(spec: PublishedTable, *records: CaseRecord, images: Images | None = None) -> dict[str, dict[str, str]]:
    """Return the printed cells by variant and column."""
    table = published_table(spec, rows_of(Results(records)), installed(), images)
    place = [c.name for c in table.columns].index("variant")
    return {
        row[place].text: {c.name: cell.full for c, cell in zip(table.columns, row, strict=True)} for row in table.rows
    }


def test_ours_stands_beside_theirs_in_their_unit_with_the_difference_and_its_reason() -> None:
    found = cells(
        VARIANTS, counted("vit_l16", "224px", params=304_326_632), counted("vit_h14", "224px", params=632_045_800)
    )
    assert found["ViT-Large"]["Params (M)"] == "307"
    assert found["ViT-Large"]["params"] == "304"
    assert found["ViT-Large"]["params_difference"] == "-0.9 % [1]"  # 304.3 / 307 - 1
    assert found["ViT-Huge"]["params_difference"] == "0.0 %"  # rounds to what is printed: no reason is told
    assert found["ViT-Base"]["params"] == MISSING


def test_a_difference_that_nobody_can_explain_says_so() -> None:
    table = published_table(VARIANTS, rows_of(Results((counted("vit_h14", "224px", params=7e8),))), installed())
    assert table.notes == ("no reason is known",)


SET = Images(name="two images", short=800, long=1333, sizes={"480x640": 3, "640x480": 1})


def test_macs_are_a_mean_over_the_images_and_say_which() -> None:
    """(3 x 80 + 1 x 100) G / 4 = 85 G; 480 x 640 becomes 800 x 1066."""
    records = (counted("detr_r50", "800x1066px", macs=80e9), counted("detr_r50", "1066x800px", macs=100e9))
    assert SET.scaled() == {"800x1066px": 3, "1066x800px": 1}
    found = cells(COCO, *records, images=SET)
    assert found["R50"]["GFLOPS"] == "86"
    assert found["R50"]["macs"] == "85.0"
    table = published_table(COCO, rows_of(Results(records)), installed(), SET)
    assert any("mean over two images, 4 images of 2 sizes" in line for line in table.footer)


def test_a_mean_waits_for_every_size() -> None:
    record = counted("detr_r50", "800x1066px", macs=80e9)
    table = published_table(COCO, rows_of(Results((record,))), installed(), SET)
    assert "macs: 1 of the 2 sizes of the images are not counted" in table.notes


def test_what_has_no_count_says_why() -> None:
    case = Case("faster_rcnn_r50_fpn", "800x1066px").for_phase("static")
    value = Value("unsupported", reason="no one count: it depends on the image")
    found = cells(COCO, CaseRecord(case, {}, {"macs": value}), images=SET)
    assert found["FPN"]["macs"] == "unsupported [1]"


def test_a_cell_with_several_numbers_is_refused() -> None:
    spec = PublishedTable.model_validate(
        {"kind": "published", "title": "T", "where": {"system": "DETR"}, "columns": [{"title": "any", "metric": "AP*"}]}
    )
    with pytest.raises(BadRecords, match=r"the table 'T': DETR R50 has several numbers for 'any': 42\.0 \(AP, "):
        published_table(spec, [], installed())


def test_a_selection_that_nothing_fits_and_a_field_that_there_is_not_are_told() -> None:
    def spec(**where: str) -> PublishedTable:
        return PublishedTable.model_validate(
            {"kind": "published", "title": "T", "where": where, "columns": [{"title": "AP", "metric": "AP"}]}
        )

    with pytest.raises(BadRecords, match="no published number fits"):
        published_table(spec(system="Nobody"), [], installed())
    with pytest.raises(BadRecords, match="'year' is no field of published numbers; they have system, variant"):
        published_table(spec(year="2020"), [], installed())


@pytest.mark.parametrize(("text", "half"), [("86", 0.5), ("42.0", 0.05), ("2.5e9", 5e7), ("3906250000", 0.5)])
def test_rounding_hides_half_of_the_last_digit(text: str, half: float) -> None:
    assert rounding(text) == pytest.approx(half)


@pytest.mark.parametrize("name", QUOTED)
def test_published_tables_are_printed_where_nothing_was_measured(name: str) -> None:
    made = Report(read_suite(name), NONE)
    quoted = [spec for spec, _ in made.tables if spec.kind == "published"]
    assert len(quoted) == sum(spec.kind == "published" for spec in read_suite(name).suite.tables)
    assert all("there are no records yet" in problem for problem in made.problems)


def test_one_command_writes_every_table_of_the_lectures_in_all_formats(tmp_path: Path) -> None:
    arguments = ["table", *QUOTED, "--results", str(tmp_path / "none"), "--save", str(tmp_path / "tables")]
    made = CliRunner().invoke(main, arguments)
    assert made.exit_code == 0, made.stderr
    for name in QUOTED:
        endings = {file.name.rpartition(".")[2] for file in (tmp_path / "tables" / name).iterdir()}
        assert endings == {"txt", "md", "tex", "csv", "html"}
    assert "Multi-similarity" in (tmp_path / "tables" / "retrieval" / "tables.tex").read_text()
    both = CliRunner().invoke(main, ["table", "wmt", "datasets", "--format", "html", "--results", str(tmp_path)]).stdout
    assert both.count("<!doctype html>") == 1
    assert both.count("<table>") == 4  # two of WMT without records, two of data sets
    assert CliRunner().invoke(main, ["table", "r*l", "--results", str(tmp_path)]).stdout.startswith("Retrieval on CUB")


# -- what must not be printed --------------------------------------------------------------------------------

SASA = next(t for n, t in specs() if (n, t.title) == ("imagenet", "SASA"))
SWIN = next(t for n, t in specs() if (n, t.title) == ("imagenet", "Swin"))
XEON, EPYC = (MachineRecord(name, {"cpu": name, "cores": 2}) for name in ("xeon", "epyc"))


def timed(model: str, size: str, machine: MachineRecord, rate: float, **axes: object) -> CaseRecord:
    case = Case(model, size, **axes).for_phase("speed")  # type: ignore[arg-type]
    value = Value(value=rate, unit="1/s", interval=(0.9 * rate, 1.1 * rate), n=9)
    return CaseRecord(case, {}, {"throughput": value}, environment=machine.id)


def made(spec: PublishedTable, *records: CaseRecord, images: Images | None = None) -> Table:
    found = rows_of(Results(records, {m.id: m for m in (XEON, EPYC)}))
    return published_table(spec, found, installed(), images)


def test_one_size_is_not_told_as_a_mean_over_other_images() -> None:
    table = made(COCO, counted("detr_r50", "800x1201px", macs=81e9), images=SET)
    assert cells(COCO, counted("detr_r50", "800x1201px", macs=81e9), images=SET)["R50"]["macs"].startswith(MISSING)
    assert "macs: 2 of the 2 sizes of the images are not counted" in table.notes


def test_square_images_and_one_image_have_a_mean() -> None:
    one = Images(name="one square", short=800, long=1333, sizes={"500x500": 1})
    assert one.scaled() == {"800px": 1}
    assert cells(COCO, counted("detr_r50", "800px", macs=81e9), images=one)["R50"]["macs"] == "81.0"


def test_a_unit_that_is_not_known_is_refused() -> None:
    spec = PublishedTable.model_validate(
        {"kind": "published", "title": "T", "where": {"system": "Swin", "metric": "throughput"},
         "rows": ["variant", "resolution_or_seqlen"],
         "columns": [{"title": "rate", "metric": "throughput", "measured": "latency"}]}
    )  # fmt: skip
    with pytest.raises(BadRecords, match=r"latency cannot be told in 'images/s \(V100 per paper\)'; expected "):
        made(spec)


def test_flops_of_two_are_kept_as_flops_and_told_once() -> None:
    """4.09 G MACs are 8.18 G FLOPs, beside 7.2 of the paper's full attention; CSV holds FLOPs too."""
    table = made(SASA, counted("sasa50", "224px", macs=3.59e9))
    place = [c.name for c in table.columns].index("flops")
    (cell,) = [row[place] for row in table.rows if row[0].text == "ResNet-50 Full Attention"]
    assert cell.text == "7.18"
    assert cell.entry
    assert cell.entry.value.value == pytest.approx(7.18e9)
    assert cell.entry.value.convention == "flop"


def test_several_cases_and_machines_are_not_told_as_one() -> None:
    two = [timed("detr_r50", "800x1066px", XEON, 100.0), timed("detr_r50", "800x1066px", XEON, 900.0, batch_size=64)]
    with pytest.raises(BadRecords, match=r"throughput of detr_r50 at 800x1066px is of several cases: .*batch_size=1 "):
        made(COCO, *two, images=SET)
    apart = [timed("detr_r50", "800x1066px", XEON, 1.0), timed("detr_r101", "800x1066px", EPYC, 2.0)]
    with pytest.raises(BadRecords, match="throughput is of epyc, xeon; name one as machine"):
        made(COCO, *apart, images=SET)


def test_with_one_machine_named_counts_stay_and_the_footer_says_how_rates_were_taken() -> None:
    spec = COCO.model_copy(update={"machine": "xeon"})
    records = [counted("detr_r50", s, macs=80e9) for s in SET.scaled()]
    records += [timed("detr_r50", "800x1066px", m, rate) for m, rate in ((XEON, 1.0), (EPYC, 2.0))]
    table = made(spec, *records, images=SET)
    names = [c.name for c in table.columns]
    (row,) = [row for row in table.rows if row[1].text == "R50"]
    assert (row[names.index("macs")].text, row[names.index("throughput")].text) == ("80.0", "1.00 ± 0.10")
    assert any(line.startswith("Throughput: size 800x1066px, batch_size 1, dtype float32") for line in table.footer)


def test_what_must_be_said_about_a_count_is_said_here_too() -> None:
    value = Value(
        value=4.5e9,
        convention="mac",
        detail={"uncounted": [{"name": "roll", "calls": 3, "elements": 9, "material": True}]},
    )
    record = CaseRecord(Case("swin_t", "224px").for_phase("static"), {}, {"macs": value})
    assert made(SWIN, record).notes[0].startswith("not counted: roll (3 calls")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"columns": [{"title": "A", "metric": "AP", "measured": "mcas"}]},
            "there is no metric named 'mcas'",
        ),
        ({"models": {"*": "swin_tt"}}, "models: there is no model named 'swin_tt'"),
        ({"reasons": [{"column": "B", "rows": "*", "why": "x"}]}, "reasons: 'B' is no column; those are A"),
        ({"over": "images"}, "over: the suite has no images"),
    ],
)
def test_mistakes_in_a_published_table_are_told(changed: dict[str, object], message: str) -> None:
    given = {"kind": "published", "title": "T", "where": {"system": "DETR", "variant": "R50"},
             "columns": [{"title": "A", "metric": "AP"}], **changed}  # fmt: skip
    with pytest.raises(BadRecords, match=message):
        made(PublishedTable.model_validate(given))


@pytest.mark.parametrize(
    ("text", "size"), [("224", "224px"), ("224x224", "224px"), ("32x64", "32x64px"), ("800/1333", "")]
)
def test_a_published_resolution_is_a_size(text: str, size: str) -> None:
    assert resolution(replace(published.read()[0], resolution_or_seqlen=text)) == size


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "about 3", ""])
def test_what_is_no_number_has_no_difference(text: str) -> None:
    assert as_number(replace(published.read()[0], value=text)) is None
