"""Where a worker finds the bytes of a source on its own machine."""

from __future__ import annotations

from pathlib import Path

from s2v.datapipe.engine.stage import Row


def use(run: Path) -> None:
    """Take the rules for remote sources from the run folder."""


def local_path(source: Row) -> str:
    """Path of a local file with the source's bytes.

    Args:
        source: a row of table ``sources``.
    """
    return str(source["path"])
