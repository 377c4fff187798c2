"""A table on disk that is read a column at a time, when it is asked for.

A selection asks one table for two of its columns and another for none. :class:`StoredTable` is
used where a ``pa.Table`` is, and reads just that: columns, slices and rows come from the row groups
that hold them, and nothing stays in memory but what the caller keeps. Vectors can be spooled to a
file that is mapped and not held (:meth:`StoredTable.vectors`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

_VECTORS: Final = 8192  # rows of a row group with vectors: 92 MB of two vectors of 1408
_PLAIN: Final = 1 << 17
_NAMED: Final = 1 << 26  # with names of a dictionary, which every row group holds whole
Rows = npt.NDArray[np.int64]


class StoredTableError(RuntimeError):
    """A file that is no longer the one that was opened, or is damaged."""


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table so that parts of it can be read, with checksums of its pages."""
    write_parts([table], path, table.schema)


def write_parts(parts: Iterable[pa.Table], path: Path, schema: pa.Schema) -> None:
    """The same of a table that comes in parts, of which one is held at a time."""
    rows = _VECTORS if any(map(_is_vector, schema)) else _PLAIN
    if any(pa.types.is_dictionary(field.type) for field in schema):
        rows = _NAMED
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        write_page_checksum=True,
        # Beyond it names are written out row by row: five times the file for ten million pairs.
        dictionary_pagesize_limit=1 << 28,
    ) as out:
        for part in parts:
            out.write_table(part, row_group_size=rows)


def _is_vector(field: pa.Field) -> bool:
    return bool(pa.types.is_list(field.type) and field.type.value_type == pa.float32())


