"""The pair and write phases of a small known run, in a process that is killed where it is told.

The process counts what it does to files: Python reports every such action before it happens. At
the given one it sends itself SIGKILL. In the pair phase, which touches no file, its calls of
functions are counted.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from synthetic_tables import film_world
from written_run import SETTINGS, WRITE

from s2v.datapipe.base.exclusions import Exclusion
from s2v.datapipe.pair.select import select
from s2v.datapipe.views import write_views
from s2v.datapipe.write.write import write_shards

#: What changes a folder, as Python's audit hooks name it. The exchange is the lookup before it.
ACTIONS = frozenset(
    {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate", "ctypes.dlsym"}
)
TAKEN_DOWN = Exclusion(key_type="video_id", key="home", reason="asked", by="test", when="2026")


@dataclass(frozen=True)
class Kill:
    """When the process kills itself: at the n-th call of the pair phase, or the n-th action."""

    call: int | None = None
    action: int | None = None


def run(folder: Path, clip: Path, *, takedown: bool, kill: Kill, answer: Any = None) -> None:
    """Select, write the views and the shards of the film world below ``folder``.

    Args:
        folder: the run.
        clip: the file that stands for every clip.
        takedown: whether one source is taken down.
        kill: where to stop; nowhere by default.
        answer: a queue for ``(calls of the pair phase, actions)`` of a whole run.
    """
    world = film_world()
    world.store_frames(folder)  # the same bytes every time
    tables = world.tables()
    counted = _count(kill.action)
    with _calls(kill.call) as calls:
        selection = select(tables, SETTINGS, [TAKEN_DOWN] if takedown else [])
    write_views(folder, tables, selection, measured=tables, stamped="now", digest="of these")
    files = {row["clip_id"]: clip for row in world.rows["clips"]}
    small = WRITE.model_copy(update={"max_shard_bytes": 130_000})
    write_shards(folder, tables, selection, small, files, folder / "shards")
    if answer is not None:
        answer.put((calls[0], counted[0]))


def _count(last: int | None) -> list[int]:
    """Count actions; before the one numbered ``last`` the process ends."""
    counted = [0]

    def heard(event: str, details: tuple[Any, ...]) -> None:
        if event in ACTIONS or (event == "open" and _writes(details)):
            if counted[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)
            counted[0] += 1

    sys.addaudithook(heard)
    return counted


@contextmanager
def _calls(last: int | None) -> Iterator[list[int]]:
    """Count calls of Python functions; at the one numbered ``last`` the process ends."""
    counted = [0]

    def called(_frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            if counted[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)
            counted[0] += 1

    sys.setprofile(called)
    try:
        yield counted
    finally:
        sys.setprofile(None)


def _writes(details: tuple[Any, ...]) -> bool:
    return isinstance(details[1], str) and any(c in details[1] for c in "wax+")
