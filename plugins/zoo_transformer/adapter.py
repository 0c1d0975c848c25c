"""How the Transformer trains and predicts on translation: texts as bytes, beam search as in the paper's Section 6.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import END, PADDING, START, Grouping, Recipe, Size, ZooError, decode_text, encode_text
from zoo_transformer.decode import beam_search

BEAMS, ALPHA = 4, 0.6
NO_TEXT = 255  # a byte that no text in UTF-8 has


class Translation(Grouping):
    """A sample is a source text and its target text."""

    def __init__(self, recipe: Recipe, options: Mapping[str, Any]) -> None:
        self.label_smoothing = recipe.label_smoothing
        self.vocabulary = int(options["vocab_size"])

    def collate(self, samples: Sequence[tuple[str, str]], size: Size, training: bool) -> tuple[Any, Tensor]:
        """Return ``source`` (B, n) and ``target`` (B, k) ids with padding, and the ids after each target's (B, k).

        ZooError for a text that is longer than the size, or has bytes that the model does not know.
        """
        source = self.padded([encode_text(text) for text, _ in samples], size.pair[0], "source")
        ids = [encode_text(text) for _, text in samples]
        target = self.padded([[START, *text] for text in ids], size.pair[1], "target")
        after = self.padded([[*text, END] for text in ids], size.pair[1], "target")
        return {"source": source, "target": target, "longest": size.pair[1]}, after

    def padded(self, texts: Sequence[Sequence[int]], longest: int, what: str) -> Tensor:
        """Return ids (B, n) with padding behind each text."""
        n = max(map(len, texts))
        if n > longest:
            raise ZooError(f"a {what} has {n} tokens, and the size allows {longest}; give a larger size")
        if max(map(max, texts)) >= self.vocabulary:
            raise ZooError(f"a {what} has the token {max(map(max, texts))}, of a vocabulary of {self.vocabulary}")
        return torch.tensor([[*text, *[PADDING] * (n - len(text))] for text in texts])

    def loss(self, model: nn.Module, inputs: Mapping[str, Any], targets: Tensor) -> dict[str, Tensor]:
        """Return the cross entropy of each next token."""
        logits: Tensor = model(inputs["source"], inputs["target"], inputs["source"] == PADDING)
        smoothing = self.label_smoothing if model.training else 0.0
        entropy = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=PADDING, label_smoothing=smoothing
        )
        return {"cross_entropy": entropy}

    def predict(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[str]:
        """Return the best text that a search with four beams finds for each source.

        A vocabulary may be larger than that of bytes: an id beyond it is a character that no reference has.
        """
        source = inputs["source"]
        ids, _ = beam_search(
            model,  # type: ignore[arg-type]
            source,
            START,
            END,
            max_length=inputs["longest"],
            beams=BEAMS,
            alpha=ALPHA,
            source_padding=source == PADDING,
        )
        return [decode_text(row) for row in ids.clamp(max=NO_TEXT).tolist()]
