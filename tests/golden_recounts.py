"""Our counts beside an independent recount: ``python tests/golden_recounts.py FILE`` goes through all its rows.

FILE is a CSV with the columns system, variant, metric, value, unit, resolution_or_seqlen. Rows of transformers, monai
(with einops) and open_clip are settled where those are installed.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from golden import Counted, Model, count, markdown

VOCABULARY = 37_000
CONVMIXER = {"768_32": "convmixer_768_32", "1024_20": "convmixer_1024_20_ks9_p14", "1536_20": "convmixer_1536_20"}
DEIT = {"tiny": "vit_ti16", "small": "vit_s16", "base": "vit_b16"}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096}
DETECTORS = {
    "fasterrcnn_resnet50_fpn weights=None (BatchNorm2d)": "torchvision/fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn COCO_V1 (FrozenBatchNorm2d)": "faster_rcnn_r50_fpn",
    "fasterrcnn_resnet50_fpn_v2": "torchvision/fasterrcnn_resnet50_fpn_v2",
    "FasterRCNN+resnet_fpn_backbone(resnet101)": "faster_rcnn_r101_fpn",
    "FasterRCNN R50-DC5 composed (2FC head on 2048ch, RPN conv 2048)": "faster_rcnn_r50_dc5",
    "maskrcnn_resnet50_fpn weights=None": "torchvision/maskrcnn_resnet50_fpn",
}
HALVED = "SASA's recount halves FLOPS that it had rounded to two decimals: equal within 0.005"


@dataclass(frozen=True)
class Row:
    """One line of the recount."""

    system: str
    variant: str
    metric: str
    value: str
    unit: str
    size: str

    @property
    def decimals(self) -> int:
        """How many decimals the value has."""
        return len(self.value.partition(".")[2])


def read(path: Path) -> Iterator[Row]:
    """Yield the rows of a file."""
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            texts = (row[name] for name in ("system", "variant", "metric", "value", "unit", "resolution_or_seqlen"))
            yield Row(*texts)


def settle(row: Row) -> tuple[float, str]:
    """Return our number in the row's unit, and "" where it agrees, or else how it differs."""
    counted = counted_for(row)
    held = {"params": counted.params, "params without classifier head": counted.headless}
    ours = counted.macs / 1e9 if row.metric == "GMACs" else held[row.metric] / (1e6 if row.unit == "M" else 1)
    if round(ours, row.decimals) == float(row.value):
        return ours, ""
    near = row.system == "SASA" and abs(ours - float(row.value)) <= 0.005
    return ours, HALVED if near else "unexplained"


def counted_for(row: Row) -> Counted:
    """Return our count of the model of a row."""
    counted = count(model(row))
    if row.system == "Transformer":
        return without_embedding(counted, int(row.size.rpartition("=")[2]), 1024 if "big" in row.variant else 512)
    return with_grouped_projections(counted) if "grouped-QKV" in row.variant else counted


def without_embedding(counted: Counted, length: int, width: int) -> Counted:
    """Take the shared embedding away, and the product with it at the end: torch.nn.Transformer has neither."""
    held = VOCABULARY * width
    return replace(counted, params=counted.params - held, macs=counted.macs - length * held)


