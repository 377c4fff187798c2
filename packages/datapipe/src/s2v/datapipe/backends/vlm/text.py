"""The model's words are a stranger's: capped, refused when not plain text, shown with care."""

from __future__ import annotations

import unicodedata
from typing import Final

#: Control and format characters (also those that reverse the direction of what follows), halves
#: of surrogate pairs, private and unassigned ones. No caption needs them.
_REFUSED: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn"))
_BROKEN: Final = "\ufffd"  # what decoders put where bytes were no text


class WrongAnswerError(ValueError):
    """Why an answer cannot be used, in words that help the model to mend it."""


def plain(text: str, what: str, max_chars: int) -> str:
    """One line of plain text: white space folded, ends trimmed.

    Args:
        text: the model's.
        what: what it should be, for messages.
        max_chars: a longer one is refused, not cut: the end of a sentence is part of it.

    Raises:
        WrongAnswerError: empty, over-long, or with characters that are not text.
    """
    if len(text) > 4 * max_chars:  # before any work on it
        raise WrongAnswerError(f"the {what} is longer than {max_chars} characters")
    folded = " ".join(text.split())
    if not folded:
        raise WrongAnswerError(f"the {what} is empty")
    if len(folded) > max_chars:
        raise WrongAnswerError(f"the {what} is longer than {max_chars} characters")
    for letter in folded:
        if unicodedata.category(letter) in _REFUSED or letter == _BROKEN:
            raise WrongAnswerError(
                f"the {what} holds U+{ord(letter):04X}, which is no printable character"
            )
    return folded


def shown(text: str, most: int = 200) -> str:
    """A stranger's words inside a message: one line, quoted, escaped, cut."""
    folded = " ".join(text[: 10 * most].split())
    return ascii(folded if len(folded) <= most else folded[:most] + "...")
