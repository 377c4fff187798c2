"""Candidate pairs as arrays, and table PAIRS made of them.

What other files rely on:

- ``Candidates.target``, ``.reference``: ``[n]`` int32 *positions into table SUBJECTS*, all its
  rows (dropped ones too) sorted by ``subject_id``: the smaller position is the smaller id.
  ``SubjectView.place[position]`` is the row of ``SubjectView.kept()``, -1 for a dropped one.
- ``Candidates.accepted()``: ``[n]`` flags; accepted pairs join kept subjects only.
- ``Candidates.evidence``: scores, ``[n]`` each; ``evidence.target[n]``, ``.reference[n]`` and
  ``.bank[n]`` give strings, for messages and prompts, not for loops over millions.

Candidates are sorted by target, search, descending ``order``, reference.

``SubjectView`` (:mod:`.subjects`) has, beside rows, columns:

- ``table``: SUBJECTS without vectors, all rows sorted by id; ``kept()`` and ``passing`` are rows
  of it made when first asked for (2 KB a subject: leave them for a million).
- ``detections``: table DETECTIONS of what passes all rules, of kept subjects, sorted by
  ``subject_id``, ``pts_us``, ``detection_id``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from s2v.datapipe.base import records
from s2v.datapipe.pair.columns import Flags, Floats, Ints, Names, Places, ordinals, runs
from s2v.datapipe.pair.index import DECIMALS
from s2v.datapipe.pair.settings import BANKS

Bits = npt.NDArray[np.uint64]
Small = npt.NDArray[np.int8]

#: Rules that speak against the same identity.
IDENTITY_RULES: Final = (
    "below_lower",
    "face_mismatch",
    "person_without_face",
    "living_across_sources_without_verified_face",
    "noun_mismatch",
    "no_mark",
    "hub",
    "identity_conflict",
)
#: Rules that speak against another context.
CONTEXT_RULES: Final = (
    "same_clip",
    "same_source_frame",
    "min_gap",
    "duplicate_clip",
    "above_upper",
    "face_too_similar",
    "near_copy_crop",
    "near_copy_face",
    "near_copy_frame",
    "background_too_similar",
    "copy_not_measured",
)
VERIFIER_RULES: Final = ("verifier_same_identity", "verifier_different_context")
#: A verifier is configured, and has no answer on the pair (:mod:`.verdicts`).
UNANSWERED_RULES: Final = ("verdict_quarantined", "not_verified")
RULES: Final = CONTEXT_RULES + IDENTITY_RULES + VERIFIER_RULES + UNANSWERED_RULES + ("excluded",)

#: A verifier's two answers, as columns of tables VERDICTS and PAIRS.
ANSWERS: Final = ("same_identity", "different_context")

#: How a candidate was found, in the order in which a target's lists are walked.
SEARCHES: Final = ("all", "copy", "faces", "joint", "own")
_BANK_NAMES: Final[tuple[str, ...]] = BANKS
_BLOCK: Final = 1 << 20
_SIMILARITY_BITS: Final = 22  # of 2 - similarity, up to 4,000,000 millionths: lengths may be off


def clip_of(subject_id: str) -> str:
    """The clip of a subject: ``<clip_id>-s<n>``."""
    return subject_id.rsplit("-", 1)[0]


@dataclass(frozen=True)
class Evidence:
    """What is known of ``n`` candidate pairs; every array has length ``n``.

    Scores that could not be measured are NaN, times and distances -1.
    """

    ids: pa.Array  # of all subjects, sorted
    target_at: Places  # positions in ids
    reference_at: Places
    bank_at: Small  # positions in BANKS
    search: Small  # positions in SEARCHES
    order: Floats  # the similarity that the search went by
    similarity: Floats
    face_similarity: Floats
    joint_similarity: Floats
    background_similarity: Floats
    phash_distance: Small
    face_phash_distance: Small
    frame_phash_distance: Small
    gap_us: Ints
    same_clip: Flags
    same_frame: Flags
    same_long_video: Flags
    same_noun: Flags
    duplicate: Flags

    def __len__(self) -> int:
        return len(self.target_at)

    @property
    def target(self) -> Names:
        """Subject ids of the targets."""
        return Names(self.ids, self.target_at)

    @property
    def reference(self) -> Names:
        """Subject ids of the references."""
        return Names(self.ids, self.reference_at)

    @property
    def bank(self) -> Names:
        """Banks by name."""
        return Names(pa.array(BANKS), self.bank_at)

    def in_banks(self, banks: Iterable[str]) -> Flags:
        """Candidates of the named banks."""
        wanted = np.zeros(len(BANKS), np.bool_)
        for bank in banks:
            wanted[_BANK_NAMES.index(bank)] = True
        return np.asarray(wanted[self.bank_at], np.bool_)

    def take(self, at: Ints | Flags | slice) -> Evidence:
        """The candidates at places ``at``."""
        names = [field.name for field in fields(self) if field.name != "ids"]
        return replace(self, **{name: getattr(self, name)[at] for name in names})


class Candidates:
    """Candidate pairs with their evidence and the rules they fail.

    Args:
        evidence: of ``n`` candidates.
        failed: ``[n]`` numbers; bit ``RULES.index(rule)`` is set where a rule is failed.
    """

    def __init__(self, evidence: Evidence, failed: Bits) -> None:
        self.evidence = evidence
        self.failed = failed
        self._said: dict[str, pa.Array] = {}

    @property
    def target(self) -> Places:
        """Positions of the targets in table SUBJECTS."""
        return self.evidence.target_at

    @property
    def reference(self) -> Places:
        """Positions of the references in table SUBJECTS."""
        return self.evidence.reference_at

    def refuse(self, rule: str, flags: Flags) -> None:
        """Add a rule that some candidates fail."""
        self.failed = self.failed | (flags.astype(np.uint64) << np.uint64(RULES.index(rule)))

    def hear(self, failed: Mapping[str, Flags], said: Mapping[str, pa.Array]) -> None:
        """Take in what a second model said: rules that fail by it, and its answers by column."""
        for rule, flags in failed.items():
            self.refuse(rule, flags)
        self._said = dict(said)

    def fails(self, rule: str) -> Flags:
        """Candidates that fail a rule."""
        bit = np.uint64(1 << RULES.index(rule))
        return np.asarray((self.failed & bit) != 0, np.bool_)

    def accepted(self) -> Flags:
        """Candidates that fail no rule."""
        return np.asarray(self.failed == 0, np.bool_)

    def involve(self, subjects: Flags) -> Flags:
        """Candidates with a flagged subject on either side; ``subjects`` is by position."""
        return np.asarray(subjects[self.target] | subjects[self.reference], np.bool_)

    def ranks(self) -> tuple[Ints, Ints]:
        """The order of table PAIRS (by target, descending similarity, reference) and the ranks."""
        order = _ordered(self.target, self.reference, self.evidence.similarity)
        return order, ordinals(runs(self.target[order]), len(order))

    def table(self, clip_at: Places, clips: pa.Array) -> pa.Table:
        """Table PAIRS, by target and rank.

        Args:
            clip_at: position in ``clips`` of each subject's clip.
            clips: clip ids.
        """
        order, ranks = self.ranks()
        e = self.evidence.take(order)
        failed = self.failed[order]
        columns = {
            "target_subject_id": _named(e.ids, e.target_at),
            "reference_subject_id": _named(e.ids, e.reference_at),
            "target_clip_id": _named(clips, clip_at[e.target_at]),
            "reference_clip_id": _named(clips, clip_at[e.reference_at]),
            "bank": _named(pa.array(BANKS), e.bank_at),
            "search": _named(pa.array(SEARCHES), e.search),
            "similarity": _score(e.similarity),
            "face_similarity": _score(e.face_similarity),
            "joint_similarity": _score(e.joint_similarity),
            "background_similarity": _score(e.background_similarity),
            "phash_distance": _count(e.phash_distance),
            "face_phash_distance": _count(e.face_phash_distance),
            "frame_phash_distance": _count(e.frame_phash_distance),
            "gap_us": _count(e.gap_us),
            "rank": pa.array(ranks, pa.int64()),
            **{name: self._answers(name, order) for name in ANSWERS},
            "rules": _rules(failed),
            "accepted": pa.array(failed == 0),
        }
        return pa.table(columns, schema=records.PAIRS)

    def _answers(self, name: str, order: Ints) -> pa.Array:
        said = self._said.get(name)
        return pa.nulls(len(order), pa.string()) if said is None else said.take(pa.array(order))


def _ordered(target: Places, reference: Places, similarity: Floats) -> Ints:
    """By target, descending similarity, reference; no pair is there twice."""
    # Similarities have six digits, so all three fit one number, and that sorts five times faster.
    bits = int(max(target.max(initial=0), reference.max(initial=0))).bit_length()
    if 2 * bits + _SIMILARITY_BITS > 63:
        return np.asarray(np.lexsort((reference, -similarity, target)), np.int64)
    less = np.rint((2 - similarity) * 10**DECIMALS).astype(np.int64)
    key = ((target.astype(np.int64) << _SIMILARITY_BITS) | less) << bits
    return np.asarray(np.argsort(key | reference), np.int64)


def _named(known: pa.Array, at: npt.NDArray[np.integer]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(at, pa.int32()), known)


def _score(values: Floats) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _count(values: npt.NDArray[np.integer]) -> pa.Array:
    return pa.array(values.astype(np.int64), mask=values < 0)


def _rules(failed: Bits) -> pa.Array:
    """Names of the bits set, per row."""
    bits = np.arange(len(RULES), dtype=np.uint64)
    flat = [np.empty(0, np.int8)]
    counts = np.bitwise_count(failed).astype(np.int32)
    for at in range(0, len(failed), _BLOCK):
        block = (failed[at : at + _BLOCK, None] >> bits) & np.uint64(1)
        flat.append(np.nonzero(block)[1].astype(np.int8))
    edges = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    names = pa.DictionaryArray.from_arrays(pa.array(np.concatenate(flat)), pa.array(RULES))
    return pa.ListArray.from_arrays(pa.array(edges), names)
