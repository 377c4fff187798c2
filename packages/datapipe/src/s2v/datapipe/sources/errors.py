"""The one error of the listing."""

from __future__ import annotations


class SourceError(ValueError):
    """A source entry that cannot be used; the message names the entry and the way out."""
