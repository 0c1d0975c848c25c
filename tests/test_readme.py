"""The README holds what the code does: its generated parts, its plugin, its commands."""

import csv
import re
import sys
from pathlib import Path

from readme import renewed

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_generated_parts_are_up_to_date():
    assert renewed(README) == README, "run python tests/readme.py"


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
    with (tmp_path / "runs" / "mine" / "both.csv").open() as lines:
        rows = {row["model"]: row for row in csv.DictReader(lines)}
    assert set(rows) == {"vit_nano", "tiny_conv"}
    # 4 x 4 x 3 x 64 + 64 in the convolution, 64 x 10 + 10 in the classifier.
    params = next(value for name, value in rows["tiny_conv"].items() if name.startswith("params"))
    assert int(float(params)) == 3136 + 650


def test_commands_of_the_readme_exist(zoo):
    for command in sorted(set(re.findall(r"zoo (run|list|show|table|plugins)\b", README))):
        assert zoo(command, "--help").returncode == 0
    assert sys.version_info >= (3, 11)
