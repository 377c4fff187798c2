"""spaCy's en_core_web_sm: the noun chunks of a caption, each an exact substring of it.

Stands in for the language model that names the subjects in Phantom-Data (section 3.1, "main
subjects"). A statistical parser of 12 MB: plain declarative captions come out right; gerunds and
long coordinations may not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from s2v.datapipe.base.embedded.net import Net, require

Number = Literal["singular", "plural"]


@dataclass(frozen=True)
class NounChunk:
    """One noun chunk.

    Attributes:
        text: `caption[start:end]`, without a leading article or trailing punctuation removed.
        start: First character in the caption.
        end: One past the last character.
        noun: Lemma of the head noun, lower case ("women" -> "woman").
        number: Of the head, or plural if a numeral above one counts it.
        is_pronoun: Whether the head is a pronoun ("it", "someone").
        adjectives: The head's adjectives and noun modifiers, lower case, in order.
    """

    text: str
    start: int
    end: int
    noun: str
    number: Number
    is_pronoun: bool
    adjectives: tuple[str, ...]


class SpacyPhrases(Net):
    """Noun-chunk extractor."""

    name = "en-core-web-sm"
    asset_name = "en-core-web-sm"

    _nlp: Any

    def _load(self) -> None:
        spacy = require("spacy")
        self._nlp = spacy.load(self.path, exclude=["ner", "senter"])

    def noun_chunks(self, caption: str) -> list[NounChunk]:
        """Finds noun chunks, in the order of the text.

        Args:
            caption: English text.

        Returns:
            Chunks; for each `caption[chunk.start:chunk.end] == chunk.text`.
        """
        self.load()
        return [self._chunk(span) for span in self._nlp(caption).noun_chunks]

    def _chunk(self, span: Any) -> NounChunk:
        head = span.root
        modifiers = [token for token in span if token.head == head and token != head]
        counts = [token for token in modifiers if token.dep_ == "nummod"]
        plural = "Plur" in head.morph.get("Number") or any(
            token.lower_ not in ("one", "1") for token in counts
        )
        return NounChunk(
            text=span.text,
            start=span.start_char,
            end=span.end_char,
            noun=head.lemma_.lower(),
            number="plural" if plural else "singular",
            is_pronoun=head.pos_ == "PRON",
            adjectives=tuple(t.lower_ for t in modifiers if t.dep_ in ("amod", "compound")),
        )
