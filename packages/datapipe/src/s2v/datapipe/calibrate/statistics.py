"""Shares, curves and their intervals for labelled pairs. Pure functions of arrays.

Pairs are drawn with unequal chances and they share clips, so neither counting nor the binomial
formula is right. Shares are weighted by the inverse of the chance of being drawn; their variance
is the one for dyadic data (Aronow, Samii, Assenova 2015), in which two pairs that share a clip
may err together; and the interval is Clopper-Pearson's exact one at the number of independent
pairs which that variance stands for (Korn and Graubard 1998). With equal weights and no clip
shared it *is* Clopper-Pearson's. A bootstrap over identities was left out: a film has a handful
of characters, and a handful cannot be resampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Share:
    """An estimated share with its interval.

    Attributes:
        estimate: weighted, 0 to 1; NaN of no pairs.
        low, high: two-sided interval; 0 and 1 of no pairs.
        hits, count: pairs, not weighted.
        effective: independent pairs that the interval counts.
    """

    estimate: float
    low: float
    high: float
    hits: int
    count: int
    effective: float


def share(
    hits: Flags,
    weights: Floats,
    ends: Sequence[tuple[str, str]],
    confidence: float = 0.95,
) -> Share:
    """The weighted share of ``hits``.

    Where all pairs or none are hits there is no variance to see. What spoils a pair (a poor crop,
    a wrong box) comes with a clip and spoils all its pairs, so then no more independent pairs
    are counted than there are clips.

    Args:
        hits: ``[n]``.
        weights: ``[n]``, above 0.
        ends: ``[n]`` names of the two clips of each pair.
        confidence: of the two-sided interval.
    """
    n = len(hits)
    if n == 0:
        return Share(math.nan, 0.0, 1.0, 0, 0, 0.0)
    total = weights.sum()
    estimate = float(weights[hits].sum() / total)
    kish = float(total**2 / (weights**2).sum())
    if hits.all() or not hits.any():
        effective = min(kish, float(len({name for pair in ends for name in pair})))
        estimate = float(hits.all())
    else:
        apart = weights * (hits - estimate) / total
        variance = max(dyadic_variance(apart, ends), float((apart**2).sum()))
        effective = min(kish, estimate * (1 - estimate) / variance)
    low, high = clopper_pearson(estimate * effective, effective, confidence)
    return Share(estimate, low, high, int(hits.sum()), n, effective)


def dyadic_variance(influence: Floats, ends: Sequence[tuple[str, str]]) -> float:
    """Variance of a sum over pairs when two pairs that share an end may be correlated.

    Args:
        influence: ``[n]``, each pair's part of the estimate's error.
        ends: ``[n]`` names of both ends.

    Returns:
        the sum of ``influence[i] * influence[j]`` over all ``i, j`` that share an end, ``i = j``
        once. In small samples it can be negative.
    """
    by_end: dict[str, float] = {}
    by_both: dict[tuple[str, str], float] = {}
    for value, (a, b) in zip(influence.tolist(), ends, strict=True):
        for name in {a, b}:
            by_end[name] = by_end.get(name, 0.0) + value
        if a != b:
            key = (min(a, b), max(a, b))
            by_both[key] = by_both.get(key, 0.0) + value
    # Pairs between the same two ends meet at both of them and are counted twice.
    return sum(v * v for v in by_end.values()) - sum(v * v for v in by_both.values())


def clopper_pearson(hits: float, count: float, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a binomial share; counts need not be whole numbers."""
    tail = (1 - confidence) / 2
    misses = count - hits
    low = 0.0 if hits <= 1e-12 else beta_quantile(tail, hits, misses + 1)
    high = 1.0 if misses <= 1e-12 else beta_quantile(1 - tail, hits + 1, misses)
    return low, high


def fewest_without_error(wanted: float, confidence: float = 0.95) -> int:
    """How many right pairs, none wrong, put the lower end of the interval at ``wanted``.

    Fewer than these cannot support a bound whatever they say.
    """
    if not 0 < wanted < 1:
        raise ValueError(f"a wanted share of {wanted}: it lies between 0 and 1")
    return math.ceil(math.log((1 - confidence) / 2) / math.log(wanted) - 1e-9)


def beta_quantile(p: float, a: float, b: float) -> float:
    """The value below which a beta variable lies with probability ``p``; by bisection."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if beta_cdf(middle, a, b) < p else (low, middle)
    return (low + high) / 2


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by Lentz's continued fraction."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return max(0.0, 1.0 - _lower(1 - x, b, a))
    return min(1.0, _lower(x, a, b))


def _lower(x: float, a: float, b: float) -> float:
    front = math.exp(
        a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    )
    tiny = 1e-300
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, 10_000):
        before = fraction
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away(1.0 + term * d, tiny)
            c = _away(1.0 + term / c, tiny)
            fraction *= c * d
        if abs(fraction - before) <= 1e-15 * abs(fraction):
            break
    return front * fraction / a


def _away(value: float, tiny: float) -> float:
    return tiny if abs(value) < tiny else value


@dataclass(frozen=True)
class Curve:
    """What passes at each threshold, from the highest score down.

    Attributes:
        threshold: ``[k]`` distinct scores, falling; a pair passes when its score is not below.
        wrong: ``[k]`` weighted share of the negatives that pass.
        found: ``[k]`` weighted share of the positives that pass (recall).
        precision: ``[k]`` weighted share of positives among those that pass.
    """

    threshold: Floats
    wrong: Floats
    found: Floats
    precision: Floats


def curve(scores: Floats, positive: Flags, weights: Floats) -> Curve | None:
    """ROC and precision-recall in one; ``None`` when one of the two groups is empty."""
    if not positive.any() or positive.all():
        return None
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    right = np.cumsum(np.where(positive, weights, 0.0)[order])
    wrong = np.cumsum(np.where(positive, 0.0, weights)[order])
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # of equal scores
    right, wrong = right[last], wrong[last]
    return Curve(ordered[last], wrong / wrong[-1], right / right[-1], right / (right + wrong))


def auc(
    scores: Floats,
    positive: Flags,
    weights: Floats,
    ends: Sequence[tuple[str, str]],
    confidence: float = 0.95,
) -> Share | None:
    """Area under the ROC curve: a positive scores above a negative, ties half.

    The interval is of its projection onto single pairs (DeLong 1988) with the dyadic variance.
    """
    if not positive.any() or positive.all():
        return None
    up, down = np.where(positive, weights, 0.0), np.where(positive, 0.0, weights)
    up, down = up / up.sum(), down / down.sum()
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    first, last = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))

    def below(mass: Floats) -> Floats:
        summed = np.concatenate([[0.0], np.cumsum(mass[order])])
        return np.asarray((summed[first] + summed[last]) / 2)

    beaten, beating = below(down), 1.0 - below(up)
    area = min(1.0, float((up * beaten).sum()))
    influence = np.where(positive, up * (beaten - area), down * (beating - area))
    variance = max(dyadic_variance(influence, ends), float((influence**2).sum()), 0.0)
    if variance <= 1e-12:  # parted without an overlap, or tied as a whole
        effective = float(min(positive.sum(), (~positive).sum()))
    else:
        effective = area * (1 - area) / variance
    low, high = clopper_pearson(area * effective, effective, confidence)
    return Share(area, low, high, int(positive.sum()), len(scores), effective)
