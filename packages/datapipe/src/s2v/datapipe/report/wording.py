"""Numbers and rules as a reader wants to see them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

#: What each pair rule says, for readers who do not know its name.
RULE_TEXT: Final[dict[str, str]] = {
    "same_clip": "both come from the same clip",
    "same_source_frame": "both are cut from the same frame of the source",
    "min_gap": "too close in time: the scene has hardly changed",
    "duplicate_clip": "the two clips show the same content",
    "above_upper": "too similar: at or above the upper bound",
    "face_too_similar": "the faces are so similar that they are the same picture",
    "near_copy_crop": "the crops are near copies by perceptual hash",
    "near_copy_face": "the faces are near copies by perceptual hash",
    "near_copy_frame": "the clips share a near-identical frame",
    "background_too_similar": "the background is the same",
    "copy_not_measured": "whether it is a copy could not be measured",
    "below_lower": "not similar enough: below the lower bound",
    "face_mismatch": "the faces are of different people",
    "person_without_face": "a person without a usable face cannot be verified",
    "living_across_sources_without_verified_face": "another video, and no verified face",
    "noun_mismatch": "the phrases name different things",
    "no_mark": "a product without a recognisable logo or text",
    "hub": "among the nearest of very many others, so its nearness says nothing",
    "identity_conflict": "other evidence says that they are different subjects",
    "verifier_same_identity": "the verifier does not say that it is the same subject",
    "verifier_different_context": "the verifier does not say that it is another scene",
    "verdict_quarantined": "the verifier's answer stayed wrong",
    "not_verified": "the verifier has not been asked",
    "excluded": "one of them is on the exclusion list",
}

BANK_TEXT: Final = {"person": "people", "creature": "creatures", "thing": "things"}


def number(value: float | None, digits: int = 2) -> str:
    """A figure with thousands apart, or a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.{digits}f}"


def short(value: float) -> str:
    """A tick or threshold with as few digits as say it."""
    return f"{value:.3g}" if abs(value) < 1000 else number(round(value))


def share(part: float, whole: float) -> str:
    """Per cent of a whole; never 100 % of less than all, never 0 % of something."""
    if whole <= 0:
        return "–"
    per_cent = 100 * part / whole
    if 0 < per_cent < 0.1:
        return "<0.1 %"
    if 99.9 < per_cent < 100:
        return ">99.9 %"
    near_an_end = 0 < per_cent < 10 or 99 < per_cent < 100
    return f"{per_cent:.1f} %" if near_an_end else f"{per_cent:.0f} %"


def seconds(us: float) -> str:
    """A length of time from microseconds."""
    total = us / 1e6
    if total < 100:
        return f"{total:.1f}\u00a0s"
    minutes, rest = divmod(round(total), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}\u00a0h\u00a0{minutes:02d}\u00a0min"
        if hours
        else f"{minutes}\u00a0min\u00a0{rest:02d}\u00a0s"
    )


def moment(us: int) -> str:
    """A place on a time line: ``m:ss.s``."""
    minutes, rest = divmod(us / 1e6, 60)
    return f"{int(minutes)}:{rest:04.1f}"


def size(count: int) -> str:
    """Bytes in decimal units."""
    for unit, divisor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= divisor:
            return f"{count / divisor:.1f} {unit}"
    return f"{count} bytes"


def listed(words: Iterable[str]) -> str:
    """``a, b and c``."""
    items = list(words)
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)
