"""Both bounds for a wanted precision and copy rate, and how well labels support them.

A pair is right when it shows the same subject in another picture. *Precision* is the share of
right pairs among the accepted; *copy rate* that of near copies. Of all pairs of bounds that keep
both promises the one is proposed that accepts most right pairs; of equals the tightest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from s2v.datapipe.calibrate.candidates import STRATUM, Candidate, Cell, Key, Pool
from s2v.datapipe.calibrate.draw import unseen, weights
from s2v.datapipe.calibrate.labels import DIFFERENT, NEAR_COPY, SAME
from s2v.datapipe.calibrate.statistics import Flags, Floats, Share, share
from s2v.datapipe.intervals import beta_cdf, fewest_without_error

DECIDED: Final = (SAME, DIFFERENT, NEAR_COPY)
#: What must reach the wanted precision: the interval; that of the weights alone, as if pairs that
#: share a clip were independent; the estimate.
Proof = Literal["interval", "weights", "estimate"]
PROOFS: Final[tuple[Proof, ...]] = ("interval", "weights", "estimate")
_MOST_EDGES: Final = 1500


@dataclass(frozen=True)
class Wanted:
    """What is asked of the accepted pairs."""

    precision: float = 0.9
    copy_rate: float = 0.01
    confidence: float = 0.95


@dataclass(frozen=True)
class Judged:
    """Labelled pairs as arrays of equal length; pairs labelled unsure are not among them."""

    pairs: tuple[Candidate, ...]
    scores: Floats
    same: Flags
    copy: Flags
    guarded: Flags
    weights: Floats

    @property
    def different(self) -> Flags:
        """Neither same nor near copy."""
        return ~(self.same | self.copy)

    def where(self, flags: Flags) -> list[tuple[str, str]]:
        """The clips of the chosen pairs."""
        return [one.clips for one, chosen in zip(self.pairs, flags, strict=True) if chosen]


def judge(pool: Pool, of: Mapping[Key, str]) -> Judged:
    """Join pairs with their labels and weight them by stratum."""
    pairs = tuple(one for one in pool.candidates if of.get(one.key) in DECIDED)
    said = [of[one.key] for one in pairs]
    return Judged(
        pairs,
        np.array([one.score for one in pairs], np.float64),
        np.array([label == SAME for label in said], np.bool_),
        np.array([label == NEAR_COPY for label in said], np.bool_),
        np.array([bool(one.guards) for one in pairs], np.bool_),
        weights(pairs, pool.sizes),
    )


@dataclass(frozen=True)
class Region:
    """What two bounds accept of the pairs that pass all other rules."""

    lower: float
    upper: float
    precision: Share
    wrong: Share
    copies: Share
    recall: Share  # of the right pairs
    copies_refused: Share  # of all labelled near copies, by these bounds alone


def region(judged: Judged, lower: float, upper: float, confidence: float = 0.95) -> Region:
    """Measure bounds on labelled pairs."""
    inside = (judged.scores >= lower) & (judged.scores < upper)
    accepted = inside & ~judged.guarded
    right = judged.same & ~judged.guarded

    def of(hits: Flags, among: Flags) -> Share:
        return share(hits[among], judged.weights[among], judged.where(among), confidence)

    return Region(
        lower,
        upper,
        precision=of(judged.same, accepted),
        wrong=of(judged.different, accepted),
        copies=of(judged.copy, accepted),
        recall=of(inside, right),
        copies_refused=of(~inside, judged.copy),
    )


@dataclass(frozen=True)
class Proposal:
    """Proposed bounds.

    Attributes:
        region: what they accept of the labelled pairs they were chosen on; ``None`` when no
            bounds keep the promises.
        upper_free: nothing labelled lies above the accepted pairs, so the upper bound in force
            stands.
        precision_supported: the interval's lower end is not below the wanted precision.
        copies_supported: its upper end is not above the wanted copy rate.
        notes: what the labels cannot say.
    """

    region: Region | None
    upper_free: bool = False
    precision_supported: bool = False
    copies_supported: bool = False
    notes: tuple[str, ...] = field(default=())


def propose(
    judged: Judged, sizes: Mapping[Cell, int], wanted: Wanted, current_upper: float
) -> Proposal:
    """Choose both bounds.

    Bounds whose precision holds with the interval's lower end come first. Without any, those
    for which it would hold if pairs that share a clip erred each for itself; without any of
    them the estimate has to do. The proposal says which it was.

    Args:
        judged: labelled pairs.
        sizes: how many pairs each stratum has.
        wanted: precision and copy rate.
        current_upper: kept where no labelled pair lies above what is accepted, and not raised
            without a near copy among the labels.
    """
    notes = _notes(judged, sizes, wanted)
    found = next((f for proof in PROOFS if (f := _widest(judged, wanted, proof))), None)
    if found is None:
        return Proposal(
            None,
            notes=(
                *notes,
                f"no two bounds reach a precision of {wanted.precision:g} and a copy rate of "
                f"{wanted.copy_rate:g} on these labels",
            ),
        )
    low, high = found
    below = judged.scores[judged.scores < low]
    above = judged.scores[judged.scores > high]
    lower = between(float(below.max()), low) if len(below) else math.floor(low * 100) / 100
    upper = between(high, float(above.min())) if len(above) else current_upper
    if upper <= high:
        upper = math.floor(high * 100 + 1) / 100
    # Nobody was shown a near copy, so nobody can say that more of what is alike may pass.
    unseen_copies = not judged.copy.any() and lower < current_upper < upper
    if unseen_copies:
        upper = current_upper
    made = region(judged, lower, upper, wanted.confidence)
    supported = made.precision.low >= wanted.precision
    if not supported:
        notes.append(
            f"the precision of {made.precision.estimate:.3f} is an estimate: its interval begins "
            f"at {made.precision.low:.3f}, below the wanted {wanted.precision:g}"
        )
    if made.copies.high > wanted.copy_rate:
        notes.append(
            f"the copy rate may be as high as {made.copies.high:.3f}; "
            f"{fewest_without_error(1 - wanted.copy_rate, wanted.confidence)} accepted pairs "
            f"without one would be needed to say {wanted.copy_rate:g}"
        )
    return Proposal(
        made,
        upper_free=unseen_copies or not len(above),
        precision_supported=supported,
        copies_supported=made.copies.high <= wanted.copy_rate,
        notes=tuple(notes),
    )


def between(low: float, high: float) -> float:
    """A short number in ``(low, high]``, near the middle."""
    middle = (low + high) / 2
    for digits in range(2, 7):
        value = round(middle, digits)
        if low < value <= high:
            return value
    return high


def _widest(judged: Judged, wanted: Wanted, proof: Proof) -> tuple[float, float] | None:
    """Lowest and highest accepted score of the best two bounds that ``proof`` allows.

    They begin and end at a right pair: wrong ones at an end would only thin out copies. Sums over
    a stretch are differences of running sums.
    """
    passing = ~judged.guarded
    order = np.argsort(judged.scores[passing], kind="stable")
    scores = judged.scores[passing][order]
    weight = judged.weights[passing][order]
    same, copy = judged.same[passing][order], judged.copy[passing][order]
    edges = np.unique(scores[same])
    if not len(edges):
        return None
    if len(edges) > _MOST_EDGES:  # the tables below have a cell for every two
        edges = edges[np.linspace(0, len(edges) - 1, _MOST_EDGES).astype(np.int64)]
    first = np.searchsorted(scores, edges, "left")
    last = np.searchsorted(scores, edges, "right")

    def sums(values: Floats) -> Floats:
        run = np.concatenate([[0.0], np.cumsum(values)])
        return np.asarray(run[last][None, :] - run[first][:, None])  # [from, to]

    total, right = sums(weight), sums(np.where(same, weight, 0.0))
    copied, squares = sums(np.where(copy, weight, 0.0)), sums(weight**2)
    some = total > 1e-9
    safe = np.where(some, total, 1.0)
    ok = some & (np.arange(len(edges))[:, None] <= np.arange(len(edges))[None, :])
    ok &= (right / safe >= wanted.precision - 1e-9) & (copied / safe <= wanted.copy_rate + 1e-9)
    at = np.argwhere(ok)
    right_of = np.round(right[ok], 9)
    tried: set[int] = set()
    clips = judged.where(passing)
    ends = [clips[n] for n in order]
    # Most right pairs first; of equals the highest lower and the lowest upper bound.
    for n in np.lexsort((at[:, 1], -at[:, 0], -right_of)):
        i, j = at[n]
        if proof != "estimate":
            count = total[i, j] ** 2 / squares[i, j]
            hits = count * min(1.0, right[i, j] / total[i, j])
            if beta_cdf(wanted.precision, hits, count - hits + 1) > (1 - wanted.confidence) / 2:
                continue
        if proof == "interval":
            if int(i) in tried:  # a lower bound is tried with the widest upper one only
                continue
            tried.add(int(i))
            part = slice(int(first[i]), int(last[j]))
            found = share(same[part], weight[part], ends[part], wanted.confidence)
            if found.low < wanted.precision:
                continue
        return float(edges[i]), float(edges[j])
    return None


def _notes(judged: Judged, sizes: Mapping[Cell, int], wanted: Wanted) -> list[str]:
    notes = []
    passing = int((~judged.guarded).sum())
    needed = fewest_without_error(wanted.precision, wanted.confidence)
    if passing < needed:
        notes.append(
            f"{passing} labelled pairs pass the other rules; {needed} right ones and none wrong "
            f"would be the least that can show a precision of {wanted.precision:g}"
        )
    if not judged.copy.any():
        notes.append("no labelled pair is a near copy, so nothing bounds scores from above")
    elif not (judged.copy & ~judged.guarded).any():
        notes.append(
            "every labelled near copy is refused by another rule (time, hashes, background); the "
            "upper bound stands behind them and is not tested on its own"
        )
    missing = {c: n for c, n in unseen(judged.pairs, sizes).items() if not c[0]}
    if missing:
        steps = ", ".join(f"{c[1] * STRATUM:.2f}" for c in sorted(missing))
        notes.append(
            f"{sum(missing.values())} pairs lie in steps of the score without a label "
            f"(from {steps}); what is said of them is a guess"
        )
    return notes
