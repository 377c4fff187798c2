"""Judging candidates: which rules each fails, how many of a target's are looked at.

Always done anew, for it takes seconds: a changed bound searches nothing again.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from s2v.datapipe.pair.columns import Flags, Ints, runs
from s2v.datapipe.pair.evidence import RULES, SEARCHES, Bits, Candidates, Evidence
from s2v.datapipe.pair.hubs import hubs
from s2v.datapipe.pair.retrieve import lowest
from s2v.datapipe.pair.settings import SelectSettings
from s2v.datapipe.pair.verify import failed_rules

_BLOCK: Final = 1 << 19  # candidates whose flags are held at once


def judge(evidence: Evidence, settings: SelectSettings, unmarked: Flags) -> Candidates:
    """Ask every rule of every candidate, and cut the lists.

    A target's list ends, per search, after the ``retrieval.candidates``-th that passes.

    Args:
        evidence: sorted by target, search and descending order.
        settings: thresholds.
        unmarked: by position in table SUBJECTS: products that nothing tells apart (:mod:`.marks`).
    """
    failed = np.zeros(len(evidence), np.uint64)
    # Hubs are counted among what could be accepted, so that no gate of the search moves them.
    searched = evidence.search != SEARCHES.index("copy")
    searched &= evidence.order >= lowest(settings)[evidence.search, evidence.bank_at]
    listed = (evidence.target_at[searched], evidence.reference_at[searched])
    hub = hubs(*listed, len(evidence.ids), settings.retrieval)
    for at in range(0, len(evidence), _BLOCK):
        block = slice(at, at + _BLOCK)
        part = evidence.take(block)
        bare = unmarked[part.target_at] | unmarked[part.reference_at]
        whole = {"no_mark": bare, "hub": hub[part.reference_at]}
        failed[block] = _bits({**failed_rules(part, settings), **whole})
    kept = _first_passing(evidence, failed == 0, settings.retrieval.candidates)
    return Candidates(evidence.take(kept), failed[kept])


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
