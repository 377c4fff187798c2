"""Reading back ``per_sample.parquet``: of this schema, or refused with the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.evals.errors import EvalError

PER_SAMPLE_FILE = "per_sample.parquet"


def read_table(path: Path, schema: pa.Schema, mend: str) -> list[dict[str, Any]]:
    """The rows of a table of ours.

    Args:
        path: the Parquet file.
        schema: with its name in the metadata; further columns do no harm.
        mend: what to do about a file that is not such a table.

    Raises:
        EvalError: missing, damaged, half written, or of another schema.
    """
    wanted = schema.metadata[b"schema"]
    try:
        with pq.ParquetFile(path) as file:
            found = (file.schema_arrow.metadata or {}).get(b"schema", b"no schema")
            if found == wanted:
                rows: list[dict[str, Any]] = file.read(columns=schema.names).to_pylist()
                return rows
    except FileNotFoundError as error:
        raise EvalError(f"{path}: no such file; {mend}") from error
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise EvalError(f"{path}: cannot be read: {error}; {mend}") from error
    raise EvalError(
        f"{path}: {found.decode(errors='replace')!r}, expected {wanted.decode()!r}; {mend}"
    )
