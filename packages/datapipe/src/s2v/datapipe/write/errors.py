"""What stops a write."""

from __future__ import annotations


class WriteError(RuntimeError):
    """The run's tables, frames or clips do not give the samples that were selected."""
