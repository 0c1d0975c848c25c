"""Decoding token by token, each computed once: greedily, or by beam search (Vaswani et al. 2017, Section 6.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo import ZooError
from zoo_transformer.model import DecoderLayer, Past, Transformer, visible


class Incremental:
    """A decoder in the middle of its targets: the projected memory, and every layer's past.

    It may have several targets a source, ``beams`` (B * beams rows in the order of the sources).
    """

    def __init__(
        self, model: Transformer, source: Tensor, max_length: int, source_padding: Tensor | None = None
    ) -> None:
        """Read the source (B, n), and set memory aside for ``max_length`` target tokens."""
        if model.training:
            raise ZooError("a model in training mode drops units at random; call model.eval() before decoding")
        if max_length < 1:
            raise ZooError(f"max_length is {max_length}; expected at least 1 token to decode")
        self.model = model
        self.mask = visible(source_padding)
        memory = model.encode(source, self.mask)
        self.layers = [layer for layer in model.decoder.layers if isinstance(layer, DecoderLayer)]
        self.memory = [layer.cross.keys_values(memory) for layer in self.layers]
        self.past = [Past(max_length) for _ in self.layers]
        self.length = 0

    def step(self, ids: Tensor) -> Tensor:
        """Take the next token of every target (rows,) and return the logits of the one after it (rows, vocabulary)."""
        x = self.model.embed(ids[:, None], start=self.length)  # (rows, 1, d)
        for layer, memory, past in zip(self.layers, self.memory, self.past, strict=True):
            x = layer(x, memory, self.mask, past)
        self.length += 1
        return self.model.logits(self.model.decoder.norm(x))[:, 0]

    def reorder(self, rows: Tensor) -> None:
        """Let target i go on from target ``rows[i]``, which must have the same source."""
        for past in self.past:
            past.reorder(rows)


@torch.no_grad()
def greedy(
    model: Transformer,
    source: Tensor,
    start: int,
    end: int,
    max_length: int,
    source_padding: Tensor | None = None,
) -> Tensor:
    """Return the likeliest token after each token: ids (B, max_length) behind ``start``, filled up with ``end``."""
    decoder = Incremental(model, source, max_length, source_padding)
    ids = source.new_full((len(source),), start)
    tokens = source.new_full((len(source), max_length), end)
    done = torch.zeros_like(ids, dtype=torch.bool)
    for t in range(max_length):
        ids = decoder.step(ids).argmax(dim=-1).masked_fill(done, end)
        tokens[:, t] = ids
        done |= ids == end
        if done.all():
            break
    return tokens


@torch.no_grad()
def beam_search(
    model: Transformer,
    source: Tensor,
    start: int,
    end: int,
    max_length: int,
    beams: int = 4,
    alpha: float = 0.6,
    source_padding: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ids (B, max_length) behind ``start``, filled up with ``end``, and their scores (B,).

    A score is the log probability over the length penalty; what has not ended after ``max_length`` tokens competes as
    it stands. A sample is done when none that goes on can still win, as in tensor2tensor. To stop when ``beams``
    hypotheses have ended, as fairseq does, lets unlikely ones that are shorter end the search before the best does.
    """
    if beams < 1 or alpha < 0:
        raise ZooError(f"beam search with beams={beams} and alpha={alpha}; expected beams >= 1 and alpha >= 0")
    decoder = Incremental(model, source, max_length, source_padding)
    search = Search(source, start, end, max_length, beams, alpha)
    for _ in range(max_length):
        rows = search.advance(decoder.step(search.last))
        if search.done.all():
            break
        decoder.reorder(rows)
    return search.result()


def length_penalty(length: int, alpha: float) -> float:
    """Return ((5 + length) / 6)^alpha (Wu et al. 2016, equation 14); ``length`` counts the token that ends."""
    return float(((5 + length) / 6) ** alpha)


class Search:
    """The hypotheses of a beam search: those that go on, and the best that has ended, of each of B samples."""

    def __init__(self, source: Tensor, start: int, end: int, max_length: int, beams: int, alpha: float) -> None:
        b, device = len(source), source.device
        self.end, self.max_length, self.beams, self.alpha = end, max_length, beams, alpha
        self.length = 0
        self.last = source.new_full((b * beams,), start)
        self.tokens = source.new_full((b, beams, max_length), end)
        self.scores = torch.full((b, beams), -torch.inf, device=device)  # log probabilities
        self.scores[:, 0] = 0.0  # at first there is one hypothesis, the empty one
        self.best = torch.full((b,), -torch.inf, device=device)
        self.best_tokens = source.new_full((b, max_length), end)
        self.done = torch.zeros(b, dtype=torch.bool, device=device)

    def advance(self, logits: Tensor) -> Tensor:
        """Extend every hypothesis by one token, given logits (B * beams, V).

        Returns the row that each of the new ones (B * beams,) came from.
        """
        self.length += 1
        origin, tokens, scores = self.candidates(logits)
        ends = tokens[:, :, self.length - 1] == self.end  # (B, 2 * beams)
        # One that ends counts only among the best ``beams``: a beam of one is then greedy.
        self.finish(tokens[:, : self.beams], scores[:, : self.beams].masked_fill(~ends[:, : self.beams], -torch.inf))
        # Each of the old ones can end once, so at least ``beams`` of the candidates go on.
        going_on = ends.int().argsort(dim=1, stable=True)[:, : self.beams]
        self.scores = scores.gather(1, going_on)
        self.tokens = take(tokens, going_on)
        self.last = self.tokens[:, :, self.length - 1].flatten()
        self.done |= self.best >= self.bound()
        if self.beams == 1:  # which is greedy: what has ended is not gone on from
            self.done |= ends[:, 0]
        first = torch.arange(len(origin), device=origin.device)[:, None] * self.beams
        return (first + origin.gather(1, going_on)).flatten()

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the 2 * beams best extensions: the beam each came from, tokens (B, 2 * beams, L), log probability."""
        vocabulary = logits.shape[-1]
        new = logits.log_softmax(dim=-1, dtype=self.scores.dtype).view(-1, self.beams, vocabulary)
        scores, flat = (self.scores[:, :, None] + new).flatten(1).topk(2 * self.beams)
        origin, token = flat // vocabulary, flat % vocabulary
        tokens = take(self.tokens, origin)
        tokens[:, :, self.length - 1] = token
        return origin, tokens, scores

    def finish(self, tokens: Tensor, scores: Tensor) -> None:
        """Take in hypotheses (B, beams, L) that have ended; a log probability of -inf marks those that have not."""
        score, which = (scores / length_penalty(self.length, self.alpha)).max(dim=1)
        better = (score > self.best) & ~self.done
        self.best = torch.where(better, score, self.best)
        self.best_tokens = torch.where(better[:, None], take(tokens, which[:, None])[:, 0], self.best_tokens)

    def bound(self) -> Tensor:
        """Return what no hypothesis that goes on can exceed (B,): log probabilities only fall."""
        return self.scores.amax(dim=1) / length_penalty(self.max_length, self.alpha)

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the best tokens (B, L) and their scores (B,), those cut off by the longest length included."""
        self.finish(self.tokens, self.scores)
        return self.best_tokens, self.best


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Pick hypotheses of each sample: tokens (B, K, L) by index (B, J) -> (B, J, L)."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[-1]))
