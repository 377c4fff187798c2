"""Judging candidates: which rules each fails, how many of a target's are looked at.

Always done anew, for it takes seconds: a changed bound searches nothing again.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from s2v.datapipe.pair.columns import Flags, Ints, runs
from s2v.datapipe.pair.evidence import RULES, VERIFIER_RULES, Bits, Candidates, Evidence
from s2v.datapipe.pair.settings import SelectSettings
from s2v.datapipe.pair.verify import PairVerifier, RuleVerifier, failed_rules

_BLOCK: Final = 1 << 19  # candidates whose flags are held at once


def judge(evidence: Evidence, settings: SelectSettings, verifier: PairVerifier) -> Candidates:
    """Ask every rule of every candidate, and cut the lists.

    A target's list ends, per search, after the ``retrieval.candidates``-th that passes.

    Args:
        evidence: sorted by target, search and descending order.
        settings: thresholds.
        verifier: asked about what passes all rules.
    """
    failed = np.zeros(len(evidence), np.uint64)
    for at in range(0, len(evidence), _BLOCK):
        block = slice(at, at + _BLOCK)
        failed[block] = _bits(failed_rules(evidence.take(block), settings))
    kept = _first_passing(evidence, failed == 0, settings.retrieval.candidates)
    candidates = Candidates(evidence.take(kept), failed[kept])
    _ask(candidates, verifier)
    return candidates


def _bits(flags: dict[str, Flags]) -> Bits:
    found: Bits = np.zeros(len(next(iter(flags.values()))), np.uint64)
    for rule, fails in flags.items():
        found |= fails.astype(np.uint64) << np.uint64(RULES.index(rule))
    return found


def _first_passing(evidence: Evidence, passing: Flags, wanted: int) -> Flags:
    """Those before whom fewer than ``wanted`` of their target and search pass."""
    starts = runs(evidence.target_at, evidence.search)
    before: Ints = np.cumsum(passing) - passing
    first: Ints = before[starts[:-1]]
    return np.asarray(before - np.repeat(first, np.diff(starts)) < wanted, np.bool_)


def _ask(candidates: Candidates, verifier: PairVerifier) -> None:
    if isinstance(verifier, RuleVerifier):
        return  # yes and yes to all that is left
    at = np.flatnonzero(candidates.accepted())
    verdicts = verifier.verify(candidates.evidence, at)
    if len(verdicts) != len(at):
        raise ValueError(
            f"verifier {verifier.verifier_id!r} gave {len(verdicts)} verdicts on {len(at)} pairs"
        )
    for rule, answer in zip(VERIFIER_RULES, ("same_identity", "different_context"), strict=True):
        flags = np.zeros(len(candidates.evidence), np.bool_)
        flags[at] = [getattr(verdict, answer) != "yes" for verdict in verdicts]
        candidates.refuse(rule, flags)
