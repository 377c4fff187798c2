"""Single rows of a large index, read when asked for.

A million rows name ten million members: as Python objects they do not fit anywhere, and as
columns they take a gigabyte in every process. So they stay in the file; what is read is the one
row group that a row is in.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

#: Rows of a row group: so many are decoded to have one.
GROUP_ROWS: Final = 1024
_KEPT: Final = 4  # row groups held


class IndexRows:
    """Rows of a parquet file by number.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = pq.ParquetFile(path)
        self.names: list[str] = self._file.schema_arrow.names
        metadata = self._file.metadata
        counts = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        self._ends: list[int] = []
        for count in counts:
            self._ends.append(count + (self._ends[-1] if self._ends else 0))
        self._group = lru_cache(maxsize=_KEPT)(self._read)
        self._lock = threading.Lock()  # the file's handle has one position

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        group = bisect.bisect_right(self._ends, row)
        first = self._ends[group - 1] if group else 0
        with self._lock:
            found: list[dict[str, Any]] = self._group(group).slice(row - first, 1).to_pylist()
        return found[0]

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Whole columns."""
        return self._file.read(columns=list(names))

    def batches(self) -> Iterator[pa.Table]:
        """All rows in order, a row group at a time."""
        for group in range(len(self._ends)):
            yield self._read(group)

    def _read(self, group: int) -> pa.Table:
        return self._file.read_row_group(group)

    def __reduce__(self) -> tuple[Any, ...]:
        return IndexRows, (self._path,)
