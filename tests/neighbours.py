"""What a model's misbehaviour does to the numbers of its neighbour: ``python tests/neighbours.py [PAIRS]``.

A healthy model is measured in a suite of its own, and in one where it comes after a model that takes all memory it can
have, never returns, crashes, leaks, or changes torch's global settings. Both suites run in turn, A B B A; the table
says what became of the misbehaving model, and the ratio of its neighbour's time with it to that without it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import zoo
from zoo.environment import describe
from zoo.record import CaseRecord, Value
from zoo.statistics import ratio_of

PLUGIN = """
import os, time
import torch
from torch import nn
from zoo import ModelSpec, hookimpl, image_classifier

class Neighbour(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 256), *(nn.Linear(256, 256) for _ in range(50)))
        self.kept = []

    def forward(self, x):
        if not isinstance(x, torch._subclasses.FakeTensor) and x.device.type == "cpu":
            self.misbehave()
        return self.body(x)

    def misbehave(self):
        pass

class OutOfMemory(Neighbour):
    def misbehave(self):
        while True:
            self.kept.append(torch.ones(1 << 22))

class NeverReturns(Neighbour):
    def misbehave(self):
        time.sleep(10_000)

class SegmentationFault(Neighbour):
    def misbehave(self):
        os.kill(os.getpid(), 11)

class Leaks(Neighbour):
    def misbehave(self):
        self.kept.append(torch.ones(1 << 12))

class ChangesGlobalFlags(Neighbour):
    def misbehave(self):
        torch.set_num_threads(7)
        torch.set_default_dtype(torch.float64)
        torch.set_flush_denormal(True)
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("medium")
        torch.backends.mkldnn.enabled = False
        torch.set_grad_enabled(True)
        torch.manual_seed(1)
        os.environ["OMP_NUM_THREADS"] = "7"

def neighbour(size): return Neighbour()
def out_of_memory(size): return OutOfMemory()
def never_returns(size): return NeverReturns()
def segmentation_fault(size): return SegmentationFault()
def leaks(size): return Leaks()
def changes_global_flags(size): return ChangesGlobalFlags()

@hookimpl
def zoo_models():
    for build in (neighbour, out_of_memory, never_returns, segmentation_fault, leaks, changes_global_flags):
        yield ModelSpec(build.__name__, build=build, **image_classifier(default=32))
"""
SUITE = """
schema: 1
groups:
  - models: [{models}]
    axes: {{batch_size: 8, threads: 1}}
    metrics: [params, macs, peak_memory, latency]
    limits: {{time: 10, memory: 1 GiB}}
"""
MISBEHAVING = ("out_of_memory", "never_returns", "segmentation_fault", "leaks", "changes_global_flags")


def measured(folder: Path, *models: str) -> dict[tuple[str, str], Value]:
    """Return what a suite of some models gives, in their order, by model and metric."""
    suite = folder / "suite.yaml"
    suite.write_text(SUITE.format(models=", ".join(models)))
    records: tuple[CaseRecord, ...] = zoo.run(
        str(suite), plugins=str(folder / "models.py"), models=models, out=folder, fresh=True
    ).records
    return {(record.case.model, name): value for record in records for name, value in record.metrics.items()}


def main(pairs: str = "6") -> None:
    """Print the table."""
    folder, machine = Path(tempfile.mkdtemp()), describe()
    (folder / "models.py").write_text(PLUGIN)
    print(f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}; {pairs} pairs of runs each\n")
    print("| a model that | its rows | neighbour's params, MACs | peak memory | latency with it / without it |")
    print("| :--- | :--- | :--- | :--- | ---: |", flush=True)
    for model in MISBEHAVING:
        ratios, same, peaks, rows = [], True, [], {}
        for number in range(int(pairs)):
            orders = [("neighbour",), (model, "neighbour")]
            found = [measured(folder, *order) for order in (orders if number % 2 else orders[::-1])]
            without, beside = found if number % 2 else found[::-1]
            ratios.append(beside["neighbour", "latency"].value / without["neighbour", "latency"].value)  # type: ignore[operator]
            same &= all(beside["neighbour", m].value == without["neighbour", m].value for m in ("params", "macs"))
            peaks.append(beside["neighbour", "peak_memory"].value / without["neighbour", "peak_memory"].value)  # type: ignore[operator]
            rows = {name: value.status for (owner, name), value in beside.items() if owner == model}
        told = ", ".join(f"{name} {status}" for name, status in rows.items())
        ratio = ratio_of([[r] for r in ratios])
        low, high = ratio.interval
        print(
            f"| {model.replace('_', ' ')} | {told} | {'the same' if same else 'DIFFER'} | "
            f"{min(peaks):.3f} to {max(peaks):.3f} | {ratio.value:.3f} [{low:.3f}, {high:.3f}] |",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
