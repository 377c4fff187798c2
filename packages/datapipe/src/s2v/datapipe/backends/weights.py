"""Weights on disk: found, whole, and what they are, before a library gives a riddle for an answer.

Production backends take weights by path. What is missing, cut short or another model's is one
clear line. A digest of the files is part of the model's id, so that other weights are another
stage fingerprint; it is remembered per file, as a digest of gigabytes takes seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from s2v.datapipe.base import atomic
from s2v.datapipe.base.assets.cache import cache_root
from s2v.datapipe.roles import WeightsError

_MEMORY: Final = "weights-sha256.json"


def existing_file(path: str | os.PathLike[str], what: str) -> Path:
    """The file, if it is there and not empty.

    Args:
        path: as the user wrote it; ``~`` is expanded.
        what: what it should be, and where users get it, for the message.

    Raises:
        WeightsError: naming the path.
    """
    found = Path(path).expanduser()
    if not found.is_file():
        state = "is a folder, not a file" if found.is_dir() else "no such file"
        raise WeightsError(f"{found}: {state}; expected {what}")
    if not found.stat().st_size:
        raise WeightsError(f"{found}: is empty; expected {what}; fetch it again")
    return found


def existing_folder(path: str | os.PathLike[str], files: Iterable[str], what: str) -> Path:
    """The folder, if every file of ``files`` lies in it and none is empty.

    Raises:
        WeightsError: naming what is missing.
    """
    found = Path(path).expanduser()
    if not found.is_dir():
        raise WeightsError(f"{found}: no such folder; expected {what}")
    wanted = list(files)
    missing = [n for n in wanted if not (found / n).is_file() or not (found / n).stat().st_size]
    if missing:
        raise WeightsError(
            f"{found}: {', '.join(missing)} missing or empty; expected {what}; fetch it again"
        )
    return found


def cause(error: BaseException) -> str:
    """What a library's error says, on one short line; its name where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def digest(paths: Iterable[Path]) -> str:
    """16 hex digits over the sha256 of the files, in order of their names.

    Raises:
        OSError: a file cannot be read.
    """
    all_of_it = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        all_of_it.update(path.name.encode() + b"\0" + sha256(path).encode() + b"\n")
    return all_of_it.hexdigest()[:16]


def sha256(path: Path) -> str:
    """sha256 of a file; remembered by path, size and time of change."""
    state = path.stat()
    key = f"{path.resolve()}:{state.st_size}:{state.st_mtime_ns}"
    memory = cache_root() / _MEMORY
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    if key in known:
        return str(known[key])
    found = atomic.sha256_file(path)
    with contextlib.suppress(OSError):  # a read-only cache costs time, nothing else
        atomic.write_json(memory, {**known, key: found})
    return found
