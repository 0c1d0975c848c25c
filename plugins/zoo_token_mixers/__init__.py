"""The layers of Vaswani et al. (2017), Table 1, and their relatives: attention, recurrence, convolution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import Cost, LayerSpec, hookimpl

VASWANI = "https://arxiv.org/abs/1706.03762"
ATTENTION, RECURRENCE, CONVOLUTION = (f"zoo_token_mixers.{m}" for m in ("attention", "recurrence", "convolution"))
# What is the same in every layer.
COMMON: dict[str, Any] = {"family": "token_mixers", "licence": "Apache-2.0"}
BORDER = (
    "what lies outside the sequence is masked (attention) or zero (convolution) and costs as much as what lies inside"
)


def attention_layers() -> Iterator[LayerSpec]:
    """Yield attention to all tokens, and to the window around each."""
    projection = "4 n d^2"  # query, key, value, output
    yield LayerSpec(
        "self_attention",
        build=f"{ATTENTION}:self_attention",
        options={"heads": 4},
        heads="heads",
        cost=Cost(projection, mixing="2 n^2 d"),
        sequential="O(1)",
        path_length="O(1)",
        paper=VASWANI,
        notes="Table 1 gives n^2 d, which leaves out the projections and takes scores and mixture as one",
        **COMMON,
    )
    restricted: dict[str, Any] = {
        "options": {"heads": 4, "window": 7},
        "symbols": {"r": "window"},
        "heads": "heads",
        "sequential": "O(1)",
        "paper": VASWANI,
        **COMMON,
    }
    yield LayerSpec(
        "restricted_attention",
        build=f"{ATTENTION}:restricted_attention",
        cost=Cost(projection, mixing="2 n r d"),
        path_length="O(n/r)",
        notes=f"each token attends to the r nearest, itself in the middle; {BORDER}",
        **restricted,
    )
    yield LayerSpec(
        "restricted_attention_2d",
        build=f"{ATTENTION}:restricted_attention_2d",
        grid=True,
        cost=Cost(projection, mixing="2 n r^2 d"),
        path_length="O(sqrt(n)/r)",
        notes=f"r is the side of the square that a token attends to, itself in the middle; {BORDER}",
        **restricted,
    )


def recurrent_layers() -> Iterator[LayerSpec]:
    """Yield recurrences of one direction: the projections meet the inputs, the mixing meets the hidden states."""
    papers = {
        "rnn": VASWANI,
        "lstm": "https://doi.org/10.1162/neco.1997.9.8.1735",
        "gru": "https://arxiv.org/abs/1406.1078",
    }
    notes = {
        "rnn": "Elman's, with tanh; Table 1 gives n d^2, which leaves one of the two products out",
        "lstm": "with a forget gate: four products for each of the two of an RNN",
        "gru": "three products for each of the two of an RNN; the reset gate acts after the product, as in cuDNN",
    }
    for name, cost in (
        ("rnn", Cost(projection="n d^2", mixing="n d^2")),
        ("lstm", Cost(projection="4 n d^2", mixing="4 n d^2")),
        ("gru", Cost(projection="3 n d^2", mixing="3 n d^2")),
    ):
        yield LayerSpec(
            name,
            build=f"{RECURRENCE}:{name}",
            cost=cost,
            sequential="O(n)",
            path_length="O(n)",
            causal=True,
            paper=papers[name],
            notes=notes[name],
            **COMMON,
        )


def convolution_layers() -> Iterator[LayerSpec]:
    """Yield convolutions of stride 1 that keep the number of tokens."""
    length, side = "O(n/k)", "O(sqrt(n)/k)"
    separable, depthwise_2d = "https://arxiv.org/abs/1610.02357", "https://arxiv.org/abs/1704.04861"
    dilated = "https://arxiv.org/abs/1511.07122"
    for name, cost, path_length, grid, paper, notes in (
        ("conv1d", Cost(mixing="k n d^2"), length, False, VASWANI, ""),
        ("depthwise_conv", Cost(mixing="k n d"), length, False, separable, "mixes no channels"),
        ("separable_conv", Cost("n d^2", mixing="k n d"), length, False, VASWANI, "depthwise, then pointwise"),
        (
            "dilated_conv",
            Cost(mixing="k n d^2"),
            "O(log_k n)",
            False,
            dilated,
            "path of a stack with dilations 1, k, k^2, ...",
        ),
        ("conv2d", Cost(mixing="k^2 n d^2"), side, True, VASWANI, ""),
        ("depthwise_conv2d", Cost(mixing="k^2 n d"), side, True, depthwise_2d, "mixes no channels"),
    ):
        yield LayerSpec(
            name,
            build=f"{CONVOLUTION}:{name}",
            options={"kernel_size": 3, "dilation": 2} if name == "dilated_conv" else {"kernel_size": 3},
            symbols={"k": "kernel_size"},
            cost=cost,
            sequential="O(1)",
            path_length=path_length,
            stack="zoo_token_mixers.convolution:widening" if name == "dilated_conv" else "",
            grid=grid,
            paper=paper,
            notes=f"{notes}; {BORDER}" if notes else BORDER,
            **COMMON,
        )


@hookimpl
def zoo_layers() -> Iterator[LayerSpec]:
    """Yield every layer of this plugin."""
    yield from attention_layers()
    yield from recurrent_layers()
    yield from convolution_layers()
