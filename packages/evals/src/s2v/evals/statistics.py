"""Intervals and tests for scores that come in clusters.

The unit of resampling is the *reference*, not the video: the paper's design makes nine videos
of one reference (3 prompts x 3 seeds), and videos of one reference resemble each other. An
interval that resamples videos is too narrow by the design effect ``1 + (m - 1) * rho``.
Framework: Miller 2024, "Adding Error Bars to Evals".
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from s2v.evals import intervals
from s2v.evals.intervals import FloatArray

REPLICATES = 10_000
CONFIDENCE = 0.95
ALPHA = 0.05
"""Level of the tests."""
# Above this many clusters the 2**G sign patterns are sampled instead of enumerated.
EXACT_SIGN_FLIPS_UP_TO = 14
# Fewer clusters have too few distinct resamples for a table of t of their own.
BOOTSTRAP_FROM = 4
_CELLS_PER_BLOCK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A point estimate with its confidence interval.

    Attributes:
        estimate: the mean, share, or mean difference, in the metric's own unit.
        low: lower end, or None where it cannot be known (a single cluster).
        high: upper end, or None likewise.
        n: number of values.
        clusters: number of distinct references.
        method: how the ends were found.
    """

    estimate: float
    low: float | None
    high: float | None
    n: int
    clusters: int
    method: str


@dataclass(frozen=True)
class PairedTest:
    """A paired comparison B - A.

    Attributes:
        difference: mean of the paired differences with its interval.
        p_value: two-sided, from flipping the sign of whole clusters.
        exact: every sign pattern was enumerated.
        sd_cluster: standard deviation of the per-cluster mean differences (ddof 1).
        mde: difference detectable with 80 % power at 5 %, see `detectable`; None where so few
            clusters can show none.
    """

    difference: Interval
    p_value: float
    exact: bool
    sd_cluster: float | None
    mde: float | None


def _checked(values: Sequence[float] | FloatArray, what: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{what}: expected a non-empty list of numbers, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what}: {int((~np.isfinite(array)).sum())} of {array.size} not finite")
    return array


def cluster_totals(
    values: Sequence[float] | FloatArray, clusters: Sequence[Hashable]
) -> tuple[FloatArray, FloatArray]:
    """Sums and counts per cluster, clusters in sorted order.

    The order is that of the cluster names, so that results do not depend on the order in which
    samples were evaluated.

    Returns:
        ``(sums, counts)``, each of shape (G,).

    Raises:
        ValueError: values empty or not finite, or of another length than ``clusters``.
    """
    array = _checked(values, "values")
    if len(clusters) != array.size:
        raise ValueError(f"{array.size} values but {len(clusters)} cluster labels")
    names = [str(c) for c in clusters]
    index = {name: i for i, name in enumerate(sorted(set(names)))}
    where = np.array([index[name] for name in names])
    # Summed in sorted order: float addition is not associative.
    order = np.lexsort((array, where))
    sums = np.bincount(where[order], weights=array[order], minlength=len(index)).astype(np.float64)
    counts = np.bincount(where, minlength=len(index)).astype(np.float64)
    return sums, counts


def cluster_bootstrap(
    values: Sequence[float] | FloatArray,
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    replicates: int = REPLICATES,
) -> Interval:
    """Mean with an interval from resampling references.

    Bootstrap-t over whole clusters, and Student's t with a cluster-robust standard error below
    `BOOTSTRAP_FROM` clusters: of the methods simulated by `s2v.evals.coverage` these hold what
    they promise for few references and for skewed scores (table in docs/evals-statistics.md).

    Args:
        values: (n,) one score per video, finite.
        clusters: (n,) the reference each video belongs to.
        seed: of the resampling; stored with the result.
        confidence: nominal coverage.
        replicates: B.

    Returns:
        The interval. With a single cluster its ends are None: nothing can be said about
        other references. Equal values give a zero-width interval.

    Raises:
        ValueError: values empty or not finite, or of another length than ``clusters``.
    """
    sums, counts = cluster_totals(values, clusters)
    estimate = float(sums.sum() / counts.sum())
    n, groups = int(counts.sum()), sums.size
    if groups == 1:
        return Interval(estimate, None, None, n, 1, "none (one reference)")
    few = groups < BOOTSTRAP_FROM
    method = intervals.student if few else intervals.studentised
    low, high = method(sums, counts, seed, replicates, confidence)
    # The last bit of a sum of equal values may differ; a mean is inside its interval.
    low, high = min(low, estimate), max(high, estimate)
    name = "Student's t, cluster-robust" if few else "cluster bootstrap-t"
    return Interval(estimate, low, high, n, groups, name)


