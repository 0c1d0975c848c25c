"""The Transformer of 2017, encoder and decoder: base and big of the paper, and a small one. Our own implementation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo import InputSpec, ModelSpec, Recipe, SizeRule, WeightSpec, hookimpl

VOCABULARY = 37_000  # byte pairs that English and German share (paper, Section 5.1)
BYTES = 256


def tokens(size: int | tuple[int, int], **options: object) -> int:
    """Return how many tokens a pair has, source and target; a number N stands for N + N."""
    return 2 * size if isinstance(size, int) else sum(size)


# The base model: 100,000 steps, of which 4,000 warm up to 512^-0.5 4000^-0.5 = 7e-4, on batches of 25,000 tokens. The
# warm-up is the same share of any budget here, and the rate the same for any batch.
OWN = Recipe(
    "own",
    kind="translation",
    scales=False,
    learning_rate=7e-4,
    weight_decay=0.0,
    optimizer="adam",
    optimizer_options={"beta1": 0.9, "beta2": 0.98, "eps": 1e-9},
    schedule="inverse_sqrt",
    warmup=0.04,
    label_smoothing=0.1,
    average=5,
    source="Vaswani et al. 2017, Sections 5.3, 5.4 and 6.1",
)
# What is the same in every variant. The shape of a variant is its options, so each is also an axis of a suite.
COMMON: dict[str, Any] = {
    "family": "transformer",
    "build": "zoo_transformer.model:build",
    "closed_form": "zoo_transformer.macs:closed_form",
    "input": InputSpec("pair", "sequence_length", tokens=tokens, params={"vocab_size": "vocab_size"}),
    "output": {"": "batch target vocab_size"},
    "weights": (
        WeightSpec(
            "torch",
            key="*decoder.layers.0.multihead_attn.in_proj_weight",
            convert="zoo_transformer.weights:convert_torch",
            source="whoever trained a torch.nn.Transformer; it needs attention_bias=True and final_norm=True",
        ),
    ),
    "adapters": {"translation": "zoo_transformer.adapter:Translation"},
    "recipes": (OWN,),
    "paper": "https://arxiv.org/abs/1706.03762",
    "licence": "Apache-2.0",
}


def transformer(
    name: str,
    width: int,
    heads: int,
    ff_width: int,
    dropout: float,
    *published: str,
    depth: int = 6,
    vocab_size: int = VOCABULARY,
    default: str = "100+100tok",
    notes: str = "",
) -> ModelSpec:
    """Return the spec of one variant; ``published`` are globs of its names in the published numbers."""
    options: dict[str, Any] = {
        "vocab_size": vocab_size,
        "width": width,
        "heads": heads,
        "encoder_depth": depth,
        "decoder_depth": depth,
        "ff_width": ff_width,
        "dropout": dropout,
        "inner_dropout": 0.0,
        "attention_bias": False,
        "final_norm": False,
    }
    return ModelSpec(
        name,
        options=options,
        sizes=SizeRule(default),
        published=("Transformer", *published) if published else (),
        notes=notes,
        **COMMON,
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    """Yield base and big (paper, Table 3) and ``transformer_nano``."""
    vocabulary = "the paper prints 65 M parameters for base and 213 M for big; its vocabulary gives 63 M and 214 M"
    yield transformer("transformer_base", 512, 8, 2048, 0.1, "base", "encoder/decoder", notes=vocabulary)
    yield transformer("transformer_big", 1024, 16, 4096, 0.3, "big", "encoder/decoder", notes=vocabulary)
    notes = "not a variant of the paper: small enough for two cores, with bytes as its vocabulary"
    yield transformer("transformer_nano", 64, 4, 256, 0.1, depth=2, vocab_size=BYTES, default="64+64tok", notes=notes)
