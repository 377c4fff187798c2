"""The image bank: pictures in tars (WebDataset) and Parquet, listed without being unpacked.

What an archive holds is listed once and kept in the run folder; an archive that changes is listed
again. What cannot be used is told: a member that is refused becomes a source whose staging says
why, and what is wrong with the archive itself (it breaks off, a name is there twice, a sidecar is
no JSON) becomes one source that names the archive. Both end in quarantine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base import atomic
from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.images import MAX_IMAGE_BYTES
from s2v.datapipe.base.media.sandbox import run_isolated, stream_isolated
from s2v.datapipe.sources import parquets, tars
from s2v.datapipe.sources.address import archive_of, without_secrets
from s2v.datapipe.sources.errors import SourceError
from s2v.datapipe.sources.spec import IMAGE_SUFFIXES, VIDEO_SUFFIXES

VERSION: Final = 1
MAX_CAPTION: Final = 20_000
_MAX_SIDECAR: Final = 1 << 20
_SIDECARS: Final = (".txt", ".json")
_FACTS: Final = {
    "caption": "given_caption",
    "url": "url",
    "licence": "licence",
    "license": "licence",
    "credit": "credit",
    "consent": "consent",
    "pair_key": "pair_key",
}
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture (or film) in an archive.

    Attributes:
        member: its name in addresses.
        group: what belongs together: the WebDataset key, the row.
        sha256: of its bytes; ``None`` where it is refused or there are none.
        bytes: how many.
        facts: of its sidecars or caption columns, by key of a manifest.
    """

    member: str
    group: str
    sha256: str | None
    bytes: int
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the archive itself."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What an archive holds, and what is wrong with it."""

    pictures: list[Picture]
    problems: list[Problem]

    def raise_problems(self, place: str) -> None:
        """Raise the first problem, with how many there are.

        Raises:
            MediaError: always; an archive is no picture.
        """
        if not self.problems:
            raise MediaError(
                MediaErrorKind.UNSUPPORTED,
                without_secrets(place),
                "is an archive, not a picture; list it as a bank",
            )
        kind = MediaErrorKind(self.problems[0].kind)
        told = "; ".join(problem.message for problem in self.problems[:_SHOWN])
        more = len(self.problems) - _SHOWN
        tail = f"; and {more} more" if more > 0 else ""
        raise MediaError(
            kind,
            without_secrets(place),
            f"{told}{tail}. The other {len(self.pictures)} pictures of it are listed",
        )


def contents(path: Path, columns: tuple[str, ...] = (), captions: tuple[str, ...] = ()) -> Contents:
    """List a local archive; every byte of its pictures is read once, to be hashed.

    Args:
        path: a ``.tar`` or ``.parquet``.
        columns: of a Parquet, the pictures; else the only one that can be.
        captions: of a Parquet; else ``caption``, ``text`` or ``prompt``.

    Raises:
        SourceError: a Parquet has no such columns, or several that may be meant.
    """
    if archive_of(str(path)) == "tar":
        return _tar(path)
    return _parquet(path, columns, captions)


def kept_contents(
    folder: Path | None,
    path: Path,
    identity: str,
    columns: tuple[str, ...] = (),
    captions: tuple[str, ...] = (),
) -> Contents:
    """:func:`contents`, kept in ``folder`` under what the archive is known by."""
    if folder is None:
        return contents(path, columns, captions)
    name = stable_hash([str(VERSION), identity, *columns, "captions", *captions], 24)
    kept = folder / "banks" / f"{name}.parquet"
    if (found := _read(kept)) is not None:
        return found
    fresh = contents(path, columns, captions)
    _write(kept, fresh)
    return fresh


def member_key(name: str) -> str:
    """WebDataset's key of a member: its path up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


def _suffix(name: str) -> str:
    last = name.rpartition("/")[2]
    return last[last.rfind(".") :].lower() if "." in last else ""


class _TarReader:
    """Joins the members of one tar by their keys."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.pictures: list[tuple[tars.Member, str | None]] = []
        self.facts: dict[str, dict[str, str]] = {}
        self.problems: list[Problem] = []
        self.seen: set[str] = set()

    def take(self, member: tars.Member) -> None:
        suffix = _suffix(member.name)
        if suffix not in IMAGE_SUFFIXES | VIDEO_SUFFIXES and suffix not in _SIDECARS:
            return  # labels, latents, pickles: not ours to read
        if member.name in self.seen:
            self._problem(f"{member.name[:200]!r} is there twice; the first one is used")
            return
        self.seen.add(member.name)
        if suffix in _SIDECARS:
            self._sidecar(member, suffix)
        elif refusal(member):
            self.pictures.append((member, None))
        else:
            self.pictures.append((member, self._digest(member)))

    def _digest(self, member: tars.Member) -> str:
        digest = hashlib.sha256()
        for block in blocks(self.file, member):
            digest.update(block)
        return digest.hexdigest()

    def _sidecar(self, member: tars.Member, suffix: str) -> None:
        shown = repr(member.name[:200])
        if member.refused or member.size > _MAX_SIDECAR:
            self._problem(f"{shown} {member.refused or f'has {member.size} bytes'}, so is not read")
            return
        data = b"".join(blocks(self.file, member))
        facts = self.facts.setdefault(member_key(member.name), {})
        try:
            text = data.decode("utf-8-sig")
            found = json.loads(text) if suffix == ".json" else {"caption": text.strip()}
        except (ValueError, RecursionError) as error:
            self._problem(f"{shown} cannot be read: {str(error)[:200]}")
            return
        if not isinstance(found, dict):
            self._problem(f"{shown} is no JSON object")
            return
        for key, name in _FACTS.items():
            value = found.get(key)
            if not isinstance(value, str) or not value.strip():
                continue
            if len(value) > MAX_CAPTION:
                self._problem(f"{key!r} in {shown} has {len(value)} characters, so is not used")
                continue
            facts[name] = value
        if not facts:
            del self.facts[member_key(member.name)]

    def _problem(self, message: str, kind: MediaErrorKind = MediaErrorKind.CORRUPT) -> None:
        self.problems.append(Problem(kind.value, message))


