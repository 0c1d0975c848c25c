"""How sure comparisons are: ``python tests/noise.py LIVE PLANTED [FOLDER]`` prints a table.

LIVE comparisons of a model with itself, and PLANTED ones with a model that does 3 % more; 200 more of a model with
itself are put together from the samples of the live ones, by drawing sets of processes again and shuffling who is who.
Beside them the same two questions to the loops that others use: ten calls to warm up and the mean of forty (timm's
benchmark.py), and ``torch.utils.benchmark``'s ``blocked_autorange``, each model in a process of its own. Trials are
kept in FOLDER as they end; called again, it makes those that are missing, and works all ratios out from samples anew.
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.comparison import Contest, Effort, Set
from zoo.environment import describe
from zoo.progress import Reporter
from zoo.record import ComparisonRecord
from zoo.runner import Versus, compare
from zoo.statistics import Ratio
from zoo.store import line_of, read_files

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


def ours(b: str, folder: Path) -> ComparisonRecord:
    """Compare the plain model with another."""
    axes = {"batch_size": [64], "threads": [1]}
    record, _machine = compare(Versus("plain", b, axes=axes, plugins=[str(folder / "stacks.py")]), Reporter())
    assert record.status == "ok", record.reason
    return record


def theirs(b: str, folder: Path) -> dict[str, object]:
    """Return the two ratios that others' loops give, and the seconds that they took."""
    began, found = time.monotonic(), []
    for name in ("plain", b):
        command = [sys.executable, "-c", THEIRS, str(folder), name]
        found.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    ratios = [of_b / of_a for of_a, of_b in zip(*found, strict=True)]
    return {"b": b, "ratios": ratios, "seconds": time.monotonic() - began}


@dataclass(frozen=True)
class Trials:
    """The trials that a folder keeps."""

    folder: Path

    def ours(self, b: str) -> list[ComparisonRecord]:
        """Return the comparisons with a model."""
        file = self.folder / "noise.jsonl"
        kept = read_files([file]).comparisons if file.exists() else ()
        return [record for record in kept if record.b.model == b]

    def theirs(self, b: str) -> list[dict[str, list[float]]]:
        """Return what others' loops said of a model."""
        file = self.folder / "others.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [found for found in map(json.loads, lines) if found["b"] == b]

    def complete(self, b: str, times: int) -> None:
        """Make the trials that are missing, one of ours and one of theirs in turn."""
        (self.folder / "stacks.py").write_text(PLUGIN)
        while (missing := times - len(self.ours(b))) > 0:
            record = ours(b, self.folder)
            print(f"  {b}, {missing} left: {record.ratio:.4f} {record.verdict}", file=sys.stderr, flush=True)
            with (self.folder / "noise.jsonl").open("ab") as file:
                file.write(line_of(record))
        while times > len(self.theirs(b)):
            with (self.folder / "others.jsonl").open("a") as lines:
                lines.write(json.dumps(theirs(b, self.folder)) + "\n")


Sampled = tuple[Sequence[Sequence[Sequence[int]]], Sequence[int]]


def told(sets: Sequence[Sampled]) -> tuple[Ratio, str]:
    """Return the ratio and the verdict of a comparison with these samples, by member and round, of so many calls."""
    found = Contest([None] * 3)  # type: ignore[list-item]
    found.sets += [Set([[list(turn) for turn in rounds] for rounds in of_set], calls) for of_set, calls in sets]
    ratio = found.ratio(1)
    return ratio, ratio.verdict(found.noise().margin)


def sets_of(record: ComparisonRecord) -> list[Sampled]:
    """Return the samples and calls of each set."""
    return list(zip(record.samples, record.calls, strict=True))


def replayed(records: Sequence[ComparisonRecord]) -> list[tuple[Ratio, str]]:
    """Return comparisons that are put together from recorded ones of a model with itself."""
    sets, draw, found = [one for record in records for one in sets_of(record)], random.Random(0), []
    for _ in range(REPLAYED):
        chosen = [(one, draw.sample(range(3), 3)) for one in draw.sample(sets, Effort().sets)]
        found.append(told([([of_set[i] for i in who], [calls[i] for i in who]) for (of_set, calls), who in chosen]))
    return found


def row(*cells: object) -> None:
    """Print one line of the table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def line(title: str, ratios: Sequence[float], verdicts: Sequence[str], seconds: Sequence[float]) -> None:
    """Print what some trials of one kind gave."""
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    spread = f"{statistics.stdev(map(math.log, ratios)):.2%}" if len(ratios) > 1 else ""
    took = f"{statistics.fmean(seconds):.0f}" if seconds else ""
    row(title, len(ratios), f"{statistics.median(ratios):.4f}", spread, counts, took)


def main(live: str, planted: str, folder: str = "") -> None:
    """Print the table."""
    trials, machine = Trials(Path(folder or tempfile.mkdtemp())), describe()
    trials.folder.mkdir(parents=True, exist_ok=True)
    for b, times in (("plain", int(live)), ("more", int(planted))):
        trials.complete(b, times)
    print(f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}; budget {Effort().budget:.0f} s\n")
    row("comparison", "trials", "median ratio", "sd of log ratio", "verdicts", "seconds each")
    row(":---", "---:", "---:", "---:", ":---", "---:")
    for b, what in (("plain", "with itself"), ("more", "with 3 % more")):
        records, others = trials.ours(b), trials.theirs(b)
        if records:
            found = [told(sets_of(record)) for record in records]
            line(
                f"zoo compare, {what}", [r.value for r, _ in found], [v for _, v in found], [r.seconds for r in records]
            )
        for n, name in enumerate(("mean of 40 calls", "blocked_autorange")):
            if others:
                line(f"{name}, {what}", [one["ratios"][n] for one in others], [], [one["seconds"] for one in others])
    if same := trials.ours("plain"):
        again = replayed(same)
        line("zoo compare, with itself, replayed", [r.value for r, _ in again], [v for _, v in again], [])


if __name__ == "__main__":
    main(*sys.argv[1:])
