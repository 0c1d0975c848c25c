"""What a case takes beyond its measuring: ``python tests/pace.py [SUITE]`` prints a table.

A suite of eight models at four sizes and two batch sizes (or another) is run as ``zoo run`` does it, and every second
is put down to what the parent waited for: samples and counts, which are the measuring; a process being started and a
model being built; and the rest.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zoo
from zoo import pool
from zoo.environment import describe

SUITE = """
schema: 1
groups:
  - models: [vit_nano, mixer_nano, swin_nano, sasa_nano, resnet_nano, fnet_vision_nano, performer_vision_nano,
             metaformer_nano]
    axes: {size: [32, 64, 96, 128], batch_size: [1, 4]}
    metrics: [params, macs, latency]
"""
KINDS = {
    "sample": "sampling",
    "measure": "counting and predicting",
    "prepare": "building the model",
    "fork": "starting a process",
    "server": "loading torch and plugins, once",
    "close": "ending a process",
}


def watched(spent: dict[str, float], what: str | None, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that adds the seconds it takes to ``spent``, under ``what`` or what it was told to do."""

    def run(*args: Any, **kwargs: Any) -> Any:
        began, before = time.monotonic(), sum(spent.values())
        try:
            return function(*args, **kwargs)
        finally:
            within = sum(spent.values()) - before
            spent[what or args[1]["do"]] += time.monotonic() - began - within

    return run


def main(suite: str = "") -> None:
    """Print the table."""
    folder = Path(tempfile.mkdtemp())
    if not suite:
        (folder / "pace.yaml").write_text(SUITE)
        suite = str(folder / "pace.yaml")
    spent = dict.fromkeys(KINDS, 0.0)
    pool.Worker.ask = watched(spent, None, pool.Worker.ask)  # type: ignore[method-assign]
    pool.Worker.__init__ = watched(spent, "fork", pool.Worker.__init__)  # type: ignore[method-assign]
    pool.Worker.close = watched(spent, "close", pool.Worker.close)  # type: ignore[method-assign]
    pool.Pool.server = watched(spent, "server", pool.Pool.server)  # type: ignore[method-assign]
    began = time.monotonic()
    outcome = zoo.run(suite, out=folder)
    whole, cases = time.monotonic() - began, len(outcome.plan.work)
    machine = describe()
    print(f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}; {cases} cases in {whole:.0f} s\n")
    print("| what | seconds a case |")
    print("| :--- | ---: |")
    for kind, title in KINDS.items():
        print(f"| {title} | {spent[kind] / cases:.3f} |")
    measuring = spent["sample"] + spent["measure"]
    print(f"| the rest | {(whole - sum(spent.values())) / cases:.3f} |")
    print(f"| all | {whole / cases:.3f} |")
    print(f"| **beyond the measuring** | **{(whole - measuring) / cases:.3f}** |")


if __name__ == "__main__":
    main(*sys.argv[1:])