def with_grouped_projections(counted: Counted) -> Counted:
    """Let q, k and v of SASA-50 be projected within each of 8 heads, the reading of the text that its tables refute."""
    params = macs = 0
    for blocks, planes, side in ((3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)):
        before = side * (1 if planes == 64 else 2)  # the first block of a group pools after its attention
        params += 3 * blocks * planes**2
        macs += 3 * planes**2 * (before**2 + (blocks - 1) * side**2)
    return replace(counted, params=counted.params - params * 7 // 8, macs=counted.macs - macs * 7 // 8)


def model(row: Row) -> Model:
    """Return the model of a row: ours where we have it, otherwise that of the library which the row names."""
    size: int | str = int(row.size) if row.size.isdecimal() else row.size
    word = row.variant.split()[0]
    if row.variant in DETECTORS:
        return Model(DETECTORS[row.variant])
    match row.system:
        case "ViT" | "Swin" | "MLP-Mixer":
            family = {"ViT": "vit", "MLP-Mixer": "mixer"}.get(row.system, "swin")
            return Model(f"{family}_{word.replace('/', '').lower()}", size)
        case "DETR" | "DETR panoptic":
            return detr(row)
        case "Transformer":
            like_torch = (("attention_bias", True), ("final_norm", True))
            return Model(f"transformer_{word}", int(row.size.rpartition("=")[2]), like_torch)
        case "FNet" if "heads" not in row.variant:
            return Model(f"fnet_{word.lower()}", size)
        case "SASA":
            depth = re.findall(r"\d+", row.variant)[0]
            return Model(f"sasa{depth}_conv_stem", size, options(groups="cccc") if row.variant.endswith("conv") else ())
        case "DeiT":
            return Model(DEIT[row.variant.split()[1]], size)
        case "ResNet":
            return Model(row.variant.split()[1], size)
        case "ConvMixer":
            return Model(f"timm/{CONVMIXER[row.variant.split()[1]]}", size)
        case "Hybrid ViT" if row.size == "384":
            return Model("hybrid_vit_b16", size)
        case "BiT" | "Hybrid ViT" | "Noisy Student EfficientNet":  # the hybrid of 224 pixels has no classifier
            return Model(f"timm/{row.variant.split()[1]}", size)
    return elsewhere(row, size)


def detr(row: Row) -> Model:
    """Return the DETR of a row, which may be the one that the lectures print."""
    if row.variant.startswith("demo"):
        return Model("lecture/detr", row.size)
    panoptic = "_panoptic" if "panoptic" in row.system else ""
    return Model(f"detr_{row.variant.replace('-', '_').lower()}{panoptic}", f"{row.size}px")


def elsewhere(row: Row, size: int | str) -> Model:
    """Return the model of a row that neither we have nor timm."""
    large = LARGE if "Large" in row.variant else {}
    match row.system:
        case "FNet":
            return Model("transformers/FNetForPreTraining", size, options(**large))
        case "BERT":
            heads = {"num_attention_heads": 16} if large else {}
            return Model("transformers/BertModel", size, options(**large, **heads))
        case "iGPT":
            return Model("transformers/ImageGPTForCausalImageModeling", 1024, options(n_layer=24, n_embd=512, n_head=8))
        case "TimeSformer":
            return Model("transformers/TimesformerForVideoClassification", row.size.replace("x", "x3x", 1))
        case "MAE":
            return Model("transformers/ViTMAEForPreTraining", size)
        case "UNETR":
            return Model("monai/UNETR", row.size, options(in_channels=1, out_channels=14))
        case "CLIP":
            return Model("open_clip/ViT-B-32")
    raise KeyError(f"no model is known for {row.system} {row.variant}")


def options(**given: Any) -> tuple[tuple[str, Any], ...]:
    """Return options as a model holds them."""
    return tuple(given.items())


def main(path: str) -> None:
    """Print each row that differs, or that nothing installed here can build, and how many of each system agree."""
    agree, others = Counter[str](), []
    for row in read(Path(path)):
        try:
            ours, why = settle(row)
        except ImportError as error:
            ours, why = float("nan"), f"not settled: {error}".splitlines()[0]
        agree[row.system] += not why
        if why:
            others.append([row.system, row.variant, row.metric, row.size, row.value, f"{ours:,.4f}", why])
    print(markdown(["System", "Rows that agree"], agree.items()))
    print(markdown(["System", "Variant", "Metric", "Size", "Recount", "Ours", "How it differs"], others))
    print(f"{agree.total()} agree, {len(others)} others")


if __name__ == "__main__":
    main(*sys.argv[1:])
