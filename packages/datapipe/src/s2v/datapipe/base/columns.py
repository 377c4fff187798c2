"""The kinds of columns that the tables of a run are made of; units are those of ``records``."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

BOX: Final = pa.list_(pa.float32(), 4)
EMBEDDING: Final = pa.list_(pa.float32())
STRING: Final = pa.string()
INT: Final = pa.int64()
FLOAT: Final = pa.float64()
BOOL: Final = pa.bool_()
#: Strings that repeat, where there are millions of rows.
NAME: Final = pa.dictionary(pa.int32(), STRING)


def schema(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    """Return the schema of a table from the names and kinds of its columns, in order."""
    return pa.schema([pa.field(name, kind) for name, kind in fields])
