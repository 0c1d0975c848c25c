"""attention-zoo: a plugin-based model zoo and benchmark harness. Names are loaded on first use; torch never here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "Adapter": "zoo.adapters",
    "COCO_BOXES": "zoo.scores",
    "PANOPTIC_QUALITY": "zoo.scores",
    "Samples": "zoo.data",
    "Detector": "zoo.adapters",
    "Grouping": "zoo.adapters",
    "pad_together": "zoo.adapters",
    "END": "zoo.texts",
    "PADDING": "zoo.texts",
    "START": "zoo.texts",
    "reserved_byte": "zoo.texts",
    "encode_text": "zoo.texts",
    "decode_text": "zoo.texts",
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
    "Recipe": "zoo.recipe",
    "Size": "zoo.spec",
    "SizeRule": "zoo.spec",
    "TaskSpec": "zoo.task",
    "WeightSpec": "zoo.spec",
    "image_classifier": "zoo.spec",
    "create_layer": "zoo.registry",
    "create_model": "zoo.registry",
    "layer_spec": "zoo.registry",
    "list_layers": "zoo.registry",
    "list_models": "zoo.registry",
    "load_records": "zoo.rows",
    "load_weights": "zoo.weights",
    "over_images": "zoo.analysis",
    "over_tokens": "zoo.metrics.folding",
    "profile": "zoo.analysis",
    "read_layer": "zoo.spec",
    "run": "zoo.runner",
}
__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from zoo.adapters import Adapter as Adapter
    from zoo.adapters import Detector as Detector
    from zoo.adapters import Grouping as Grouping
    from zoo.adapters import pad_together as pad_together
    from zoo.analysis import over_images as over_images
    from zoo.analysis import profile as profile
    from zoo.cost import Cost as Cost
    from zoo.data import Samples as Samples
    from zoo.errors import BadSize as BadSize
    from zoo.errors import BadSpec as BadSpec
    from zoo.errors import BadWeights as BadWeights
    from zoo.errors import ZooError as ZooError
    from zoo.hookspecs import hookimpl as hookimpl
    from zoo.metrics.folding import over_tokens as over_tokens
    from zoo.recipe import Recipe as Recipe
    from zoo.registry import create_layer as create_layer
    from zoo.registry import create_model as create_model
    from zoo.registry import layer_spec as layer_spec
    from zoo.registry import list_layers as list_layers
    from zoo.registry import list_models as list_models
    from zoo.rows import load_records as load_records
    from zoo.runner import run as run
    from zoo.scores import COCO_BOXES as COCO_BOXES
    from zoo.scores import PANOPTIC_QUALITY as PANOPTIC_QUALITY
    from zoo.spec import FlopFormula as FlopFormula
    from zoo.spec import InputSpec as InputSpec
    from zoo.spec import LayerSpec as LayerSpec
    from zoo.spec import Metric as Metric
    from zoo.spec import ModelSpec as ModelSpec
    from zoo.spec import Namespace as Namespace
    from zoo.spec import Size as Size
    from zoo.spec import SizeRule as SizeRule
    from zoo.spec import WeightSpec as WeightSpec
    from zoo.spec import image_classifier as image_classifier
    from zoo.spec import read_layer as read_layer
    from zoo.task import TaskSpec as TaskSpec
    from zoo.texts import END as END
    from zoo.texts import PADDING as PADDING
    from zoo.texts import START as START
    from zoo.texts import decode_text as decode_text
    from zoo.texts import encode_text as encode_text
    from zoo.texts import reserved_byte as reserved_byte
    from zoo.weights import load_weights as load_weights


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _WHERE:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
