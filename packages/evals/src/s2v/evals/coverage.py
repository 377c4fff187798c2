"""How often do the intervals hold the truth: a simulation one can run again.

    python -m s2v.evals.coverage --studies 2000

Studies are drawn from designs with a known mean; every method of `s2v.evals.intervals`, and the
same percentile bootstrap over single videos, sees the same studies.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from s2v.evals import intervals, statistics
from s2v.evals.intervals import METHODS, FloatArray

IntArray = npt.NDArray[np.int64]

PER_REFERENCE = 9
"""Videos of one reference in the paper's design: 3 prompts x 3 seeds."""

BY_VIDEO = "by video (naive)"
REPORTED = "reported"


@dataclass(frozen=True)
class Design:
    """Where simulated scores come from.

    Attributes:
        name: for the table.
        draw: ``(rng, references) -> (values, labels)``.
        truth: the mean the intervals should hold.
    """

    name: str
    draw: Callable[[np.random.Generator, int], tuple[FloatArray, IntArray]]
    truth: float


def _labels(groups: int) -> IntArray:
    return np.repeat(np.arange(groups), PER_REFERENCE)


def _normal(rng: np.random.Generator, groups: int) -> tuple[FloatArray, IntArray]:
    """Face-like: references spread by 0.05, videos of one by 0.05 (rho 0.5)."""
    labels = _labels(groups)
    return rng.normal(0, 0.05, groups)[labels] + rng.normal(0, 0.05, labels.size), labels


def _skewed(rng: np.random.Generator, groups: int) -> tuple[FloatArray, IntArray]:
    """A few references far above the rest, as motion is: exponential reference effects."""
    labels = _labels(groups)
    return rng.exponential(1.0, groups)[labels] + rng.normal(0, 0.5, labels.size) - 1.0, labels


def _ceiling(rng: np.random.Generator, groups: int) -> tuple[FloatArray, IntArray]:
    """Scores near the upper end of [0, 1]: Beta(8, 2) per reference, videos beta round it."""
    labels = _labels(groups)
    centre = rng.beta(8, 2, groups)[labels]
    return rng.beta(20 * centre + 1e-9, 20 * (1 - centre) + 1e-9), labels


def _unequal(rng: np.random.Generator, groups: int) -> tuple[FloatArray, IntArray]:
    """References with 1 to 9 videos left, as after failures."""
    sizes = rng.integers(1, PER_REFERENCE + 1, groups)
    labels = np.repeat(np.arange(groups), sizes)
    return rng.normal(0, 0.05, groups)[labels] + rng.normal(0, 0.05, labels.size), labels


DESIGNS = (
    Design("normal", _normal, 0.0),
    Design("skewed", _skewed, 0.0),
    Design("near the ceiling", _ceiling, 0.8),
    Design("unequal", _unequal, 0.0),
)


def coverage(
    design: Design,
    groups: int,
    *,
    studies: int,
    replicates: int,
    seed: int = 20250219,
    names: Sequence[str] = (BY_VIDEO, *METHODS, REPORTED),
) -> dict[str, float]:
    """Share of simulated studies whose 95 % interval holds the true mean.

    Args:
        design: where scores come from.
        groups: references of each study.
        studies: how many are drawn.
        replicates: of each bootstrap.
        seed: of the studies.
        names: methods to try; the studies are the same whichever they are.

    Returns:
        Method -> share, with `BY_VIDEO` for resampled videos and `REPORTED` for what
        `statistics.cluster_bootstrap` does.
    """
    rng = np.random.default_rng(seed)
    hits = dict.fromkeys(names, 0)
    for study in range(studies):
        values, labels = design.draw(rng, groups)
        for name in names:
            low, high = _interval(name, values, labels, study, replicates)
            hits[name] += low <= design.truth <= high
    return {name: count / studies for name, count in hits.items()}


@dataclass(frozen=True)
class RateDesign:
    """Hits that resemble each other within a reference: Beta shares, Bernoulli videos.

    Attributes:
        name: for the table.
        share: mean share of hits.
        rho: correlation of two videos of one reference.
    """

    name: str
    share: float
    rho: float


RATE_DESIGNS = (
    RateDesign("half, independent", 0.5, 0.0),
    RateDesign("half, alike", 0.5, 0.5),
    RateDesign("four in five, alike", 0.8, 0.5),
    RateDesign("nineteen in twenty, alike", 0.95, 0.3),
)


def rate_coverage(
    design: RateDesign, groups: int, *, studies: int, seed: int = 20250219
) -> dict[str, float]:
    """Share of simulated studies whose 95 % interval holds the true share.

    Args:
        design: where hits come from.
        groups: references of each study, nine videos each.
        studies: how many are drawn.
        seed: of the studies.

    Returns:
        `BY_VIDEO` for Wilson's interval of videos taken as independent, and `REPORTED` for
        `statistics.clustered_rate`.
    """
    rng = np.random.default_rng(seed)
    hits = {BY_VIDEO: 0, REPORTED: 0}
    labels = _labels(groups)
    names = labels.tolist()
    for _ in range(studies):
        shares = np.full(groups, design.share)
        if design.rho > 0:
            spread = 1 / design.rho - 1
            shares = rng.beta(design.share * spread, (1 - design.share) * spread, groups)
        values = (rng.random(labels.size) < shares[labels]).astype(np.float64)
        low, high = statistics.wilson(float(values.sum()), labels.size)
        hits[BY_VIDEO] += low <= design.share <= high
        got = statistics.clustered_rate(values, names)
        hits[REPORTED] += got.low is not None and got.low <= design.share <= (got.high or 0.0)
    return {name: count / studies for name, count in hits.items()}


def _rates(references: Sequence[int], studies: int, seed: int) -> None:
    print(f"\n| rate | references | Wilson {BY_VIDEO} | {REPORTED} |\n|---|---|---|---|")
    for design in RATE_DESIGNS:
        for groups in references:
            found = rate_coverage(design, groups, studies=studies, seed=seed)
            shares = " | ".join(f"{100 * found[name]:.1f}" for name in (BY_VIDEO, REPORTED))
            print(f"| {design.name} | {groups} | {shares} |", flush=True)


def _interval(
    name: str, values: FloatArray, labels: IntArray, seed: int, replicates: int
) -> tuple[float, float]:
    level = statistics.CONFIDENCE
    if name == REPORTED:
        got = statistics.cluster_bootstrap(
            values, labels.tolist(), seed=seed, replicates=replicates
        )
        return (math.nan, math.nan) if got.low is None or got.high is None else (got.low, got.high)
    if name == BY_VIDEO:
        return intervals.percentile(values, np.ones_like(values), seed, replicates, level)
    sums = np.bincount(labels, weights=values).astype(np.float64)
    counts = np.bincount(labels).astype(np.float64)
    return METHODS[name](sums, counts, seed, replicates, level)


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate and print the table."""
    parser = argparse.ArgumentParser(prog="s2v.evals.coverage", description=__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--replicates", type=int, default=599)
    parser.add_argument("--references", type=int, nargs="+", default=[4, 6, 12, 25, 50])
    parser.add_argument("--seed", type=int, default=20250219)
    args = parser.parse_args(argv)
    names = (BY_VIDEO, *METHODS, REPORTED)
    print("| design | references | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 2) + "|")
    for design in DESIGNS:
        for groups in args.references:
            found = coverage(
                design, groups, studies=args.studies, replicates=args.replicates, seed=args.seed
            )
            shares = " | ".join(f"{100 * found[name]:.1f}" for name in names)
            print(f"| {design.name} | {groups} | {shares} |", flush=True)
    _rates(args.references, args.studies, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
