"""Is it the same subject, and is it in another context? The rules; a model is asked after them.

A near copy is as wrong as another subject. Every candidate states *every* rule that it
fails, so that thresholds can be judged from the table of pairs alone. (Phantom, section
3.1, 7; Phantom-Data, steps 2 and 3.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from s2v.datapipe.pair.columns import Flags, Floats, Ints
from s2v.datapipe.pair.evidence import Evidence
from s2v.datapipe.pair.settings import BANKS, LIVING, BankRules, SelectSettings
from s2v.datapipe.roles import CLASSES

#: Who has said yes to what passed all rules, where no model is asked: the rules are all that the
#: embedded profile knows.
RULES_VERIFIER: Final = "rules-1"


def failed_rules(
    evidence: Evidence, settings: SelectSettings, class_at: Ints | None = None
) -> dict[str, Flags]:
    """Which candidates fail which rule: ``[n]`` flags per name of ``RULES``.

    ``no_mark``, ``hub``, ``identity_conflict``, ``excluded`` and the verifier's rules are not asked
    here.

    Args:
        evidence: ``[n]`` candidates.
        settings: thresholds.
        class_at: place in ``CLASSES`` by position in table SUBJECTS, -1 for none; left out, the
            bounds of single classes are not looked at.
    """
    e, pair, face = evidence, settings.pair, settings.face
    lower, upper = _bounds(e, settings, class_at)
    joint_lower = _bound(e, settings, lambda bank: bank.joint_lower, off=-np.inf)
    joint_upper = _bound(e, settings, lambda bank: bank.joint_upper)
    background = _bound(e, settings, lambda bank: bank.max_background)
    barred = _banks(e, settings, lambda bank: bank.across_sources == "no")
    by_face = _banks(e, settings, lambda bank: bank.across_sources == "faces")
    needs_face = _banks(e, settings, lambda bank: bank.require_face)
    wants_noun = _banks(e, settings, lambda bank: bank.same_noun)
    person, living = e.in_banks(["person"]), e.in_banks(LIVING)
    faces = ~np.isnan(e.face_similarity)
    verified = faces & (e.face_similarity >= face.lower)
    near_in_time = (e.gap_us >= 0) & (e.gap_us < int(pair.min_gap_seconds * 1e6))
    return {
        "same_clip": e.same_clip,
        "same_source_frame": e.same_frame,
        "min_gap": near_in_time & ~e.same_clip,
        "duplicate_clip": e.duplicate,
        "above_upper": (e.similarity >= upper) | (e.joint_similarity >= joint_upper),
        "face_too_similar": person & faces & (e.face_similarity >= face.upper),
        "near_copy_crop": _within(e.phash_distance, pair.crop_bits),
        "near_copy_face": person & _within(e.face_phash_distance, pair.face_bits),
        "near_copy_frame": _within(e.frame_phash_distance, pair.frame_bits),
        "background_too_similar": e.background_similarity > background,
        "copy_not_measured": (e.phash_distance < 0)
        | (np.isfinite(background) & np.isnan(e.background_similarity)),
        "below_lower": (e.similarity < lower) | (e.joint_similarity < joint_lower),
        "face_mismatch": person & faces & ~verified,
        "person_without_face": needs_face & ~faces,
        "living_across_sources_without_verified_face": living
        & ~e.same_long_video
        & (barred | (by_face & ~verified)),
        "noun_mismatch": wants_noun & ~e.same_noun,
    }


def _bounds(
    evidence: Evidence, settings: SelectSettings, class_at: Ints | None
) -> tuple[Floats, Floats]:
    """Lower and upper bound of each candidate: the stricter of both subjects' classes."""
    # [banks, classes and none, lower and upper]; -1 finds none
    known = np.array(
        [[settings.pair.of(bank).bounds(name) for name in (*CLASSES, None)] for bank in BANKS]
    )
    ends = (evidence.target_at, evidence.reference_at)
    sides = [known[evidence.bank_at, -1 if class_at is None else class_at[end]] for end in ends]
    return (
        np.asarray(np.maximum(sides[0][:, 0], sides[1][:, 0]), np.float64),
        np.asarray(np.minimum(sides[0][:, 1], sides[1][:, 1]), np.float64),
    )


def _bound(
    evidence: Evidence,
    settings: SelectSettings,
    value: Callable[[BankRules], float | None],
    off: float = np.inf,
) -> Floats:
    """A bank's bound for each candidate; one that is switched off is never passed."""
    bounds = [value(settings.pair.of(bank)) for bank in BANKS]
    found = np.array([off if bound is None else bound for bound in bounds], np.float64)
    return np.asarray(found[evidence.bank_at], np.float64)


def _banks(
    evidence: Evidence, settings: SelectSettings, test: Callable[[BankRules], bool]
) -> Flags:
    """Candidates of the banks whose rules say so."""
    return evidence.in_banks(bank for bank in BANKS if test(settings.pair.of(bank)))


def _within(distance: np.ndarray, bits: int) -> Flags:
    return np.asarray((distance >= 0) & (distance <= bits), np.bool_)
