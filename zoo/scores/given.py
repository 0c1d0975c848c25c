"""What is given to be scored: one prediction an image, of categories that there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zoo.errors import ZooError


def check_pairs(predictions: Sequence[object], targets: Sequence[object]) -> None:
    """Raise ZooError unless there is one prediction for each image, and an image."""
    if len(predictions) != len(targets) or not targets:
        raise ZooError(f"{len(predictions)} predictions for {len(targets)} images; expected one for each, and an image")


def check_labels(labels: Iterable[int], known: Iterable[int], where: str) -> None:
    """Raise ZooError for the first label that is none of the known categories, of which the first dozen are told."""
    ordered = sorted(known)
    unknown = sorted(set(labels) - set(ordered))
    if unknown:
        told = ", ".join(map(str, ordered[:12])) + (f", ... {ordered[-1]}" if len(ordered) > 12 else "")
        raise ZooError(f"{where} has label {unknown[0]}, which is no category; the categories: {told}")
