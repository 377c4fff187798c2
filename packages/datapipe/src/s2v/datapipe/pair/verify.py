"""Is it the same subject, and is it in another context? Rules and the verifier's protocol.

A near copy is as wrong as another subject. Every candidate states *every* rule that it
fails, so that thresholds can be judged from the table of pairs alone. (Phantom, section
3.1, 7; Phantom-Data, steps 2 and 3.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from s2v.datapipe.pair.settings import LIVING, SelectSettings

Flags = npt.NDArray[np.bool_]
Answer = Literal["yes", "no", "not asked"]

#: Rules that speak against the same identity.
IDENTITY_RULES: Final = (
    "below_lower",
    "face_mismatch",
    "person_without_face",
    "living_across_sources_without_verified_face",
    "noun_mismatch",
    "no_mark",
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


@dataclass(frozen=True)
class Evidence:
    """What is known of ``n`` candidate pairs; every array has length ``n``.

    Scores that could not be measured are NaN, times and distances -1.
    """

    target: list[str]  # subject ids
    reference: list[str]
    bank: npt.NDArray[np.str_]
    similarity: npt.NDArray[np.float64]
    face_similarity: npt.NDArray[np.float64]
    background_similarity: npt.NDArray[np.float64]
    phash_distance: npt.NDArray[np.int64]
    face_phash_distance: npt.NDArray[np.int64]
    frame_phash_distance: npt.NDArray[np.int64]
    gap_us: npt.NDArray[np.int64]
    same_clip: Flags
    same_frame: Flags
    same_long_video: Flags
    same_noun: Flags
    duplicate: Flags

    def __len__(self) -> int:
        return len(self.target)

    def take(self, at: npt.NDArray[np.int64]) -> Evidence:
        """The candidates at positions ``at``."""
        return Evidence(
            target=[self.target[n] for n in at],
            reference=[self.reference[n] for n in at],
            bank=self.bank[at],
            similarity=self.similarity[at],
            face_similarity=self.face_similarity[at],
            background_similarity=self.background_similarity[at],
            phash_distance=self.phash_distance[at],
            face_phash_distance=self.face_phash_distance[at],
            frame_phash_distance=self.frame_phash_distance[at],
            gap_us=self.gap_us[at],
            same_clip=self.same_clip[at],
            same_frame=self.same_frame[at],
            same_long_video=self.same_long_video[at],
            same_noun=self.same_noun[at],
            duplicate=self.duplicate[at],
        )


@dataclass(frozen=True)
class Verdict:
    """A verifier's two answers on one pair (Phantom-Data, step 3)."""

    same_identity: Answer
    different_context: Answer


class PairVerifier(Protocol):
    """Judges pairs that passed every rule; a vision-language model in production."""

    @property
    def verifier_id(self) -> str:
        """Model and prompt digest; part of the selection's fingerprint."""
        ...

    def verify(self, evidence: Evidence, at: npt.NDArray[np.int64]) -> list[Verdict]:
        """Judge the candidates at positions ``at``; one verdict each, in order."""
        ...


class RuleVerifier:
    """The embedded verifier: the rules are all it knows, so what passed them is a yes."""

    verifier_id = "rules-1"

    def verify(self, evidence: Evidence, at: npt.NDArray[np.int64]) -> list[Verdict]:
        """Yes and yes: :func:`failed_rules` has already said every no."""
        return [Verdict("yes", "yes") for _ in at]


def failed_rules(evidence: Evidence, settings: SelectSettings) -> dict[str, Flags]:
    """Which candidates fail which rule: ``[n]`` flags per name of :data:`RULES`.

    ``identity_conflict``, ``excluded`` and the verifier's rules come later; they are not here.
    """
    pair, face = settings.pair, settings.face
    lower, upper, background = (
        _per_bank(evidence, name, settings) for name in ("lower", "upper", "max_background")
    )
    across = {bank: pair.of(bank).across_sources for bank in set(evidence.bank.tolist())}
    needs_face = {bank: pair.of(bank).require_face for bank in across}
    wants_noun = {bank: pair.of(bank).same_noun for bank in across}
    person = evidence.bank == "person"
    faces = ~np.isnan(evidence.face_similarity)
    verified = faces & (evidence.face_similarity >= face.lower)
    outside = ~evidence.same_long_video
    gap = evidence.gap_us
    min_gap_us = int(pair.min_gap_seconds * 1e6)
    crop, frame = evidence.phash_distance, evidence.frame_phash_distance
    copied = evidence.face_phash_distance
    barred = _flags(evidence, {b: policy == "no" for b, policy in across.items()})
    by_face = _flags(evidence, {b: policy == "faces" for b, policy in across.items()})
    living = _flags(evidence, {b: b in LIVING for b in across})
    return {
        "same_clip": evidence.same_clip,
        "same_source_frame": evidence.same_frame,
        "min_gap": (gap >= 0) & (gap < min_gap_us) & ~evidence.same_clip,
        "duplicate_clip": evidence.duplicate,
        "above_upper": evidence.similarity >= upper,
        "face_too_similar": person & faces & (evidence.face_similarity >= face.upper),
        "near_copy_crop": (crop >= 0) & (crop <= pair.crop_bits),
        "near_copy_face": person & (copied >= 0) & (copied <= pair.face_bits),
        "near_copy_frame": (frame >= 0) & (frame <= pair.frame_bits),
        "background_too_similar": evidence.background_similarity > background,
        "copy_not_measured": (crop < 0)
        | (np.isfinite(background) & np.isnan(evidence.background_similarity)),
        "below_lower": evidence.similarity < lower,
        "face_mismatch": person & faces & ~verified,
        "person_without_face": _flags(evidence, needs_face) & ~faces,
        "living_across_sources_without_verified_face": outside
        & (barred | (by_face & ~verified))
        & living,
        "noun_mismatch": _flags(evidence, wants_noun) & ~evidence.same_noun,
    }


def _per_bank(evidence: Evidence, name: str, settings: SelectSettings) -> npt.NDArray[np.float64]:
    """A bank's setting for each candidate; a rule switched off never fails (infinity)."""
    found = np.full(len(evidence), np.inf)
    for bank in sorted(set(evidence.bank.tolist())):
        value = getattr(settings.pair.of(bank), name)
        found[evidence.bank == bank] = np.inf if value is None else value
    return found


def _flags(evidence: Evidence, by_bank: dict[str, bool]) -> Flags:
    found = np.zeros(len(evidence), np.bool_)
    for bank, value in by_bank.items():
        if value:
            found |= evidence.bank == bank
    return found
