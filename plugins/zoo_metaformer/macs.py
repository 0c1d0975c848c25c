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
    blocks = depth * block_macs(mixer, grid(size, patch_size), n, d, mlp_ratio)
    return n * d * 3 * patch_size**2 + blocks + d * num_classes


def closed_form_text(
    size: int,
    vocab_size: int,
    num_classes: int,
    mixer: str,
    width: int,
    depth: int,
    mlp_ratio: float,
    positions: bool,
) -> int:
    """Return the MACs of one sequence: mixers, MLPs, classifier. Looking an embedding up and a mean are none."""
    return depth * block_macs(mixer, size, size, width, mlp_ratio) + width * num_classes


def block_macs(mixer: str, size: int | tuple[int, int], n: int, width: int, mlp_ratio: float) -> int:
    """Return the MACs of one block on ``n`` tokens: its mixer and its MLP."""
    return mixer_macs(mixer, size, width) + 2 * n * width * int(mlp_ratio * width)


def mixer_macs(mixer: str, size: int | tuple[int, int], width: int) -> int:
    """Return the MACs of one mixer on a sequence or a grid (H, W), as its layer declares them."""
    name, options = read_layer(mixer)
    spec = layer_spec(name)
    return spec.cost.macs(spec.values(size, width, spec.with_options(options)))
