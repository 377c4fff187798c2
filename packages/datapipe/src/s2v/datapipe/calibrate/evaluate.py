"""A calibration: labels of a run to curves, measured bounds in force, and proposed ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from s2v.datapipe.calibrate.candidates import Pool
from s2v.datapipe.calibrate.consistency import contradictions
from s2v.datapipe.calibrate.errors import CalibrateError
from s2v.datapipe.calibrate.labels import DIFFERENT, UNSURE, Labels, read_labels
from s2v.datapipe.calibrate.pool import Run, read_run
from s2v.datapipe.calibrate.propose import (
    Judged,
    Proposal,
    Region,
    Wanted,
    judge,
    propose,
    region,
)
from s2v.datapipe.calibrate.statistics import Curve, Share, auc, curve
from s2v.datapipe.intervals import fewest_without_error


@dataclass(frozen=True)
class Calibrated:
    """What the labels say on one bound.

    Attributes:
        pool: all pairs of the bound.
        judged: those labelled and decided.
        unsure: labelled pairs that nobody could decide.
        identity: right and near-copied pairs against different ones, all labelled.
        copying: near copies against right pairs, all labelled.
        identity_auc, copying_auc: areas with intervals; ``None`` where a group is empty.
        current: the bounds in force.
        proposal: the bounds proposed.
    """

    pool: Pool
    judged: Judged
    unsure: int
    identity: Curve | None
    copying: Curve | None
    identity_auc: Share | None
    copying_auc: Share | None
    current: Region
    proposal: Proposal


@dataclass(frozen=True)
class Calibration:
    """Of a whole run.

    Attributes:
        run, labels, wanted: what it is of.
        bounds: by name: of banks, of faces, and of classes with labels enough, such as
            ``thing.clothes``.
        fallen_back: classes that have to do with their bank's bounds, and why.
        unused: labels of pairs that other identity rules refuse.
    """

    run: Run
    labels: Labels
    wanted: Wanted
    bounds: dict[str, Calibrated]
    fallen_back: dict[str, str]
    unused: int

    def as_dict(self) -> dict[str, Any]:
        """Plain figures, for ``--json``; shares are rounded to six digits."""
        return {
            "labels": {
                **self.labels.counts(),
                "labelled by several people": self.labels.repeated,
                "disputed": len(self.labels.disputed),
                "of pairs other rules refuse": self.unused,
            },
            "agreement": [
                {
                    "people": list(one.people),
                    "pairs": one.pairs,
                    "alike": round(one.share, 6),
                    "kappa": None if one.kappa is None else round(one.kappa, 6),
                }
                for one in self.labels.agreement
            ],
            "disputed": [
                f"{', '.join(key)}: {said_by(by)}"
                for key, by in sorted(self.labels.disputed.items())
            ],
            "contradictions": [
                f"{a} and {b} are labelled different, and the same by way of {' = '.join(chain)}"
                for (a, b), chain in contradictions(self.labels.of)
            ],
            "wanted": vars(self.wanted),
            "bounds": {name: plain(one) for name, one in self.bounds.items()},
            "classes with their bank's bounds": self.fallen_back,
        }


def said_by(by: Mapping[str, str]) -> str:
    """Who said what, in words."""
    return ", ".join(f"{person or 'somebody'} says {label}" for person, label in sorted(by.items()))


def calibrate(folder: Path, labels: Sequence[Path], wanted: Wanted) -> Calibration:
    """Read a run and its labels and propose bounds for every bank and class with labels.

    Raises:
        CalibrateError: see :func:`.labels.read_labels` and :func:`.pool.read_run`; or no label
            is of a pair that a bound decides on.
    """
    said = read_labels(*labels)
    run = read_run(folder, said.of.keys())
    said.require(run.known)
    used = {one.key for pool in run.pools.values() for one in pool.candidates}
    bounds: dict[str, Calibrated] = {}
    fallen_back: dict[str, str] = {}
    for name, pool in run.pools.items():
        if any(one.key in said.of for one in pool.candidates):
            bounds[name] = of_pool(pool, said, wanted)
            classes, without = of_classes(pool, said, wanted)
            bounds |= classes
            fallen_back |= without
    if not bounds:
        raise CalibrateError(
            f"{', '.join(map(str, labels))}: other rules refuse every labelled pair, so no bound "
            f"decides on them; label those of: s2v-data calibrate page {folder}"
        )
    return Calibration(run, said, wanted, bounds, fallen_back, len(set(said.of) - used))


def of_classes(
    pool: Pool, labels: Labels, wanted: Wanted
) -> tuple[dict[str, Calibrated], dict[str, str]]:
    """The calibration of each class of a bank, and why others have none of their own."""
    bank = pool.bound.name
    classes = [kind for kind in pool.kinds if kind]
    if pool.bound.kind or not classes:
        return {}, {}
    if len(pool.kinds) == 1:
        only = f"all pairs of bank {bank} are of this class, so the bank's bounds are its own"
        return {}, {f"{bank}.{classes[0]}": only}
    found, without = {}, {}
    needed = fewest_without_error(wanted.precision, wanted.confidence)
    for kind in classes:
        part = pool.of_class(kind)
        judged = judge(part, labels.of)
        passing = int((~judged.guarded).sum())
        if passing >= needed:
            found[part.bound.name] = of_pool(part, labels, wanted)
        else:
            without[part.bound.name] = (
                f"{passing} of {part.count} pairs are labelled and pass the other rules, {needed} "
                f"are the least that can show a precision of {wanted.precision:g}: the bounds of "
                f"bank {bank} stand"
            )
    return found, without


def of_pool(pool: Pool, labels: Labels, wanted: Wanted) -> Calibrated:
    """The calibration of one bound."""
    judged = judge(pool, labels.of)
    everywhere = np.ones(len(judged.pairs), np.bool_)
    not_different = ~judged.different
    ends = judged.where(everywhere)
    alike = judged.where(not_different)
    of_copies = (judged.scores[not_different], judged.copy[not_different],
                 judged.weights[not_different])  # fmt: skip
    of_identity = (judged.scores, not_different, judged.weights)
    bound = pool.bound
    unsure = sum(labels.of.get(one.key) == UNSURE for one in pool.candidates)
    proposal = propose(judged, pool.sizes, wanted, bound.upper)
    if unsure and proposal.region is not None:
        note = _at_worst(pool, labels, proposal.region)
        proposal = replace(proposal, notes=(*proposal.notes, *note))
    return Calibrated(
        pool,
        judged,
        unsure,
        curve(*of_identity),
        curve(*of_copies),
        auc(*of_identity, ends, wanted.confidence),
        auc(*of_copies, alike, wanted.confidence),
        region(judged, bound.lower, bound.upper, wanted.confidence),
        proposal,
    )


def _at_worst(pool: Pool, labels: Labels, found: Region) -> list[str]:
    """What is left of the precision if every pair that nobody could decide were wrong."""
    doubtful = {key: DIFFERENT for key, label in labels.of.items() if label == UNSURE}
    inside = [
        one
        for one in pool.candidates
        if one.key in doubtful and not one.guards and found.lower <= one.score < found.upper
    ]
    if not inside:
        return []
    worst = region(judge(pool, {**labels.of, **doubtful}), found.lower, found.upper).precision
    disputed = sum(one.key in labels.disputed for one in inside)
    return [
        f"{len(inside)} labelled pairs inside the proposed bounds are unsure, {disputed} of them "
        f"disputed; were all of them wrong, the precision would be {worst.estimate:.3f}"
    ]


def plain(one: Calibrated) -> dict[str, Any]:
    """A bound's figures as plain values."""
    judged, proposal = one.judged, one.proposal
    return {
        "embedder": one.pool.bound.embedder,
        "candidates": one.pool.count,
        "of which refused as copies by other rules": one.pool.guarded,
        "labelled": {
            "same": int(judged.same.sum()),
            "different": int(judged.different.sum()),
            "near copy": int(judged.copy.sum()),
            "unsure": one.unsure,
        },
        "identity auc": plain_share(one.identity_auc),
        "copying auc": plain_share(one.copying_auc),
        "in force": plain_region(one.current),
        "proposed": None
        if proposal.region is None
        else {
            **plain_region(proposal.region),
            "precision supported": proposal.precision_supported,
            "copy rate supported": proposal.copies_supported,
            "upper bound from labels": not proposal.upper_free,
        },
        "notes": list(proposal.notes),
    }


def plain_region(one: Region) -> dict[str, Any]:
    """Bounds and what they accept, as plain values."""
    return {
        "lower": one.lower,
        "upper": one.upper,
        "accepted": one.precision.count,
        "precision": plain_share(one.precision),
        "wrong subjects": plain_share(one.wrong),
        "copy rate": plain_share(one.copies),
        "recall": plain_share(one.recall),
        "near copies refused": plain_share(one.copies_refused),
    }


def plain_share(one: Share | None) -> dict[str, Any] | None:
    """A share as plain values; ``None`` of no pairs."""
    if one is None or math.isnan(one.estimate):
        return None
    return {
        "estimate": round(one.estimate, 6),
        "low": round(one.low, 6),
        "high": round(one.high, 6),
        "hits": one.hits,
        "pairs": one.count,
        "independent": round(one.effective, 2),
    }
