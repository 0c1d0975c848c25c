"""How sure comparisons are: ``python tests/noise.py LIVE PLANTED`` prints a table.

LIVE comparisons of a model with itself, and PLANTED ones with a model that does 3 % more; 200 more of a model with
itself are put together from the samples of the live ones, by drawing sets of processes again and shuffling who is who.
Beside them the same two questions to the loops that others use: ten calls to warm up and the mean of forty (timm's
benchmark.py), and ``torch.utils.benchmark``'s ``blocked_autorange``, each model in a process of its own.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from zoo.comparison import Contest, Effort, Set
from zoo.environment import describe
from zoo.progress import Reporter
from zoo.record import ComparisonRecord
from zoo.runner import Versus, compare

REPLAYED = 200
# The stem is as much work as twelve of the layers, so three more of them are 3 %.
PLUGIN = """
from torch import nn
from zoo import ModelSpec, hookimpl, image_classifier

class Stack(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.stem, self.head = nn.Linear(3 * 32 * 32, 256), nn.Linear(256, 10)
        self.layers = nn.Sequential(*(nn.Linear(256, 256) for _ in range(layers)))

    def forward(self, x):
        return self.head(self.layers(self.stem(x.flatten(1))))

def plain(size): return Stack(88)
def more(size): return Stack(91)

@hookimpl
def zoo_models():
    for build in (plain, more):
        yield ModelSpec(build.__name__, build=build, **image_classifier(default=32))
"""
THEIRS = """
import json, sys, time, torch
sys.path.insert(0, sys.argv[1])
import stacks
torch.set_num_threads(1)
torch.manual_seed(0)
model, x = getattr(stacks, sys.argv[2])(32).eval(), torch.randn(64, 3, 32, 32)
with torch.inference_mode():
    for _ in range(10): model(x)
    times = []
    for _ in range(40):
        start = time.perf_counter()
        model(x)
        times.append(time.perf_counter() - start)
    from torch.utils import benchmark
    timer = benchmark.Timer("model(x)", globals={"model": model, "x": x})
    print(json.dumps([sum(times) / 40, timer.blocked_autorange().median]))
"""


def ours(b: str, folder: Path, times: int) -> Iterator[ComparisonRecord]:
    """Compare the plain model with another."""
    axes = {"batch_size": [64], "threads": [1]}
    for _ in range(times):
        record, _machine = compare(Versus("plain", b, axes=axes, plugins=[str(folder / "stacks.py")]), Reporter())
        assert record.status == "ok", record.reason
        told = f"{record.ratio:.4f} {record.verdict} in {record.seconds:.0f} s, {record.processes} sets"
        print(f"  {b}: {told}", file=sys.stderr, flush=True)
        yield record


def theirs(b: str, folder: Path, times: int) -> Iterator[tuple[float, float]]:
    """Yield the two ratios that others' loops give."""
    for _ in range(times):
        found = []
        for name in ("plain", b):
            command = [sys.executable, "-c", THEIRS, str(folder), name]
            found.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        yield found[1][0] / found[0][0], found[1][1] / found[0][1]


def replayed(records: Sequence[ComparisonRecord], times: int) -> Iterator[tuple[float, str]]:
    """Yield ratio and verdict of comparisons that are put together from recorded ones of a model with itself."""
    sets = [(of_set, calls) for r in records for of_set, calls in zip(r.samples, r.calls, strict=True)]
    draw = random.Random(0)
    for _ in range(times):
        found = Contest([None] * 3)  # type: ignore[list-item]
        for of_set, calls in draw.sample(sets, Effort().sets):
            who = draw.sample(range(3), 3)
            found.sets.append(Set([[list(turn) for turn in of_set[i]] for i in who], [calls[i] for i in who]))
        ratio = found.ratio(1)
        yield ratio.value, ratio.verdict(found.noise().margin)


def spread(ratios: Sequence[float]) -> str:
    """Return the standard deviation of the logarithm."""
    return f"{statistics.stdev(map(math.log, ratios)):.2%}" if len(ratios) > 1 else ""


def row(*cells: object) -> None:
    """Print one line of the table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main(live: str, planted: str) -> None:
    """Print the table."""
    folder = Path(tempfile.mkdtemp())
    (folder / "stacks.py").write_text(PLUGIN)
    machine = describe()
    print(f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}; budget {Effort().budget:.0f} s\n")
    row("comparison", "trials", "median ratio", "sd of log ratio", "verdicts", "seconds each")
    row(":---", "---:", "---:", "---:", ":---", "---:")
    of_same: list[ComparisonRecord] = []
    for title, b, times in (("with itself", "plain", int(live)), ("with 3 % more", "more", int(planted))):
        if not times:
            continue
        records = list(ours(b, folder, times))
        of_same = of_same or records
        ratios = [r.ratio for r in records if r.ratio]
        seconds = statistics.fmean(r.seconds or 0.0 for r in records)
        said = [r.verdict for r in records]
        counts = ", ".join(f"{said.count(v)} {v}" for v in dict.fromkeys(said))
        row(
            f"zoo compare, {title}", times, f"{statistics.median(ratios):.4f}", spread(ratios), counts, f"{seconds:.0f}"
        )
        began = time.monotonic()
        pairs = list(theirs(b, folder, times))
        each = (time.monotonic() - began) / times
        for name, found in zip(("mean of 40 calls", "blocked_autorange"), zip(*pairs, strict=True), strict=True):
            row(f"{name}, {title}", times, f"{statistics.median(found):.4f}", spread(found), "", f"{each:.0f} (both)")
    again = list(replayed(of_same, REPLAYED if int(live) else 0))
    false = sum(verdict in ("faster", "slower") for _, verdict in again)
    if again:
        row("zoo compare, with itself, replayed", REPLAYED, f"{statistics.median(r for r, _ in again):.4f}",
        spread([r for r, _ in again]), f"{false} false", "")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
