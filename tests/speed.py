"""Models that we wrote against their references, at equal outputs: ``python tests/speed.py [SECONDS] [GLOB]``.

Both are called in turn, A B B A, in one process; the ratio of each round is a sample, and the line shows the median of
ratios with its 95 % interval (below 1: ours is faster), and beside it ours against itself. Needs the extra ``parity``;
lucidrains' performer-pytorch is compared where it is installed. What this measured is in plugins/README.md.
"""

from __future__ import annotations

import fnmatch
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as in the zoo's workers; read when torch is loaded

import peers
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import zoo
from zoo.registry import installed
from zoo.statistics import median_interval
from zoo.weights import recognise

Call = Callable[[], Any]
Pair = tuple[Call, Call, float]  # ours, theirs, and how far outputs may differ, relative to the largest
CASES: dict[str, Callable[[], Pair]] = {}


def case(function: Callable[..., Pair], label: str, *arguments: Any) -> None:
    """Register a comparison."""
    CASES[label] = lambda: function(*arguments)


def loaded(name: str, size: Any, reference: nn.Module, **options: Any) -> nn.Module:
    """Build ours with the weights of a reference, converted as a file of it would be."""
    model = zoo.create_model(name, size, **options).eval()
    tensors = reference.state_dict()
    layout = recognise(tensors, installed().model(name).weights)
    assert layout is not None
    converted = zoo.spec.resolve(str(layout.convert))(dict(tensors), model)
    left = model.load_state_dict(converted, strict=False)
    assert set(left.missing_keys) <= {"embedding.weight"}
    assert not left.unexpected_keys
    return model


def transformer(n: int, batch: int) -> Pair:
    """The core of the base model, without embeddings: encoder and decoder of n tokens each."""
    theirs = nn.Transformer(512, 8, 6, 6, 2048, batch_first=True).eval()
    ours = loaded("transformer_base", n, theirs, attention_bias=True, final_norm=True)
    x, y = torch.randn(2, batch, n, 512)
    mask = nn.Transformer.generate_square_subsequent_mask(n)
    return (
        lambda: ours.decoder(y, ours.encoder(x)),
        lambda: theirs(x, y, tgt_mask=mask, tgt_is_causal=True),
        1e-5,
    )


def fnet(n: int, batch: int) -> Pair:
    """The base encoder against transformers."""
    theirs = peers.fnet(n, max(512, n)).eval()
    ours = loaded("fnet_base", n, theirs.model, max_positions=max(512, n))
    ids = torch.randint(peers.FNET_VOCABULARY, (batch, n))
    return lambda: ours(ids)["hidden"], lambda: theirs(ids)["hidden"], 1e-5


def detr(height: int, width: int, attention: str) -> Pair:
    """DETR-R50 against transformers."""
    theirs = peers.Detr(attention).eval()
    ours = loaded("detr_r50", f"{height}x{width}px", theirs.model)
    images = torch.randn(1, 3, height, width)
    return lambda: ours(images)["logits"], lambda: theirs(images)["logits"], 1e-4


