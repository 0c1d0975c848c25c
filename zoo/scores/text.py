"""Texts beside their references: BLEU as sacrebleu computes it, and the fraction that is right to the letter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from zoo.errors import ZooError
from zoo.scores.classification import share

# metric: value, low, high, number of samples, and of BLEU its signature
Scores = dict[str, tuple[float, float, float, int] | tuple[float, float, float, int, str]]

DRAWS = 1000
SEED = 12345  # sacrebleu's own


def bleu(predictions: Sequence[str], targets: Sequence[str]) -> Scores:
    """Return BLEU of the whole, 0 to 100 as sacrebleu prints it, with its 95 % interval.

    The interval is that of 1,000 sets of sentences drawn again (Koehn 2004, Statistical Significance Tests for Machine
    Translation Evaluation): how sure it is of these sentences, not of another training. It has no width where every
    sentence is right. ZooError when there are none, or not as many predictions as targets.
    """
    check(predictions, targets)
    # It would guess, on stderr, which texts were tokenised.
    value = BLEU(force=True).corpus_score(list(predictions), [list(targets)]).score
    low, high = bootstrap(sufficient(predictions, targets))
    return {"bleu": (*tuple_of(value, low, high, len(targets)), bleu_signature())}


def translation(predictions: Sequence[str], targets: Sequence[str]) -> Scores:
    """Return what translations are judged by: BLEU and the fraction that is right to the letter."""
    return {**bleu(predictions, targets), **exact_match(predictions, targets)}


def exact_match(predictions: Sequence[str], targets: Sequence[str]) -> Scores:
    """Return the fraction of predictions that equal their target, with its 95 % Wilson interval."""
    check(predictions, targets)
    right = sum(p == t for p, t in zip(predictions, targets, strict=True))
    return {"exact_match": share(right, len(targets))}


def bleu_signature() -> str:
    """Return how sacrebleu names this BLEU: references, case, tokeniser, smoothing and version."""
    metric = BLEU()
    metric.corpus_score(["a"], [["a"]])  # a metric knows its number of references only then
    return str(metric.get_signature())


def check(predictions: Sequence[str], targets: Sequence[str]) -> None:
    """Raise ZooError unless there is a prediction for each target, and at least one."""
    if len(predictions) != len(targets) or not targets:
        told = f"{len(predictions)} predictions for {len(targets)} references"
        raise ZooError(f"{told} cannot be scored; expected as many, and at least one")


def sufficient(predictions: Sequence[str], targets: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return what BLEU sums over sentences (n, 10): both lengths, matches and totals of one to four words in a row."""
    metric = BLEU(effective_order=True)  # which spares a warning; sums know no order
    scores = [metric.sentence_score(p, [t]) for p, t in zip(predictions, targets, strict=True)]
    return np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scores])


def bootstrap(sums: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> tuple[float, float]:
    """Return the 95 % interval of BLEU over sentences that are drawn again."""
    draw = np.random.default_rng(SEED)
    drawn = [score_of(sums[draw.integers(len(sums), size=len(sums))].sum(axis=0).tolist()) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def score_of(sums: list[int]) -> float:
    """Return BLEU of its sums, smoothed as sacrebleu does by default."""
    return float(BLEU.compute_bleu(sums[2:6], sums[6:], sums[0], sums[1], smooth_method="exp").score)


def tuple_of(value: float, low: float, high: float, n: int) -> tuple[float, float, float, int]:
    """Return a score with its interval; a perfect one comes out a hair above 100."""
    return min(value, 100.0), min(low, 100.0), min(high, 100.0), n
