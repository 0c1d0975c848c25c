"""Intervals and the rule that says when there are samples enough. Numbers in, numbers out.

Nothing is assumed of how samples are distributed: times are skewed, heavy-tailed and often bimodal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist, median
from typing import Any, Literal

# The fewest samples that have a 95 % interval.
INTERVAL_SAMPLES = 6


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the confidence interval of the median, or None where there are too few samples (fewer than 6 for 95 %).

    The k-th smallest and the k-th largest sample hold the median between them with probability
    1 - 2 P(Binomial(n, 1/2) < k), whatever the distribution; k is the largest that gives ``confidence``
    (Conover, Practical Nonparametric Statistics, 1999, section 3.2). It holds for one look at ``n`` samples.
    """
    k = _order_statistic(len(samples), confidence)
    if k == 0:
        return None
    ordered = sorted(samples)
    return ordered[k - 1], ordered[-k]


def _order_statistic(n: int, confidence: float) -> int:
    """Return the largest k with P(Binomial(n, 1/2) < k) <= (1 - confidence) / 2, exactly; 0 when there is none."""
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not at {confidence}")
    # In whole numbers, of the 2^n ways that n coins can fall.
    allowed, ways, below = int(Fraction((1 - confidence) / 2) * (1 << n)), 1, 0
    for k in range(n // 2 + 1):
        below += ways
        if below > allowed:
            return k
        ways = ways * (n - k) // (k + 1)
    return 0


# The fewest samples that tell a percentile (Reddi et al. 2020, MLPerf Inference, Section V).
PERCENTILE_SAMPLES = {0.9: 64, 0.99: 662}


def percentile(samples: Sequence[float], share: float) -> float | None:
    """Return the sample that a share (0.9 or 0.99) of all samples does not exceed; None of too few samples."""
    if len(samples) < PERCENTILE_SAMPLES[share]:
        return None
    return sorted(samples)[math.ceil(share * len(samples)) - 1]


def relative_half_width(samples: Sequence[float], confidence: float = 0.95) -> float:
    """Return half the width of the median's interval as a fraction of the median; infinite where there is none."""
    interval = median_interval(samples, confidence)
    if interval is None:
        return math.inf
    half = (interval[1] - interval[0]) / 2
    middle = abs(median(samples))
    return half / middle if middle else (math.inf if half else 0.0)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a fraction ``successes / n``; (0, 1) when nothing was tried.

    Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927, without continuity
    correction. ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no fraction")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    fraction, shrink = successes / n, 1 + z * z / n
    centre = (fraction + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n))
    # At the ends the bound is exact, where rounding would leave a hair.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def is_steady(samples: Sequence[float], window: int, tolerance: float) -> bool:
    """Tell whether the medians of the last two windows agree within a fraction ``tolerance`` of the larger."""
    if len(samples) < 2 * window:
        return False
    before, after = median(samples[-2 * window : -window]), median(samples[-window:])
    return abs(before - after) <= tolerance * max(abs(before), abs(after))


@dataclass(frozen=True)
class StoppingRule:
    """When to stop sampling: the median's interval is tight, the seconds are spent, or there are samples enough.

    ``target`` is the half-width of the 95 % interval of the median as a fraction of the median. A rule that looks
    again and again stops a little early, so the interval it stops on covers somewhat less than 95 %. Fewer than six
    samples have no interval: a slow call may spend ``overdraft`` budgets to have them.
    """

    target: float = 0.02
    min_samples: int = 10
    max_samples: int = 1000
    budget: float = 2.0
    overdraft: float = 4.0

    def reason(self, samples_ns: Sequence[int], elapsed: float) -> str | None:
        """Return why to stop, ``"tight"``, ``"samples"`` or ``"budget"``, or None to go on; ``elapsed`` in seconds."""
        enough = len(samples_ns) >= self.min_samples
        if enough and relative_half_width(samples_ns) <= self.target:
            return "tight"
        if len(samples_ns) >= self.max_samples:
            return "samples"
        patience = self.budget if len(samples_ns) >= INTERVAL_SAMPLES else self.overdraft * self.budget
        return "budget" if elapsed >= patience else None


