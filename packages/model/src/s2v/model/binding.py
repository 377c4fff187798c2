"""Which words mean which reference, as small numbers that words and looks share.

The paper binds a phrase to its reference by describing it; where two subjects look alike in
words, users want to say it outright. A subject's phrase in the caption and all its images get the
same number (1, 2, ...), and the network adds one learned vector per number to the words of the
phrase, to the image tokens and to the reference latents (``network.subject_ids``).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from s2v.model.errors import ModelError


@runtime_checkable
class HasOffsets(Protocol):
    """A text encoder that knows where its tokens stand; binding needs one."""

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """``(start, end)`` characters of every token of ``encode(text)``; equal for none."""


def numbered(subjects: Sequence[Hashable]) -> list[int]:
    """1, 2, ... by first appearance; several images of one subject get the same number."""
    first: dict[Hashable, int] = {}
    return [first.setdefault(subject, len(first) + 1) for subject in subjects]


def text_subject(
    encoder: object,
    text: str,
    spans: Sequence[tuple[int, int]],
    subjects: Sequence[int],
    tokens: int,
) -> Tensor:
    """The subject of every token, ``[tokens]``, 0 for none.

    Args:
        encoder: of the text; one without offsets binds nothing.
        text: the caption.
        spans: characters ``[start, end)`` of each reference's phrase; empty ones bind nothing.
        subjects: the number of each reference.
        tokens: L of the encoded text.
    """
    out = torch.zeros(tokens, dtype=torch.long)
    if not isinstance(encoder, HasOffsets):
        return out
    for i, (start, end) in enumerate(encoder.offsets(text)[:tokens]):
        for (a, b), subject in zip(spans, subjects, strict=True):
            if max(start, a) < min(end, b):
                out[i] = subject
                break
    return out


def spans_of(prompt: str, phrases: Sequence[str]) -> list[tuple[int, int]]:
    """Where each phrase stands in the prompt; the same phrase twice is the same place.

    Args:
        prompt: the text.
        phrases: one per reference; an empty one stands nowhere.

    Raises:
        ModelError: a phrase is not in the prompt.
    """
    out = []
    for phrase in phrases:
        start = prompt.find(phrase) if phrase else 0
        if start < 0:
            raise ModelError(
                f"phrase {phrase!r} is not in the prompt {prompt!r}; copy it letter by letter"
            )
        out.append((start, start + len(phrase)))
    return out
