"""Our counts beside the published ones: ``python tests/golden_published.py`` prints every row of theirs, settled.

A row agrees within 1 % in its own convention, or it differs for a reason, or nothing here is what it counted.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from golden import Model, by_hand, count, markdown

from zoo import published
from zoo.published import Published
from zoo.registry import installed
from zoo.spec import Size
from zoo.suite import read_suite

UNITS = {"G": 1e9, "B": 1e9, "": 1.0, "exaFLOPs": 1e18, "FLOPs": 1.0}
METRICS = {
    *("FLOPs", "FLOPS", "GFLOPS", "GMACs", "MACs", "_ops (GFLOPS)", "GFLOPs total", "GFLOPs image tower"),
    *("pre-training compute", "training cost"),
}
JFT = 303e6  # images, of which the ViT paper trains over whole epochs


# -- which model a row is of ---------------------------------------------------------------------------------

SASA: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (r"ResNet-(\d+) Baseline", "sasa{}_conv_stem", {"groups": "cccc"}),
    (r"ResNet-(\d+) Conv-stem", "sasa{}_conv_stem", {}),
    (r"ResNet-(\d+) Full", "sasa{}", {}),
    (r"ResNet-50 (?:conv groups \[-\]|pos.enc relative|q\^T k)", "sasa50_conv_stem", {}),
    (r"ResNet-50 q\^T r only", "sasa50_conv_stem", {"content": False}),
    (r"ResNet-50 stem stand-alone", "sasa50", {"mixtures": 1}),
    (r"ResNet-50 stem spatially aware", "sasa50", {}),
)
HYBRIDS: dict[str, tuple[str, dict[str, Any]]] = {
    "B/16": ("hybrid_vit_b16", {}),
    "L/32": ("hybrid_vit_l32", {}),
    "B/32": ("hybrid_vit_l32", {"width": 768, "depth": 12, "heads": 12}),
    "L/16": ("hybrid_vit_b16", {"width": 1024, "depth": 24, "heads": 16}),
}
# Names that others give to variants of ours, and to models of timm's.
NAMES = (
    ("ViT", r"vit-(b|l|h)\w+-p(\d+)", "vit_{}{}"),
    ("MAE", r".*vit-(b|l|h)\w+-p(\d+)", "vit_{}{}"),
    ("DeiT", r"(?:timm deit_|deit-)(\w+?)[-_]distilled", "timm/deit_{}_distilled_patch16_SIZE"),
    ("DeiT", r"(?:timm deit_|deit-)tiny", "vit_ti16"),
    ("DeiT", r"(?:timm deit_|deit-)(s|b)", "vit_{}16"),
    ("MLP-Mixer", r"mlp-mixer-(b|l)\w+-p(\d+)", "mixer_{}{}"),
    ("ResNet", r"\w*?\s?resnet(18|50|101|152)(?!\d)", "resnet{}"),
    ("ResNet", r"\w*?\s?resnet(26|34)(?!\d)", "timm/resnet{}"),
    ("ConvMixer", r"(?:timm )?convmixer.(768).32", "timm/convmixer_{}_32"),
    ("ConvMixer", r"(?:timm )?convmixer.(1536).20", "timm/convmixer_{}_20"),
    ("ConvMixer", r"(?:timm )?convmixer.(1024).20", "timm/convmixer_{}_20_ks9_p14"),
    ("ConvNeXt", r"(?:ConvNeXt-T |.*convnext.tiny)", "timm/convnext_tiny"),
    ("ConvNeXt", r"(?:ConvNeXt-S (?!.*iso)|.*convnext.small)", "timm/convnext_small"),
    ("ConvNeXt", r"(?:ConvNeXt-B (?!.*iso)|.*convnext.base)", "timm/convnext_base"),
    ("ConvNeXt", r"(?:ConvNeXt-L (?!.*iso)|.*convnext.large)", "timm/convnext_large"),
    ("ConvNeXt", r"(?:ConvNeXt-XL |.*convnext.xlarge)", "timm/convnext_xlarge"),
    ("Swin V2", r"SwinV2-T window (\d+)x", "timm/swinv2_tiny_window{}_SIZE"),
    ("Swin V2", r"SwinV2-S window (\d+)x", "timm/swinv2_small_window{}_SIZE"),
    ("Swin V2", r"SwinV2-B window (\d+)x", "timm/swinv2_base_window{}_SIZE"),
    *((system, r"timm (\w+)", "timm/{}") for system in ("BiT", "BoTNet", "CoAtNet", "HaloNet")),
    ("Noisy Student EfficientNet", r"timm (\w+)", "timm/{}"),
)


def model(row: Published) -> Model | None:
    """Return the model of a row, or None if there is none here."""
    size = int(found[0]) if (found := re.match(r"\d+", row.resolution_or_seqlen)) else None
    special = {"SASA": sasa, "Hybrid ViT": hybrid, "MAE": mae, "DETR": detr}.get(row.system)
    if special and (found_model := special(row, size)):
        return found_model
    for system, pattern, name in NAMES:
        if system == row.system and (match := re.match(pattern, row.variant)):
            return Model(name.format(*match.groups()).replace("SIZE", str(size)), size)
    return registered(row, size)


def sasa(row: Published, size: int | None) -> Model | None:
    """Return the model of a row of SASA's tables."""
    for pattern, name, options in SASA:
        if match := re.match(pattern, row.variant):
            return Model(name.format(*match.groups()), size, tuple(options.items()))
    if match := re.match(r"ResNet-50 conv groups \[(.*?)\]", row.variant):
        return Model("sasa50_conv_stem", size, (("groups", "".join("c" if g in match[1] else "a" for g in "1234")),))
    if match := re.match(r"ResNet-50 conv-stem k=(\d+)", row.variant):
        return Model("sasa50_conv_stem", size, (("kernel_size", int(match[1])),))
    return None