def sasa(side: int, width: int, batch: int) -> Pair:
    """The core of local attention, 7 x 7 with 8 heads, against the formula on unfolded keys and values."""
    import zoo_sasa.local

    q, k, v = torch.randn(3, batch, width, side, side)
    rows, columns = torch.randn(2, 8, 7, width // 16)
    return (
        lambda: zoo_sasa.local.local_attention(q, k, v, rows, columns, False),
        lambda: unfolded(q, k, v, rows, columns),
        1e-4,
    )


def unfolded(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Local attention as the formula says it, with k^2 copies of keys and values side by side."""
    b, c, h, w = q.shape
    heads, size = rows.shape[:2]
    queries = q.view(b, heads, c // heads, 1, h * w)
    keys, values = (F.unfold(x, size, padding=size // 2).view(b, heads, c // heads, size * size, h * w) for x in (k, v))
    offsets = torch.cat([rows[:, :, None].expand(-1, -1, size, -1), columns[:, None].expand(-1, size, -1, -1)], dim=-1)
    keys = keys + offsets.flatten(1, 2).transpose(1, 2)[None, ..., None]
    weights = (queries * keys).sum(dim=2, keepdim=True).softmax(dim=3)
    return (weights * values).sum(dim=3).view(b, c, h, w)


def performer(n: int, kernel: str, causal: bool) -> Pair:
    """FAVOR+ of 8 heads of 64 with 256 features, against lucidrains' functions where they are, else the formula."""
    from zoo_performer.attention import favor, orthogonal_features

    q, k, v = torch.randn(3, 1, 8, n, 64)
    weight = orthogonal_features(256, 64, torch.Generator().manual_seed(0)).float()
    theirs = lucidrains(kernel, causal) or formula
    return (
        lambda: favor(q, k, v, weight, kernel, causal),
        lambda: theirs(q, k, v, weight, kernel, causal),
        1e-3,
    )


def lucidrains(kernel: str, causal: bool) -> Callable[..., Tensor] | None:
    """Return the attention of performer-pytorch with the eps of the paper, None where it is not installed."""
    try:
        from performer_pytorch import performer_pytorch as peer
    except ImportError:
        return None

    def attend(q: Tensor, k: Tensor, v: Tensor, weight: Tensor, kernel: str, causal: bool) -> Tensor:
        if kernel == "relu":
            features = [peer.generalized_kernel(x, projection_matrix=weight, kernel_epsilon=1e-3) for x in (q, k)]
        else:
            features = [
                peer.softmax_kernel(x, projection_matrix=weight, is_query=query, eps=1e-6)
                for x, query in ((q, True), (k, False))
            ]
        mix = peer.causal_linear_attention_noncuda if causal else peer.linear_attention
        return mix(*features, v)

    return attend


def formula(q: Tensor, k: Tensor, v: Tensor, weight: Tensor, kernel: str, causal: bool) -> Tensor:
    """FAVOR+ as the paper writes it: both feature maps, then their products, normalised."""
    a, b = (phi(x, weight, kernel, query) for x, query in ((q, True), (k, False)))
    if causal:
        scores = (a @ b.mT).tril()
        return scores @ v / scores.sum(dim=-1, keepdim=True)
    return a @ (b.mT @ v) / (a @ b.sum(dim=-2)[..., None])


def phi(x: Tensor, weight: Tensor, kernel: str, query: bool) -> Tensor:
    """The feature map of queries or keys."""
    x = x * x.shape[-1] ** -0.25
    y = x @ weight.mT
    if kernel == "relu":
        return y.relu() + 1e-3
    y = y - x.square().sum(dim=-1, keepdim=True) / 2
    top = y.amax(dim=-1, keepdim=True) if query else y.amax(dim=(-1, -2), keepdim=True)
    return (y - top).exp() + 1e-6


for _n, _batch in ((100, 1), (256, 1), (512, 1), (100, 4)):
    case(transformer, f"transformer n={_n} batch={_batch}", _n, _batch)
for _n in (128, 512, 2048):
    case(fnet, f"fnet n={_n}", _n, 1)
for _attention in ("sdpa", "eager"):
    case(detr, f"detr 320x416 {_attention}", 320, 416, _attention)
    case(detr, f"detr 480x640 {_attention}", 480, 640, _attention)
for _side, _width in ((56, 64), (28, 128), (14, 256)):
    case(sasa, f"sasa {_side}x{_side}x{_width}", _side, _width, 1)
for _n in (256, 1024, 4096):
    for _kernel in ("softmax", "relu"):
        case(performer, f"performer {_kernel} n={_n}", _n, _kernel, False)
for _n in (256, 1024):
    case(performer, f"performer relu causal n={_n}", _n, "relu", True)


# -- timing --------------------------------------------------------------------------------------------------


def seconds(call: Call) -> float:
    """Return what one call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def rounds(ours: Call, theirs: Call, budget: float) -> Iterator[tuple[float, float, float]]:
    """Yield (ours, theirs, ours / theirs) of each A B B A round, until the budget is spent."""
    end = time.perf_counter() + budget
    while time.perf_counter() < end:
        a, b, c, d = seconds(ours), seconds(theirs), seconds(theirs), seconds(ours)
        yield a + d, b + c, (a + d) / (b + c)


def compared(ours: Call, theirs: Call, budget: float) -> tuple[float, tuple[float, float], int]:
    """Return the median of the rounds' ratios, its interval, and how many rounds there were."""
    for call in (ours, theirs) * 2:
        call()
    ratios = [ratio for _, _, ratio in rounds(ours, theirs, budget)]
    while len(ratios) < 8:
        ratios += [ratio for _, _, ratio in rounds(ours, theirs, budget / 4)]
    return statistics.median(ratios), median_interval(ratios) or (min(ratios), max(ratios)), len(ratios)


def difference(ours: Call, theirs: Call) -> float:
    """Return how far the outputs are apart, relative to the largest."""
    pairs = zip(tree_leaves(ours()), tree_leaves(theirs()), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def main(budget: str = "20", pattern: str = "*") -> None:
    """Print a line for each comparison."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    torch.manual_seed(0)
    with torch.inference_mode():
        for label in fnmatch.filter(CASES, pattern):
            ours, theirs, allowed = CASES[label]()
            apart = difference(ours, theirs)
            assert apart < allowed, f"{label}: the outputs differ by {apart:.1e}"
            ratio, (low, high), n = compared(ours, theirs, float(budget))
            same, (same_low, same_high), _ = compared(ours, ours, float(budget) / 4)
            told = f"ours / theirs {ratio:.3f} [{low:.3f}, {high:.3f}], {n} rounds, outputs differ by {apart:.0e}"
            print(f"{label:<28} {told}; ours / ours {same:.3f} [{same_low:.3f}, {same_high:.3f}]", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
