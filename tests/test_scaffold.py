"""``zoo new`` writes a plugin that works as it is."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zoo import ZooError, scaffold


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A plugin called my_arch."""
    return scaffold.write("my_arch", tmp_path)


@pytest.mark.slow
def test_a_new_plugin_passes_its_own_tests_and_runs_in_a_suite_unchanged(made, site, zoo):
    shutil.copytree(made / "zoo_my_arch", site.folder / "zoo_my_arch")
    info = site.folder / "zoo_my_arch-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-my-arch\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[zoo]\nzoo_my_arch = zoo_my_arch\n")
    checked = zoo("check", "my_arch")
    assert checked.returncode == 0, checked.stdout
    assert "10 passed, 0 skipped, 0 failed" in checked.stdout
    own = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(made / "tests")],
        capture_output=True, text=True, timeout=300, check=False, cwd=made,
    )  # fmt: skip
    assert own.returncode == 0, own.stdout
    ran = zoo("run", "lecture", "--models", "my_arch", "--metrics", "params,macs,latency")
    assert ran.returncode == 0, ran.stderr
    assert "my_arch" in ran.stdout


def test_a_new_plugin_is_clean_code(made):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,W,I,B", "--line-length=120", str(made)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-Arch", "cannot name a plugin"),
        ("class", "cannot name a plugin"),
        ("../up", "cannot name a plugin"),
        ("vit_b16", "already a model 'vit_b16', of plugin zoo_vit"),
        ("vit", "already a plugin zoo_vit"),
        ("my_arch", "exists; nothing was written"),
    ],
)
def test_a_name_that_will_not_do_gets_one_sentence(made, name, message):
    with pytest.raises(ZooError, match=message):
        scaffold.write(name, made.parent)