def hybrid(row: Published, size: int | None) -> Model | None:
    """Return the hybrid of a row of the ViT paper's table of pre-training compute."""
    match = re.match(r"R50x1\+ViT-(\S+)", row.variant)
    name, options = HYBRIDS[match[1]] if match else ("", {})
    return Model(name, size, tuple(options.items())) if match else None


def mae(row: Published, size: int | None) -> Model | None:
    """Return a ViT-H of patches of 16, for the row that says so."""
    return Model("vit_h14", size, (("patch_size", 16),)) if "huge-p16" in row.variant else None


def detr(row: Published, size: int | None) -> Model | None:
    """Return the DETR of a row, whose size is a mean over images."""
    if match := re.match(r"R50 enc(\d+)-dec6", row.variant):
        return Model("detr_r50", None, (("encoder_layers", int(match[1])),))
    return Model(f"detr_{row.variant.lower().replace('-', '_')}")


def registered(row: Published, size: int | None) -> Model | None:
    """Return the model whose spec claims a row; of two, the one with that default size."""
    claimed = []
    for name, spec in installed().models.items():
        system, *variants = spec.published or ("",)
        if system == row.system and any(fnmatch.fnmatchcase(row.variant, glob) for glob in variants):
            claimed.append(name)
    claimed.sort(key=lambda name: installed().model(name).sizes.default != f"{size}px")
    return Model(claimed[0], size) if claimed else None


# -- why a row differs ---------------------------------------------------------------------------------------

