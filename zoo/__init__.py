"""attention-zoo: a plugin-based model zoo and benchmark harness. Names are loaded on first use; torch never here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "BadSize": "zoo.errors",
    "BadSpec": "zoo.errors",
    "BadWeights": "zoo.errors",
    "ZooError": "zoo.errors",
    "Cost": "zoo.cost",
    "FlopFormula": "zoo.spec",
    "hookimpl": "zoo.hookspecs",
    "InputSpec": "zoo.spec",
    "LayerSpec": "zoo.spec",
    "Metric": "zoo.spec",
    "ModelSpec": "zoo.spec",
    "Namespace": "zoo.spec",
    "Recipe": "zoo.spec",
    "Size": "zoo.spec",
    "SizeRule": "zoo.spec",
    "TaskSpec": "zoo.spec",
    "WeightSpec": "zoo.spec",
    "image_classifier": "zoo.spec",
    "create_layer": "zoo.registry",
    "create_model": "zoo.registry",
    "layer_spec": "zoo.registry",
    "list_layers": "zoo.registry",
    "list_models": "zoo.registry",
    "load_records": "zoo.tables",
    "load_weights": "zoo.weights",
    "over_images": "zoo.analysis",
    "over_tokens": "zoo.metrics.folding",
    "profile": "zoo.analysis",
    "read_layer": "zoo.spec",
    "run": "zoo.runner",
}
__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from zoo.analysis import over_images as over_images
    from zoo.analysis import profile as profile
    from zoo.cost import Cost as Cost
    from zoo.errors import BadSize as BadSize
    from zoo.errors import BadSpec as BadSpec
    from zoo.errors import BadWeights as BadWeights
    from zoo.errors import ZooError as ZooError
    from zoo.hookspecs import hookimpl as hookimpl
    from zoo.metrics.folding import over_tokens as over_tokens
    from zoo.registry import create_layer as create_layer
    from zoo.registry import create_model as create_model
    from zoo.registry import layer_spec as layer_spec
    from zoo.registry import list_layers as list_layers
    from zoo.registry import list_models as list_models
    from zoo.runner import run as run
    from zoo.spec import FlopFormula as FlopFormula
    from zoo.spec import InputSpec as InputSpec
    from zoo.spec import LayerSpec as LayerSpec
    from zoo.spec import Metric as Metric
    from zoo.spec import ModelSpec as ModelSpec
    from zoo.spec import Namespace as Namespace
    from zoo.spec import Recipe as Recipe
    from zoo.spec import Size as Size
    from zoo.spec import SizeRule as SizeRule
    from zoo.spec import TaskSpec as TaskSpec
    from zoo.spec import WeightSpec as WeightSpec
    from zoo.spec import image_classifier as image_classifier
    from zoo.spec import read_layer as read_layer
    from zoo.tables import load_records as load_records
    from zoo.weights import load_weights as load_weights


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _WHERE:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