# -- two things compared -------------------------------------------------------------------------------------

Verdict = Literal["faster", "slower", "same", "ambiguous"]
DRAWS = 2000
# A difference below this share is none, however sure it is: the room of a machine, a build or an hour is larger.
LEAST_MARGIN = 0.005
# The same is what surely differs by less than this share.
ALIKE = 0.02


@dataclass(frozen=True)
class Ratio:
    """How much longer the second of two takes than the first, with its 95 % interval; below 1 it is faster.

    ``sure`` is the interval of 99 %, which a verdict asks for: who looks after every set until it is tight looks often.
    """

    value: float
    interval: tuple[float, float]
    sure: tuple[float, float]
    processes: int
    rounds: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval, as a fraction of the ratio."""
        return math.log(self.interval[1] / self.interval[0]) / 2

    @property
    def furthest(self) -> float:
        """The share by which the two differ at most, as far as the interval tells."""
        return max(self.interval[1], 1 / self.interval[0]) - 1

    @property
    def margin(self) -> float:
        """The share that a difference must pass, where this is the ratio of a thing to itself."""
        return max(LEAST_MARGIN, abs(self.value - 1), abs(1 / self.value - 1))

    def verdict(self, margin: float = LEAST_MARGIN) -> Verdict:
        """Tell what may be said of the second: nothing, where the interval neither leaves 1 nor lies near it.

        ``margin`` is the share that a difference must pass: what the same thing differs from itself.
        """
        low, high = self.sure
        if abs(math.log(self.value)) > math.log1p(margin) and not low <= 1 <= high:
            return "faster" if self.value < 1 else "slower"
        low, high = self.interval
        return "same" if low >= 1 / (1 + ALIKE) and high <= 1 + ALIKE else "ambiguous"


def ratio_of(pairs: Sequence[Sequence[float]], seed: int = 0) -> Ratio:
    """Return the ratio of two from ``pairs`` of fresh processes, each a sequence of ratios, one a round.

    Times of one alone give its own time: what it takes is its ratio to the unit.

    A pair's ratio is the mean of the middle half of its rounds, the whole is the geometric mean of its pairs. The
    intervals are those of a hierarchical bootstrap: pairs are drawn again, each with its rounds (Davison and Hinkley,
    Bootstrap Methods, 1997, section 3.8). Few pairs vary less when they are drawn again than they did when they were
    made, so deviations are stretched to the variance and the quantile of Student's t; and they are no narrower than
    what the rounds alone allow, for pairs may agree by chance. ValueError for fewer than two pairs, or one without
    rounds.
    """
    import numpy as np
    from scipy.special import stdtrit

    count = len(pairs)
    if count < 2 or not all(map(len, pairs)):
        raise ValueError("a ratio needs two pairs of processes or more, with a round in each")
    logs = [np.log(np.asarray(pair, dtype=float)) for pair in pairs]

    def middle_half(values: Any) -> Any:  # surer than a median, and as little moved by a few that are far off
        cut = values.shape[-1] // 4
        return np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1)

    centres, draw = np.array([middle_half(pair) for pair in logs]), np.random.default_rng(seed)
    middle = float(centres.mean())
    between = centres[draw.integers(count, size=(DRAWS, count))].mean(axis=1) - middle
    within = np.stack([middle_half(draw.choice(pair, (DRAWS, len(pair)))) for pair in logs]).mean(axis=0) - middle

    def interval(confidence: float) -> tuple[float, float]:
        tails = (1 - confidence) / 2, (1 + confidence) / 2
        student = stdtrit(count - 1, tails[1]) / NormalDist().inv_cdf(tails[1])
        stretched = math.sqrt(count / (count - 1)) * student * np.quantile(between, tails)
        low, high = np.stack([stretched, np.quantile(within, tails), (0.0, 0.0)]).T
        return math.exp(middle + float(low.min())), math.exp(middle + float(high.max()))

    return Ratio(math.exp(middle), interval(0.95), interval(0.99), count, sum(map(len, pairs)))