CLASS_TOKEN = "comes out without the class token, as no other row of its table does: eight are within 0.5 % with it"
# (system, globs of variant and source, reason), the first that fits.
WHY = (
    ("Swin", "swin-*", "*mmpretrain*", "leaves the products of attention out"),
    ("ConvMixer", "*", "*", "leaves the depthwise convolutions out, whose padding is `same`"),
    ("BiT", "*", "*", "adds group norm, and the standardisation of the weights, which no image changes (fvcore)"),
    ("Swin V2", "*window 16x16", "*", "leaves the MLP out that makes the position bias, the same for every image"),
    ("MAE", "mae_vit-huge-p16*", "*", "names patches of 16 and prints what patches of 14 cost"),
    ("ConvNeXt", "ConvNeXt-B *", "*README*", "printed as 45.0 in another table of the same README"),
    ("SASA", "*", "*", "off by less than one in the last digit that the paper prints"),
    ("ViT", "ViT-B/32 7 epochs JFT", "*", CLASS_TOKEN),
    ("Hybrid ViT", "R50x1+ViT-B/32 7 epochs JFT", "*", CLASS_TOKEN),
    ("Hybrid ViT", "R50x1+ViT-L/16 7 epochs JFT", "*", "its row of 14 epochs agrees, and is not twice this one"),
    ("DETR", "*", "*", "a mean over other images: ours are a sample of 80, the paper's the first 100 of val2017"),
)
# What those counts leave out, worked out by hand: layers x cells of the grid x width x kernel^2, and
# layers x entries of the table of offsets x hidden 512 x (2 offsets + heads), window 16, then 8 in the last stage.
DEPTHWISE = {768: 32 * 32**2 * 768 * 7**2, 1024: 20 * 16**2 * 1024 * 9**2, 1536: 20 * 32**2 * 1536 * 9**2}
BIAS_TABLE = {
    "timm/swinv2_small_window16_256": 512
    * (31**2 * (2 * (2 + 3) + 2 * (2 + 6) + 18 * (2 + 12)) + 15**2 * 2 * (2 + 24)),
}
# One token of 50 in a ViT-B of 12 layers: linear layers, and its row and column of scores and mixture.
TOKEN_OF_B32 = 12 * (12 * 768**2 + 2 * 768 * (50**2 - 49**2))
NONE_HERE = (
    ("Faster R-CNN", "*", "how many boxes reach the head depends on the weights and on the image"),
    ("Mask R-CNN", "*", "how many boxes reach the head depends on the weights and on the image"),
    ("Transformer", "*", "no count: training time x devices x an assumed rate of each"),
    ("SASA", "RetinaNet*", "a detector around the backbone, which is not here"),
    ("SASA", "ResNet-50 pos.enc*", "a way to tell places that is not here"),
    ("SASA", "ResNet-50 stem spatial convolution*", "a stem that is not here"),
    ("Swin", "*", "a detector or segmenter around the backbone, which is not here"),
    ("*", "*", "none of the eight architectures"),
)


def reason(row: Published) -> str:
    """Return why a row differs; KeyError where that is not known."""
    for system, variant, source, why in WHY:
        fits = fnmatch.fnmatchcase(row.variant, variant) and fnmatch.fnmatchcase(row.source, source)
        if system == row.system and fits:
            return why
    raise KeyError(f"{row.system} {row.variant} differs, and nobody knows why")


def as_counted_there(row: Published, of: Model) -> float | None:
    """Return our count made as the source made its own, where that can be worked out."""
    counted = count(of)
    if row.system == "Swin":
        return counted.macs - counted.attention
    if row.system == "ConvMixer":
        return counted.macs - DEPTHWISE[int(re.findall(r"\d+", of.name)[0])]
    if row.system == "MAE":
        return count(Model("vit_h14", of.size)).macs
    if of.name in BIAS_TABLE:
        return counted.macs - BIAS_TABLE[of.name]
    if row.metric == "pre-training compute" and "ViT-B/32" in row.variant:
        return counted.macs - TOKEN_OF_B32
    return None


# -- the rows ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settled:
    """A published number beside ours, both in the row's own unit, ``alike`` if ours is made as theirs was."""

    row: Published
    printed: float
    ours: float | None
    alike: float | None
    why: str

    @property
    def agrees(self) -> bool:
        """Tell whether the two are within 1 %."""
        return self.ours is not None and abs(self.ours / self.printed - 1) <= 0.01


def rows() -> Iterator[Published]:
    """Yield the published numbers that count operations, blank cells left out."""
    return (row for row in published.read() if row.metric in METRICS and row.value and row.unit in UNITS)


