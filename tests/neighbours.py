"""What a model's misbehaviour does to the numbers of its neighbour: ``python tests/neighbours.py [PAIRS]``.

A healthy model is measured right after a model that takes all memory it can have, never returns, crashes, leaks, or
changes torch's global settings, by the same servers, and beside it, in turn, A B B A, by servers that saw none of that.
The table says what became of the misbehaving model, and the ratio of its neighbour's time after it to that without it.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from zoo.comparison import Effort, ready, turn
from zoo.environment import describe
from zoo.metrics import PHASES
from zoo.plan import Prints, Work, phase_of
from zoo.record import Value
from zoo.registry import Registry
from zoo.runner import Versus, one_case
from zoo.sampling import share_cores
from zoo.schema import Limits
from zoo.session import Session
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
MISBEHAVING = ("out_of_memory", "never_returns", "segmentation_fault", "leaks", "changes_global_flags")


METRICS = ("params", "macs", "peak_memory", "latency")
LIMITS = Limits(time=6.0, memory=2**30)
EFFORT, ROUNDS = Effort(), 60
AXES = {"batch_size": [8], "threads": [1]}


def work_of(session: Session, name: str, metrics: tuple[str, ...]) -> Work:
    """Return what is to be measured of a model."""
    planned = one_case(Versus(name, name, axes=AXES, limits=LIMITS), session.registry, name)
    return Work(planned, {phase: tuple(m for m in metrics if phase_of(m) == phase) for phase in PHASES})


def measured(session: Session, name: str, metrics: tuple[str, ...]) -> dict[str, Value]:
    """Return the values of a model."""
    records = session.run_block([work_of(session, name, metrics)])
    return {metric: value for _, record in records for metric, value in record.metrics.items()}


def side_by_side(sessions: Sequence[Session]) -> list[float]:
    """Return by round how much longer the neighbour takes with the second session's servers than with the first's."""
    members = [session.member(work_of(session, "neighbour", ("latency",))) for session in sessions]
    share_cores(members)
    try:
        samplers = [ready(one, "latency", session.pool) for one, session in zip(members, sessions, strict=True)]
        ratios = []
        for _ in range(ROUNDS):
            a, b, again, a_again = (statistics.fmean(turn(samplers[who], EFFORT)) for who in (0, 1, 1, 0))
            ratios.append((b + again) / (a + a_again))
        return ratios
    finally:
        for member in members:
            member.stop()


def row(sessions: Sequence[Session], model: str, pairs: int) -> str:
    """Return the line of a model that misbehaves in the second session."""
    ratios, peaks, same, became = [], [], True, {}
    for _ in range(pairs):
        became = measured(sessions[1], model, METRICS)
        ratios.append(side_by_side(sessions))
        plain, disturbed = (measured(session, "neighbour", METRICS[:3]) for session in sessions)
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
    sessions = [Session(registry, Prints(registry, "here"), room={"noise": 0.0}) for _ in range(2)]
    with contextlib.closing(sessions[0].pool), contextlib.closing(sessions[1].pool):
        for model in MISBEHAVING:
            print(row(sessions, model, int(pairs)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
