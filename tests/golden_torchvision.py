"""Our counts beside torchvision's ``_ops`` and ``num_params``: ``python tests/golden_torchvision.py`` prints the table.

Every weights enum of its classification, segmentation and video models. ``_ops`` are printed as GFLOPS and are MACs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from golden import markdown
from torch import nn
from torchvision import models
from torchvision.models import WeightsEnum, get_model_builder, get_model_weights, list_models, regnet

from zoo.metrics import macs, meta, params

FRAMES = 16  # of a clip, for every video model
COUNTED = (models, models.segmentation, models.video)
NOT_COUNTED = {
    models.detection: "how many boxes reach the head depends on the weights and on the image",
    models.optical_flow: "neither classification nor segmentation nor video; as many steps as the caller asks for",
}
QUANTISED = (
    "quantised kernels do not run on the meta device; their `_ops` and `num_params` are those of the float model"
)
Cell = tuple[str, tuple[int, ...]]


def weights(where: ModuleType) -> Iterator[tuple[str, WeightsEnum]]:
    """Yield each model of a part of torchvision with each of its weights."""
    for name in list_models(where):
        for one in get_model_weights(name):
            yield name, one


def shape(where: ModuleType, one: WeightsEnum) -> tuple[int, ...]:
    """Return the shape of one input as the weights' transforms make it; segmentation has no crop."""
    asked = one.transforms.keywords
    if where is models.video:
        return 1, 3, FRAMES, *asked["crop_size"]
    side = asked.get("crop_size") or asked["resize_size"]
    return 1, 3, side, side


def cells() -> dict[Cell, list[WeightsEnum]]:
    """Return all weights to count by model and shape of the input, for several are of one model at one size."""
    found: dict[Cell, list[WeightsEnum]] = defaultdict(list)
    for where in COUNTED:
        for name, one in weights(where):
            found[name, shape(where, one)].append(one)
    return found


@cache
def count(cell: Cell, one: WeightsEnum) -> tuple[int, int]:
    """Return parameters and MACs of the model that a file of weights belongs to, on the meta device."""
    name, size = cell
    with unfetched(), meta.on_meta():
        module = get_model_builder(name)(weights=one)
    with torch.device("meta"):
        return params.count(module).total, macs.count(module, (torch.empty(size),)).macs


@contextmanager
def unfetched() -> Iterator[None]:
    """Build what weights belong to (classes, auxiliary heads, position embeddings) without fetching them.

    RegNet's constructor reads numbers back from tensors, so those are made on the CPU.
    """
    make = regnet.BlockParams.from_init_params

    def on_cpu(*args: Any, **kwargs: Any) -> regnet.BlockParams:
        with torch.device("cpu"):
            return make(*args, **kwargs)

    with ExitStack() as stack:
        for owner, attribute, stand_in in (
            (WeightsEnum, "get_state_dict", lambda *_, **__: {}),
            (nn.Module, "load_state_dict", lambda *_, **__: None),
            (regnet.BlockParams, "from_init_params", on_cpu),
        ):
            stack.enter_context(mock.patch.object(owner, attribute, stand_in))
        yield


def agrees(one: WeightsEnum, held: int, counted: int) -> bool:
    """Tell whether parameters are equal, and MACs as far as ``_ops`` are printed."""
    return (held, round(counted / 1e9, 3)) == (one.meta["num_params"], one.meta["_ops"])


def table() -> str:
    """Return the whole comparison as Markdown."""
    rows, same, total = [], 0, 0
    for cell, files in cells().items():
        held, counted = count(cell, files[0])
        agreeing = sum(agrees(one, held, counted) for one in files)
        same, total = same + agreeing, total + len(files)
        printed = {f"{one.meta['_ops']:.3f}" for one in files}, {f"{one.meta['num_params']:,}" for one in files}
        said = [", ".join(sorted(texts)) for texts in printed]
        size = "x".join(map(str, cell[1][2:]))
        rows.append([cell[0], size, f"{held:,}", said[1], f"{counted / 1e9:.3f}", said[0], f"{agreeing}/{len(files)}"])
    heads = ["Model", "Input", "Params", "`num_params`", "GMACs", "`_ops`", "Weights that agree"]
    told = (
        "# torchvision's own counts, beside ours\n\n"
        f"{same} of {total} weights agree: parameters exactly, MACs to the three decimals that `_ops` has. "
        f"Clips have {FRAMES} frames. Written by tests/golden_torchvision.py.\n\n"
    )
    return told + markdown(heads, rows) + "\nNot counted:\n\n" + markdown(["Weights", "Which", "Why"], left_out())


def left_out() -> Iterator[list[str]]:
    """Yield what is not counted, and why."""
    for where, why in {models.quantization: QUANTISED, **NOT_COUNTED}.items():
        names = [name for name, _ in weights(where)]
        yield [str(len(names)), f"{where.__name__.rpartition('.')[2]}: {', '.join(dict.fromkeys(names))}", why]


if __name__ == "__main__":
    print(table(), end="")
