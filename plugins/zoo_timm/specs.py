"""Specs of timm's models, off what timm says of their checkpoints: input size, classes, licence, paper."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import timm

from zoo import InputSpec, ModelSpec, SizeRule, WeightSpec

# Legal sizes were found by running all of timm on the meta device at other sizes. Where neither a name's "patch16" nor
# a table here says more: a model that is built for a size takes multiples of the last stage's stride, others any size.
STRIDE, LOWEST = 32, 32
STEPS = {"csatv2": 32, "deepseek_vit": 14, "dla": 32, "gemma4_vit": 48, "hieradet_sam2": 32, "hrnet": 32,
         "naflexvit": 16, "qwen3_vit": 32, "tresnet": 4}  # fmt: skip
LOW = {"csatv2": 64, "ghostnet": 64, "inception_resnet_v2": 96, "inception_v3": 96, "inception_v4": 96}
# Blocks of a fixed number of positions, or two grids that must fit: multiples of the default size only.
MULTIPLES = re.compile(r"crossvit_.*|.*halo.*|bat_resnext26ts")
# A bias table of one grid that is not built anew: the default size only.
ONE_SIZE = re.compile(r"efficientformer_.*")
# Constructors that take one number: square images only.
SQUARE = frozenset(["convit", "mvitv2", "nest"])
REBUILDS = "what timm makes for one img_size: position embeddings, windows, relative positions"


def names() -> list[str]:
    """Return the names of all of timm's architectures, without the tags of checkpoints."""
    found: list[str] = timm.list_models()
    return found


def spec(name: str) -> ModelSpec | None:
    """Return the spec of one model, None where timm has none of this name.

    A name may carry the tag of a checkpoint, ``vit_base_patch16_224.augreg_in21k``: its size and classes then are the
    defaults.
    """
    architecture = name.partition(".")[0]
    try:
        found = timm.get_pretrained_cfg(name) if timm.is_model(architecture) else None
    except RuntimeError:  # a tag that there is not
        return None
    return None if found is None else _spec(name, architecture, found.to_dict())


def _spec(name: str, architecture: str, cfg: Mapping[str, Any]) -> ModelSpec:
    channels, classes = cfg["input_size"][0], cfg["num_classes"]
    return ModelSpec(
        f"timm/{name}",
        build=f"zoo_timm.model:{architecture}",
        family=family(architecture),
        options={"num_classes": classes, "in_chans": channels},
        input=InputSpec("image", "resolution", params={"channels": "in_chans"}),
        sizes=size_rule(architecture, cfg),
        adapters={"classification": "zoo.adapters:Classifier"},
        output={"": "batch num_classes"} if classes else {},
        weights=(weights(cfg),),
        published=("timm", architecture),
        paper=paper(cfg),
        licence="Apache-2.0",
        notes="" if classes else "no classifier: the output is timm's features, unless num_classes is given",
    )


def family(architecture: str) -> str:
    """Return the module of timm that an architecture is in."""
    return str(timm.models.model_entrypoint(architecture).__module__).rpartition(".")[2]


def size_rule(architecture: str, cfg: Mapping[str, Any]) -> SizeRule:
    """Return the legal sizes of an architecture: multiples of a number, from a lowest one on."""
    height, width = cfg["input_size"][1:]
    default = f"{height}px" if height == width else f"{height}x{width}px"
    module, fixed = family(architecture), bool(cfg.get("fixed_input_size"))
    square = height == width and module in SQUARE
    if MULTIPLES.fullmatch(architecture) or ONE_SIZE.fullmatch(architecture):
        highest = height if ONE_SIZE.fullmatch(architecture) else None
        return SizeRule(default, height, height, highest, rebuilds=REBUILDS if fixed else "", single=square)
    patch = re.search(r"patch(\d+)", architecture)
    step = STEPS.get(module) or (int(patch[1]) if patch else STRIDE if fixed else 1)
    low = max(LOW.get(module, LOWEST), min((cfg.get("min_input_size") or (0, 1, 1))[1:]))
    rebuilds = REBUILDS if fixed else ""
    return SizeRule(default, math.gcd(step, height, width), low, rebuilds=rebuilds, single=square)


def weights(cfg: Mapping[str, Any]) -> WeightSpec:
    """Return timm's own layout: the names in its files are the model's."""
    hub = cfg.get("hf_hub_id")
    preprocess = {key: _plain(cfg[key]) for key in ("mean", "std", "interpolation", "crop_pct") if cfg.get(key)}
    source = f"https://huggingface.co/{hub}" if hub else str(cfg.get("url") or "")
    return WeightSpec("timm", "*", source=source, licence=str(cfg.get("license") or ""), preprocess=preprocess)


def paper(cfg: Mapping[str, Any]) -> str:
    """Return where the paper is, empty where timm does not say."""
    found = cfg.get("paper_ids") or ""
    first = str(found if isinstance(found, str) else found[0])
    number = re.fullmatch(r"arxiv:(\d+\.\d+)", first, re.IGNORECASE)
    return f"https://arxiv.org/abs/{number[1]}" if number else first


def _plain(value: object) -> str | float:
    return value if isinstance(value, str | float) else " ".join(map(str, value if isinstance(value, tuple) else ()))
