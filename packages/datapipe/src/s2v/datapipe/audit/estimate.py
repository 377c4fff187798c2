"""The share of a fault among all accepted pairs, from a sample of them that hangs together.

Pairs are drawn by class and scenario with different chances, so each carries a weight. And they
hang together: pairs of one film, or with one subject in common, go wrong together. A plain
binomial interval would take a hundred pairs of one mistaken subject for a hundred mistakes.

Korn and Graubard (1998) is the interval made for this, and the one that health surveys publish:
Clopper-Pearson's exact limits with the sample size that the clustered, weighted sample is worth.
The variance counts every two pairs that share something (Aronow, Samii and Assenova 2015); where
each pair belongs to one source it is the usual variance between clusters. A bootstrap over sources
was the alternative; it says nothing when no fault was found (every resample has none) and nothing
with one source, and both are the common case here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s2v.datapipe.intervals import clopper_pearson, rule_of_three, t_quantile

Stratum = tuple[str, str]  # class and scenario


@dataclass(frozen=True)
class Observation:
    """One judged pair.

    Attributes:
        stratum: what it was drawn from.
        units: what it may share with others: its source, or its two subjects. All observations
            of a sample have as many.
        hit: the fault was found.
    """

    stratum: Stratum
    units: frozenset[str]
    hit: bool


@dataclass(frozen=True)
class Share:
    """An estimated share of a fault.

    Attributes:
        judged: pairs looked at.
        hits: those with the fault.
        units: sources or subjects among the judged.
        estimate: weighted share of the population, 0..1; ``None`` where nothing was judged.
        low, high: limits of the two-sided interval.
        worth: how many independent pairs the sample is worth.
        three_over_n: where no fault was found, 3 / ``worth``: the share it may still be; else
            ``None``.
        strata_missing: strata of the population of which nothing was judged. The estimate is of
            the others.
    """

    judged: int
    hits: int
    units: int
    estimate: float | None
    low: float
    high: float
    worth: float
    three_over_n: float | None
    strata_missing: int


def share(
    observed: Sequence[Observation],
    population: Mapping[Stratum, int],
    confidence: float = 0.95,
) -> Share:
    """Estimate the share of a fault.

    Args:
        observed: the judged pairs; within a stratum each had the same chance.
        population: how many pairs each stratum has.
        confidence: of the interval.

    Returns:
        The stratified mean ``sum(N_h / N * p_h)`` with Korn and Graubard's limits. No correction
        for a finite population: the question is what this selection does, not what these very
        pairs are, so even a full count has an interval.

    Raises:
        ValueError: more pairs were observed in a stratum than it has.
    """
    seen: dict[Stratum, int] = defaultdict(int)
    for one in observed:
        seen[one.stratum] += 1
    for stratum, count in seen.items():
        if count > population.get(stratum, 0):
            raise ValueError(
                f"{count} pairs observed in stratum {stratum!r}, which has "
                f"{population.get(stratum, 0)}"
            )
    missing = sum(1 for stratum, count in population.items() if count and not seen[stratum])
    if not observed:
        return Share(0, 0, 0, None, 0.0, 1.0, 0.0, None, missing)
    total = sum(population[stratum] for stratum in seen if seen[stratum])
    weights = [population[one.stratum] / seen[one.stratum] / total for one in observed]
    hits = sum(one.hit for one in observed)
    estimate = min(1.0, sum(w for w, one in zip(weights, observed, strict=True) if one.hit))
    worth = _worth(observed, weights, estimate)
    low, high = clopper_pearson(estimate * worth, worth, confidence)
    # One fault that stands alone looks independent of all else. It cannot show more than none.
    faultless = _faultless(observed, weights)
    low = min(low, clopper_pearson(faultless, faultless, confidence)[0])
    high = max(high, clopper_pearson(0.0, faultless, confidence)[1])
    return Share(
        judged=len(observed),
        hits=hits,
        units=len({unit for one in observed for unit in one.units}),
        estimate=round(estimate, 6),
        low=round(low, 6),
        high=round(high, 6),
        worth=round(worth, 3),
        three_over_n=None if hits else round(rule_of_three(worth), 6),
        strata_missing=missing,
    )


def _worth(observed: Sequence[Observation], weights: Sequence[float], estimate: float) -> float:
    """The effective sample size.

    With no fault, or nothing else, there is no variance to measure: then it is the size of a set of
    pairs of which no two share anything. Otherwise ``p (1 - p) / v``, corrected for how few such
    pairs ``v`` is known from, and never above the number of pairs. ``v`` leaves the strata out (a
    source lies in several), which can only widen the interval.
    """
    apart = _apart(observed)
    if apart < 2:
        return 1.0
    off = [w * (one.hit - estimate) for w, one in zip(weights, observed, strict=True)]
    variance = apart / (apart - 1) * _variance(observed, off)
    if not 0 < estimate < 1 or variance <= 0:
        return _faultless(observed, weights)
    few = (t_quantile(0.975, len(observed) - 1) / t_quantile(0.975, apart - 1)) ** 2
    return max(1.0, min(float(len(observed)), estimate * (1 - estimate) / variance * few))


def _faultless(observed: Sequence[Observation], weights: Sequence[float]) -> float:
    """The effective sample size where every answer is the same."""
    return max(1.0, _apart(observed) * _evenness(weights))


def _variance(observed: Sequence[Observation], off: Sequence[float]) -> float:
    """Sum of products of deviations over all two observations that share a unit."""
    by_unit, by_both = defaultdict[str, float](float), defaultdict[frozenset[str], float](float)
    for one, value in zip(observed, off, strict=True):
        for unit in one.units:
            by_unit[unit] += value
        by_both[one.units] += value
    twice = sum((len(key) - 1) * value**2 for key, value in by_both.items())
    return sum(value**2 for value in by_unit.values()) - twice


def _apart(observed: Sequence[Observation]) -> int:
    """Size of a set of observations of which no two share a unit, those with few sharers first."""
    crowd: Counter[str] = Counter(unit for one in observed for unit in one.units)
    taken: set[str] = set()
    count = 0
    for one in sorted(observed, key=lambda o: (sum(crowd[u] for u in o.units), sorted(o.units))):
        if not taken & one.units:
            taken |= one.units
            count += 1
    return count


def _evenness(weights: Sequence[float]) -> float:
    """Kish's loss by unequal weights: 1 where all are equal."""
    total: float = sum(weights)
    return total**2 / (len(weights) * sum(weight**2 for weight in weights))
