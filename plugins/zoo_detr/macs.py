"""The MACs of DETR by hand, without torch: a walk over the trunk, then encoder, decoder and heads."""

from __future__ import annotations

from collections.abc import Iterator

from zoo import ZooError

Area = tuple[int, int]
EXPANSION = {"basic": 1, "bottleneck": 4}
PARTS = ("stem", "stage 1", "stage 2", "stage 3", "stage 4")  # of a trunk


def read_block(block: str) -> str:
    """Return the kind of block. ZooError when there is none of that name."""
    if block not in EXPANSION:
        raise ZooError(f"a trunk has no block {block!r}; its blocks: {', '.join(EXPANSION)}")
    return block


def read_stages(stages: str) -> list[int]:
    """Read how many blocks each of the four stages has, from ``"3-4-6-3"``. ZooError when it says anything else."""
    depths = [int(depth) if depth.isascii() and depth.isdigit() else 0 for depth in str(stages).split("-")]
    if len(depths) != 4 or 0 in depths:
        raise ZooError(f"stages={stages!r} is not the shape of a trunk; expected four block counts such as 3-4-6-3")
    return depths


def closed_form(
    size: int | tuple[int, int],
    num_classes: int,
    queries: int,
    width: int,
    heads: int,
    encoder_layers: int,
    decoder_layers: int,
    ff_width: int,
    dropout: float,
    block: str,
    stages: str,
    trunk_width: int,
    dilation: bool,
    frozen: int,
    aux: bool,
    blank_padding: bool,
    norm: str,
) -> int:
    """Return the MACs of one image. The heads read every layer of the decoder."""
    maps = feature_maps(size, stages, trunk_width, block, dilation)
    n, d, q = area(maps[-1][0]), width, queries
    macs = trunk(size, stages, trunk_width, block, dilation) + n * maps[-1][1] * d
    macs += encoder_layers * (4 * n * d**2 + 2 * n**2 * d + 2 * n * d * ff_width)
    self_attention = 4 * q * d**2 + 2 * q**2 * d
    cross_attention = 2 * q * d**2 + 2 * n * d**2 + 2 * q * n * d  # keys and values are projected in every layer
    macs += decoder_layers * (self_attention + cross_attention + 2 * q * d * ff_width)
    return macs + decoder_layers * q * (d * (num_classes + 1) + 2 * d**2 + 4 * d)


def closed_form_panoptic(
    size: int | tuple[int, int],
    num_classes: int,
    queries: int,
    width: int,
    heads: int,
    encoder_layers: int,
    decoder_layers: int,
    ff_width: int,
    dropout: float,
    block: str,
    stages: str,
    trunk_width: int,
    dilation: bool,
    frozen: int,
    aux: bool,
    blank_padding: bool,
    norm: str,
) -> int:
    """Return the MACs of one image: those of the detector, of the attention map and of the mask head."""
    shape = (queries, width, heads, encoder_layers, decoder_layers, ff_width, dropout)
    trunk_options = block, stages, trunk_width, dilation, frozen
    detector = closed_form(size, num_classes, *shape, *trunk_options, aux, blank_padding, norm)
    maps = feature_maps(size, stages, trunk_width, block, dilation)
    n, d = area(maps[-1][0]), width
    attention_map = queries * d**2 + n * d**2 + queries * n * d
    return detector + attention_map + mask_head(maps, queries, width, heads)


def mask_head(maps: list[tuple[Area, int]], queries: int, width: int, heads: int) -> int:
    """Return the MACs of the mask head: 3x3 convolutions for every query, 1x1 adapters of the trunk's maps once."""
    n = area(maps[-1][0])
    macs = queries * n * 9 * (width + heads) * (width + heads + width // 2)
    narrow = width // 2
    for at, channels in maps[-2::-1]:
        macs += area(at) * channels * narrow + queries * area(at) * 9 * narrow * (narrow // 2)
        narrow //= 2
    return macs + queries * area(maps[0][0]) * 9 * narrow


# -- trunk ---------------------------------------------------------------------------------------------------


def trunk(size: int | tuple[int, int], stages: str, width: int, block: str, dilation: bool) -> int:
    """Return the MACs of the trunk: the stem, every block with its shortcut."""
    at = halved((size, size) if isinstance(size, int) else size)  # stem convolution: 7x7, stride 2, padding 3
    macs = area(at) * 3 * width * 7**2
    at = halved(at)  # max-pool: 3x3, stride 2, padding 1
    channels = width
    for _, planes, stride in walk(stages, width, dilation):
        before, at = at, halved(at) if stride == 2 else at
        out = planes * EXPANSION[block]
        if block == "basic":
            macs += area(at) * (channels * planes * 3**2 + planes * planes * 3**2)
        else:
            macs += area(before) * channels * planes + area(at) * (planes * planes * 3**2 + planes * out)
        if stride == 2 or channels != out:
            macs += area(at) * channels * out  # 1x1 convolution in the shortcut
        channels = out
    return macs


def feature_maps(
    size: int | tuple[int, int], stages: str, width: int, block: str, dilation: bool
) -> list[tuple[Area, int]]:
    """Return ((h, w), channels) of the map after each of the four stages."""
    at = halved(halved((size, size) if isinstance(size, int) else size))
    maps: dict[int, tuple[Area, int]] = {}
    for stage, planes, stride in walk(stages, width, dilation):
        at = halved(at) if stride == 2 else at
        maps[stage] = at, planes * EXPANSION[block]
    return list(maps.values())


def walk(stages: str, width: int, dilation: bool) -> Iterator[tuple[int, int, int]]:
    """Yield (stage, planes, stride) of every block: the first of stages 1, 2 and, not dilated, 3 has stride 2."""
    for stage, depth in enumerate(read_stages(stages)):
        strides = stage > 0 and not (dilation and stage == 3)
        for index in range(depth):
            yield stage, width * 2**stage, 2 if strides and not index else 1


def halved(at: Area) -> Area:
    """Return the output size of a convolution or pool of stride 2 and padding (k - 1) / 2: the half, rounded up."""
    return (at[0] + 1) // 2, (at[1] + 1) // 2


def area(at: Area) -> int:
    """Return the number of positions."""
    return at[0] * at[1]
