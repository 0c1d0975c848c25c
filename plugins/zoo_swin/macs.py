"""The MACs of a Swin by hand, without torch: linear layers, the patch convolution and the attention in windows."""

from __future__ import annotations

from zoo_swin import per_stage


def closed_form(
    size: int | tuple[int, int],
    num_classes: int,
    patch_size: int,
    width: int,
    depths: str,
    heads: str,
    window: int,
    mlp_ratio: float,
    drop_path: float,
) -> int:
    """Return the MACs of one image, its padding included. The number of heads does not change them."""
    h, w = (side // patch_size for side in ((size, size) if isinstance(size, int) else size))
    d = width
    total = h * w * d * 3 * patch_size**2
    for stage, depth in enumerate(per_stage(depths, "depths")):
        if stage:
            h, w = h // 2, w // 2
            total += h * w * 4 * d * 2 * d
            d *= 2
        mlp = 2 * h * w * d * int(mlp_ratio * d)
        total += depth * (attention(h, w, d, window) + mlp)
    return total + d * num_classes


def attention(h: int, w: int, d: int, window: int) -> int:
    """Return the MACs of attention on a map of ``h`` by ``w`` tokens, padded to whole windows."""
    across, down = min(w, window), min(h, window)  # a window shrinks to a smaller map
    n = -(-h // down) * down * -(-w // across) * across
    return 4 * n * d**2 + 2 * n * (down * across) * d
