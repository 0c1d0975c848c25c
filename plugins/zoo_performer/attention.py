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
   Causal attention adds up as many chunks at once as a GPU has room for; a CPU's cache has room for one.
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

from zoo import ZooError, over_tokens
from zoo_performer import CHUNK

TOKENS_AT_ONCE = 1024  # on a CPU: features of more tokens than these leave its cache
# Causal attention takes this many rows (tokens x heads x samples) at once, or one chunk if that has more.
ROWS_AT_ONCE = 1024  # on a CPU: 1 MiB of 256 features
ROWS_ELSEWHERE = 2**18  # 256 MiB of them
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
    """The features of c keys, without eps, and the stabiliser after them, which is of the softmax kernel."""

    features: Tensor  # (B, h, c, m)
    level: Tensor  # (B, h, 1, 1)
    decay: Tensor | None = None  # (B, h, 1, 1) at most 1, from the stabiliser before them to it; None for ReLU


class CausalKeys(NamedTuple):
    """The features of g chunks of c keys, without eps; the rest is of the softmax kernel, None for ReLU.

    The stabiliser of a chunk is the largest logit up to its end, that of a query the largest up to itself: ``fade``
    takes to it what the query reads of the chunks before, ``lift`` what it reads of its own.
    """

    features: Tensor  # (g, B, h, c, m)
    levels: Tensor | None = None  # (g + 1, B, h, 1, 1) before the first chunk and after each
    fade: Tensor | None = None  # (g, B, h, c, 1), at most 1
    lift: Tensor | None = None  # (g, B, h, c, 1), at least 1


@dataclass(frozen=True)
class Relu:
    """The ReLU kernel; ``weight`` (d_h, m) is the scaled projection, None for the features of the token itself."""

    weight: Tensor | None
    eps: float = 1e-3

    def queries(self, q: Tensor) -> Tensor:
        """Return the features of queries, without eps: (..., c, d_h) -> (..., c, m)."""
        return torch.relu_(self.scaled(q))

    def queries_and_eps(self, q: Tensor) -> Tensor:
        """Return the features of queries: relu(W y) + eps, in the place of W y."""
        return torch.threshold_(self.scaled(q).add_(self.eps), self.eps, self.eps)

    def scaled(self, x: Tensor) -> Tensor:
        """Return W y, (..., c, d_h) -> (..., c, m)."""
        return x * x.shape[-1] ** -0.25 if self.weight is None else x @ self.weight

    def keys(self, k: Tensor, padding: Tensor | None, level: Tensor) -> Keys:
        """Return the features of keys; those at padding do no harm, as their values are zero."""
        return Keys(self.queries(k), level)

    def causal_keys(self, k: Tensor, padding: Tensor | None, level: Tensor) -> CausalKeys:
        """Return the features of chunks of keys."""
        return CausalKeys(self.queries(k))


