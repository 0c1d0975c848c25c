"""Predicted against measured peak memory: ``python tests/memory.py [GLOB]`` prints the table of results/memory.

Each line is a process of its own, forked with torch loaded, and its allocator prepared as the zoo's workers do.
Predicted is by fake tensors; trace is the running sum of the profiler's allocations, and VmHWM the system's high-water
mark, both on top of weights, inputs and the optimiser's state. Training is a step with AdamW that has its state. One
thread, float32.
"""

from __future__ import annotations

import fnmatch
import multiprocessing
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from profiled import peak_of_allocations
from torch import nn

import zoo
from zoo.metrics import memory, predicted_memory
from zoo.registry import installed
from zoo.spec import resolve

MIB = 2**20
IMAGES, LARGER, TOKENS = (32, 64, 128), (96, 160, 224), (64, 128, 256)
# Variant: sizes, batch. A small one of each architecture, and one of its paper's.
CASES: dict[str, tuple[tuple[int, ...], int]] = {
    "vit_nano": (IMAGES, 16),
    "vit_s16": (LARGER, 4),
    "swin_nano": (IMAGES, 16),
    "swin_t": (LARGER, 2),
    "mixer_nano": (IMAGES, 16),
    "mixer_s16": (LARGER, 4),
    "sasa_nano": (IMAGES, 8),
    "sasa26": (LARGER, 1),
    "performer_nano": (TOKENS, 16),
    "performer_base": (TOKENS, 2),
    "fnet_nano": (TOKENS, 16),
    "fnet_base": (TOKENS, 2),
    "transformer_nano": (TOKENS, 16),
    "transformer_base": (TOKENS, 2),
    "detr_nano": (LARGER, 4),
    "detr_r50": (LARGER, 1),
    "resnet_nano": (IMAGES, 16),
    "resnet50": (LARGER, 2),
}


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    name: str
    value: int
    batch: int
    training: bool

    @property
    def size(self) -> str:
        """The tagged size."""
        return str(installed().model(self.name).size(self.value))

    def build(self) -> nn.Module:
        """Build the model in the mode that it runs in."""
        return zoo.create_model(self.name, self.value).train(self.training)

    def inputs(self, device: torch.device) -> memory.Inputs:
        """Make one batch of inputs."""
        spec = installed().model(self.name)
        params = spec.input_params(spec.with_options({}))
        made: memory.Inputs = resolve(str(spec.input.make))(
            spec.size(self.value), self.batch, torch.float32, device, None, **params
        )
        return made

    def predict(self) -> predicted_memory.Prediction:
        """Predict the peak."""
        predict = predicted_memory.predict_training_peak if self.training else predicted_memory.predict_peak
        return predict(self.build, self.inputs, bodies=installed().bodies)

    def prepare(self) -> tuple[Callable[[], object], Callable[[], int]]:
        """Return the call that is measured, and what tells the bytes that are there before it."""
        module, (args, kwargs) = self.build(), self.inputs(torch.device("cpu"))
        if not self.training:
            return torch.inference_mode()(lambda: module(*args, **kwargs)), lambda: memory.storage_bytes(
                module, args, kwargs
            )
        optimizer = memory.make_optimizer(module, "adamw")
        return (
            lambda: memory.train_step(module, (args, kwargs), optimizer),
            lambda: memory.storage_bytes(module, args, kwargs) + memory.state_bytes(optimizer),
        )


def in_a_child(case: Case) -> tuple[int, int, int]:
    """Return what :func:`measured` does in a process of its own. EOFError when that dies."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=lambda: theirs.send(measured(case)))
    child.start()
    theirs.close()
    result: tuple[int, int, int] = ours.recv()
    child.join()
    return result


def measured(case: Case) -> tuple[int, int, int]:
    """Return predicted, traced and system peak of a case, in this process."""
    warnings.simplefilter("ignore")
    assert memory.prepare_allocator()
    torch.set_num_threads(1)
    call, held = case.prepare()
    system = memory.measure_peak(call)
    trace = peak_of_allocations(call)
    return case.predict().peak, held() + trace, held() + system


def line(case: Case, predicted: int, trace: int, system: int) -> str:
    """Return a row of the table."""
    mode = "training" if case.training else "inference"
    sizes = " | ".join(f"{size / MIB:.1f}" for size in (predicted, trace, system))
    ratios = f"{predicted / trace:.4f} | {system / predicted:.3f}"
    return f"| {case.name} | {case.size} | {case.batch} | {mode} | {sizes} | {ratios} |"


def cases(pattern: str) -> Iterator[Case]:
    """Yield the lines that a glob asks for."""
    for name in fnmatch.filter(CASES, pattern):
        sizes, batch = CASES[name]
        for training in (False, True):
            for size in sizes:
                yield Case(name, size, batch, training)


def processor() -> str:
    """Return the name of the CPU."""
    found = [text for text in Path("/proc/cpuinfo").read_text().splitlines() if text.startswith("model name")]
    return found[0].partition(":")[2].strip() if found else platform.machine()


def main(pattern: str = "*") -> None:
    """Print the table."""
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{processor()} ({capability}), torch {torch.__version__}, Python {platform.python_version()}\n")
    heads = "model", "size", "batch", "mode", "predicted", "trace", "VmHWM", "predicted / trace", "VmHWM / predicted"
    print(f"Sizes are in MiB.\n\n| {' | '.join(heads)} |")
    print("| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for case in cases(pattern):
        print(line(case, *in_a_child(case)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