class StoredTable:
    """A Parquet file with the methods of ``pa.Table``; what is not here reads the whole table.

    Args:
        path: a file of :func:`write_table`.

    Raises:
        StoredTableError: it is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._file() as file:
            about = file.metadata
            self.schema: pa.Schema = file.schema_arrow.remove_metadata()
            sizes = [about.row_group(n).num_rows for n in range(about.num_row_groups)]
        self._starts = np.concatenate(([0], np.cumsum(np.array(sizes, np.int64)))).astype(np.int64)
        self.num_rows = int(self._starts[-1])

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self._path

    def move(self, path: Path) -> None:
        """Give the file another name of the same disk, over what has it now."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path.replace(path)
        self._path = path

    @property
    def column_names(self) -> list[str]:
        """Names in order."""
        names: list[str] = self.schema.names
        return names

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, column: str) -> pa.ChunkedArray:
        return self.select([column])[column]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.whole(), name)

    def whole(self) -> pa.Table:
        """Everything, in memory."""
        return self.select(self.column_names)

    def select(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows.

        Raises:
            KeyError: there is no such column.
            StoredTableError: the file is missing or damaged.
        """
        return self._read(range(len(self._starts) - 1), columns)

    def slice(self, offset: int = 0, length: int | None = None) -> pa.Table:
        """Rows from ``offset`` on, read from the row groups that hold them."""
        end = self.num_rows if length is None else min(self.num_rows, offset + length)
        if offset >= end:
            return self.schema.empty_table()
        first, last = (int(n) for n in self._groups(np.array([offset, end - 1])))
        found = self._read(range(first, last + 1), self.column_names)
        return found.slice(offset - int(self._starts[first]), end - offset)

    def take(self, indices: Any) -> pa.Table:
        """Rows by position, in that order; every row group is read at most once."""
        rows = np.asarray(indices, np.int64)
        if not len(rows):
            return self.schema.empty_table()
        groups = np.unique(self._groups(rows))
        sizes = np.diff(self._starts)[groups]
        began = np.concatenate(([0], np.cumsum(sizes)))[:-1]
        at = np.searchsorted(groups, self._groups(rows))
        found = self._read(groups.tolist(), self.column_names)
        return found.take(pa.array(began[at] + rows - self._starts[groups[at]]))

    def valid(self, column: str) -> npt.NDArray[np.bool_]:
        """Where a column has a value; one row group at a time is held."""
        parts = [np.zeros(0, np.bool_)]
        for group in range(len(self._starts) - 1):
            there = self._read([group], [column])[column].is_valid()
            parts.append(there.combine_chunks().to_numpy(zero_copy_only=False))
        return np.concatenate(parts)

    def vectors(
        self, column: str, rows: Rows, scratch: Path | None = None
    ) -> npt.NDArray[np.float32]:
        """Vectors of some rows, spooled: one row group at a time is held.

        Args:
            column: lists of float32.
            rows: ascending and different; all of them must have a vector.
            scratch: folder of the spool, which has no name there and ends with the array.

        Returns:
            ``[n, d]`` float32, mapped into memory.

        Raises:
            ValueError: a vector is missing, or they differ in length.
            StoredTableError: the file is missing or damaged.
        """
        groups = self._groups(rows)
        edges = np.searchsorted(groups, np.arange(len(self._starts)))
        width, done = 0, 0
        with tempfile.TemporaryFile(dir=scratch or self._path.parent) as spool:
            for group in np.flatnonzero(np.diff(edges)).tolist():
                mine = rows[edges[group] : edges[group + 1]] - self._starts[group]
                part = rows_of_vectors(self._read([group], [column])[column], mine)
                if width not in (0, part.shape[1]):
                    raise ValueError(
                        f"{self._path}: vectors of {sorted((width, part.shape[1]))} numbers in "
                        f"column {column!r}; they come from different embedders"
                    )
                width, done = part.shape[1], done + len(part)
                spool.write(np.ascontiguousarray(part).data)
            spool.flush()
            if not done:
                return np.zeros((0, 0), np.float32)
            return np.memmap(spool, np.float32, "r", shape=(done, width))

    def _groups(self, rows: Rows) -> Rows:
        return np.asarray(np.searchsorted(self._starts, rows, side="right") - 1, np.int64)

    def _read(self, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        lacking = [name for name in columns if name not in self.schema.names]
        if lacking:
            raise KeyError(f"{self._path.name} has no column {lacking[0]!r}")
        if not len(groups):
            return self.schema.empty_table().select(list(columns))
        try:
            with self._file() as file:
                found = file.read_row_groups(list(groups), columns=list(columns))
        except (OSError, pa.ArrowException) as error:
            raise StoredTableError(_damaged(self._path, error)) from None
        # Not in the order asked, and one column may be asked for twice.
        return found.select(list(columns)).replace_schema_metadata(None)

    def _file(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self._path, page_checksum_verification=True, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            raise StoredTableError(_damaged(self._path, error)) from None


def _damaged(path: Path, error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{path}: {said}; delete it, and `s2v-data select` makes it again"


def rows_of_vectors(column: pa.ChunkedArray | pa.Array, rows: Rows) -> npt.NDArray[np.float32]:
    """Vectors of some rows of a column of lists; see :meth:`StoredTable.vectors`.

    Args:
        column: lists of float32, null where there is none.
        rows: ``[n]``, in any order.

    Raises:
        ValueError: a vector is missing, or they differ in length.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
    at = np.searchsorted(starts, rows, side="right") - 1
    order = np.argsort(at, kind="stable")
    edges = np.searchsorted(at[order], np.arange(len(chunks) + 1))
    found: npt.NDArray[np.float32] | None = None
    for n in np.flatnonzero(np.diff(edges)).tolist():
        here = order[edges[n] : edges[n + 1]]
        part = _of_chunk(chunks[n], rows[here] - starts[n])
        if found is None:
            found = np.empty((len(rows), part.shape[1]), np.float32)
        elif part.shape[1] != found.shape[1]:
            widths = sorted((part.shape[1], found.shape[1]))
            raise ValueError(
                f"vectors of {widths} numbers in one column; they come from different embedders"
            )
        found[here] = part
    return np.zeros((0, 0), np.float32) if found is None else found


def _of_chunk(chunk: pa.Array, rows: Rows) -> npt.NDArray[np.float32]:
    values = chunk.values.to_numpy(zero_copy_only=False)
    offsets = chunk.offsets.to_numpy()
    begin, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    width = int(lengths[0])
    if (lengths != width).any() or not width:
        raise ValueError(
            f"vectors of {sorted(set(lengths.tolist()))} numbers where one length is expected; "
            "they come from different embedders, or some were not measured"
        )
    first = int(begin[0]) % width
    if ((begin - first) % width == 0).all():  # as rows of a matrix: no index as large as itself
        end = first + (len(values) - first) // width * width
        matrix = values[first:end].reshape(-1, width)
        return np.asarray(matrix[(begin - first) // width], np.float32)
    return np.asarray(values[begin[:, None] + np.arange(width)], np.float32)