def settle(row: Published) -> Settled:
    """Put our number beside a published one. KeyError where it differs and nobody knows why."""
    printed = float(row.value)
    of = None if row.system in ("Faster R-CNN", "Mask R-CNN") or row.metric == "training cost" else model(row)
    if of is None:
        return Settled(row, printed, None, None, none_here(row))
    scale = per_mac(row) / UNITS[row.unit]
    settled = Settled(row, printed, macs(of) * scale, None, "")
    if settled.agrees:
        return settled
    alike = as_counted_there(row, of)
    return Settled(row, printed, settled.ours, None if alike is None else alike * scale, reason(row))


def none_here(row: Published) -> str:
    """Return why nothing is counted for a row."""
    found = (
        why
        for system, variant, why in NONE_HERE
        if fnmatch.fnmatchcase(row.system, system) and fnmatch.fnmatchcase(row.variant, variant)
    )
    return next(found)


def per_mac(row: Published) -> float:
    """Return what a MAC of one forward is in a row's convention; training goes forward once and back twice."""
    if row.metric == "pre-training compute":
        return 6 * JFT * int(re.findall(r"(\d+) epochs", row.variant)[0])
    return 2 if row.convention.startswith("FLOPs = 2") else 1


def macs(of: Model) -> float:
    """Return the MACs of a model: of one sample, for DETR their mean over images of real sizes."""
    if not of.name.startswith("detr"):
        return count(of).macs
    images = read_suite("coco").suite.images
    assert images
    sizes = images.scaled()
    total = sum(times * by_hand(of.name, Size.parse(size).pair, **dict(of.options)) for size, times in sizes.items())
    return total / sum(sizes.values())


# -- the tables ----------------------------------------------------------------------------------------------


def report(settled: list[Settled]) -> str:
    """Return what agrees by system, what differs by reason, and what is not counted, as Markdown."""
    differ = [one for one in settled if one.ours is not None and not one.agrees]
    absent = Counter((one.row.system, one.why) for one in settled if one.ours is None)
    agree = sum(one.agrees for one in settled)
    parts = [
        "# Published counts of operations, beside ours\n",
        f"{agree} of {agree + len(differ)} published numbers are within 1 % of ours; {len(differ)} differ for a "
        f"reason; {absent.total()} more are of nothing that is counted here. Written by tests/golden_published.py.\n",
        "## Within 1 %\n",
        markdown(["System", "Rows", "Largest difference (%)"], agreeing(settled)),
        "## What differs, and why\n",
        *(
            f"### {why}\n\n{differing(list(ones))}"
            for why, ones in groupby(sorted(differ, key=lambda one: one.why), key=lambda one: one.why)
        ),
        "## Not counted here\n",
        markdown(["System", "Rows", "Why"], ([system, n, why] for (system, why), n in sorted(absent.items()))),
    ]
    return "\n".join(parts)


def agreeing(settled: list[Settled]) -> Iterator[list[object]]:
    """Yield how many rows of each system agree, and by how much at the worst."""
    by_system: dict[str, list[float]] = defaultdict(list)
    for one in settled:
        if one.ours is not None and one.agrees:
            by_system[one.row.system].append(100 * (one.ours / one.printed - 1))
    for system, apart in sorted(by_system.items()):
        yield [system, len(apart), f"{max(apart, key=abs):+.2f}"]


def differing(ones: list[Settled]) -> str:
    """Return the rows that differ for one reason."""
    lines = []
    for one in ones:
        giga = 1 if one.row.unit == "exaFLOPs" else UNITS[one.row.unit] / 1e9
        numbers = [one.printed, one.ours or 0.0, one.alike]
        shown = ["" if number is None else f"{number * giga:.4g}" for number in numbers]
        apart = [f"{100 * (number / one.printed - 1):+.1f}" if number else "" for number in numbers[1:]]
        unit = "E" if one.row.unit == "exaFLOPs" else "G"
        lines.append([one.row.system, one.row.variant, one.row.resolution_or_seqlen, unit, *shown, *apart])
    heads = ["System", "Variant", "Size", "Unit", "Published", "Ours", "Ours, as they count", "Ours (%)", "As they (%)"]
    return markdown(heads, lines)


if __name__ == "__main__":
    print(report([settle(row) for row in rows()]), end="")
