"""The MACs of a MetaFormer by hand, without torch: the declared cost of its mixer, and what is around it."""

from __future__ import annotations

from zoo import layer_spec, read_layer
from zoo_metaformer import grid, patches


def closed_form(
    size: int | tuple[int, int],
    num_classes: int,
    mixer: str,
    patch_size: int,
    width: int,
    depth: int,
    mlp_ratio: float,
    positions: bool,
) -> int:
    """Return the MACs of one image: patch convolution, mixers, MLPs, classifier. Fourier transforms are no MACs."""
    n, d = patches(size, patch_size), width
    mlp = 2 * n * d * int(mlp_ratio * d)
    mixing = mixer_macs(mixer, grid(size, patch_size), d)
    return n * d * 3 * patch_size**2 + depth * (mixing + mlp) + d * num_classes


def mixer_macs(mixer: str, size: tuple[int, int], width: int) -> int:
    """Return the MACs of one mixer on a grid (H, W), as its layer declares them."""
    name, options = read_layer(mixer)
    spec = layer_spec(name)
    return spec.cost.macs(spec.values(size, width, spec.with_options(options)))
