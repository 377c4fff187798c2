"""Who is preferred: win rates, good-same-bad, and Bradley-Terry strengths with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2v.evals import crossed
from s2v.evals.crossed import codes, crossed_bootstrap
from s2v.evals.intervals import FloatArray
from s2v.evals.statistics import CONFIDENCE, Interval

REPLICATES = 1000
# A virtual draw between any two models that met: a model that never lost has no finite strength.
_PRIOR = 0.5
_STEPS, _ENOUGH = 2000, 1e-9


@dataclass(frozen=True)
class Match:
    """One rater's judgement between two models on one prompt.

    Attributes:
        rater: who.
        group: reference and prompt.
        a: model.
        b: another.
        outcome: 1 when a is better, 0 when b is, 0.5 for neither.
    """

    rater: str
    group: str
    a: str
    b: str
    outcome: float


@dataclass(frozen=True)
class Gsb:
    """Good, same, bad of ``a`` against ``b``; the two formulas in use are both given.

    Attributes:
        a: model.
        b: the one it is compared with.
        good: judgements for a.
        same: for neither.
        bad: for b.
        net: (good - bad) / all.
        ratio: (good + same) / (bad + same); None when nothing stands below the line.
    """

    a: str
    b: str
    good: int
    same: int
    bad: int
    net: float
    ratio: float | None


@dataclass(frozen=True)
class Strength:
    """A Bradley-Terry strength.

    Attributes:
        model: whose.
        value: log strength; the mean over the models is 0.
        low: 95 % interval from resampling raters and prompts.
        high: likewise.
        rank_low: best rank in 95 % of the resamples.
        rank_high: worst.
    """

    model: str
    value: float
    low: float
    high: float
    rank_low: int
    rank_high: int


def win_rates(matches: Sequence[Match], *, seed: int, replicates: int) -> dict[str, Interval]:
    """Share of its matches that a model wins, ties by half, over raters and prompts."""
    rates = {}
    for model in sorted({m for one in matches for m in (one.a, one.b)}):
        mine = [one for one in matches if model in (one.a, one.b)]
        won = [one.outcome if one.a == model else 1 - one.outcome for one in mine]
        rates[model] = crossed_bootstrap(
            won, [o.rater for o in mine], [o.group for o in mine], seed=seed, replicates=replicates
        )
    return rates


def good_same_bad(matches: Sequence[Match]) -> list[Gsb]:
    """Every pair that met, by name."""
    tally: dict[tuple[str, str], list[int]] = {}
    for one in matches:
        a, b = sorted((one.a, one.b))
        outcome = one.outcome if one.a == a else 1 - one.outcome
        tally.setdefault((a, b), [0, 0, 0])[{1.0: 0, 0.5: 1, 0.0: 2}[outcome]] += 1
    found = []
    for (a, b), (good, same, bad) in sorted(tally.items()):
        total, below = good + same + bad, bad + same
        ratio = (good + same) / below if below else None
        found.append(Gsb(a, b, good, same, bad, (good - bad) / total, ratio))
    return found


def bradley_terry(
    matches: Sequence[Match], *, seed: int, replicates: int = REPLICATES
) -> list[Strength]:
    """Strengths such that ``P(a beats b) = 1 / (1 + exp(s_b - s_a))``, strongest first.

    Maximum likelihood by Hunter's minorise-maximise steps; a tie is half a win for each, and half
    a virtual draw is added between any two models that met. Intervals resample raters and prompts
    (`s2v.evals.crossed`).

    Args:
        matches: at least one; models that never met, even through others, share a scale only by
            the mean.
        seed: of the resampling.
        replicates: B.
    """
    if not matches:
        return []
    models = sorted({m for one in matches for m in (one.a, one.b)})
    at = {m: i for i, m in enumerate(models)}
    a = np.array([at[o.a] for o in matches])
    b = np.array([at[o.b] for o in matches])
    outcome = np.array([o.outcome for o in matches])
    _, raters = codes([o.rater for o in matches])
    _, groups = codes([o.group for o in matches])
    size = len(models)
    met = np.zeros((size, size))
    np.add.at(met, (a, b), 1.0)
    prior = _PRIOR / 2 * ((met + met.T) > 0)

    def wins(weights: FloatArray) -> FloatArray:
        """(B, M, M) wins of row over column under each row of weights."""
        table = np.zeros((len(weights), size * size))
        for flat, share in ((a * size + b, outcome), (b * size + a, 1 - outcome)):
            for cell in np.unique(flat):
                table[:, cell] += weights[:, flat == cell] @ share[flat == cell]
        return table.reshape(-1, size, size) + prior

    value = _fit(wins(np.ones((1, len(matches)))))[0]
    drawn = np.concatenate(
        [_fit(wins(w)) for w in crossed.weights(raters, groups, seed=seed, replicates=replicates)]
    )
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    ranks = 1 + (drawn[:, None, :] > drawn[:, :, None] + 1e-12).sum(axis=2)
    best = np.quantile(ranks, tail, axis=0, method="lower")
    last = np.quantile(ranks, 1 - tail, axis=0, method="higher")
    found = [
        Strength(m, float(value[i]), min(float(low[i]), float(value[i])),
                 max(float(high[i]), float(value[i])), int(best[i]), int(last[i]))
        for i, m in enumerate(models)
    ]  # fmt: skip
    return sorted(found, key=lambda s: (-s.value, s.model))


def _fit(wins: FloatArray) -> FloatArray:
    """(B, M) log strengths of (B, M, M) wins, mean 0."""
    games = wins + wins.transpose(0, 2, 1)
    won = wins.sum(axis=2)
    strength = np.ones(won.shape)
    for _ in range(_STEPS):
        met = games / (strength[:, :, None] + strength[:, None, :])
        new = won / np.maximum(met.sum(axis=2), 1e-300)
        new /= np.exp(np.log(np.maximum(new, 1e-300)).mean(axis=1, keepdims=True))
        moved = float(np.abs(np.log(np.maximum(new, 1e-300)) - np.log(strength)).max())
        strength = np.maximum(new, 1e-300)
        if moved < _ENOUGH:
            break
    return np.asarray(np.log(strength), dtype=np.float64)
