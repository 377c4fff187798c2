"""One process per run folder: two would measure the same units twice."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RunBusyError(RuntimeError):
    """Another process works on the run folder."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel frees it when the process dies, however it dies.

    Raises:
        RunBusyError: somebody else holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunBusyError(
                f"{folder}: another process is working on this run; wait for it or stop it"
            ) from None
        yield
