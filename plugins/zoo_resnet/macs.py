"""The MACs of a ResNet by hand, without torch: a walk over its convolutions with the output-size formula."""

from __future__ import annotations

from collections.abc import Iterator

from zoo import ZooError

PLANES = (64, 128, 256, 512)
EXPANSION = {"basic": 1, "bottleneck": 4}


def read_block(block: str) -> str:
    """Return the kind of block. ZooError when there is none of that name."""
    if block not in EXPANSION:
        raise ZooError(f"a ResNet has no block {block!r}; its blocks: {', '.join(EXPANSION)}")
    return block


def read_stages(stages: str) -> list[int]:
    """Read how many blocks each of the four stages has, from ``"3-4-6-3"``. ZooError when it says anything else."""
    depths = [int(depth) if depth.isascii() and depth.isdigit() else 0 for depth in str(stages).split("-")]
    if len(depths) != len(PLANES) or 0 in depths:
        raise ZooError(f"stages={stages!r} is not the shape of a ResNet; expected four block counts such as 3-4-6-3")
    return depths


def closed_form(size: int | tuple[int, int], num_classes: int, block: str, stages: str) -> int:
    """Return the MACs of one image: the stem, every block with its shortcut, the classifier. Norms are not counted."""
    at = (size, size) if isinstance(size, int) else size
    at = halved(at)  # stem convolution: 7x7, stride 2, padding 3
    macs = area(at) * 3 * 64 * 7**2
    at = halved(at)  # max-pool: 3x3, stride 2, padding 1
    channels = 64
    for planes, stride in walk(stages):
        before, at = at, halved(at) if stride == 2 else at
        out = planes * EXPANSION[read_block(block)]
        if block == "basic":
            macs += area(at) * (channels * planes * 3**2 + planes * planes * 3**2)
        else:
            macs += area(before) * channels * planes + area(at) * (planes * planes * 3**2 + planes * out)
        if stride == 2 or channels != out:
            macs += area(at) * channels * out  # 1x1 convolution in the shortcut
        channels = out
    return macs + channels * num_classes


def walk(stages: str) -> Iterator[tuple[int, int]]:
    """Yield (planes, stride) of every block: the first block of each stage but the first one has stride 2."""
    for stage, depth in enumerate(read_stages(stages)):
        for index in range(depth):
            yield PLANES[stage], 2 if stage and not index else 1


def halved(at: tuple[int, int]) -> tuple[int, int]:
    """Return the output size of a convolution or pool of stride 2 and padding (k - 1) / 2: the half, rounded up."""
    # floor((h + 2 (k - 1) / 2 - k) / 2) + 1 = floor((h - 1) / 2) + 1, whatever the odd k
    return (at[0] - 1) // 2 + 1, (at[1] - 1) // 2 + 1


def area(at: tuple[int, int]) -> int:
    """Return the number of positions."""
    return at[0] * at[1]
