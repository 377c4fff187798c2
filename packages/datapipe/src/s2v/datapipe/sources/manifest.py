"""Rows of manifests: CSV, JSONL or Parquet, on disk or in an object store, read row by row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Final

from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.sources.address import STORE_SCHEMES, scheme_of
from s2v.datapipe.sources.errors import SourceError
from s2v.datapipe.sources.stores import Stores

_MAX_LINE: Final = 64 << 20
_ROWS_AT_ONCE: Final = 4096


def manifest_rows(place: str, stores: Stores) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a row stands, for messages, and what it says; empty cells and NaN are left out.

    Raises:
        SourceError: no such manifest, or the line that cannot be read.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    dot = place.rfind(".")
    reader = readers.get(place[dot:].lower()) if dot >= 0 else None
    if reader is None:
        raise SourceError(f"{place}: a manifest is .csv, .jsonl or .parquet")
    with _opened(place, stores) as file:
        for where, row in reader(place, file):
            yield (
                where,
                {
                    key: value
                    for key, value in row.items()
                    # NaN is how pandas writes that a cell is empty.
                    if value is not None and value != "" and value == value  # noqa: PLR0124
                },
            )


def _opened(place: str, stores: Stores) -> AbstractContextManager[BinaryIO]:
    if scheme_of(place) in STORE_SCHEMES:
        try:
            opened: AbstractContextManager[BinaryIO] = stores.open(place)
        except MediaError as error:
            raise SourceError(f"{place}: {error.message}") from None
        return opened
    if scheme_of(place):
        raise SourceError(f"{place}: a manifest is a local file or lies in an object store")
    path = Path(place)
    if not path.is_file():
        raise SourceError(f"{path}: no such manifest")
    try:
        return path.open("rb")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from None


class _Lines:
    """Lines of UTF-8 text as ``csv`` and JSONL want them: ended by line feeds alone."""

    def __init__(self, place: str, file: BinaryIO) -> None:
        self.place = place
        self.number = 0
        self._file = file

    def __iter__(self) -> Iterator[str]:
        lines = io.BufferedReader(self._file, 1 << 20)  # type: ignore[type-var]  # pyarrow's streams read alike
        while raw := lines.readline(_MAX_LINE + 1):
            self.number += 1
            if len(raw) > _MAX_LINE:
                raise SourceError(f"{self.place}, line {self.number}: over {_MAX_LINE} bytes")
            # Excel writes a byte order mark before the first key.
            line = raw.removeprefix(b"\xef\xbb\xbf") if self.number == 1 else raw
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise SourceError(
                    f"{self.place}, line {self.number}: byte 0x{line[error.start]:02x} is not "
                    "UTF-8; save the manifest as UTF-8"
                ) from None


def _csv_rows(place: str, file: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    extra = "\n"  # no key of a manifest
    reader = csv.DictReader(iter(_Lines(place, file)), restkey=extra, strict=True)
    try:
        headings = reader.fieldnames or ()
        if twice := {name for name in headings if list(headings).count(name) > 1}:
            raise SourceError(f"{place}, line 1: heading {sorted(twice)[0]!r} is there twice")
        for row in reader:
            where = f"{place}, line {reader.line_num}"
            if cells := row.pop(extra, None):
                raise SourceError(
                    f"{where}: {len(row) + len(cells)} cells under {len(row)} headings, {cells!r} "
                    "too many; put cells that hold a comma in double quotes"
                )
            yield where, row
    except csv.Error as error:
        raise SourceError(
            f"{place}, line {reader.line_num}: not CSV: {error}; "
            "look for a double quote that is never closed"
        ) from None


def _jsonl_rows(place: str, file: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    # Lines end at line feeds alone: a JSON string may hold U+2028 and its like as they are.
    lines = _Lines(place, file)
    for line in lines:
        if not line.strip():
            continue
        where = f"{place}, line {lines.number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{where}: not JSON: {error}; a line is one object") from None
        if not isinstance(row, dict):
            raise SourceError(
                f'{where}: {line.strip()[:80]!r} is no object; a line is like {{"path": "a.mp4"}}'
            )
        yield where, row


def _parquet_rows(place: str, file: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches(_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                number += 1
                yield f"{place}, row {number}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{place}: cannot be read as Parquet ({error}); write or fetch it again"
        ) from None
