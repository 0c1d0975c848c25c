"""FAVOR+ (Choromanski et al. 2020, Sections 2.2 to 2.4): attention by positive orthogonal random features.

    softmax attention           D^-1 exp(Q K^T / sqrt(d_h)) V            n x n, quadratic in the tokens
    FAVOR+                      D^-1 Q' (K'^T V),  D = Q' (K'^T 1)       n x m and m x d_h, linear in them

with x' = phi(x) in R^m, W the m x d_h projection, y = x / d_h^(1/4), and either of

    softmax kernel     phi(x) = exp(W y - |y|^2 / 2 - s) + 1e-6      E[phi(q) . phi(k)] / m ~ exp(q . k / sqrt(d_h))
    ReLU kernel        phi(x) = relu(W y) + 1e-3                     a kernel of its own ("generalised attention")

s keeps the exponential at 1 or below, and cancels but for the 1e-6: for a query its own largest W y, for keys the
largest of all tokens and features of that sample and head. Gradients do not flow through s.

Written from the paper; constants and stabiliser are those of the JAX original (google-research/performer,
fast_attention.py, Apache-2.0). What is different:

1. Factors that cancel in D^-1 are left out (1 / sqrt(m)); d_h^(-1/4) is folded into W.
2. The constant of phi is never added to n x m features of keys: sum (e_j + eps) v_j = sum e_j v_j + eps sum v_j.
3. A column of ones beside V makes D in the same products as the numerator.
4. Keys are added up a chunk of tokens at a time. As s grows, the sums so far are scaled down; the result is the same.
5. Causal attention knows no later token, so its s is the largest W y *up to the query*, and row i is what attention
   in both directions makes of the first i tokens. (The original takes s over all tokens, which tells the past about
   the future, through the 1e-6.)
6. D cannot vanish, being positive, so nothing is added to it where it is small. (The original adds 2e-6 where D is at
   most 1e-6, which happens to ordinary inputs and shrinks their output.)
7. Q of the QR decomposition has the signs that make it uniformly distributed; LAPACK's own has a first column whose
   first entry is never positive, and a kernel estimated with it is biased.
8. W is drawn once, from a seed, and is part of the state dict: no redraw by itself, neither in training nor in eval.
9. Padded keys leave numerator and denominator (in lucidrains/performer-pytorch only the numerator).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo import ZooError
from zoo_performer import CHUNK

TOKENS_AT_ONCE = 1024  # on a CPU: features of more tokens than these leave its cache
MAX_LIFT = 60.0  # exp(60) x the smallest normal float32 is far below the 1e-6 of the softmax kernel


# -- random features -----------------------------------------------------------------------------------------


def orthogonal_features(
    features: int, width: int, generator: torch.Generator | None = None, norm: str = "chi"
) -> Tensor:
    """Return a projection (features, width), float64 on the CPU: blocks of ``width`` rows that are orthogonal.

    Each row alone is a Gaussian vector N(0, I) with ``norm="chi"``; with ``"sqrt"`` its norm is sqrt(width), which is
    the regularised softmax kernel (SMREG).
    """
    blocks = -(-features // width)
    gaussian = torch.randn(blocks, width, width, generator=generator, dtype=torch.float64, device="cpu")
    q, r = torch.linalg.qr(gaussian)
    q = q * r.diagonal(dim1=-2, dim2=-1).sgn()[:, None, :]  # uniform over the orthogonal matrices
    rows: Tensor = q.reshape(-1, width)[:features]
    return norms(features, width, generator, norm)[:, None] * rows


def norms(features: int, width: int, generator: torch.Generator | None, norm: str) -> Tensor:
    """Return the norms (features,) of the rows of a projection, float64."""
    if norm == "sqrt":
        return torch.full((features,), width**0.5, dtype=torch.float64, device="cpu")
    gaussian = torch.randn(features, width, generator=generator, dtype=torch.float64, device="cpu")
    lengths: Tensor = torch.linalg.vector_norm(gaussian, dim=1)
    return lengths


class Keys(NamedTuple):
    """The features of a chunk of c keys, without eps; the rest is of the softmax kernel, None for ReLU.

    ``level`` is the stabiliser after these keys. ``decay`` takes the sums of earlier keys, which had another one, to
    it; ``lift`` takes what a causal query reads back to the stabiliser of the keys that it sees.
    """

    features: Tensor  # (B, h, c, m)
    level: Tensor | None = None  # (B, h, 1, 1)
    decay: Tensor | None = None  # (B, h, 1, 1), at most 1
    lift: Tensor | None = None  # (B, h, c, 1), at least 1; only when causal


@dataclass(frozen=True)
class Relu:
    """The ReLU kernel; ``weight`` (d_h, m) is the scaled projection, None for the features of the token itself."""

    weight: Tensor | None
    eps: float = 1e-3

    def queries(self, q: Tensor) -> Tensor:
        """Return the features of queries, without eps: (B, h, c, d_h) -> (B, h, c, m)."""
        scaled = q * q.shape[-1] ** -0.25 if self.weight is None else q @ self.weight
        return torch.relu_(scaled)

    def keys(self, k: Tensor, padding: Tensor | None, level: Tensor | None, causal: bool) -> Keys:
        """Return the features of keys; those at padding do no harm, as their values are zero."""
        return Keys(self.queries(k))


@dataclass(frozen=True)
class Softmax:
    """The softmax kernel; ``weight`` (d_h, m) is the scaled projection."""

    weight: Tensor
    eps: float = 1e-6

    def queries(self, q: Tensor) -> Tensor:
        """Return the features of queries, without eps: (B, h, c, d_h) -> (B, h, c, m)."""
        logits = q @ self.weight
        return exponentials(q, logits, logits.detach().amax(-1, keepdim=True))

    def keys(self, k: Tensor, padding: Tensor | None, level: Tensor | None, causal: bool) -> Keys:
        """Return the features of keys after others whose stabiliser was ``level``; those at padding are zero."""
        logits = k @ self.weight
        lowest = torch.finfo(k.dtype).min
        if padding is not None:
            logits = logits.masked_fill_(padding, lowest)
        peaks = logits.detach().amax(-1, keepdim=True)  # (B, h, c, 1)
        highest = peaks.amax(-2, keepdim=True)
        before = torch.full_like(highest, lowest) if level is None else level
        level = torch.maximum(before, highest)
        lift = lift_of(peaks, before, level) if causal else None
        return Keys(exponentials(k, logits, level), level, (before - level).exp(), lift)


def exponentials(x: Tensor, logits: Tensor, stabiliser: Tensor) -> Tensor:
    """Return exp(logits - |y|^2 / 2 - stabiliser), with y = x / d_h^(1/4), in the place of ``logits``."""
    half_square = x.square().sum(-1, keepdim=True) * (0.5 * x.shape[-1] ** -0.5)
    return logits.sub_(half_square + stabiliser).exp_()


def lift_of(peaks: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Return the factors from the stabiliser ``after`` a chunk to that of the keys up to each query (B, h, c, 1).

    ``peaks`` (B, h, c, 1) are the largest logits of the chunk's tokens. A key whose logit is more than 60 above all
    before it is the exception to causality: it takes some weight off those of its chunk.
    """
    later = torch.ones(peaks.shape[-2], peaks.shape[-2], dtype=torch.bool, device=peaks.device).triu(1)
    running = peaks.mT.masked_fill(later, torch.finfo(peaks.dtype).min).amax(-1, keepdim=True)
    return (after - torch.maximum(before, running)).clamp(max=MAX_LIFT).exp()


