"""Throughput beside the loop of timm's benchmark.py: ``python tests/throughput.py [RUNS]`` prints a table.

Eight models of timm, one thread, batch of one. Theirs, as that script does it: one process for all models, ten calls
to warm up, forty that are timed, one mean, and ten seconds of sleep after each model (left out here, and told apart).
Ours: a suite, sampled until the interval of the median is within 1 %. Both run in turn, A B B A. A mean of forty calls
says nothing of how sure it is, so theirs is repeated until the interval over its runs is within 1 %, too.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zoo
from zoo import sampling
from zoo.environment import describe
from zoo.statistics import Ratio, StoppingRule, ratio_of

TARGET, MOST_RUNS, SLEEP = 0.01, 12, 10.0
MODELS = (
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "mixer_s32_224",
    "resnet18",
    "mobilenetv3_small_100",
    "convnext_atto",
    "poolformer_s12",
    "resmlp_12_224",
)
SUITE = """
schema: 1
groups:
  - models: [{models}]
    axes: {{threads: 1}}
    metrics: [throughput]
"""
THEIRS = """
import json, sys, time, timm, torch
torch.set_num_threads(1)
found = {}
for name in sys.argv[1:]:
    model = timm.create_model(name).eval()
    with torch.inference_mode():
        x = torch.randn(1, 3, 224, 224)
        for _ in range(10):
            model(x)
        began = time.perf_counter()
        for _ in range(40):
            model(x)
        found[name] = 40 / (time.perf_counter() - began)
print(json.dumps(found))
"""


def ours(folder: Path) -> tuple[dict[str, float], dict[str, float], float]:
    """Return samples a second and the half-width of the interval by model, and the seconds that it took."""
    suite = folder / "throughput.yaml"
    suite.write_text(SUITE.format(models=", ".join(f"timm/{name}" for name in MODELS)))
    began = time.monotonic()
    values = {r.case.model: r.metrics["throughput"] for r in zoo.run(str(suite), out=folder, fresh=True).records}
    took = time.monotonic() - began
    halves = {name: (v.interval[1] - v.interval[0]) / 2 / v.value for name, v in values.items() if v.interval}  # type: ignore[operator]
    return {name.removeprefix("timm/"): float(v.value or 0) for name, v in values.items()}, halves, took


def theirs() -> tuple[dict[str, float], float]:
    """Return samples a second by model, and the seconds that it took."""
    command, began = [sys.executable, "-W", "ignore", "-c", THEIRS, *MODELS], time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), time.monotonic() - began


def interval(found: list[dict[str, float]], name: str) -> Ratio:
    """Return the mean of a model's runs with its interval."""
    return ratio_of([[of_run[name]] for of_run in found])


def main(runs: str = "6") -> None:
    """Print the table."""
    sampling.SAMPLING = StoppingRule(target=TARGET, budget=8.0, max_samples=5000)
    folder, machine = Path(tempfile.mkdtemp()), describe()
    mine, others, took, spent, halves = [], [], [], [], {}
    for number in range(int(runs)):
        for who in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
            if who == "ours":
                found, halves, seconds = ours(folder)
                mine.append(found)
                took.append(seconds)
            else:
                found, seconds = theirs()
                others.append(found)
                spent.append(seconds)
            print(f"  {who} {seconds:.0f} s", file=sys.stderr, flush=True)
    while len(others) < MOST_RUNS and any(interval(others, name).half_width > TARGET for name in MODELS):
        found, seconds = theirs()
        others.append(found)
        spent.append(seconds)
    paired = others[: len(mine)]
    print(f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, timm {machine['timm']}; one thread\n")
    print(
        "| model | ours (samples/s) | theirs (samples/s) | theirs / ours | ours, ± in one run | theirs, ± over runs |"
    )
    print("| :--- | ---: | ---: | ---: | ---: | ---: |")
    for name in MODELS:
        ratio = ratio_of([[b[name] / a[name]] for a, b in zip(mine, paired, strict=True)])
        low, high = ratio.interval
        medians = [statistics.median(of_run[name] for of_run in runs_of) for runs_of in (mine, paired)]
        print(
            f"| {name} | {medians[0]:.1f} | {medians[1]:.1f} | {ratio.value:.3f} [{low:.3f}, {high:.3f}] "
            f"| {halves[f'timm/{name}']:.1%} | {interval(others, name).half_width:.1%} of {len(others)} |"
        )
    met = sum(interval(others, name).half_width <= TARGET for name in MODELS)
    slept = SLEEP * len(MODELS)
    print(f"\nOurs takes {statistics.median(took):.0f} s for all eight, with intervals.")
    print(f"Theirs takes {statistics.median(spent):.0f} s a run, with {slept:.0f} s of sleep on top.")
    print(f"After {len(spent)} runs ", end="")
    print(f"of {sum(spent):.0f} s, {met} of {len(MODELS)} models had an interval within {TARGET:.0%}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
