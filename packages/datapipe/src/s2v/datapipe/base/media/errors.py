"""The one error of the media room, with the kind that decides retry or quarantine."""

from __future__ import annotations

import errno
from enum import StrEnum
from os import PathLike


class MediaErrorKind(StrEnum):
    """Why a file could not be used. The values are stored in the quarantine table."""

    MISSING = "missing"  # no such file
    EMPTY = "empty"  # zero bytes
    NOT_MEDIA = "not_media"  # text, an archive, a web page named .mp4
    NO_VIDEO = "no_video"  # audio only, or only a cover picture
    TRUNCATED = "truncated"  # ends before what its header declares
    CORRUPT = "corrupt"  # damaged inside
    UNSUPPORTED = "unsupported"  # media, but of a container or codec that is not let in
    TOO_LARGE = "too_large"  # passes the pixel, byte or memory budget
    TIMEOUT = "timeout"  # did not finish, alone and tried again
    CRASH = "crash"  # the decoder's process died, alone and tried again
    CHANGED = "changed"  # not the bytes that were listed
    REFUSED = "refused"  # an address that is not let in, or leads where it may not
    TRANSIENT = "transient"  # the machine's fault: disk full, I/O error, killed from outside


class MediaError(Exception):
    """A media file that cannot be used as it is.

    Attributes:
        kind: what is wrong.
        path: the file, as the caller named it (``<bytes>`` for data in memory).
        message: what was seen, with the values, and the way out where there is one.
    """

    def __init__(self, kind: MediaErrorKind, path: str | PathLike[str], message: str) -> None:
        self.kind = MediaErrorKind(kind)
        self.path = str(path)
        self.message = message
        super().__init__(f"{self.path}: {self.kind.value}: {message}")

    @property
    def transient(self) -> bool:
        """True when the same file may succeed later; False sends it to quarantine.

        Time-outs and crashes count as the file's own fault: the sandbox has by then tried the
        file twice, the second time alone in a fresh process.
        """
        return self.kind is MediaErrorKind.TRANSIENT

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str]]:
        """Survive the way back from a worker process with all three fields."""
        return type(self), (self.kind.value, self.path, self.message)


_MACHINE_ERRNOS = frozenset(
    {
        errno.EIO,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EMFILE,
        errno.ENFILE,
        errno.ESTALE,
        errno.EAGAIN,
        errno.EINTR,
        errno.EACCES,  # a mount or a permission to be repaired, not a property of the media
        errno.EPERM,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
    }
)


def from_os_error(error: OSError, path: str | PathLike[str]) -> MediaError:
    """Translate an operating-system error: gone files are missing, the rest is transient."""
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return MediaError(MediaErrorKind.MISSING, path, "no such file")
    if error.errno == errno.EISDIR:
        return MediaError(MediaErrorKind.NOT_MEDIA, path, "is a folder; name the files in it")
    if error.errno == errno.ENOMEM:
        return MediaError(MediaErrorKind.TOO_LARGE, path, f"out of memory: {error}")
    if error.errno in _MACHINE_ERRNOS:
        return MediaError(MediaErrorKind.TRANSIENT, path, f"{type(error).__name__}: {error}")
    return MediaError(MediaErrorKind.CORRUPT, path, f"{type(error).__name__}: {error}")
