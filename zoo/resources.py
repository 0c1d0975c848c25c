"""The files that ship with the zoo: suites and published numbers, in the wheel or in a checkout."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """Return the folder ``benchmarks`` or ``published``: in a wheel it lies below ``zoo/data/``."""
    package = Path(__file__).resolve().parent
    installed = package / "data" / name
    if installed.is_dir():
        return installed
    return package.parent / {"published": "results/published"}.get(name, name)


def suites() -> dict[str, Path]:
    """Return the suites that ship with the zoo, by name."""
    return {path.stem: path for path in sorted(folder("benchmarks").glob("*.yaml"))}
