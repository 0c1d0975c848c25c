"""What a model's misbehaviour does to the numbers of its neighbour: ``python tests/neighbours.py [PAIRS]``.

A healthy model is measured as it is, and right after a model that takes all memory it can have, never returns, crashes,
leaks, or changes torch's global settings, in the same run and with the same servers; both in turn, A B B A. The table
says what became of the misbehaving model, and the ratio of its neighbour's time with it to that without it.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

from zoo.comparison import Effort, one_set
from zoo.environment import describe
from zoo.metrics import PHASES
from zoo.plan import Prints, Work, phase_of
from zoo.record import Value
from zoo.registry import Registry
from zoo.runner import Versus, one_case
from zoo.session import Session
from zoo.statistics import ratio_of
from zoo.suite import Limits

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
MISBEHAVING = ("out_of_memory", "never_returns", "segmentation_fault", "leaks", "changes_global_flags")


METRICS = ("params", "macs", "peak_memory", "latency")
LIMITS = Limits(time=6.0, memory=2**30)
EFFORT = Effort(rounds=10, turn=0.05)
AXES = {"batch_size": [8], "threads": [1]}


def work_of(session: Session, name: str, metrics: tuple[str, ...]) -> Work:
    """Return what is to be measured of a model."""
    planned = one_case(Versus(name, name, axes=AXES, limits=LIMITS), session.registry, name)
    return Work(planned, {phase: tuple(m for m in metrics if phase_of(m) == phase) for phase in PHASES})


def measured(session: Session, name: str, metrics: tuple[str, ...]) -> dict[str, Value]:
    """Return the values of a model."""
    records = session.run_block([work_of(session, name, metrics)])
    return {metric: value for _, record in records for metric, value in record.metrics.items()}


def neighbour(session: Session) -> tuple[list[float], dict[str, Value]]:
    """Return the neighbour's nanoseconds by round, and its other values."""
    member = session.member(work_of(session, "neighbour", ("latency",)))
    found = one_set([member], "latency", session.pool, EFFORT)
    return found.medians(0), measured(session, "neighbour", METRICS[:3])


def row(session: Session, model: str, pairs: int) -> str:
    """Return the line of a misbehaving model."""
    ratios, peaks, same, became = [], [], True, {}
    for number in range(pairs):
        if number % 2:
            without, plain = neighbour(session)
        became = measured(session, model, METRICS)
        after, disturbed = neighbour(session)
        if not number % 2:
            without, plain = neighbour(session)
        ratios.append([b / a for a, b in zip(without, after, strict=True)])
        peaks.append(disturbed["peak_memory"].value / plain["peak_memory"].value)  # type: ignore[operator]
        same &= all(disturbed[m].value == plain[m].value for m in ("params", "macs"))
    told, ratio = ", ".join(f"{name} {value.status}" for name, value in became.items()), ratio_of(ratios)
    low, high = ratio.interval
    return (
        f"| {model.replace('_', ' ')} | {told} | {'the same' if same else 'DIFFER'} | "
        f"{min(peaks):.3f} to {max(peaks):.3f} | {ratio.value:.3f} [{low:.3f}, {high:.3f}] |"
    )


def main(pairs: str = "12") -> None:
    """Print the table."""
    folder, machine = Path(tempfile.mkdtemp()), describe()
    (folder / "models.py").write_text(PLUGIN)
    registry = Registry.load([str(folder / "models.py")])
    print(f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}; {pairs} pairs each\n")
    print("| a model that | its rows | neighbour's params, MACs | peak memory | latency after it / without it |")
    print("| :--- | :--- | :--- | :--- | ---: |", flush=True)
    session = Session(registry, Prints(registry, "here"), room={"noise": 0.0})
    with contextlib.closing(session.pool):
        for model in MISBEHAVING:
            print(row(session, model, int(pairs)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
