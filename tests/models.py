"""What tests share: a module from a function, variants built as the host builds them, torch's own counter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.registry import installed
from zoo.spec import resolve


class Lambda(nn.Module):
    """A module that is a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Any:
        return self.function(*args)


def build(name: str, size: int | str | None = None, **options: object) -> nn.Module:
    """Build a variant for inference."""
    return zoo.create_model(name, size, **options).eval()


def on_meta(name: str, size: int | str | None = None, **options: object) -> nn.Module:
    """Build a variant on the meta device."""
    with torch.device("meta"):
        return build(name, size, **options)


def params(model: nn.Module) -> int:
    """Count the parameters."""
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, *shape: int) -> float:
    """Count the MACs of one forward of an input of this shape, on the meta device."""
    return macs_of(model, torch.empty(shape, device="meta"))


def macs_of(model: nn.Module, x: torch.Tensor) -> float:
    """Count the MACs of one forward with torch's counter: on the meta device it misses no attention, but all FFTs."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() / 2


def closed_form(name: str, size: int | str | None = None, **options: object) -> int:
    """Return the MACs that the plugin works out by hand."""
    spec = installed().model(name)
    return resolve(str(spec.closed_form))(spec.size(size).native, **spec.with_options(options))
