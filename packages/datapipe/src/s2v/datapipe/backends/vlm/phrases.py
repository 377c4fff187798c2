"""Subject phrases by a language model (Phantom, section 3.1, step 5; Phantom-Data, section 3)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import Field

from s2v.datapipe.backends.nouns import BANK_OF_CLASS, refusal
from s2v.datapipe.backends.vlm import options, prompting
from s2v.datapipe.backends.vlm.asking import Asker, Strict, parsed
from s2v.datapipe.backends.vlm.role import ServedRole
from s2v.datapipe.backends.vlm.text import WrongAnswerError, plain, shown
from s2v.datapipe.roles import Phrase

_SLOT: Final = prompting.Slot("phrases", frozenset({"caption"}))
MAX_PHRASE: Final = 200
MAX_NOUN: Final = 60
MAX_SUBJECTS: Final = 12

INSIDE: Final = "stands only inside another phrase"


class PhraseOptions(options.VlmOptions):
    """Options of the phrase extractor, which may ask another model than the captioner."""

    max_tokens: int = Field(default=1024, ge=1, le=65536)


class Subject(Strict):
    """One subject, as the model says it."""

    phrase: str
    noun: str
    class_: Literal[
        "human", "animal", "clothes", "product", "landmark", "ip_character", "other"
    ] = Field(alias="class")
    singular: bool


class _Answer(Strict):
    subjects: list[Subject] = Field(max_length=MAX_SUBJECTS)


class VlmPhrases(ServedRole):
    """One request per caption, without pictures: what the caption does not say is no phrase."""

    reading = "spans-1"

    def __init__(self, settings: PhraseOptions, where: str) -> None:
        prompt = prompting.load(_SLOT, settings.prompt, where)
        super().__init__(Asker(settings, prompt, where, {}))

    def phrases(self, caption: str) -> list[Phrase]:
        """The caption's subjects in its order; those that can be none carry a reason.

        Raises:
            AnswerError, RoleUnavailableError: as in the role.
        """
        fields = {"caption": json.dumps(caption, ensure_ascii=False)}
        found, _ = self._asker.ask(fields, [], lambda answer: read_phrases(answer, caption))
        return found


def read_phrases(answer: str, caption: str) -> list[Phrase]:
    """Turn an answer into phrases with character spans.

    The phrase is the caption's own text at the span, so a difference in case does no harm ("a
    man" for "A man" at its beginning); any other difference does.

    Args:
        answer: JSON of the prompt's form.
        caption: what it speaks of.

    Raises:
        WrongAnswerError: another form, or a phrase that is not in the caption, or a noun that is
            not in its phrase.
    """
    subjects = []
    for subject in parsed(_Answer, answer).subjects:
        phrase = plain(subject.phrase, "phrase", MAX_PHRASE).rstrip(".,;: ")
        noun = plain(subject.noun, "noun", MAX_NOUN).lower()
        if not occurrences(phrase, caption):
            raise WrongAnswerError(f"the phrase {shown(phrase)} is not in the caption")
        if noun not in phrase.lower():
            raise WrongAnswerError(f"the noun {shown(noun)} is not in the phrase {shown(phrase)}")
        subjects.append((phrase, noun, subject))
    spans = place([phrase for phrase, _, _ in subjects], caption)
    found = []
    for (_, noun, subject), (start, end, inside) in zip(subjects, spans, strict=True):
        text = caption[start:end]
        found.append(
            Phrase(
                text=text,
                start=start,
                end=end,
                noun=noun,
                bank=BANK_OF_CLASS[subject.class_],
                reason=INSIDE if inside else refusal(noun, text, subject.singular),
                category=subject.class_,
            )
        )
    # One subject named twice is one subject; two spans with the same words stay two, and the
    # stage says of both that they cannot be told apart.
    unique = {(p.start, p.end): p for p in reversed(found)}
    return sorted(unique.values(), key=lambda p: (p.start, p.end))


def occurrences(phrase: str, caption: str) -> list[tuple[int, int]]:
    """Spans of a phrase in a caption, whole words only, in order; case does not count."""
    pattern = rf"(?<!\w){re.escape(phrase)}(?!\w)"
    return [found.span() for found in re.finditer(pattern, caption, re.IGNORECASE)]


def place(phrases: Sequence[str], caption: str) -> list[tuple[int, int, bool]]:
    """Give every phrase a span of its own: its first occurrence that no other one covers.

    Longer phrases choose first, so that "a man" does not take the beginning of "a man in black"
    when it stands by itself further on.

    Args:
        phrases: each of which occurs in the caption.
        caption: the text.

    Returns:
        Start, end, and whether the phrase has no place outside of other phrases (the span is
        then the one inside); a phrase given twice that stands there once has the same span twice.
    """
    order = sorted(range(len(phrases)), key=lambda n: (-len(phrases[n]), n))
    placed: dict[int, tuple[int, int, bool]] = {}
    for n in order:
        spots = occurrences(phrases[n], caption)
        taken = [(start, end) for start, end, inside in placed.values() if not inside]
        free = [s for s in spots if all(s[1] <= start or s[0] >= end for start, end in taken)]
        if free:
            placed[n] = (*free[0], False)
        else:
            same = [s for s in spots if s in taken]
            placed[n] = (*same[0], False) if same else (*spots[0], True)
    return [placed[n] for n in range(len(phrases))]


def phrases(given: dict[str, Any], where: str, shared: dict[str, Any]) -> VlmPhrases:
    """Factory of the registry."""
    return VlmPhrases(options.read(PhraseOptions, given, where), where)