# -- attention -----------------------------------------------------------------------------------------------


class Sums(NamedTuple):
    """What keys leave behind: all that a query needs of them."""

    context: Tensor  # (B, h, m, d_h + 1) sum of features x [value, 1], features without eps
    values: Tensor  # (B, h, 1, d_h + 1) sum of [value, 1], for the eps
    level: Tensor | None = None  # (B, h, 1, 1) the stabiliser of the features

    def decayed(self, keys: Keys) -> Sums:
        """Return the sums at the stabiliser of the keys that come next."""
        return self if keys.decay is None else Sums(self.context * keys.decay, self.values, keys.level)

    def plus(self, keys: Keys, values: Tensor) -> Sums:
        """Return the sums with a chunk of keys and their [value, 1] (B, h, c, d_h + 1) added."""
        return Sums(self.context + keys.features.mT @ values, self.values + values.sum(-2, keepdim=True), keys.level)


def both_ways(
    q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, phi: Relu | Softmax, sums: Sums, step: int
) -> Tensor:
    """Return numerator and denominator (B, h, N, d_h + 1) of attention to all keys; ``v`` is [value, 1]."""
    parts = chunks(k.shape[-2], step)
    for part in parts:
        keys = phi.keys(k[:, :, part], take(padding, part), sums.level, causal=False)
        sums = sums.decayed(keys).plus(keys, v[:, :, part])
    context = torch.add(sums.context, sums.values, alpha=phi.eps)  # K'^T [V, 1]
    constant = context.sum(-2, keepdim=True) * phi.eps
    return torch.cat([phi.queries(q[:, :, part]) @ context + constant for part in parts], dim=-2)


def one_way(
    q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, phi: Relu | Softmax, sums: Sums, chunk: int
) -> Tensor:
    """Return numerator and denominator (B, h, N, d_h + 1) of attention to no later key; ``v`` is [value, 1].

    Exact: masked products within a chunk, and the sums of all chunks before it.
    """
    outs = []
    for part in chunks(k.shape[-2], chunk):
        keys = phi.keys(k[:, :, part], take(padding, part), sums.level, causal=True)
        sums = sums.decayed(keys)
        queries = phi.queries(q[:, :, part]) + phi.eps  # (B, h, c, m)
        constant = queries.sum(-1, keepdim=True) * phi.eps  # the eps of each key
        queries = queries if keys.lift is None else queries * keys.lift
        weights = (queries @ keys.features.mT + constant).tril_()  # (B, h, c, c)
        outs.append(weights @ v[:, :, part] + queries @ sums.context + constant * sums.values)
        sums = sums.plus(keys, v[:, :, part])
    return torch.cat(outs, dim=-2)


