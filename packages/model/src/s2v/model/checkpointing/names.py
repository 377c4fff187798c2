"""What lies in ``checkpoints/``: which folders are whole, which are half, which may go.

Three rules make every moment safe to be killed in. A checkpoint is written under a hidden name
and renamed when all of it is on the disk. An old one is renamed to a hidden name before anything
of it is removed, and only after the new one has its own. Nothing hidden is ever read.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final

STATE: Final = "state.json"
_WHOLE: Final = re.compile(r"^step-(\d{8,})$")
_HIDDEN: Final = ".step-"


def final(folder: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` finished steps lies when it is whole."""
    return folder / f"step-{step:08d}"


def hidden(folder: Path, step: int) -> Path:
    """Where it is written; the same on all processes that write it together."""
    return folder / f".step-{step:08d}.tmp"


def step_of(path: Path) -> int | None:
    """Its number of finished steps; None for another name."""
    match = _WHOLE.match(path.name)
    return int(match[1]) if match else None


def steps(folder: Path) -> list[Path]:
    """All whole checkpoints, by step."""
    if not folder.is_dir():
        return []
    found = [
        (step, path)
        for path in folder.iterdir()
        if (step := step_of(path)) is not None and (path / STATE).is_file()
    ]
    return [path for _, path in sorted(found)]


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None. Changes nothing: a training may be at work here."""
    whole = steps(folder)
    return whole[-1] if whole else None


def sweep(folder: Path) -> list[str]:
    """Remove what killed processes left half written or half removed.

    Only for the start of a training, by one process: a save under way elsewhere would be lost.

    Returns:
        The names that were removed, sorted.
    """
    if not folder.is_dir():
        return []
    left = sorted(p for p in folder.iterdir() if p.name.startswith(_HIDDEN))
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in left]


def publish(folder: Path, step: int) -> Path:
    """Give the hidden checkpoint of ``step``, whose files are on the disk, its name.

    A whole one of the same step stays: of one run it is the same, and replacing it would take
    two renames, with nothing there in between.

    Raises:
        OSError: the file system says no.
    """
    target = final(folder, step)
    if (target / STATE).is_file():
        shutil.rmtree(hidden(folder, step), ignore_errors=True)
        return target
    if target.exists():  # without its state: a copy cut short, which nothing reads
        shutil.rmtree(target)
    hidden(folder, step).rename(target)
    sync(folder)
    return target


def retire(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` whole ones; what cannot be removed stays."""
    for old in steps(folder)[:-keep]:
        gone = old.with_name(f".{old.name}.old")
        shutil.rmtree(gone, ignore_errors=True)
        try:
            # Renamed first: a removal cut short must not leave half a checkpoint.
            old.rename(gone)
        except OSError:
            continue
        shutil.rmtree(gone, ignore_errors=True)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
