"""Grounds phrases in the proposals: by bank and noun, told apart by colour and size."""

from __future__ import annotations

from collections.abc import Sequence

from s2v.datapipe.backends.embedded.proposals import Proposal, Proposer
from s2v.datapipe.backends.embedded.words import COLOURS, SIZES, family_share
from s2v.datapipe.roles import Grounding, Image, Phrase

#: A second proposal at least this close to the best makes a phrase ambiguous.
AMBIGUOUS = 0.75
MIN_MATCH = 0.15


class ProposalDetector:
    """Not open-vocabulary: it knows people, some animals, and COCO's things."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer = proposer

    @property
    def model_id(self) -> str:
        """The nets behind the proposals and the version of the matching."""
        return f"proposal-detector-2+{self._proposer.model_id}"

    def load(self) -> None:
        """Load the nets."""
        self._proposer.load()

    def ground(self, images: Sequence[Image], phrases: Sequence[Phrase]) -> list[list[Grounding]]:
        """Boxes of each phrase; a phrase that fits several proposals returns them all."""
        return [self._ground(image, phrases) for image in images]

    def _ground(self, image: Image, phrases: Sequence[Phrase]) -> list[Grounding]:
        proposals = self._proposer.propose(image)
        found: list[Grounding] = []
        for n, phrase in enumerate(phrases):
            fits = [(_fit(phrase, p), p) for p in _of_size(phrase, _of_kind(phrase, proposals))]
            best = max((fit for fit, _ in fits), default=0.0)
            for fit, proposal in fits:
                if fit >= max(MIN_MATCH, AMBIGUOUS * best):
                    found.append(Grounding(n, proposal.box, round(fit, 4)))
        return found


def _of_kind(phrase: Phrase, proposals: Sequence[Proposal]) -> list[Proposal]:
    same = [p for p in proposals if p.bank == phrase.bank]
    if phrase.noun in {"person", "animal"}:
        return same
    return [p for p in same if phrase.noun in (p.label, p.label.split(" ")[-1])]


def _of_size(phrase: Phrase, proposals: list[Proposal]) -> list[Proposal]:
    words = phrase.text.lower().split()
    for rank, size in enumerate(SIZES):
        if size in words:
            alike = sorted(proposals, key=lambda p: (-_fit(phrase, p), p.box))[:2]
            alike.sort(key=lambda p: (-p.area_share, p.box))
            return alike[rank : rank + 1]
    return proposals


def _fit(phrase: Phrase, proposal: Proposal) -> float:
    """The proposal's score, weighed by how much of it has the colour that the phrase names."""
    named = [word for word in phrase.text.lower().replace(",", " ").split() if word in COLOURS]
    share = family_share(proposal.colours, named[0]) if named else 0.5
    return proposal.score * min(1.0, 0.3 + 1.4 * share)