def wilson(successes: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson score interval of a share.

    Args:
        successes: number of hits; may be fractional when ``n`` is an effective size.
        n: number of trials, positive.
        confidence: nominal coverage.

    Raises:
        ValueError: n not positive, or successes outside [0, n].
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"wilson: {successes} successes of {n}")
    z = float(special.ndtri((1 + confidence) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At 0 and n one end is exact; subtraction would leave 1e-17 behind.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def clustered_rate(
    hits: Sequence[float] | FloatArray,
    clusters: Sequence[Hashable],
    confidence: float = CONFIDENCE,
) -> Interval:
    """Share of hits with a Wilson interval on the effective number of videos.

    The number of trials is divided by the design effect (variance of the clustered share over
    that of independent trials), never below the number of clusters nor above n. When all
    outcomes agree the effect cannot be estimated and the number of clusters is used.

    Args:
        hits: (n,) 0 or 1 per video.
        clusters: (n,) the reference each video belongs to.
        confidence: nominal coverage.

    Raises:
        ValueError: empty, or a value other than 0 and 1.
    """
    array = _checked(hits, "hits")
    if not np.isin(array, (0.0, 1.0)).all():
        raise ValueError("hits must be 0 or 1")
    sums, counts = cluster_totals(array, clusters)
    n, groups = float(counts.sum()), sums.size
    share = float(sums.sum() / n)
    effective = float(groups)
    if groups == n:
        effective = n
    elif groups > 1 and 0 < share < 1:
        spread = float(((sums - share * counts) ** 2).sum()) * groups / (groups - 1) / n**2
        independent = share * (1 - share) / n
        effective = n / max(1.0, spread / independent)
        effective = min(n, max(float(groups), effective))
        # The effect is estimated from G - 1 differences (Korn and Graubard 1998).
        tail = (1 + confidence) / 2
        effective *= float(special.ndtri(tail) / special.stdtrit(groups - 1, tail)) ** 2
    low, high = wilson(share * effective, effective, confidence)
    return Interval(share, low, high, int(n), groups, "Wilson, effective n")


def sign_flip_p(
    sums: FloatArray, *, seed: int = 0, replicates: int = REPLICATES
) -> tuple[float, bool]:
    """Two-sided p of "the paired differences are symmetric about zero".

    Whole clusters change sign together. Up to ``EXACT_SIGN_FLIPS_UP_TO`` clusters all patterns
    are enumerated; beyond, ``replicates`` random ones with the usual +1 correction.

    Args:
        sums: (G,) sum of the differences of each cluster.
        seed: of the random patterns.
        replicates: number of random patterns.

    Returns:
        ``(p, exact)``.
    """
    observed = abs(float(sums.sum()))
    # Ties with the observed value count, also when rounding separates them.
    threshold = observed - 1e-12 * max(1.0, float(np.abs(sums).sum()))
    groups = sums.size
    if groups <= EXACT_SIGN_FLIPS_UP_TO:
        patterns = np.arange(2**groups)[:, None] >> np.arange(groups) & 1
        totals = np.abs((1 - 2 * patterns) @ sums)
        return float((totals >= threshold).mean()), True
    rng = np.random.default_rng(seed)
    hits = 0
    block = max(1, _CELLS_PER_BLOCK // groups)
    for start in range(0, replicates, block):
        rows = min(block, replicates - start)
        signs = rng.integers(0, 2, size=(rows, groups)) * 2 - 1
        hits += int((np.abs(signs @ sums) >= threshold).sum())
    return (hits + 1) / (replicates + 1), False


def paired_difference(
    a: Sequence[float] | FloatArray,
    b: Sequence[float] | FloatArray,
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    replicates: int = REPLICATES,
) -> PairedTest:
    """B - A over the same references and prompts, with interval, p and what was detectable.

    Args:
        a: (n,) scores of the first run.
        b: (n,) scores of the second run, in the same order.
        clusters: (n,) the reference of each pair.
        seed: of the bootstrap and of the random sign patterns.
        confidence: nominal coverage.
        replicates: B for both.

    Raises:
        ValueError: lengths differ, empty, or not finite.
    """
    first, second = _checked(a, "a"), _checked(b, "b")
    if first.size != second.size:
        raise ValueError(f"paired difference needs pairs: {first.size} against {second.size}")
    delta = second - first
    interval = cluster_bootstrap(
        delta, clusters, seed=seed, confidence=confidence, replicates=replicates
    )
    sums, counts = cluster_totals(delta, clusters)
    p_value, exact = sign_flip_p(sums, seed=seed, replicates=replicates)
    if sums.size < 2:
        return PairedTest(interval, p_value, exact, None, None)
    sd = float(np.std(sums / counts, ddof=1))
    # Where references have unequal numbers of pairs, the mean is less sure than their spread says.
    spread = float(intervals.standard_error(sums, counts)) * math.sqrt(sums.size)
    mde = detectable(spread, sums.size) if can_show(sums.size) else None
    return PairedTest(interval, p_value, exact, sd, mde)


def can_show(clusters: int, alpha: float = ALPHA) -> bool:
    """Whether flipping the signs of so many clusters can give a p of at most ``alpha`` at all."""
    return 2.0 ** (1 - clusters) <= alpha


def detectable(
    sd_cluster: float, clusters: int, *, power: float = 0.8, alpha: float = ALPHA
) -> float:
    """Smallest true difference that a paired comparison finds with a given power.

    ``(t_{1-alpha/2, G-1} + t_{power, G-1}) * sd / sqrt(G)``: with many references 2.80 sd /
    sqrt(G), as with normal quantiles, which promise too much of few (2.80 where 11 references need
    3.11). With the paper's 50 references and a paired sd of 0.06, 0.024.

    Args:
        sd_cluster: standard deviation of the per-reference mean differences; where references
            have unequal numbers of pairs, the mean's standard error times the root of G.
        clusters: references G.
        power: chance of finding it.
        alpha: two-sided level.

    Raises:
        ValueError: fewer than two clusters, a negative spread, or a probability outside (0, 1).
    """
    if clusters < 2 or sd_cluster < 0 or not 0 < power < 1 or not 0 < alpha < 1:
        raise ValueError(f"detectable: sd {sd_cluster}, {clusters} clusters, {power=}, {alpha=}")
    freedom = clusters - 1
    quantiles = float(special.stdtrit(freedom, 1 - alpha / 2) + special.stdtrit(freedom, power))
    return quantiles * sd_cluster / math.sqrt(clusters)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm-adjusted p-values over the metrics of one comparison.

    Args:
        p_values: metric to raw p.

    Returns:
        Metric to adjusted p, in the order given; monotone in the raw p, at most 1.
    """
    adjusted: dict[str, float] = {}
    running, m = 0.0, len(p_values)
    for rank, name in enumerate(sorted(p_values, key=lambda k: (p_values[k], k))):
        running = max(running, min(1.0, (m - rank) * p_values[name]))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}
