"""The README holds what the code does: its generated parts, its plugin, its commands."""

import csv
import json
import re
import sys

import pytest
from readme import DOCUMENTS, ROOT, renewed

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_generated_parts_are_up_to_date(document):
    text = document.read_text()
    assert renewed(text) == text, "run python tests/readme.py"


@pytest.mark.slow
def test_the_lectures_detr_in_one_file_is_checked_and_run(tmp_path, zoo, suite_file):
    path = ROOT / "tests" / "detr_lecture.py"
    checked = zoo("check", "detr_lecture", "--plugin", str(path))
    assert checked.returncode == 0, checked.stdout
    assert "8 passed, 2 skipped, 0 failed" in checked.stdout
    text = """\
        schema: 1
        groups:
          - models: [detr_lecture]
            axes: {size: 800x1200px}
            metrics: [params, macs]
          - models: [detr_lecture]
            axes: {size: 128px}
            metrics: [peak_memory]
        """
    done = zoo("run", str(suite_file(text)), "--plugin", str(path))
    assert done.returncode == 0, done.stderr
    static = [json.loads(line) for line in (tmp_path / "runs" / "mine" / "static.jsonl").read_text().splitlines()]
    found = next(r["metrics"] for r in static if r.get("kind") == "case")
    assert found["params"]["value"] == 41_459_616
    assert round(found["macs"]["value"] / 1e9, 3) == 91.057


def test_plugin_of_the_readme_is_ten_lines_and_joins_the_built_ins_in_one_table(tmp_path, zoo, suite_file):
    [source] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in source.splitlines() if line.strip()]) <= 10
    (tmp_path / "tiny_conv.py").write_text(source)
    text = """\
        schema: 1
        groups:
          - models: [vit_nano]
            axes: {size: 16px}
            task: digits
            metrics: [params, macs, top1]
        tables:
          - {title: Both, columns: [model, size, params, macs, top1]}
        """
    done = zoo("run", str(suite_file(text)), "--plugin", "tiny_conv.py")
    assert done.returncode == 0, done.stderr
    assert "has a model of this name" not in done.stdout
    with (tmp_path / "runs" / "mine" / "both.csv").open() as lines:
        rows = {row["model"]: row for row in csv.DictReader(lines)}
    assert set(rows) == {"vit_nano", "tiny_conv"}
    # 4 x 4 x 3 x 64 + 64 in the convolution, 64 x 10 + 10 in the classifier.
    params = next(value for name, value in rows["tiny_conv"].items() if name.startswith("params"))
    assert int(float(params)) == 3136 + 650


def test_commands_of_the_readme_exist(zoo):
    for command in sorted(set(re.findall(r"zoo (run|list|show|table|report|plugins|check|new)\b", README))):
        assert zoo(command, "--help").returncode == 0
    assert sys.version_info >= (3, 11)
