"""Judging candidates: which rules each fails, how many of a target's are looked at.

Always done anew, for it takes seconds: a changed bound searches nothing again.

A list ends after so many that pass. Where a second model is asked too, those it refuses make room
for the next that pass, round by round: every round looks at as many more as the one before lost.
How far a list reaches follows from the verdicts on those before its end alone, so it is the same
however the run got there, and a verdict once given is never without use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from s2v.datapipe.pair.columns import Flags, Ints, Places, runs
from s2v.datapipe.pair.evidence import RULES, SEARCHES, Bits, Candidates, Evidence
from s2v.datapipe.pair.hubs import hubs
from s2v.datapipe.pair.retrieve import lowest
from s2v.datapipe.pair.settings import RetrievalSettings, SelectSettings
from s2v.datapipe.pair.verdicts import Verdicts
from s2v.datapipe.pair.verify import failed_rules

#: Verdicts on candidates, by the positions of their targets and references.
Hear = Callable[[Places, Places], Verdicts]

_BLOCK: Final = 1 << 19  # candidates whose flags are held at once


def judge(
    evidence: Evidence,
    settings: SelectSettings,
    unmarked: Flags,
    class_at: Ints | None = None,
    *,
    hear: Hear | None = None,
) -> Candidates:
    """Ask every rule of every candidate, and cut the lists.

    A target's list ends, per search, after the ``retrieval.candidates``-th that passes; with a
    second model after as many that it did not refuse, at most ``retrieval.verifier_rounds`` times
    that many that it was asked about.

    Args:
        evidence: sorted by target, search and descending order.
        settings: thresholds.
        unmarked: by position in table SUBJECTS: products that nothing tells apart (:mod:`.marks`).
        class_at: by position in table SUBJECTS: place in ``CLASSES``, -1 for none.
        hear: gives the verdicts on candidates; ``None`` where no second model is asked.
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
        failed[block] = _bits({**failed_rules(part, settings, class_at), **whole})
    passing = failed == 0
    refused = np.zeros(len(evidence), np.bool_)
    if hear is not None:
        asked = np.flatnonzero(passing)
        refused[asked] = hear(evidence.target_at[asked], evidence.reference_at[asked]).refused()
    kept = _within_reach(evidence, passing, refused, settings.retrieval)
    candidates = Candidates(evidence.take(kept), failed[kept])
    if hear is not None:
        said = hear(candidates.target, candidates.reference)
        candidates.hear(said.failed(candidates.accepted()), said.columns())
    return candidates


def _bits(flags: dict[str, Flags]) -> Bits:
    found: Bits = np.zeros(len(next(iter(flags.values()))), np.uint64)
    for rule, fails in flags.items():
        found |= fails.astype(np.uint64) << np.uint64(RULES.index(rule))
    return found


def _within_reach(
    evidence: Evidence, passing: Flags, refused: Flags, settings: RetrievalSettings
) -> Flags:
    """Those before whom fewer of their target and search pass than their list holds.

    Args:
        evidence: ``[n]`` candidates.
        passing: ``[n]`` who fails no rule.
        refused: ``[n]`` of these, whom the second model refused.
        settings: how many a list holds, and how often the refused are replaced.
    """
    starts = runs(evidence.target_at, evidence.search)
    list_of: Ints = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    asking = (settings.candidates, settings.verifier_rounds)
    reach = _reaches(list_of, len(starts) - 1, passing, refused, *asking)
    return np.asarray(_before(list_of, passing) < reach[list_of], np.bool_)


def _reaches(
    list_of: Ints, lists: int, passing: Flags, refused: Flags, candidates: int, rounds: int
) -> Ints:
    """How many that pass each list holds: ``candidates``, and as many again as were refused.

    Args:
        list_of: ``[n]`` which of ``lists`` each candidate is in, ascending.
        lists: how many there are.
        passing: ``[n]`` who fails no rule.
        refused: ``[n]`` of these, whom the second model refused.
        candidates: wanted.
        rounds: of asking, at least one; a round replaces those that the one before lost.

    Returns:
        ``[lists]``, from ``candidates`` to ``candidates * rounds``.
    """
    at = np.flatnonzero(refused)
    place, owner = _before(list_of, passing)[at], list_of[at]
    reach: Ints = np.full(lists, candidates, np.int64)
    for _ in range(rounds - 1):
        lost = np.bincount(owner[place < reach[owner]], minlength=lists)
        if (candidates + lost == reach).all():
            break
        reach = candidates + lost
    return reach


def _before(list_of: Ints, passing: Flags) -> Ints:
    """How many of the same list pass before each candidate."""
    before: Ints = np.cumsum(passing) - passing
    edges = runs(list_of)
    return before - np.repeat(before[edges[:-1]], np.diff(edges))
