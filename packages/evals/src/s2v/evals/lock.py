"""One process per results folder: two would leave the page of one beside the numbers of the other.

The cache needs no lock: each of its files is written whole, and by what it depends on.
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s2v.evals.errors import EvalError

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel frees it when the process dies, however it dies.

    Args:
        folder: made if absent. On a file system without locks nothing is held.

    Raises:
        EvalError: another process holds it, or it is a file.
        OSError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise EvalError(f"{folder}: is a file; --out names a folder for the results") from None
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvalError(
                f"{folder}: another process is writing results there; wait for it, or choose "
                "another --out and give both the same --cache"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
