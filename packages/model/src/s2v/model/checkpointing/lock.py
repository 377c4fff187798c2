"""One training per run folder: a scheduler that starts a job again may not know that it still runs.

The kernel's lock of a file: it goes with its process, however that ends, and a machine that has
none (some network file systems) is trusted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import tempfile
from pathlib import Path
from typing import IO, Final

from s2v.model.errors import ModelError

NAME: Final = ".lock"
_HELD: Final[dict[Path, IO[str]]] = {}


def hold(folder: Path) -> None:
    """Keep other trainings out of ``folder`` until :func:`release` or the end of this process.

    Raises:
        ModelError: another process is at work there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        key = folder.resolve()
        if key in _HELD:
            return
        # Better now than at the first checkpoint, hours from here.
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=folder):
            handle = (folder / NAME).open("a+", encoding="utf-8")
    except OSError as error:
        raise ModelError(
            f"{folder}: cannot be written ({error.strerror or error}); give an --out that this "
            "user may write, or change its permissions"
        ) from None
    try:
        # Of POSIX's kind: it is not handed on to the loader's processes, which may outlive a kill.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.seek(0)
        who = handle.read(200).strip() or "another process"
        handle.close()
        if error.errno in {errno.EACCES, errno.EAGAIN}:
            raise ModelError(
                f"{folder}: {who} is training here; wait for it or end it, or give another --out"
            ) from None
        return
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    handle.flush()
    _HELD[key] = handle


def release(folder: Path) -> None:
    """Let others in; nothing where nothing is held."""
    handle = _HELD.pop(folder.resolve(), None)
    if handle is not None:
        handle.close()
