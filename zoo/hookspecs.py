"""The hooks. A plugin is a module (or a single file) that implements any of them and is found by entry point.

The smallest plugin is one file::

    import torch.nn as nn
    from zoo import ModelSpec, hookimpl, image_classifier

    def build(size, num_classes=10, width=64):
        return nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                             nn.Linear(width, num_classes))

    @hookimpl
    def zoo_models():
        yield ModelSpec("tiny_conv", build=build, **image_classifier(default=32, multiple_of=4))
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from zoo.spec import FlopFormula, LayerSpec, ModelSpec, Namespace
from zoo.task import TaskSpec

GROUP = "zoo"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def zoo_models() -> Iterable[ModelSpec]:
    """Yield the models that this plugin registers."""
    return ()


@hookspec
def zoo_layers() -> Iterable[LayerSpec]:
    """Yield the layers that this plugin registers: token mixers from (B, N, C) to (B, N, C).

    Example::

        def build(size, width, heads=4):
            return SelfAttention(width, heads)

        @hookimpl
        def zoo_layers():
            yield LayerSpec("self_attention", build=build, cost=Cost(projection="4 n d^2", mixing="2 n^2 d"),
                            sequential="O(1)", path_length="O(1)", heads="heads")
    """
    return ()


@hookspec
def zoo_tasks() -> Iterable[TaskSpec]:
    """Yield the tasks that this plugin registers.

    Example::

        @hookimpl
        def zoo_tasks():
            yield TaskSpec("digits", kind="classification", data="zoo_digits.data:load",
                           evaluate="zoo.scores.classification:top1", metrics=(Metric("top1", higher_is_better=True),),
                           recipes=(Recipe("quick", steps=300, batch_size=64, learning_rate=2e-3),))
    """
    return ()


@hookspec
def zoo_flop_formulas() -> Iterable[FlopFormula]:
    """Yield what counts the plugin's own operators: without it, a custom operator is named as not counted.

    Example::

        @hookimpl
        def zoo_flop_formulas():
            yield FlopFormula("mine::window_attention", macs="zoo_mine.macs:window_attention")
    """
    return ()


@hookspec
def zoo_namespaces() -> Iterable[Namespace]:
    """Yield zoos of others whose models this plugin makes known under a prefix, looked up only when asked for.

    Example::

        @hookimpl
        def zoo_namespaces():
            yield Namespace("mine/", list="zoo_mine.names:names", resolve="zoo_mine.names:spec")
    """
    return ()


RECORD_TYPES: dict[str, type] = {
    "zoo_models": ModelSpec,
    "zoo_layers": LayerSpec,
    "zoo_tasks": TaskSpec,
    "zoo_flop_formulas": FlopFormula,
    "zoo_namespaces": Namespace,
}
# What one record of each hook is called.
KINDS = {
    "zoo_models": "model",
    "zoo_layers": "layer",
    "zoo_tasks": "task",
    "zoo_flop_formulas": "flop formula",
    "zoo_namespaces": "namespace",
}
