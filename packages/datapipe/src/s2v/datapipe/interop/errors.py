"""What stops an import, and what stops one of its rows."""

from __future__ import annotations

from typing import Final


class InteropError(ValueError):
    """A file or folder that cannot be read as the format it is given for; names the way out."""


class RowError(ValueError):
    """One row or reference that cannot be used; it is filed and the import goes on.

    Attributes:
        reason: one of :data:`REASONS`; counted.
        message: the value, for who looks into it.
    """

    def __init__(self, reason: str, message: str) -> None:
        if reason not in REASONS:  # a mistake of ours, not of the file
            raise KeyError(reason)
        self.reason = reason
        self.message = message
        super().__init__(f"{reason}: {message}")


REASONS: Final = frozenset(
    {
        # of rows
        "unreadable row",
        "id twice",
        "no caption",
        "video not found",
        "video unusable",
        "span outside the video",
        "crop outside the frame",
        "no usable reference",
        "sample twice",
        "left out by its curator",
        "not downloaded",
        "excluded",
        # of references
        "unreadable reference",
        "phrase not in the caption",
        "no subject",
        "too small or too large",
        "background",
        "frame beyond the clip",
        "box outside the frame",
        "mask of another size",
        "mask unreadable",
        "mask empty",
        "same object under another name",
        "from the target itself",
        "near copy",
        "partner unknown",
        "object not named uniquely",
        # not wrong, only not needed
        "another reference of this phrase was taken",
        "more references than a sample holds",
        "another partner was taken",
    }
)
