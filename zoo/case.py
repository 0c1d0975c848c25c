"""One cell of a suite: a model at a point of all axes, with a readable id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from zoo.spec import Scalar

DTYPES = ("float32", "float64", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")
# A forward pass without gradients; forward and backward; these and a step of AdamW.
MODES = ("inference", "forward_backward", "training")
# How a model is run: as it is written, or by one of torch.compile's modes. ``eager`` is kept as no value.
COMPILE_MODES = ("eager", "default", "reduce-overhead", "max-autotune")
# Which of torch's implementations attention runs on, and no other. ``auto``, torch's choice, is kept as no value.
ATTENTION_BACKENDS = ("auto", "flash", "efficient", "cudnn", "math")
# What only a trained model depends on: its measured cost does not.
TASK_AXES = ("task", "recipe", "seed", "test_size")
# What parameters and counts do not depend on either, so that they are counted once for all machines.
MACHINE_AXES = ("device", "mode", "threads", "weights", "compile", "attention_backend")


@dataclass(frozen=True)
class Case:
    """A model at a size, batch size, dtype and device, with every other axis; ``None`` is an axis without meaning here.

    ``threads`` is the number of CPU threads, ``test_size`` the size that a model trained at ``size`` is tested at where
    that is another; ``options`` are the model's options that differ from its defaults.
    """

    model: str
    size: str
    batch_size: int = 1
    dtype: str = "float32"
    device: str | None = "cpu"
    mode: str | None = "inference"
    threads: int | None = None
    task: str | None = None
    recipe: str | None = None
    seed: int | None = None
    test_size: str | None = None
    weights: str | None = None
    compile: str | None = None
    attention_backend: str | None = None
    options: dict[str, Scalar] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Every axis that is set, as one line: ``vit_nano size=32px batch_size=8 dtype=float32 ...``."""
        return " ".join([self.model, *(f"{name}={value}" for name, value in self.axes().items() if name != "model")])

    def axes(self) -> dict[str, Any]:
        """Return all axes that are set, the options among them, in a fixed order."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "options"}
        return {k: v for k, v in plain.items() if v is not None} | dict(sorted(self.options.items()))

    def for_phase(self, phase: str) -> Case:
        """Return the case under which the metrics of a phase are kept: without the axes they do not depend on."""
        if phase == "task":
            return self
        dropped: dict[str, Any] = dict.fromkeys((*TASK_AXES, *MACHINE_AXES) if phase == "static" else TASK_AXES)
        if self.mode != "inference":  # whose predicted memory is another
            dropped.pop("mode", None)
        return replace(self, **dropped)


def check_axis(name: str, value: Any) -> str | None:
    """Return what is wrong with a value of a fixed axis, in words, or None."""
    allowed: Mapping[str, tuple[str, ...]] = {
        "dtype": DTYPES,
        "device": DEVICES,
        "mode": MODES,
        "compile": COMPILE_MODES,
        "attention_backend": ATTENTION_BACKENDS,
    }
    if name in allowed and value not in allowed[name]:
        return f"{value!r} is not a {name}; expected one of {', '.join(allowed[name])}"
    if name in ("batch_size", "threads") and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        return f"{value!r} is not a {name.replace('_', ' ')}; expected a whole number of at least 1"
    return None
