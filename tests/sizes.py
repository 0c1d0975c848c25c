"""Every variant at every legal size on the meta device, forward and backward: ``python tests/sizes.py [GLOB] [STEP]``.

All legal sizes from 64 to 512 pixels, or from 32 to 4,096 tokens; with STEP only every so many of them. The suite takes
a few of each (test_sizes.py); this takes them all, and prints what fails.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import torch
from torch import nn

import zoo
from zoo.registry import installed
from zoo.spec import ModelSpec, Size
from zoo.testing import ModelTrial, projection

RANGES = {"px": (64, 512), "tok": (32, 4096)}


def legal_sizes(spec: ModelSpec) -> list[Size]:
    """Return all sizes of one number that are legal, within the range of the axis."""
    unit = Size.parse(spec.sizes.default).unit
    low, high = RANGES[unit]
    highest = spec.sizes.highest(spec.knobs) or high
    step = spec.sizes.step(spec.knobs)
    first = -(-max(low, spec.sizes.min) // step) * step
    return [Size((value,), unit) for value in range(first, min(high, highest) + 1, step)]


def some(sizes: list[Size]) -> list[Size]:
    """Return the first two, one in the middle, and the last."""
    return list(dict.fromkeys([*sizes[:2], sizes[len(sizes) // 2], sizes[-1]]))


def run(spec: ModelSpec, size: Size, built: nn.Module | None = None) -> nn.Module:
    """Run forward and backward of two samples on the meta device, and return the module."""
    trial = ModelTrial(spec)
    module = built or trial.on_meta(size).train()
    module.zero_grad()
    projection(trial.call(module, trial.inputs(size, 2, "meta"))).backward()
    left = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not left, f"no gradient reaches {left[0]}"
    return module


def failures(name: str, step: int) -> Iterator[str]:
    """Yield a line for each size that fails. What a size does not change in a model is built once."""
    spec, module = installed().model(name), None
    for size in legal_sizes(spec)[::step]:
        try:
            module = run(spec, size, None if spec.sizes.rebuilds else module)
        except Exception as error:
            yield f"{name} {size}: {type(error).__name__}: {error}"


def main(pattern: str = "*", step: str = "1") -> None:
    """Print what fails, and how many sizes of each model were run."""
    torch.set_num_threads(1)
    for name in zoo.list_models(pattern):
        spec, began = installed().model(name), time.monotonic()
        if spec.data_dependent:
            print(f"{name}: skipped: {spec.data_dependent}", flush=True)
            continue
        failed = list(failures(name, int(step)))
        print(*failed, sep="\n", end="\n" if failed else "")
        sizes = legal_sizes(spec)[:: int(step)]
        told = f"{name}: {len(sizes)} sizes from {sizes[0]} to {sizes[-1]}, {len(failed)} fail"
        print(f"{told}, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
