"""A stranger's Parquet, read a few rows at a time however large its row groups are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.interop.bounded import opened
from s2v.datapipe.interop.errors import InteropError

_ROWS_AT_ONCE: Final = 512
_PAGE_BUFFER: Final = 1 << 20


def columns_of(path: Path) -> list[str]:
    """Names of the columns.

    Raises:
        InteropError: missing, or no Parquet.
    """
    return list(_file(path).schema_arrow.names)


def rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their number, counted from 0.

    Phantom-Data keeps 651,031 rows in one row group of 1.1 GB; pages are read as they come.

    Args:
        path: the file.
        columns: those to read.

    Raises:
        InteropError: missing, no Parquet, damaged, or without one of the columns.
    """
    file = _file(path)
    there = file.schema_arrow.names
    if missing := [name for name in columns if name not in there]:
        raise InteropError(
            f"{path}: has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(there[:20])}; is it another file of the dataset?"
        )
    number = 0
    try:
        batches = file.iter_batches(_ROWS_AT_ONCE, columns=list(columns), use_threads=False)
        for batch in batches:
            for row in batch.to_pylist():
                yield number, row
                number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InteropError(
            f"{path}, row {number}: cannot be read ({str(error)[:200]}); fetch it again"
        ) from None


def _file(path: Path) -> pq.ParquetFile:
    handle = opened(path)
    try:
        return pq.ParquetFile(handle, pre_buffer=False, buffer_size=_PAGE_BUFFER)
    except (pa.ArrowException, OSError) as error:
        handle.close()
        raise InteropError(
            f"{path}: cannot be read as Parquet ({str(error)[:200]}); fetch it again"
        ) from None