def favor(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    projection: Tensor | None,
    kernel: str = "relu",
    causal: bool = False,
    mask: Tensor | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """Return FAVOR+ attention of queries, keys and values (B, h, N, d_h), in their dtype.

    ``projection`` is (m, d_h), None for the ReLU kernel of the tokens themselves. ``mask`` (B, N) is True at tokens and
    False at padding, which no query attends to; where there is no key left, the output is zero.
    """
    phi = feature_map(kernel, None if projection is None else projection.mT * q.shape[-1] ** -0.25)
    padding = None if mask is None else ~mask[:, None, :, None]  # (B, 1, N, 1)
    values = torch.cat([v, v.new_ones(*v.shape[:-1], 1)], dim=-1)  # (B, h, N, d_h + 1)
    values = values if padding is None else values.masked_fill(padding, 0)
    features = q.shape[-1] if projection is None else projection.shape[0]
    context, total = (values.new_zeros(*v.shape[:2], rows, values.shape[-1]) for rows in (features, 1))
    if causal:
        out = one_way(q, k, values, padding, phi, Sums(context, total), chunk)
    else:
        step = TOKENS_AT_ONCE if q.device.type == "cpu" else q.shape[-2]
        out = both_ways(q, k, values, padding, phi, Sums(context, total), step)
    return out[..., :-1] / out[..., -1:].clamp_min(torch.finfo(out.dtype).tiny)


def feature_map(kernel: str, weight: Tensor | None) -> Relu | Softmax:
    """Return the kernel of that name. ZooError when there is none, or when it needs a projection and has none."""
    if kernel == "relu":
        return Relu(weight)
    if kernel != "softmax":
        raise ZooError(f"there is no kernel {kernel!r}; expected 'relu' or 'softmax'")
    if weight is None:
        raise ZooError("the softmax kernel needs random features; features=0 is for the ReLU kernel")
    return Softmax(weight)


def chunks(n: int, step: int) -> list[slice]:
    """Return the slices of ``step`` tokens that ``n`` tokens fall into; the last may be shorter."""
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def take(padding: Tensor | None, part: slice) -> Tensor | None:
    """Return the padding of a chunk, None when there is none."""
    return None if padding is None else padding[:, :, part]


# -- modules -------------------------------------------------------------------------------------------------


class Favor(nn.Module):
    """FAVOR+ attention of given queries, keys and values, with its projection: a buffer, in the state dict.

    The projection is drawn from ``generator``; on the meta device it is not drawn. ``features=0`` leaves it out, and
    the ReLU kernel applies to the tokens themselves, which is what the JAX code does unless told otherwise.
    """

    projection: Tensor | None

    def __init__(
        self,
        head_width: int,
        features: int,
        kernel: str = "relu",
        causal: bool = False,
        feature_norm: str = "chi",
        generator: torch.Generator | None = None,
        chunk: int = CHUNK,
    ) -> None:
        super().__init__()
        check(features, kernel, feature_norm, chunk)
        self.kernel, self.causal, self.chunk, self.feature_norm = kernel, causal, chunk, feature_norm
        self.register_buffer("projection", torch.empty(features, head_width) if features else None)
        self.redraw(generator)

    @torch.no_grad()
    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draw the projection anew. Nothing else ever does."""
        if self.projection is not None and not self.projection.is_meta:
            features, width = self.projection.shape
            self.projection.copy_(orthogonal_features(features, width, generator, self.feature_norm))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend: (B, h, N, d_h) three times -> (B, h, N, d_h), same dtype; ``mask`` (B, N) is False at padding.

        Computed in float32 (float64 stays) whatever autocast says: bfloat16 cannot tell 1 from 1 + 1e-3.
        """
        with without_autocast(q.device.type):
            wide = torch.float64 if q.dtype == torch.float64 else torch.float32
            projection = None if self.projection is None else self.projection.to(wide)
            q, k, wide_v = q.to(wide), k.to(wide), v.to(wide)
            return favor(q, k, wide_v, projection, self.kernel, self.causal, mask, self.chunk).to(v.dtype)

    def extra_repr(self) -> str:
        """Name the options that no parameter shows."""
        features = 0 if self.projection is None else self.projection.shape[0]
        return f"features={features}, kernel={self.kernel}, causal={self.causal}, feature_norm={self.feature_norm}"


def check(features: int, kernel: str, feature_norm: str, chunk: int) -> None:
    """Raise ZooError for what cannot be, alone or together."""
    if feature_norm not in ("chi", "sqrt"):
        raise ZooError(f"there is no feature_norm {feature_norm!r}; expected 'chi' or 'sqrt'")
    if features < 0:
        raise ZooError(f"there cannot be {features} random features; expected at least 1, or 0 for no projection")
    if chunk < 1:
        raise ZooError(f"a chunk cannot have {chunk} tokens; expected at least 1")
    feature_map(kernel, torch.empty(0) if features else None)


def without_autocast(device: str) -> AbstractContextManager[object]:
    """Return a context in which autocast is off, on any kind of device."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
