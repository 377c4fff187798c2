"""Tables as sorted rows: whatever order the workers delivered, one order from here on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from s2v.datapipe.base import records

Row = dict[str, Any]
Tables = Mapping[str, pa.Table]

#: What identifies a row, and by what it is sorted.
KEYS: Final[dict[str, tuple[str, ...]]] = {
    "sources": ("video_id",),
    "probe": ("video_id",),
    "spans": ("video_id", "start_us", "end_us"),
    "clips": ("clip_id",),
    "stills": ("clip_id", "position"),
    "frames": ("frame_id",),
    "overlays": ("clip_id",),
    "quality": ("clip_id",),
    "captions": ("clip_id",),
    "phrases": ("subject_id",),
    "detections": ("detection_id",),
    "checks": ("detection_id",),
    "marks": ("detection_id",),
    "masks": ("detection_id",),
    "faces": ("frame_id", "face"),
    "people": ("clip_id",),
    "embeddings": ("detection_id",),
    "subjects": ("subject_id",),
    "pairs": ("target_subject_id", "reference_subject_id"),
    "verdicts": ("verdict_id",),
    "samples": ("sample_id",),
    "quarantine": ("stage", "id"),
}


def read(tables: Tables, name: str) -> list[Row]:
    """Rows of a table sorted by its key; a table that was not measured has none.

    Embeddings are views of the table's own memory, float32 ``[d]``: as Python's numbers they
    would take twenty times that.

    Raises:
        ValueError: the table lacks a column of the contract.
    """
    if name not in tables:
        return []
    table = tables[name]
    check_columns(name, table)
    schema = records.TABLES[name]
    plain = [field.name for field in schema if field.type != records.EMBEDDING]
    rows: list[Row] = table.select(plain).to_pylist()
    for field in schema:
        if field.type == records.EMBEDDING:
            for row, vector in zip(rows, _vectors(table[field.name]), strict=True):
                row[field.name] = vector
    return sorted(rows, key=lambda row: tuple(row[k] for k in KEYS[name]))


def check_columns(name: str, table: pa.Table) -> None:
    """Refuse a table that lacks a column of the contract.

    Raises:
        ValueError: naming the columns.
    """
    if missing := [n for n in records.TABLES[name].names if n not in table.schema.names]:
        raise ValueError(
            f"table {name!r} lacks columns {missing}; it was measured by another version: "
            "delete its measure parts and run again"
        )


def measured(tables: Tables, name: str) -> pa.Table:
    """A table as it was measured, without rows where it was not."""
    return tables[name] if name in tables else records.TABLES[name].empty_table()


def _vectors(column: pa.ChunkedArray) -> Iterator[npt.NDArray[np.float32] | None]:
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=False)
        edges = chunk.offsets.to_numpy()
        for n, there in enumerate(chunk.is_valid().to_pylist()):
            yield values[edges[n] : edges[n + 1]] if there else None


def by(rows: Iterable[Row], column: str) -> dict[Any, Row]:
    """Rows by a column that is unique in them."""
    return {row[column]: row for row in rows}


def group(rows: Iterable[Row], column: str) -> dict[Any, list[Row]]:
    """Rows grouped by a column, in their order."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[column]].append(row)
    return dict(groups)
