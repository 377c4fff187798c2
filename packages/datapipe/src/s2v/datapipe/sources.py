"""Where sources come from: single files, folders, manifests (CSV, JSONL, Parquet).

The listing is sorted and complete: every entry becomes a row, also one whose file is
missing; it is the probe that sends it to quarantine, so that nothing is lost without a word.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from s2v.datapipe.base import atomic
from s2v.datapipe.base.ids import check_video_id, content_video_id, stable_hash
from s2v.datapipe.base.settings import SettingsError, parse
from s2v.datapipe.engine.stage import Row

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg"}
)
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


class SourceError(ValueError):
    """A source entry that cannot be used; the message names the entry and the way out."""


class SourceSpec(BaseModel):
    """One entry: exactly one of ``path``, ``folder`` or ``manifest``, and what is known of it.

    The facts (licence, consent, credit, url, origin) of a folder hold for all its files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = None
    folder: str | None = None
    manifest: str | None = Field(
        default=None, description="CSV, JSONL or Parquet with these keys per row"
    )
    kind: Literal["video", "image"] | None = Field(
        default=None, description="else by the file's suffix"
    )
    video_id: str | None = None
    long_video_id: str | None = Field(
        default=None, description="one film in several files; else video_id"
    )
    licence: str = "unverified"
    consent: str = "unverified"
    credit: str | None = None
    url: str | None = None
    origin: str = "live"

    @model_validator(mode="after")
    def _one_place(self) -> SourceSpec:
        if sum(bool(v) for v in (self.path, self.folder, self.manifest)) != 1:
            raise ValueError("give exactly one of path, folder, manifest")
        if self.folder and self.video_id:
            raise ValueError("video_id goes with a single path, not with a folder")
        return self


def list_sources(specs: list[SourceSpec]) -> list[Row]:
    """Rows of table ``sources``, sorted by ``video_id``.

    Files that repeat an earlier one byte for byte carry ``duplicate_of``.

    Raises:
        SourceError: no such folder or manifest, nothing found, an id twice.
    """
    files = sorted(_expand(specs), key=lambda item: (item[0].as_posix(), item[1].video_id or ""))
    if not files:
        raise SourceError(
            "no videos or images found: give [[sources]] with a path, folder or manifest; "
            f"suffixes read are {', '.join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))}"
        )
    rows: list[Row] = []
    seen: dict[str, Path] = {}
    for path, spec in files:
        row = _row(path, spec)
        video = row["video_id"]
        if video in seen and spec.video_id:
            raise SourceError(
                f"video_id {video!r} is given to both {seen[video]} and {path}; ids must differ"
            )
        if video in seen:  # the same bytes twice give the same content id
            row["video_id"] = f"{video}-{stable_hash([str(path)], 8)}"
        seen[row["video_id"]] = path
        rows.append(row)
    rows.sort(key=lambda row: str(row["video_id"]))
    first: dict[str, str] = {}
    for row in rows:
        if row["sha256"]:
            original = first.setdefault(row["sha256"], row["video_id"])
            row["duplicate_of"] = original if original != row["video_id"] else None
    return rows


def _row(path: Path, spec: SourceSpec) -> Row:
    exists = path.is_file()
    sha = atomic.sha256_file(path) if exists else None
    try:
        # A file that is not there has no content: its path stands in, for the quarantine row.
        video = check_video_id(spec.video_id or content_video_id(sha or stable_hash([str(path)])))
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None
    kind = spec.kind or ("image" if path.suffix.lower() in IMAGE_SUFFIXES else "video")
    return {
        "video_id": video,
        "long_video_id": spec.long_video_id or video,
        "kind": kind,
        "path": str(path),
        "url": spec.url,
        "licence": spec.licence,
        "consent": spec.consent,
        "credit": spec.credit,
        "origin": spec.origin,
        "sha256": sha,
        "bytes": path.stat().st_size if exists else None,
        "duplicate_of": None,
    }


def _expand(specs: list[SourceSpec]) -> Iterator[tuple[Path, SourceSpec]]:
    for spec in specs:
        if spec.path:
            yield Path(spec.path), spec
        elif spec.folder:
            yield from _folder(Path(spec.folder), spec)
        elif spec.manifest:
            yield from _manifest(Path(spec.manifest))


def _folder(folder: Path, spec: SourceSpec) -> Iterator[tuple[Path, SourceSpec]]:
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES and path.is_file():
            yield path, spec


def _manifest(path: Path) -> Iterator[tuple[Path, SourceSpec]]:
    if not path.is_file():
        raise SourceError(f"{path}: no such manifest")
    for where, row in _manifest_rows(path):
        given = {key: value for key, value in row.items() if value not in (None, "")}
        try:
            spec = parse(SourceSpec, given, where)
        except SettingsError as error:
            raise SourceError(str(error)) from None
        if not spec.path:
            raise SourceError(f"{where}: a manifest row needs a path")
        # Paths in a manifest are relative to the manifest, so that a folder can be moved.
        yield path.parent / spec.path, spec


def _manifest_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a row stands, for messages, and the row."""
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SourceError(f"{path}: a manifest is .csv, .jsonl or .parquet")
    yield from reader(path)


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")  # Excel writes a byte order mark before the first key
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; "
            "save the manifest as UTF-8"
        ) from None


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    extra = "\n"  # no key of a manifest
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), restkey=extra, strict=True)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if cells := row.pop(extra, None):
                raise SourceError(
                    f"{where}: {len(row) + len(cells)} cells under {len(row)} headings, {cells!r} "
                    "too many; put cells that hold a comma in double quotes"
                )
            yield where, row
    except csv.Error as error:
        raise SourceError(
            f"{path}, line {reader.line_num}: not CSV: {error}; "
            "look for a double quote that is never closed"
        ) from None


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    # Not splitlines(): a JSON string may hold U+2028 and its like as they are.
    for n, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {n}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{where}: not JSON: {error}; a line is one object") from None
        if not isinstance(row, dict):
            raise SourceError(
                f'{where}: {line.strip()[:80]!r} is no object; a line is like {{"path": "a.mp4"}}'
            )
        yield where, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, partitioning=None).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path}: cannot be read as Parquet ({error}); write or fetch it again"
        ) from None
    for n, row in enumerate(rows, start=1):
        yield f"{path}, row {n}", row
