"""Models of ours and of other libraries by one name each, counted on the meta device, for the golden_* scripts."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import detr_lecture
import timm
import torch
from torch import Tensor, nn
from torchvision.models import get_model

import zoo
from zoo.metrics import macs, meta, params
from zoo.registry import installed
from zoo.spec import resolve
from zoo.testing import ModelTrial

Options = tuple[tuple[str, Any], ...]
NUMBER = re.compile(r"[-+\d.,]*")
Built = tuple[nn.Module, Tensor | tuple[Any, ...] | None]


@dataclass(frozen=True)
class Model:
    """A model at a size: one of ours by name, or ``library/name``. Without a size to run at, only its parameters."""

    name: str
    size: int | str | None = None
    options: Options = ()


@dataclass(frozen=True)
class Counted:
    """Parameters (all of them, without the classifier), and MACs of one sample, with those of its attention.

    ``complete`` where nothing is left uncounted that may matter.
    """

    params: int
    headless: int
    macs: int
    attention: int
    complete: bool


@cache
def count(model: Model) -> Counted:
    """Build a model on the meta device and count it; ``attention`` are the products of two activations."""
    library, _, name = model.name.rpartition("/")
    with meta.on_meta():
        module, inputs = BUILDERS[library](name, model.size, **dict(model.options))
    args = () if inputs is None else inputs if isinstance(inputs, tuple) else (inputs,)
    with torch.device("meta"):
        counted = macs.count(module, args, custom=installed().custom) if args else None
    by_op = counted.by_op if counted else {}
    complete = counted is not None and not any(op.material for op in counted.uncounted)
    total = params.count(module).total
    head = sum(p.numel() for name, p in module.named_parameters() if name.startswith("head."))
    products = sum(n for op, n in by_op.items() if "bmm" in op or "attention" in op)
    return Counted(total, total - head, sum(by_op.values()), products, complete)


def by_hand(name: str, size: int | str | tuple[int, int], **options: Any) -> int:
    """Return the MACs that the plugin of one of our models works out."""
    spec = installed().model(name)
    native = size if isinstance(size, tuple) else spec.size(size).native
    return int(resolve(str(spec.closed_form))(native, **spec.with_options(options)))


def markdown(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table, its numbers as they are given and to the right."""
    body = [[str(cell) for cell in row] for row in rows]
    numbers = [all(NUMBER.fullmatch(cell) for cell in column) for column in zip(*body, strict=True)]
    lines = [list(heads), ["---:" if right else ":---" for right in numbers], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# -- libraries -----------------------------------------------------------------------------------------------


def image(size: int | str) -> Tensor:
    """Return one image of a side or of ``HxW``."""
    height, width = (size, size) if isinstance(size, int) else map(int, size.removesuffix("px").split("x"))
    return torch.empty(1, 3, height, width)


def ours(name: str, size: int | str | None, **options: Any) -> Built:
    """Build a model of ours; one that depends on data has no inputs here."""
    trial = ModelTrial(installed().model(name))
    module = zoo.create_model(name, size, **options)
    return module, None if trial.spec.data_dependent else trial.inputs(trial.spec.size(size), 1, "meta")[0]


def of_timm(name: str, size: int, **options: Any) -> Built:
    """Build a model of timm."""
    return timm.create_model(name, pretrained=False, **options), image(size)


def of_torchvision(name: str, size: None, **options: Any) -> Built:
    """Build a detector of torchvision, without weights anywhere."""
    return get_model(name, weights=None, weights_backbone=None, **options), None


def of_transformers(name: str, size: int | str, **options: Any) -> Built:
    """Build a model of transformers: of tokens, of images or of a clip, as its size says."""
    kind = getattr(importlib.import_module("transformers"), name)
    device = "cpu" if name.startswith("ImageGPT") else "meta"  # its masks are made on the CPU, whatever the default
    with torch.device(device):
        module = kind(kind.config_class(**options))
    if isinstance(size, str):
        return module, torch.empty(1, *map(int, size.split("x")))
    if device == "cpu":
        return module, None
    return module, image(size) if "ViT" in name else torch.empty(1, size, dtype=torch.long)


def of_monai(name: str, size: str, **options: Any) -> Built:
    """Build a network of MONAI for a volume of one channel."""
    sides = tuple(map(int, size.split("x")))
    module = getattr(importlib.import_module("monai.networks.nets"), name)(img_size=sides, **options)
    return module, torch.empty(1, 1, *sides)


def of_open_clip(name: str, size: None) -> Built:
    """Build a CLIP of open_clip."""
    model = importlib.import_module("open_clip.model")
    return model.CLIP(**importlib.import_module("open_clip").get_model_config(name)), None


def of_lecture(name: str, size: str) -> Built:
    """Build the small DETR that the lectures print."""
    return detr_lecture.build(size), image(size)


BUILDERS: dict[str, Callable[..., Built]] = {
    "": ours,
    "timm": of_timm,
    "torchvision": of_torchvision,
    "transformers": of_transformers,
    "monai": of_monai,
    "open_clip": of_open_clip,
    "lecture": of_lecture,
}
