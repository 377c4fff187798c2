"""Files that are either there whole or not there: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path, *, sync_folder: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` on success.

    The temporary name is nobody else's, also when two machines write the same file; the last
    rename wins with whole content.

    Args:
        path: the file to be.
        sync_folder: also make the name durable. A file that is followed at once by another of
            its folder may leave that to the last one: file systems keep renames in order.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        if sync_folder:
            _fsync_folder(path.parent)
    except OSError as error:
        # Of an open file, which does not say its name: whose disk is full?
        unnamed = error.errno in _FULL and error.filename is None
        if unnamed or error.filename == str(temporary):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path, older_than_s: float = 3600.0, *, deep: bool = True) -> int:
    """Remove what writers that were killed left behind; say how many files.

    A living writer's file is young: nothing here takes an hour from its last byte to its name.
    Young is judged by the clock of the storage, which need not be this machine's.

    Args:
        folder: where.
        older_than_s: only what is older; -1 where nobody else can be writing.
        deep: in folders below, too.
    """
    swept = 0
    now = _storage_clock(folder)
    for place, _, names in os.walk(folder) if deep else islice(os.walk(folder), 1):
        for name in names:
            if not (name.startswith(".") and name.endswith(".tmp")):
                continue
            path = Path(place, name)
            with contextlib.suppress(OSError):  # gone meanwhile, or not ours to remove
                if now - path.lstat().st_mtime > older_than_s:
                    path.unlink()
                    swept += 1
    return swept


def _storage_clock(folder: Path) -> float:
    """What time it is where the folder lies; without leave to write there, here."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.", suffix=".tmp") as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return time.time()


def write_bytes(path: Path, data: bytes, *, sync_folder: bool = True) -> None:
    """Write ``data`` atomically; see :func:`replacing`."""
    with replacing(path, sync_folder=sync_folder) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys and a final newline, atomically."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False)
    write_bytes(path, text.encode() + b"\n")


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in 1 MiB blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
