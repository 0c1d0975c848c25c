"""Fixtures: plugins with real entry points that need no install, and the command in a process of its own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Site:
    """A folder on the path that holds packages with a hand-written dist-info."""

    folder: Path

    def add(self, name: str, source: str, distribution: str | None = None, version: str = "1.0") -> Path:
        """Write a one-module plugin with its entry point and return the module's file."""
        distribution = distribution or name.replace("_", "-")
        module = self.folder / f"{name}.py"
        module.write_text(textwrap.dedent(source))
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[zoo]\n{name} = {name}\n")
        importlib.invalidate_caches()
        return module


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A fresh site folder on the path of this process and of those it starts."""
    folder = tmp_path / "site"
    folder.mkdir()
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(folder))
    inherited = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), inherited])))
    yield Site(folder)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


Zoo = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    """Run the command in ``tmp_path`` and return what it said; never a traceback."""

    def run(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "zoo.cli", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    """A single-file plugin with one small model, ``tiny_conv``."""
    path = tmp_path / "tiny_conv.py"
    path.write_text((ROOT / "tests" / "tiny_conv.py").read_text())
    return path


@pytest.fixture
def suite_file(tmp_path: Path) -> Callable[[str], Path]:
    """Write the text of a suite and return its path."""

    def write(text: str, name: str = "mine") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    return write
