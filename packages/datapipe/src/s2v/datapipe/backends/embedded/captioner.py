"""The measured-facts captioner: says what was measured, composed, nothing imagined.

It names kinds, colours, sizes, counts, motion and shot size. It does not know what anybody
does or feels, and of most animals it says "an animal".
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from s2v.datapipe.backends.embedded.proposals import Proposal, Proposer
from s2v.datapipe.backends.embedded.words import SIZES, colour_name, colour_shares
from s2v.datapipe.roles import Caption, ClipView, Image

GRAMMAR = "subjects behaviour shot scene; v4"
#: COCO's word for what people would take for an animal.
COMPUTER = {"mouse": "computer mouse"}
MIN_COLOUR = 0.3  # share of a subject's pixels for its colour to be named
SMALLEST_NAMED = 0.03  # share of the frame
#: Upper bound of motion (frame heights per second) and its words. "is moving" and not "moves",
#: which parsers take for a noun after a noun.
MOTION_WORDS = ((0.03, "almost still"), (0.15, "moving slowly"), (0.6, "moving"))


class FactsCaptioner:
    """Fills the captioner's role from the proposals on the middle frame."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer = proposer

    @property
    def model_id(self) -> str:
        """The grammar and the nets behind it."""
        return f"facts-captioner+{self._proposer.model_id}"

    @property
    def prompt_sha256(self) -> str:
        """Digest of the grammar."""
        return hashlib.sha256(GRAMMAR.encode()).hexdigest()

    def load(self) -> None:
        """Load the nets."""
        self._proposer.load()

    def caption(self, view: ClipView) -> Caption:
        """Compose the caption of a clip from its middle frame and its measured motion."""
        frames, motion = view.frames, view.motion
        middle = frames[len(frames) // 2]
        seen = [p for p in self._proposer.propose(middle) if p.area_share >= SMALLEST_NAMED]
        names = name_subjects(seen)
        height_share = max((p.box[3] - p.box[1] for p in seen), default=0.0) / middle.shape[0]
        facts = {
            "subjects": [
                {"name": name, "bank": p.bank, "score": p.score, "colours": p.colours}
                for name, p in names
            ],
            "motion": motion,
            "height_share": round(height_share, 3),
        }
        behaviour = _behaviour(motion, len(names) > 1 or any(p.bank == "group" for _, p in names))
        subject = _join([name for name, _ in names]) or "an empty scene"
        text = f"{subject} {behaviour} in {_shot(height_share)}, {_scene(middle)}."
        return Caption(text[0].upper() + text[1:], facts)


def name_subjects(seen: Sequence[Proposal]) -> list[tuple[str, Proposal]]:
    """Give every proposal a noun phrase; two of a kind and colour differ by size.

    Three or more that cannot be told apart become one plural phrase, which later rules
    refuse as a subject.
    """
    plain = [_phrase(p) for p in seen]
    counts = Counter(plain)
    named: list[tuple[str, Proposal]] = []
    done: set[str] = set()
    for phrase, proposal in zip(plain, seen, strict=True):
        if counts[phrase] == 1:
            named.append((_with_article(phrase), proposal))
        elif counts[phrase] == 2:
            size = SIZES[phrase in done]  # proposals come largest first
            named.append((_with_article(f"{size} {phrase}"), proposal))
        elif phrase not in done:
            named.append((f"several {_plural(phrase)}", proposal))
        done.add(phrase)
    return named


def _phrase(p: Proposal) -> str:
    colour = colour_name(p.colours, MIN_COLOUR)
    if p.bank == "group":
        return "group of animals"
    if p.bank == "person":
        return f"person in {colour} clothes" if colour else "person"
    noun = COMPUTER.get(p.label, p.label) or ("animal" if p.bank == "creature" else "object")
    return f"{colour} {noun}" if colour and colour != noun else noun


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _plural(phrase: str) -> str:
    head, _, tail = phrase.partition(" in ")
    plural = head.removesuffix("person") + "people" if head.endswith("person") else f"{head}s"
    return f"{plural} in {tail}" if tail else plural


def _join(names: Sequence[str]) -> str:
    if len(names) < 3:
        return " and ".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _behaviour(motion: float | None, plural: bool) -> str:
    be = "are" if plural else "is"
    if motion is None:
        return f"{be} shown"
    words = next((words for bound, words in MOTION_WORDS if motion < bound), "moving quickly")
    return f"{be} {words}"


def _shot(height_share: float) -> str:
    if height_share > 0.85:
        return "a close-up"
    return "a medium shot" if height_share > 0.45 else "a wide shot"


def _scene(image: Image) -> str:
    luma = float(image.mean()) / 255
    light = "dark" if luma < 0.25 else "bright" if luma > 0.6 else "softly lit"
    everywhere = np.ones(image.shape[:2], dtype=np.bool_)
    colours = [name for name, share in colour_shares(image, everywhere).items() if share > 0.2]
    tones = f" with mostly {' and '.join(colours[:2])} tones" if colours else ""
    return f"in a {light} scene{tones}"
