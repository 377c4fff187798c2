"""The files of a finished run: sorted, rounded, atomic, without a clock."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base.atomic import replacing, write_bytes, write_json
from s2v.evals.aggregate import Row
from s2v.evals.rows import PER_SAMPLE_FILE, read_table

RECORD_SCHEMA = "s2v-eval-run/1"
"""Of ``run.json``."""
PER_SAMPLE = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("reference_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("scenario", pa.string()),
        pa.field("split", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("video", pa.string(), nullable=False),
        pa.field("video_sha256", pa.string()),
        pa.field("frames", pa.int32()),
        pa.field("references", pa.list_(pa.string()), nullable=False),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("version", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("baseline", pa.float64()),
        pa.field("rate", pa.float64()),
        pa.field("parts", pa.map_(pa.string(), pa.float64()), nullable=False),
    ],
    metadata={"schema": "s2v-eval-per-sample/1"},
)
"""One row per sample and metric, also for samples that failed."""


def per_sample(path: Path, rows: Sequence[Row]) -> None:
    """Write every measurement.

    Args:
        path: the Parquet file.
        rows: in the order to be stored.
    """
    table = pa.Table.from_pylist([_record(row) for row in rows], schema=PER_SAMPLE)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def load_rows(run: str | Path) -> list[dict[str, Any]]:
    """What `per_sample` wrote, as plain dicts.

    Args:
        run: folder of a finished run.

    Raises:
        EvalError: missing, damaged, or of another schema.
    """
    mend = f"run the evaluation again (s2v-eval run MANIFEST --out {run})"
    return read_table(Path(run) / PER_SAMPLE_FILE, PER_SAMPLE, mend)


def _record(row: Row) -> dict[str, Any]:
    sample, measured = row.sample, row.measurement
    return {
        "sample_id": sample.sample_id,
        "reference_id": sample.reference_id,
        "source": sample.source,
        "model": sample.made_by,
        "scenario": sample.scenario,
        "split": sample.split,
        "seed": sample.seed,
        "prompt": sample.prompt,
        "video": sample.video,
        "video_sha256": row.video_sha256,
        "frames": row.frames,
        "references": [ref.path for ref in sample.refs],
        "protocol": row.spec.protocol,
        "version": row.spec.version,
        "status": measured.status,
        "reason": measured.reason,
        "score": measured.score,
        "baseline": row.baseline,
        "rate": row.rate,
        "parts": sorted(measured.parts.items()),
    }


def failures(path: Path, rows: Sequence[Row]) -> None:
    """Write one line per sample and metric that should have been scored and was not.

    A file with only its heading says that nothing failed.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("sample_id", "protocol", "reason", "video", "message"))
    for row in rows:
        if row.measurement.status == "failed":
            table.writerow(
                (
                    row.sample.sample_id,
                    row.spec.protocol,
                    row.measurement.reason,
                    row.sample.video,
                    row.message.replace("\n", " "),
                )
            )
    write_bytes(path, text.getvalue().encode())


def json_file(path: Path, content: Mapping[str, object]) -> None:
    """Write JSON with sorted keys."""
    write_json(path, content)
