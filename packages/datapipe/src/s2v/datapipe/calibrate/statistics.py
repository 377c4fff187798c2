"""Shares, curves and their intervals for labelled pairs. Pure functions of arrays.

Pairs are drawn with unequal chances and they share clips, so neither counting nor the binomial
formula is right. Shares are weighted by the inverse of the chance of being drawn; their variance
is the one for dyadic data (Aronow, Samii, Assenova 2015), in which two pairs that share a clip
may err together; and the interval is Clopper-Pearson's exact one at the number of independent
pairs which that variance stands for (Korn and Graubard 1998). With equal weights and no clip
shared it *is* Clopper-Pearson's. A bootstrap over identities was left out: a film has a handful
of characters, and a handful cannot be resampled.

Of ``n`` clips there are ``n / 2`` independent pairs, however many are labelled: if each clip is
spoilt with chance ``q``, a pair is right with ``(1 - q)**2`` and all are with ``(1 - q)**n``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from s2v.datapipe.intervals import clopper_pearson, t_quantile

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
    a wrong box) comes with a clip and spoils all its pairs, so then half as many independent pairs
    are counted as there are clips. Else the variance is corrected for how few clips it is known
    from, as Korn and Graubard do.

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
    apart = len({name for pair in ends for name in pair}) / 2
    faultless = max(1.0, min(kish, apart))
    if hits.all() or not hits.any():
        estimate, effective = float(hits.all()), faultless
    else:
        influence = weights * (hits - estimate) / total
        variance = max(dyadic_variance(influence, ends), float((influence**2).sum()))
        effective = estimate * (1 - estimate) / variance * _few(n, apart)
        effective = max(1.0, min(kish, effective))
    low, high = clopper_pearson(estimate * effective, effective, confidence)
    # One fault that stands alone looks independent of all else. It cannot show more than none.
    low = min(low, clopper_pearson(faultless, faultless, confidence)[0])
    high = max(high, clopper_pearson(0.0, faultless, confidence)[1])
    return Share(estimate, low, high, int(hits.sum()), n, effective)


def _few(count: int, apart: float) -> float:
    """What a variance known from so few independent pairs is worth; 1 where no clip is shared."""
    if apart <= 1.5 or count < 3:
        return 0.0
    freedom, most = min(apart, count) - 1, count - 1
    narrower = t_quantile(0.975, most) / t_quantile(0.975, freedom)
    return narrower**2 * (freedom / (freedom + 1)) / (most / count)


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
        clips = len({name for pair in ends for name in pair})
        effective = max(1.0, min(float(positive.sum()), float((~positive).sum()), clips / 2))
    else:
        effective = area * (1 - area) / variance
    low, high = clopper_pearson(area * effective, effective, confidence)
    return Share(area, low, high, int(positive.sum()), len(scores), effective)
