"""Subject phrases by spaCy's noun chunks: the "main subjects" step without a language model."""

from __future__ import annotations

from s2v.datapipe.backends.embedded.words import NEVER_SUBJECTS, PICTURE_NOUNS
from s2v.datapipe.backends.nouns import BANK_OF_CLASS, category_of, refusal
from s2v.datapipe.base.embedded.phrases_spacy import NounChunk, SpacyPhrases
from s2v.datapipe.roles import Phrase


class ChunkPhrases:
    """Noun chunks that name a subject, with "in ... clothes" kept on people."""

    def __init__(self) -> None:
        self._spacy = SpacyPhrases.from_assets()

    @property
    def model_id(self) -> str:
        """The parser's id and the version of the rules."""
        return f"chunk-phrases-3+{self._spacy.model_id}"

    def load(self) -> None:
        """Load the parser."""
        self._spacy.load()

    def phrases(self, caption: str) -> list[Phrase]:
        """Subjects of a caption; plural and vague ones carry a reason."""
        chunks = self._spacy.noun_chunks(caption)
        found: list[Phrase] = []
        for n, chunk in enumerate(chunks):
            if chunk.noun in PICTURE_NOUNS or chunk.is_pronoun:
                continue
            end = _clothes_end(caption, chunk, chunks[n + 1 :])
            category = category_of(chunk.noun, chunk.text)
            found.append(
                Phrase(
                    text=caption[chunk.start : end],
                    start=chunk.start,
                    end=end,
                    noun=chunk.noun,
                    bank=BANK_OF_CLASS[category],
                    reason=_refusal(chunk),
                    category=category,
                )
            )
        return [p for p in found if p.noun != "animal" or "group" not in _before(caption, p)]


def _clothes_end(caption: str, chunk: NounChunk, later: list[NounChunk]) -> int:
    """Take "in blue clothes" into the phrase: appearance belongs to the subject."""
    worn = bool(later) and later[0].text.endswith("clothes")
    if worn and caption[chunk.end : later[0].start].strip() == "in":
        return later[0].end
    return chunk.end


def _refusal(chunk: NounChunk) -> str | None:
    if chunk.noun in NEVER_SUBJECTS:
        return "never a subject of its own"
    return refusal(chunk.noun, chunk.text, chunk.number == "singular")


def _before(caption: str, phrase: Phrase) -> str:
    return caption[max(0, phrase.start - 12) : phrase.start].lower()
