"""One file per shard: a plain tar of safetensors with its own index, written whole.

Members ``<sample id>.<frames>x<height>x<width>.safetensors``, then ``__index__`` (JSON, see
:class:`.entry.FileIndex`) and ``__end__`` (512 bytes: where the index stands, and its sha256).
So the rename of one file commits data and index together, any tar reads it, stock readers of
shards pass over the last two, and an entry is one seek away without reading the rest.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from pydantic import ValidationError

from s2v.datapipe.base.atomic import replacing
from s2v.model.errors import ModelError
from s2v.model.latents.entry import Entry, Fault, FileIndex, Parts, Size, Want
from s2v.model.latents.identity import FORMAT

_BLOCK: Final = 512
_TRAILER: Final = 2 * _BLOCK  # two empty blocks end a tar
_INDEX, _END = "__index__", "__end__"
INDEX_LIMIT: Final = 256 << 20  # bytes; a million entries in one file would be a mistake
_MAX_NAME: Final = 100
_AGAIN: Final = "run `s2v-model encode` again"


def size_name(size: Size) -> str:
    """``81x480x832``."""
    return "x".join(map(str, size))


def member_name(sample_id: str, size: Size) -> str:
    """Name of an entry in its file."""
    return f"{sample_id}.{size_name(size)}.safetensors"


class DiskFullError(ModelError):
    """Nothing more can be written; what is finished stays."""


class Writer:
    """Adds entries to a new file; :func:`writing` makes it, and commits it."""

    def __init__(self, handle: IO[bytes], path: Path, fingerprint: str, shard: str) -> None:
        self._handle, self._path = handle, path
        self._fingerprint, self._shard = fingerprint, shard
        self._entries: list[Entry] = []
        self._faults: list[Fault] = []

    def add(
        self,
        wanted: Want,
        *,
        sample_id: str,
        content: str,
        parts: Parts,
        data: bytes,
    ) -> None:
        """Add one encoded sample as safetensors bytes."""
        about = Entry(
            sample_id=sample_id,
            size=wanted.size,
            content=content,
            parts=parts,
            windows=wanted.windows,
            references=wanted.references,
            forms=wanted.forms,
            offset=0,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        self.copy(about, data)

    def copy(self, entry: Entry, data: bytes) -> None:
        """Add an entry of another file, whose bytes were checked."""
        offset = self._member(member_name(entry.sample_id, entry.size), data)
        self._entries.append(entry.model_copy(update={"offset": offset}))

    def fault(self, fault: Fault) -> None:
        """Note a sample that could not be encoded."""
        self._faults.append(fault)

    def close(self) -> None:
        """Write the index and the end of the tar."""
        index = FileIndex(
            format=FORMAT,
            fingerprint=self._fingerprint,
            shard=self._shard,
            entries=tuple(self._entries),
            faults=tuple(self._faults),
        )
        raw = _json(index.model_dump(mode="json"))
        offset = self._member(_INDEX, raw)
        said = {"bytes": len(raw), "offset": offset, "sha256": hashlib.sha256(raw).hexdigest()}
        self._member(_END, _json(said).ljust(_BLOCK))
        self._handle.write(bytes(_TRAILER))

    def _member(self, name: str, data: bytes) -> int:
        """Write one member; returns the offset of its data."""
        if len(name.encode()) > _MAX_NAME:
            raise ModelError(f"{self._path}: member name {name!r} is over {_MAX_NAME} bytes")
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = len(data), 0, 0o644
        self._handle.write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self._handle.tell()
        self._handle.write(data)
        self._handle.write(bytes(-len(data) % _BLOCK))
        return offset


@contextmanager
def writing(path: Path, fingerprint: str, shard: str) -> Iterator[Writer]:
    """Write a file of a latents folder: there whole under its name, or not at all.

    Raises:
        DiskFullError: no room is left.
    """
    try:
        with replacing(path) as temporary, temporary.open("wb") as handle:
            writer = Writer(handle, path, fingerprint, shard)
            yield writer
            writer.close()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DiskFullError(
            f"{path}: the disk is full ({error.strerror}); what is finished stays; make room, then "
            "the same command goes on"
        ) from None


class LatentsFile:
    """One finished file, read by ranges.

    Args:
        path: of the file.

    Raises:
        ModelError: missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._handle = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise ModelError(f"{path}: no such file; {_AGAIN}") from None
        found = os.fstat(self._handle.fileno())
        self.size = found.st_size
        #: Tells this file from another that took its name.
        self.mark = (found.st_ino, found.st_size, found.st_mtime_ns)
        self._index: FileIndex | None = None

    @property
    def index(self) -> FileIndex:
        """Read on first use; raises :class:`ModelError` where it is damaged."""
        if self._index is None:
            self._index = self._read_index()
        return self._index

    def forget(self) -> None:
        """Let go of the index, which takes a hundred times what a lookup needs of it."""
        self._index = None

    def pread(self, offset: int, size: int) -> bytearray:
        """``size`` bytes at ``offset``.

        Raises:
            ModelError: they are not there, or cannot be read.
        """
        out = bytearray(size)
        self.pread_into(memoryview(out), offset)
        return out

    def pread_into(self, out: memoryview, offset: int) -> None:
        """Fill ``out`` from ``offset``; raises as :meth:`pread`."""
        done, size = 0, len(out)
        try:
            while done < size:
                got = os.preadv(self._handle.fileno(), [out[done:]], offset + done)
                if not got:
                    break
                done += got
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be read at {offset} ({error})") from None
        if done < size:
            raise ModelError(
                f"{self.path}: cut short: {size} bytes at {offset} are not in it; delete it, "
                f"then {_AGAIN}"
            )

    def data(self, entry: Entry) -> bytearray:
        """An entry's bytes, checked.

        Raises:
            ModelError: they are not those that the index tells of.
        """
        found = self.pread(entry.offset, entry.bytes)
        if hashlib.sha256(found).hexdigest() != entry.sha256:
            raise ModelError(
                f"{self.path}: {member_name(entry.sample_id, entry.size)}: sha256 differs from "
                f"the index; delete the file, then {_AGAIN}"
            )
        return found

    def names(self) -> Iterable[str]:
        """Every member of the tar as its headers say, for :mod:`.verify`."""
        try:
            with tarfile.open(self.path, "r:") as tar:
                return [info.name for info in tar.getmembers()]
        except (tarfile.TarError, OSError) as error:
            raise ModelError(f"{self.path}: cannot be read as a tar ({error})") from None

    def _read_index(self) -> FileIndex:
        broken = f"{self.path}: not a whole file of `s2v-model encode`"
        try:
            at = self.size - _TRAILER - _BLOCK
            if at < _BLOCK:
                raise ValueError("too short")
            said = json.loads(bytes(self.pread(at, _BLOCK)))
            offset, size, sha256 = said["offset"], said["bytes"], said["sha256"]
            if type(offset) is not int or type(size) is not int:
                raise ValueError("its end says nothing of an index")
            if not (0 <= size <= INDEX_LIMIT and 0 <= offset <= at - size):
                raise ValueError(f"an index of {size} bytes at {offset} is not in it")
            raw = self.pread(offset, size)
            if hashlib.sha256(raw).hexdigest() != sha256:
                raise ValueError("its index was changed")
            index = FileIndex.model_validate_json(bytes(raw))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise ModelError(f"{broken} ({key}: {first['msg']}); delete it, {_AGAIN}") from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(f"{broken} ({error}); delete it, then {_AGAIN}") from None
        if index.format != FORMAT:
            raise ModelError(f"{self.path}: is of format {index.format!r}, not {FORMAT!r}")
        for entry in index.entries:
            if entry.bytes < 0 or not _BLOCK <= entry.offset <= offset - entry.bytes:
                raise ModelError(f"{broken} (an entry lies outside of it); delete it, {_AGAIN}")
        return index


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
