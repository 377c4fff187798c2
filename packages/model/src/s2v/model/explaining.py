"""What a user is told: by one process, in one line, with the file and the way out."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from s2v.model.errors import ModelError

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_ALLOWED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_FOLDER: Final = frozenset({errno.ENOTDIR, errno.EEXIST, errno.EISDIR})


def of_disk(error: OSError) -> str | None:
    """What to tell a user of an error of the file system; None for what is none.

    Args:
        error: with the name of a file, or of a disk that is full.
    """
    if error.filename is None and error.errno not in FULL:
        return None  # of a pipe, a socket, or our own making: it keeps its traceback
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror or error}; {way_out(error.errno)}, and start again"


def way_out(number: int | None) -> str:
    """What a user can do about an error of that number."""
    if number in FULL:
        return "free some space"
    if number in _NOT_ALLOWED:
        return "give a place that this user may read and write, or change its permissions"
    if number in _NO_FOLDER:
        return "give another path: a file stands where a folder is wanted, or the other way round"
    return "see that the path is right and its disk is there"


@contextmanager
def disk_told() -> Iterator[None]:
    """Errors of the file system become ones that a user can act on.

    Raises:
        ModelError: in their place.
    """
    try:
        yield
    except OSError as error:
        if (said := of_disk(error)) is None:
            raise
        raise ModelError(said) from error


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of writing to ``path`` say its name, which those of an open file do not.

    Raises:
        OSError: in their place.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def speaks() -> bool:
    """Whether this process speaks for all of a training: of several, one line is enough."""
    return os.environ.get("RANK", "0") == "0"
