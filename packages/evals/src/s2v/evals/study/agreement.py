"""Do raters agree: Krippendorff's alpha, with missing ratings, nominal or ordinal.

Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability". By habit 0.67 allows tentative
conclusions and 0.80 firm ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from s2v.evals.intervals import FloatArray
from s2v.evals.statistics import CONFIDENCE

Level = Literal["nominal", "ordinal"]
REPLICATES = 1000


@dataclass(frozen=True)
class Alpha:
    """Agreement.

    Attributes:
        value: 1 for perfect agreement, 0 for chance; None where nothing can be said (no unit
            with two ratings, or all ratings equal).
        low: of a bootstrap over units, 95 %.
        high: likewise.
        units: with at least two ratings.
        ratings: in those units.
    """

    value: float | None
    low: float | None
    high: float | None
    units: int
    ratings: int


def krippendorff(
    values: Sequence[int],
    units: Sequence[Hashable],
    categories: int,
    *,
    level: Level,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Alpha:
    """Alpha of ratings.

    Args:
        values: (n,) category of each rating, from 0 in their order.
        units: (n,) what was rated.
        categories: how many there are.
        level: of measurement.
        seed: of the bootstrap.
        replicates: B.

    Raises:
        ValueError: lengths differ, or a value outside the categories.
    """
    if len(values) != len(units) or any(not 0 <= v < categories for v in values):
        raise ValueError(f"alpha: {len(values)} values of {categories} kinds, {len(units)} units")
    tallies: dict[str, FloatArray] = defaultdict(lambda: np.zeros(categories))
    for kind, unit in zip(values, units, strict=True):
        tallies[str(unit)][kind] += 1
    counts = [tallies[name] for name in sorted(tallies) if tallies[name].sum() >= 2]
    if not counts:
        return Alpha(None, None, None, 0, 0)
    coincidences = np.stack([_coincidences(one) for one in counts])
    value = _alpha(coincidences.sum(axis=0), level)
    total = int(sum(one.sum() for one in counts))
    if value is None or len(counts) < 2:
        return Alpha(value, None, None, len(counts), total)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=replicates)
    drawn = [_alpha(np.tensordot(w, coincidences, 1), level) for w in weights]
    found = [v for v in drawn if v is not None]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [tail, 1 - tail]) if found else (value, value)
    return Alpha(value, min(float(low), value), max(float(high), value), len(counts), total)


def _coincidences(tally: FloatArray) -> FloatArray:
    """(K, K) coincidences of one unit: each pair of its ratings, over its ratings less one."""
    pairs = np.outer(tally, tally) - np.diag(tally)
    return np.asarray(pairs / (tally.sum() - 1), dtype=np.float64)


def _alpha(coincidences: FloatArray, level: Level) -> float | None:
    margins = coincidences.sum(axis=0)
    total = float(margins.sum())
    distance = _distance(margins, level)
    expected = float((np.outer(margins, margins) * distance).sum()) / (total - 1)
    if expected <= 0:
        return None
    return 1 - float((coincidences * distance).sum()) / expected


def _distance(margins: FloatArray, level: Level) -> FloatArray:
    size = margins.size
    if level == "nominal":
        return np.asarray(1.0 - np.eye(size), dtype=np.float64)
    # Ordinal: what lies between two categories, the two themselves by half, squared.
    below = np.concatenate([[0.0], np.cumsum(margins)])
    middle = (below[:-1] + below[1:]) / 2
    return np.asarray((middle[:, None] - middle[None, :]) ** 2, dtype=np.float64)
