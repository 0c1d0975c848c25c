"""Accuracy of classifiers, with 95 % binomial intervals (Wilson 1927)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from zoo.statistics import wilson_interval

Scores = dict[str, tuple[float, float, float, int]]
Prediction = int | Sequence[int]  # a label, or the likeliest labels, best first


def top1(predictions: Sequence[Prediction], targets: Sequence[int]) -> Scores:
    """Return the fraction of samples whose best label is right, with its interval and the number of samples."""
    return {"top1": hits(predictions, targets, 1)}


def top1_top5(predictions: Sequence[Prediction], targets: Sequence[int]) -> Scores:
    """Return ``top1``, and ``top5``: the fraction of samples with the right label among the five likeliest."""
    return {f"top{k}": hits(predictions, targets, k) for k in (1, 5)}


def any_of(predictions: Sequence[Prediction], targets: Sequence[Sequence[int]]) -> Scores:
    """Return ``top1`` where a sample has several right labels (ImageNet-ReaL); one that has none is left out."""
    judged = [(likeliest(p, 1), t) for p, t in zip(predictions, targets, strict=True) if len(t)]
    return {"top1": share(sum(p[0] in t for p, t in judged), len(judged))}


def majority(targets: Sequence[int]) -> float:
    """Return the share of the commonest label: what a constant answer gets right."""
    return max(Counter(targets).values()) / len(targets)


def hits(predictions: Sequence[Prediction], targets: Sequence[int], k: int) -> tuple[float, float, float, int]:
    """Return the share of samples whose label is among the ``k`` likeliest."""
    right = sum(t in likeliest(p, k) for p, t in zip(predictions, targets, strict=True))
    return share(right, len(targets))


def likeliest(prediction: Prediction, k: int) -> Sequence[int]:
    """Return up to ``k`` labels of a prediction."""
    return (prediction,) if isinstance(prediction, int) else prediction[:k]


def share(right: int, n: int) -> tuple[float, float, float, int]:
    """Return a share of ``n`` samples with its interval."""
    low, high = wilson_interval(right, n)
    return right / n, low, high, n