def refusal(member: tars.Member) -> MediaErrorKind | None:
    """Why a member is not staged."""
    if member.refused:
        return MediaErrorKind.UNSUPPORTED
    if member.size == 0:
        return MediaErrorKind.EMPTY
    if _suffix(member.name) in IMAGE_SUFFIXES and member.size > MAX_IMAGE_BYTES:
        return MediaErrorKind.TOO_LARGE
    return None


def blocks(file: BinaryIO, member: tars.Member) -> Iterator[bytes]:
    """Bytes of a member, a megabyte at a time."""
    file.seek(member.offset)
    left = member.size
    while left:
        block = file.read(min(left, 1 << 20))
        if not block:
            raise MediaError(MediaErrorKind.CHANGED, member.name, "the tar became shorter")
        left -= len(block)
        yield block


def _tar(path: Path) -> Contents:
    with path.open("rb") as file:
        reader = _TarReader(file)
        damaged: list[Problem] = []
        try:
            for member in tars.members(file, path.stat().st_size):
                reader.take(member)
        except tars.TarDamagedError as error:
            damaged.append(Problem(error.kind.value, error.message))
    pictures = [
        Picture(
            member.name,
            member_key(member.name),
            digest,
            member.size,
            reader.facts.get(member_key(member.name), {}),
        )
        for member, digest in reader.pictures
    ]
    problems = damaged + reader.problems
    if not pictures and not problems:
        problems.append(Problem(MediaErrorKind.UNSUPPORTED.value, "holds no picture and no film"))
    return Contents(pictures, problems)


def _parquet(path: Path, columns: tuple[str, ...], captions: tuple[str, ...]) -> Contents:
    pictures: list[Picture] = []
    problems: list[Problem] = []
    try:
        names = tuple(run_isolated(parquets.picture_columns, (str(path), columns)))
        rows = stream_isolated(parquets.cells, (str(path), names, captions))
        for row, found, texts in rows:
            for n, (name, (digest, size)) in enumerate(zip(names, found, strict=True)):
                caption = texts[n] if n < len(texts) else None
                facts = {"given_caption": caption[:MAX_CAPTION]} if caption else {}
                if n == 0:  # of a joined picture: a caption for each part
                    facts |= {f"caption {i}": text for i, text in enumerate(texts) if text}
                pictures.append(Picture(f"{row}/{name}", str(row), digest, size, facts))
    except MediaError as error:
        if error.transient:
            raise
        if error.kind is MediaErrorKind.UNSUPPORTED:  # columns or captions: the user's to mend
            raise SourceError(f"{path}: {error.message}") from None
        problems.append(Problem(error.kind.value, error.message))
    if not pictures and not problems:
        problems.append(Problem(MediaErrorKind.EMPTY.value, "holds no row"))
    return Contents(pictures, problems)


_SCHEMA: Final = pa.schema(
    [
        ("member", pa.string()),
        ("group", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("facts", pa.string()),  # JSON
    ]
)


def _write(path: Path, found: Contents) -> None:
    rows: list[dict[str, Any]] = [
        {
            "member": one.member,
            "group": one.group,
            "sha256": one.sha256,
            "bytes": one.bytes,
            "facts": json.dumps(one.facts, sort_keys=True) if one.facts else None,
        }
        for one in found.pictures
    ]
    problems = json.dumps([[one.kind, one.message] for one in found.problems])
    table = pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata({"problems": problems}))
    with atomic.replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _read(path: Path) -> Contents | None:
    """What was kept; ``None`` where nothing was, or it is damaged."""
    try:
        table = pq.read_table(path, partitioning=None)
        problems = json.loads(table.schema.metadata[b"problems"])
        pictures = [
            Picture(**{**row, "facts": json.loads(row["facts"]) if row["facts"] else {}})
            for row in table.to_pylist()
        ]
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None
    return Contents(pictures, [Problem(kind, message) for kind, message in problems])
