"""One rename is the commit: a whole new folder takes the place of the old one.

The new folder is built beside the old. What did not change is linked, not copied. Until the
exchange a reader finds the old folder whole, after it the new one: tars, index and descriptions
are never of two writes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Final, get_args

from s2v.datapipe.base.shards import Part
from s2v.datapipe.write import nvmeta
from s2v.datapipe.write.errors import WriteError

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
#: A file system or kernel that cannot exchange two names at once.
_CANNOT: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
#: Not every part has samples in every write.
_WIDS: Final = frozenset({"wids.json", *(f"wids-{part}.json" for part in get_args(Part))})
#: Below these names everything is ours, and goes when a write does not make it again.
_OURS: Final = frozenset({"index", "figures", ".staging"})


def next_of(folder: Path) -> Path:
    """Where the folder that will take the place of ``folder`` is built, on the same disk."""
    return folder.with_name(f".{folder.name}.next")


def _last_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.last")


def begin(folder: Path) -> Path:
    """Clear away what a killed write left, and make the empty folder to build in.

    Raises:
        WriteError: ``folder`` is a mount or a link, which a rename cannot replace.
    """
    if folder.is_symlink() or (folder.exists() and os.path.ismount(folder)):
        raise WriteError(
            f"{folder}: is a link or a mount, which one rename cannot replace; write into a "
            "folder below it"
        )
    last, coming = _last_of(folder), next_of(folder)
    if last.exists() and not folder.exists():
        last.rename(folder)  # killed between the two renames of a disk without exchange
    for stale in (last, coming):
        shutil.rmtree(stale, ignore_errors=True)
    coming.mkdir(parents=True)
    return coming


def link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the disk has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _CANNOT | {errno.EPERM, errno.EXDEV, errno.EMLINK}:
            raise
        shutil.copyfile(source, target)


def abandon(coming: Path) -> None:
    """Remove what was built, so that a write that failed for want of space takes none."""
    shutil.rmtree(coming, ignore_errors=True)


def commit(coming: Path, folder: Path) -> None:
    """Put ``coming`` where ``folder`` is and remove what was there.

    Files of the old folder that no write of ours makes are taken along.
    """
    if folder.exists():
        _take_along(folder, coming)
    for place in (coming, *(path for path in sorted(coming.rglob("*")) if path.is_dir())):
        _sync(place)
    if not folder.exists():
        coming.rename(folder)
        _sync(folder.parent)
        return
    if not _exchange(coming, folder):
        coming = _replace_in_two_steps(coming, folder)
    _sync(folder.parent)
    shutil.rmtree(coming)


def _take_along(folder: Path, coming: Path) -> None:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        ours = (
            name.parts[0] in _OURS
            or (len(name.parts) == 1 and path.name.endswith((".tar", ".tar.idx")))
            or path.name in _WIDS
            or (name.parts[0] == nvmeta.FOLDER and path.name in nvmeta.FILES)
            or (path.name.startswith(".") and path.name.endswith(".tmp"))
        )
        if ours or (coming / name).exists():
            continue
        if path.is_symlink() and path.is_dir():  # the user's latents on a larger disk, say
            (coming / name).parent.mkdir(parents=True, exist_ok=True)
            (coming / name).symlink_to(path.readlink(), target_is_directory=True)
        elif path.is_file():
            link(path, coming / name)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step; ``False`` where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _replace_in_two_steps(coming: Path, folder: Path) -> Path:
    """Without exchange the folder is missing for a moment: readers are told to wait for it."""
    last = _last_of(folder)
    folder.rename(last)
    coming.rename(folder)
    return last


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
