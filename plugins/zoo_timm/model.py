"""timm's models, built as timm builds them; ``zoo_timm.model:NAME`` is the builder of timm's ``NAME``.

A size other than the checkpoint's is handed over as ``img_size`` where timm says that its input size is fixed: what
depends on it is then made for it. Elsewhere the model is the same at every size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
from torch import nn

from zoo import BadSize, ZooError

# What a constructor of timm's raises for arguments that it cannot take.
REFUSALS = (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError, ZeroDivisionError)


def build(name: str, size: int | tuple[int, int], num_classes: int, in_chans: int) -> nn.Module:
    """Return a model with random weights; timm is told only what differs from its own defaults.

    BadSize or ZooError with timm's reason when it cannot be built so.
    """
    cfg = timm.get_pretrained_cfg(name)
    channels, *usual = cfg.input_size
    wanted = [size, size] if isinstance(size, int) else list(size)
    changes: dict[str, Any] = {}
    if cfg.fixed_input_size and wanted != usual:
        changes["img_size"] = size
    if num_classes != cfg.num_classes:
        changes["num_classes"] = num_classes
    if in_chans != channels:
        changes["in_chans"] = in_chans
    try:
        model: nn.Module = timm.create_model(name, **changes)
    except REFUSALS as error:
        if not changes:
            raise
        told = ", ".join(f"{key}={value}" for key, value in changes.items())
        reason = " ".join(str(error).split()) or type(error).__name__
        kind = BadSize if "img_size" in changes else ZooError
        raise kind(f"timm cannot build {name} with {told}: {reason}") from None
    return model


def __getattr__(name: str) -> Callable[..., nn.Module]:
    """Return the builder of one of timm's models: a spec names its builder by an import string, so each has a name."""
    if name.startswith("__") or not timm.is_model(name):
        raise AttributeError(f"timm has no model {name!r}")
    return partial(build, name)
