"""FAVOR+ as its formula says it, with the n x n matrix of weights: what the fast paths are held to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = {"relu": 1e-3, "softmax": 1e-6}


def phi(x: Tensor, w: Tensor | None, kernel: str, keys: bool, eps: float | None = None) -> Tensor:
    """Return features (B, h, n, m) as the paper and the JAX code write them, 1 / sqrt(m) included."""
    y = x / x.shape[-1] ** 0.25
    logits = y if w is None else y @ w.T
    if kernel == "relu":
        return logits.relu() + EPS["relu"]
    stabiliser = logits.amax((-1, -2) if keys else -1, keepdim=True).detach()
    features = torch.exp(logits - y.square().sum(-1, keepdim=True) / 2 - stabiliser)
    return (features + (EPS["softmax"] if eps is None else eps)) / math.sqrt(logits.shape[-1])


def explicit(q: Tensor, k: Tensor, v: Tensor, w: Tensor | None, kernel: str) -> Tensor:
    """Return attention in both directions with its n x n matrix."""
    weights = phi(q, w, kernel, keys=False) @ phi(k, w, kernel, keys=True).mT
    return weights / weights.sum(-1, keepdim=True) @ v


def explicit_causal(q: Tensor, k: Tensor, v: Tensor, w: Tensor | None, kernel: str) -> Tensor:
    """Return, for each token, its row of attention in both directions among the tokens up to it."""
    rows = [explicit(*(t[:, :, : i + 1] for t in (q, k, v)), w, kernel)[:, :, -1] for i in range(q.shape[2])]
    return torch.stack(rows, dim=2)
