"""Ways to put an interval round a mean of clustered scores, side by side.

All work on the sum and the count of every cluster (reference), the only things a resample of
whole clusters needs. `s2v.evals.coverage` simulates how often each holds the true mean; the one
that reports use is chosen by that table, in `s2v.evals.statistics.cluster_bootstrap`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]
Method = Callable[[FloatArray, FloatArray, int, int, float], tuple[float, float]]
"""``(sums, counts, seed, replicates, confidence) -> (low, high)``; two clusters at least."""

_CELLS_PER_BLOCK = 4_000_000
# What rounding leaves of a spread that is none: of all clusters, and of a resample's.
_NOTHING = 1e-12
_NO_SPREAD = 1e-6


def expanded_level(clusters: int, confidence: float) -> float:
    """Tail probability of the percentile interval, widened for few clusters.

    The plain percentile bootstrap under-covers for small G, because it uses a normal quantile
    and a variance that is too small by (G - 1) / G. Hesterberg 2015 (section 4.2) reads the
    percentiles further out, at ``Phi(-sqrt(G / (G - 1)) * t_{alpha/2, G-1})``.

    Args:
        clusters: number of clusters G, at least 2.
        confidence: nominal coverage.

    Returns:
        The lower tail probability; the upper one is its complement.
    """
    t = special.stdtrit(clusters - 1, (1 + confidence) / 2)
    return float(special.ndtr(-math.sqrt(clusters / (clusters - 1)) * t))


def resamples(
    sums: FloatArray, counts: FloatArray, seed: int, replicates: int
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Blocks of resampled ``(sums, counts)``, each (rows, G), ``replicates`` rows in all."""
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS_PER_BLOCK // sums.size)
    for start in range(0, replicates, block):
        rows = min(block, replicates - start)
        picks = rng.integers(0, sums.size, size=(rows, sums.size))
        yield sums[picks], counts[picks]


def bootstrap_means(sums: FloatArray, counts: FloatArray, seed: int, replicates: int) -> FloatArray:
    """(B,) means of ``replicates`` resamples of whole clusters."""
    blocks = resamples(sums, counts, seed, replicates)
    return np.concatenate([s.sum(axis=1) / c.sum(axis=1) for s, c in blocks])


def standard_error(sums: FloatArray, counts: FloatArray) -> FloatArray:
    """Cluster-robust standard error of ``sums.sum() / counts.sum()`` over the last axis.

    The linearised ratio: ``sqrt(G / (G - 1) * sum_g (s_g - mean * c_g)^2) / n``.
    """
    groups = sums.shape[-1]
    total = counts.sum(axis=-1, keepdims=True)
    residuals = sums - counts * (sums.sum(axis=-1, keepdims=True) / total)
    spread = (residuals**2).sum(axis=-1) * groups / (groups - 1)
    return np.asarray(np.sqrt(spread) / total[..., 0], dtype=np.float64)


def percentile(
    sums: FloatArray, counts: FloatArray, seed: int, replicates: int, confidence: float
) -> tuple[float, float]:
    """The plain percentiles of the resampled means."""
    means = bootstrap_means(sums, counts, seed, replicates)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def expanded(
    sums: FloatArray, counts: FloatArray, seed: int, replicates: int, confidence: float
) -> tuple[float, float]:
    """Percentiles read further out for few clusters, see `expanded_level`."""
    means = bootstrap_means(sums, counts, seed, replicates)
    tail = expanded_level(sums.size, confidence)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def bca(
    sums: FloatArray, counts: FloatArray, seed: int, replicates: int, confidence: float
) -> tuple[float, float]:
    """Bias-corrected and accelerated (Efron 1987), the jackknife leaving out whole clusters."""
    means = bootstrap_means(sums, counts, seed, replicates)
    estimate = float(sums.sum() / counts.sum())
    below = (float((means < estimate).mean()) + float((means <= estimate).mean())) / 2
    edge = 0.5 / replicates
    bias = float(special.ndtri(min(max(below, edge), 1 - edge)))
    left_out = (sums.sum() - sums) / (counts.sum() - counts)
    gaps = left_out.mean() - left_out
    scale = float((gaps**2).sum()) ** 1.5
    acceleration = float((gaps**3).sum()) / (6 * scale) if scale > 0 else 0.0
    z = float(special.ndtri((1 + confidence) / 2))
    levels = []
    for side in (-z, z):
        moved = bias + side
        levels.append(float(special.ndtr(bias + moved / (1 - acceleration * moved))))
    low, high = np.quantile(means, np.clip(levels, 0.0, 1.0))
    return float(low), float(high)


def student(
    sums: FloatArray, counts: FloatArray, seed: int, replicates: int, confidence: float
) -> tuple[float, float]:
    """Cluster-robust standard error with Student's t of G - 1 degrees; nothing is resampled."""
    del seed, replicates
    estimate = float(sums.sum() / counts.sum())
    t = float(special.stdtrit(sums.size - 1, (1 + confidence) / 2))
    half = t * float(standard_error(sums, counts))
    return estimate - half, estimate + half


def studentised(
    sums: FloatArray, counts: FloatArray, seed: int, replicates: int, confidence: float
) -> tuple[float, float]:
    """Bootstrap-t: quantiles of the resampled t statistic instead of Student's table.

    It follows a skew that the symmetric interval cannot. Resamples of equal clusters have no
    spread and say nothing of t; they are left out.
    """
    estimate = float(sums.sum() / counts.sum())
    own = float(standard_error(sums, counts))
    if own <= _NOTHING * float(np.abs(sums / counts).max()):
        return estimate, estimate
    pieces = []
    for s, c in resamples(sums, counts, seed, replicates):
        error = standard_error(s, c)
        spread = error > _NO_SPREAD * own
        moved = s.sum(axis=1) / c.sum(axis=1) - estimate
        pieces.append(moved[spread] / error[spread])
    statistic = np.concatenate(pieces)
    if statistic.size == 0:
        return student(sums, counts, seed, replicates, confidence)
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic, [tail, 1 - tail])
    return estimate - float(high) * own, estimate - float(low) * own


METHODS: dict[str, Method] = {
    "percentile": percentile,
    "expanded percentile": expanded,
    "BCa": bca,
    "Student": student,
    "bootstrap-t": studentised,
}
