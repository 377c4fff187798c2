"""What was hashed before: a start hashes and asks about new and changed files only.

Keyed by place, size and time of last change. A file that is altered with both kept (``touch -r``,
damage on disk) is not noticed; delete ``sources/ledger.parquet`` of the run to hash all again.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base import atomic

_SCHEMA: Final = pa.schema(
    [
        ("place", pa.string()),
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("identity", pa.string()),  # a sha256 of a file, an etag of an object
    ]
)
_SAVE_EVERY_S: Final = 60.0


class Ledger:
    """Identities by ``(place, bytes, mtime_ns)``, kept in a Parquet file."""

    def __init__(self, folder: Path | None) -> None:
        """Read what an earlier start left in ``folder``; ``None`` keeps nothing.

        A damaged ledger is as good as none: everything is hashed again.
        """
        self.path = folder / "ledger.parquet" if folder else None
        self._known: dict[str, tuple[int, int, str]] = {}
        self._saved_at = time.monotonic()
        self._changed = False
        if self.path and self.path.is_file():
            self._known = _read(self.path)

    def get(self, place: str, size: int, mtime_ns: int) -> str | None:
        """The identity, if the file is the one that was seen before."""
        known = self._known.get(place)
        return known[2] if known and known[:2] == (size, mtime_ns) else None

    def put(self, place: str, size: int, mtime_ns: int, identity: str) -> None:
        """Remember an identity; written out about every minute and by :meth:`save`."""
        self._known[place] = (size, mtime_ns, identity)
        self._changed = True
        if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write the ledger, whole or not at all."""
        self._saved_at = time.monotonic()
        if self.path is None or not self._changed:
            return
        places = sorted(self._known)
        rows = [self._known[place] for place in places]
        columns = [pa.array(column) for column in zip(*rows, strict=True)]
        with atomic.replacing(self.path) as temporary:
            pq.write_table(
                pa.Table.from_arrays([pa.array(places), *columns], schema=_SCHEMA),
                temporary,
                compression="zstd",
            )
        self._changed = False


def _read(path: Path) -> dict[str, tuple[int, int, str]]:
    try:
        # Not pq.read_table: that imports what reads data sets, two seconds of a selection.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            table = file.read(use_threads=False).select(_SCHEMA.names).cast(_SCHEMA)
    except (pa.ArrowException, OSError, KeyError):
        return {}
    columns = [table[name].to_pylist() for name in _SCHEMA.names]
    return {place: (size, mtime, one) for place, size, mtime, one in zip(*columns, strict=True)}
