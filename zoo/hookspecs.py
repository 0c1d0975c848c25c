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

from zoo.spec import ModelSpec, TaskSpec

GROUP = "zoo"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def zoo_models() -> Iterable[ModelSpec]:
    """Yield the models that this plugin registers."""
    return ()


@hookspec
def zoo_tasks() -> Iterable[TaskSpec]:
    """Yield the tasks that this plugin registers.

    Example::

        @hookimpl
        def zoo_tasks():
            yield TaskSpec("digits", kind="classification", data="zoo_digits.data:load",
                           evaluate="zoo.data:top1", metrics=(Metric("top1", higher_is_better=True),),
                           recipes=(Recipe("quick", steps=300, batch_size=64, learning_rate=2e-3),))
    """
    return ()


RECORD_TYPES: dict[str, type] = {"zoo_models": ModelSpec, "zoo_tasks": TaskSpec}
