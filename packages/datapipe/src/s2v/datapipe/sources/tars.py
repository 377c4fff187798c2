"""Walking a stranger's tar: members by name and position, nothing unpacked, nothing trusted.

Python's ``tarfile`` follows whatever a header says (an extended header of gigabytes is read into
memory, sparse maps are expanded) and takes a tar that breaks off between members for a whole
one. Here headers are read as POSIX and GNU tar define them, within caps, and where the tar stops
being one is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from s2v.datapipe.base.media.errors import MediaErrorKind

BLOCK: Final = 512
MAX_MEMBERS: Final = 2_000_000
MAX_EXTENDED: Final = 1 << 20
"""Bytes of an extended header (long names and the like)."""

_REGULAR: Final = frozenset({b"0", b"\0", b"7"})
_FOLDER: Final = b"5"
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_WHAT: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A member as its header tells.

    Attributes:
        name: as stored.
        offset: of its first byte.
        size: bytes.
        refused: why it is not read, ``None`` for a regular file with a harmless name.
    """

    name: str
    offset: int
    size: int
    refused: str | None = None


class TarDamagedError(Exception):
    """Where and why a tar cannot be read on; what came before holds."""

    def __init__(self, kind: MediaErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def members(file: BinaryIO, size: int) -> Iterator[Member]:
    """Members of a tar in stored order; folders are left out.

    The file's position may be moved between members.

    Args:
        file: seekable.
        size: of the file, bytes.

    Raises:
        TarDamagedError: after the last good member.
    """
    position, count = 0, 0
    last = "its beginning"
    extended: dict[str, str] = {}
    common: dict[str, str] = {}
    while True:
        header = _read(file, position, BLOCK)
        if len(header) < BLOCK:
            raise _end_missing(size, position, last)
        if header == bytes(BLOCK):
            return
        kind, stored = _checked(header, position, last)
        length = _size(extended.get("size") or common.get("size"), stored, header, last)
        begin = position + BLOCK
        padded = begin + -(-length // BLOCK) * BLOCK
        if begin + length > size:
            raise TarDamagedError(
                MediaErrorKind.TRUNCATED,
                f"ends inside {_name(header, extended)[:200]!r}: {size} of at least "
                f"{begin + length} bytes are there",
            )
        position = padded
        if kind in {_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL}:
            if length > MAX_EXTENDED:
                raise TarDamagedError(
                    MediaErrorKind.TOO_LARGE, f"an extended header of {length} bytes after {last}"
                )
            data = _read(file, begin, length)
            if kind == _LONG_NAME:
                extended["path"] = _text(data.partition(b"\0")[0])
            elif kind == _PAX_GLOBAL:
                common |= _pax(data, last)
            elif kind == _PAX:
                extended |= _pax(data, last)
            continue
        name = _name(header, common | extended)
        sparse = any(key.startswith("GNU.sparse.") for key in extended)
        extended = {}
        last = repr(name[:200])
        if kind == _FOLDER:
            continue
        count += 1
        if count > MAX_MEMBERS:
            raise TarDamagedError(MediaErrorKind.TOO_LARGE, f"more than {MAX_MEMBERS} members")
        refused = _refusal(b"S" if sparse else kind, name)
        yield Member(name, begin, length, refused)


def _read(file: BinaryIO, position: int, length: int) -> bytes:
    file.seek(position)
    return file.read(length)


def _checked(header: bytes, position: int, last: str) -> tuple[bytes, int]:
    """Type and stored size, if the block is a header at all."""
    try:
        wanted = int(header[148:156].split(b"\0")[0].strip() or b"x", 8)
    except ValueError:
        wanted = -1
    blank = header[:148] + b" " * 8 + header[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in blank)
    if wanted not in {sum(blank), signed}:
        if position == 0:
            raise TarDamagedError(MediaErrorKind.NOT_MEDIA, f"no tar: starts {header[:16]!r}")
        raise TarDamagedError(MediaErrorKind.CORRUPT, f"no header at byte {position}, after {last}")
    field = header[124:136]
    if field[0] & 0x80:  # GNU: a binary number, for sizes over 8 GiB
        return header[156:157], int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return header[156:157], int(field.split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        raise TarDamagedError(
            MediaErrorKind.CORRUPT, f"no size in the header at byte {position}"
        ) from None


def _size(given: str | None, stored: int, header: bytes, last: str) -> int:
    kind = header[156:157]
    if kind in {b"1", b"2", b"3", b"4", b"6", _FOLDER}:
        return 0  # links and their like have no data, whatever their size says
    if given is None or kind in {_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL}:
        return stored
    if not given.isdecimal() or len(given) > 18:
        raise TarDamagedError(MediaErrorKind.CORRUPT, f"size {given[:40]!r} after {last}")
    return int(given)


def _name(header: bytes, extended: dict[str, str]) -> str:
    if path := extended.get("path"):
        return path
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0]
    if prefix and header[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return _text(name)


def _pax(data: bytes, last: str) -> dict[str, str]:
    """Records ``<length> <key>=<value>\\n``."""
    found: dict[str, str] = {}
    while data and data[0]:
        length, space, rest = data.partition(b" ")
        if not space or not length.isdigit() or not len(length) + 3 <= int(length) <= len(data):
            raise TarDamagedError(MediaErrorKind.CORRUPT, f"a damaged extended header after {last}")
        record, data = rest[: int(length) - len(length) - 2], data[int(length) :]
        key, _, value = record.partition(b"=")
        found[_text(key)] = _text(value)
    return found


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _refusal(kind: bytes, name: str) -> str | None:
    if kind not in _REGULAR:
        return f"is {_WHAT.get(kind, 'no regular file')}"
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        return "has a name that leads out of the archive"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    if not name or any(ord(c) < 32 for c in name) or "#" in name:
        return "has an empty name, or one with control characters or '#'"
    return None


def _end_missing(size: int, position: int, last: str) -> TarDamagedError:
    if size == 0:
        return TarDamagedError(MediaErrorKind.EMPTY, "0 bytes; fetch it again")
    if position == 0:
        return TarDamagedError(MediaErrorKind.NOT_MEDIA, f"no tar: {size} bytes")
    return TarDamagedError(
        MediaErrorKind.TRUNCATED, f"breaks off after {last}: the end mark of a tar is missing"
    )