@dataclass(frozen=True)
class Softmax:
    """The softmax kernel; ``weight`` (d_h, m) is the scaled projection."""

    weight: Tensor
    eps: float = 1e-6

    def queries(self, q: Tensor) -> Tensor:
        """Return the features of queries, without eps: (..., c, d_h) -> (..., c, m)."""
        logits = q @ self.weight
        return exponentials(q, logits, logits.detach().amax(-1, keepdim=True))

    def queries_and_eps(self, q: Tensor) -> Tensor:
        """Return the features of queries."""
        return self.queries(q) + self.eps

    def keys(self, k: Tensor, padding: Tensor | None, level: Tensor) -> Keys:
        """Return the features of keys after others whose stabiliser was ``level``."""
        logits, peaks = self.logits(k, padding)
        after = torch.maximum(level, peaks.amax(-1)[..., None, None])
        return Keys(exponentials(k, logits, after), after, (level - after).exp())

    def causal_keys(self, k: Tensor, padding: Tensor | None, level: Tensor) -> CausalKeys:
        """Return the features of chunks of keys after others whose stabiliser was ``level`` (1, B, h, 1, 1).

        A key whose logit is more than 60 above all before it is the exception to causality: it takes some weight off
        those of its chunk.
        """
        logits, peaks = self.logits(k, padding)
        within = running_max(peaks)  # (g, B, h, c)
        ends = torch.cat([level[..., 0, 0], within[..., -1]])
        levels = running_max(ends.movedim(0, -1)).movedim(-1, 0)[..., None, None]
        before, after = levels[:-1], levels[1:]
        own = torch.maximum(before, within[..., None])  # of each query
        features = exponentials(k, logits, after)
        return CausalKeys(features, levels, (before - own).exp(), (after - own).clamp(max=MAX_LIFT).exp())

    def logits(self, k: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return W y of keys (..., c, m), lowest at padding, and the largest of each key (..., c)."""
        logits = k @ self.weight
        if padding is not None:
            logits = logits.masked_fill_(padding, torch.finfo(k.dtype).min)
        return logits, logits.detach().amax(-1)


def exponentials(x: Tensor, logits: Tensor, stabiliser: Tensor) -> Tensor:
    """Return exp(logits - |y|^2 / 2 - stabiliser), with y = x / d_h^(1/4), in the place of ``logits``."""
    half_square = x.square().sum(-1, keepdim=True) * (0.5 * x.shape[-1] ** -0.5)
    return logits.sub_(half_square + stabiliser).exp_()


def running_max(x: Tensor) -> Tensor:
    """Return the largest of each element and those before it: (..., n) -> (..., n), in n x n comparisons."""
    later = x.new_full((x.shape[-1], x.shape[-1]), -torch.inf).triu_(1)
    return (x[..., None, :] + later).amax(-1)


# -- attention -----------------------------------------------------------------------------------------------


class Sums(NamedTuple):
    """What keys leave behind: all that a query needs of them. Those of chunks stand along a first axis."""

    context: Tensor  # (B, h, d_h + 1, m) sum of [value, 1] x features, features without eps
    values: Tensor  # (B, h, 1, d_h + 1) sum of [value, 1], for the eps
    level: Tensor  # (B, h, 1, 1) the stabiliser of the features, which ReLU has no use for

    def plus(self, keys: Keys, values: Tensor) -> Sums:
        """Return the sums with more keys and their [value, 1] (B, h, c, d_h + 1)."""
        context = self.context if keys.decay is None else self.context * keys.decay
        return Sums(context + values.mT @ keys.features, self.values + values.sum(-2, keepdim=True), keys.level)

    def running(self, keys: CausalKeys, values: Tensor) -> tuple[Sums, Sums]:
        """Return the sums before each of g chunks, and after the last, from [value, 1] (g, B, h, c, d_h + 1)."""
        context, next_context = before_each(self.context, values.mT @ keys.features, keys.levels)
        total, next_total = before_each(self.values, values.sum(-2, keepdim=True), None)
        levels = self.level if keys.levels is None else keys.levels
        return Sums(context, total, levels[:-1]), Sums(next_context, next_total, levels[-1:])


def no_keys(values: Tensor, features: int) -> Sums:
    """Return the sums of no keys at all, for [value, 1] (B, h, N, d_h + 1)."""
    *batch, _, width = values.shape
    lowest = values.new_full((*batch, 1, 1), torch.finfo(values.dtype).min)
    return Sums(values.new_zeros(*batch, width, features), values.new_zeros(*batch, 1, width), lowest)


def before_each(first: Tensor, new: Tensor, levels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the sums of ``first`` (1, ...) and all new before each of ``new`` (g, ...), and the sum after the last.

    What comes i-th is at the i-th stabiliser of ``levels`` (g + 1, ...), and so is the sum that it completes.
    """
    before = first if len(new) == 1 else running_sum(torch.cat([first, new[:-1]]), levels)
    return before, last(decayed(before, levels, 1)) + last(new)


def running_sum(x: Tensor, levels: Tensor | None) -> Tensor:
    """Return the sum of each x and all before it (Hillis and Steele 1986: as many steps as n has binary digits)."""
    if levels is None:
        return x.cumsum(0)
    step = 1
    while step < len(x):
        x = torch.cat([x[:step], decayed(x[:-step], levels, step) + x[step:]])
        step *= 2
    return x


def decayed(x: Tensor, levels: Tensor | None, steps: int) -> Tensor:
    """Return each x at the stabiliser that comes so many steps later; as it is where there are no stabilisers."""
    return x if levels is None else x * (levels[: len(x)] - levels[steps : steps + len(x)]).exp()


def last(x: Tensor) -> Tensor:
    """Return the last along the first axis; where there is but one, x itself, whose gradient is then no copy."""
    return x if len(x) == 1 else x[-1:]


def both_ways(
    q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, phi: Relu | Softmax, sums: Sums, step: int
) -> Tensor:
    """Return numerator and denominator (B, h, N, d_h + 1) of attention to all keys; ``v`` is [value, 1]."""
    sizes = parts(k.shape[2], step)
    hidden = [None] * len(sizes) if padding is None else torch.split(padding, sizes, 2)
    for k_part, v_part, pad in zip(torch.split(k, sizes, 2), torch.split(v, sizes, 2), hidden, strict=True):
        sums = sums.plus(phi.keys(k_part, pad, sums.level), v_part)
    context = torch.add(sums.context.mT, sums.values, alpha=phi.eps)  # K'^T [V, 1]
    constant = context.sum(-2, keepdim=True) * phi.eps
    return torch.cat([phi.queries(q_part) @ context + constant for q_part in torch.split(q, sizes, 2)], dim=-2)


def one_way(
    q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, phi: Relu | Softmax, sums: Sums, chunk: int, group: int
) -> Tensor:
    """Return numerator and denominator (B, h, N, d_h + 1) of attention to no later key; ``v`` is [value, 1].

    Exact: masked products within a chunk, and the sums of all chunks before it. ``group`` chunks are handled at once;
    what is left at the end, a shorter chunk, by itself.
    """
    n = k.shape[2]
    sizes = parts(n - n % chunk, group * chunk) + parts(n % chunk, chunk)
    q_parts, k_parts, v_parts = (in_chunks(t, sizes, chunk) for t in (q, k, v))
    hidden = [None] * len(sizes) if padding is None else in_chunks(padding, sizes, chunk)
    sums, outs = Sums(*(t[None] for t in sums)), []
    for q_part, k_part, v_part, pad in zip(q_parts, k_parts, v_parts, hidden, strict=True):
        keys = phi.causal_keys(k_part, pad, sums.level)
        before, sums = sums.running(keys, v_part)
        out = mix(phi.queries_and_eps(q_part), keys, v_part, before, phi.eps)
        outs.append(out.movedim(0, 2).flatten(2, 3))
    return torch.cat(outs, dim=-2)


def mix(queries: Tensor, keys: CausalKeys, values: Tensor, sums: Sums, eps: float) -> Tensor:
    """Return numerator and denominator (g, B, h, c, d_h + 1) for queries (g, B, h, c, m), from the sums before a chunk.

    Both are divided by the sum of a query's features, so that the eps of a key weighs eps. Weights are keys x queries,
    as the gradients of features then lie in memory as features do.
    """
    lift = fade = 1 / queries.sum(-1, keepdim=True)
    if keys.lift is not None and keys.fade is not None:
        lift, fade = lift * keys.lift, fade * keys.fade
    weights = (keys.features @ queries.mT).mul_(lift.mT).add_(eps).triu_()  # (g, B, h, c, c)
    past = (queries @ sums.context.mT).mul_(fade).add_(sums.values, alpha=eps)
    return past.add_(weights.mT @ values)


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
    on_cpu = q.device.type == "cpu"
    step, group = TOKENS_AT_ONCE if on_cpu else q.shape[-2], 0
    if causal:
        rows = q.shape[0] * q.shape[1] * max(chunk, CHUNK)  # of a chunk; many small ones would have many sums
        group = max(1, (ROWS_AT_ONCE if on_cpu else ROWS_ELSEWHERE) // max(1, rows))
        step = group * chunk

    def attend(q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
        values = torch.cat([v, v.new_ones(*v.shape[:-1], 1)], dim=-1)  # (B, h, N, d_h + 1)
        values = values if padding is None else values.masked_fill(padding, 0)
        sums = no_keys(values, q.shape[-1] if projection is None else projection.shape[0])
        if causal:
            out = one_way(q, k, values, padding, phi, sums, chunk, group)
        else:
            out = both_ways(q, k, values, padding, phi, sums, step)
        return out[..., :-1] / out[..., -1:].clamp_min(torch.finfo(out.dtype).tiny)

    return over_tokens(attend, step, q, k, v, None if mask is None else ~mask[:, None, :, None])


def feature_map(kernel: str, weight: Tensor | None) -> Relu | Softmax:
    """Return the kernel of that name. ZooError when there is none, or when it needs a projection and has none."""
    if kernel == "relu":
        return Relu(weight)
    if kernel != "softmax":
        raise ZooError(f"there is no kernel {kernel!r}; expected 'relu' or 'softmax'")
    if weight is None:
        raise ZooError("the softmax kernel needs random features; features=0 is for the ReLU kernel")
    return Softmax(weight)


def parts(n: int, step: int) -> list[int]:
    """Return the sizes of the parts of ``step`` tokens that ``n`` tokens fall into; the last may be shorter."""
    return [min(step, n - start) for start in range(0, n, step)]


def in_chunks(x: Tensor, sizes: list[int], chunk: int) -> list[Tensor]:
    """Return parts of tokens (B, h, N, ...), each in chunks (g, B, h, c, ...), or in one where they are fewer."""
    split = torch.split(x, sizes, 2)
    return [torch.unflatten(part, 2, (-1, min(chunk, part.shape[2]))).movedim(2, 0) for part in split]


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
