"""Megatron-Energon's ``.nv-meta/`` and tar indexes, as ``energon prepare`` would leave them.

Written by us because a prepared folder is not reproducible: Energon draws its ``index.uuid`` and
deals shards to splits by chance. Ours follows from the shards: same samples, same bytes, and the
split is the leak-safe one of the index.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, get_args

from s2v.datapipe.base import atomic
from s2v.datapipe.base.shards import Part
from s2v.datapipe.write.previous import ShardRecord

FOLDER: Final = ".nv-meta"
_BLOCK: Final = 512
SPLIT: Final = "split.yaml"
#: Every file of ours in the folder, those of older versions among them.
FILES: Final = frozenset(
    {"dataset.yaml", ".info.json", "index.uuid", "index.sqlite", SPLIT}
    | {"split-heldout.yaml", "split-test.yaml"}
)
#: One opens the samples as they are (Energon's "crude" data); a task encoder cooks them.
_DATASET: Final = "__module__: megatron.energon\n__class__: CrudeWebdataset\nsubflavors: {}\n"
_TABLES: Final = (
    "CREATE TABLE samples (tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE, "
    "sample_index INTEGER NOT NULL, byte_offset INTEGER, byte_size INTEGER)",
    "CREATE TABLE sample_parts (tar_file_id INTEGER, sample_index INTEGER, part_name TEXT, "
    "content_byte_offset INTEGER, content_byte_size INTEGER)",
)
_INDEXES: Final = (
    "CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index)",
    "CREATE INDEX idx_sample_parts_seq "
    "ON sample_parts(tar_file_id, sample_index, content_byte_offset)",
    "CREATE INDEX idx_sample_parts_full ON sample_parts(tar_file_id, sample_index, part_name, "
    "content_byte_offset, content_byte_size)",
)
#: Where the file's head names the SQLite that wrote it, and what we write there instead.
_SQLITE_VERSION: Final = (96, struct.pack(">I", 3_040_000))


def write_nv_meta(
    folder: Path, rows: Sequence[dict[str, Any]], records: Sequence[ShardRecord]
) -> None:
    """Write ``.nv-meta/`` and a ``.tar.idx`` beside every shard.

    Args:
        folder: a shard folder.
        rows: of ``index/samples.parquet``, in its order.
        records: its shards, in the same order.
    """
    meta = folder / FOLDER
    atomic.write_bytes(meta / "dataset.yaml", _DATASET.encode())
    counts = {one.shard: one.samples for one in records}
    info = {"energon_version": None, "shard_counts": counts}
    atomic.write_bytes(meta / ".info.json", (json.dumps(info, indent=2) + "\n").encode())
    atomic.write_bytes(meta / SPLIT, _split(rows).encode())
    atomic.write_bytes(meta / "index.uuid", str(_uuid(records)).encode())
    _write_sqlite(meta / "index.sqlite", rows, list(counts))
    spans_of: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        spans_of.setdefault(row["shard"], []).append(_span(row))
    for shard, spans in spans_of.items():
        offsets = [begin for begin, _ in spans] + [end for _, end in spans[-1:]]
        atomic.write_bytes(
            folder / f"{shard}.idx", struct.pack(f"<{len(offsets)}Q", *offsets), sync_folder=False
        )


def _split(rows: Sequence[dict[str, Any]]) -> str:
    """The shards of each part; a shard holds samples of one. JSON is YAML, and read faster."""
    parts = {
        part: list(dict.fromkeys(row["shard"] for row in rows if row["part"] == part))
        for part in get_args(Part)
    }
    return json.dumps({"split_parts": parts, "exclude": []}, indent=1) + "\n"


def _uuid(records: Sequence[ShardRecord]) -> uuid.UUID:
    content = json.dumps([[one.shard, one.sha256] for one in records])
    return uuid.uuid5(uuid.NAMESPACE_URL, f"s2v-shards:{content}")


def _span(row: dict[str, Any]) -> tuple[int, int]:
    """First byte of a sample's first header, and the byte behind its last member."""
    first, last = row["members"][0], row["members"][-1]
    return first["offset"] - _BLOCK, last["offset"] + -(-last["size"] // _BLOCK) * _BLOCK


def _write_sqlite(path: Path, rows: Sequence[dict[str, Any]], shards: list[str]) -> None:
    """The index by key. Filled in one order and vacuumed, its bytes follow from its rows."""
    with atomic.replacing(path) as temporary:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as db:
            db.execute("PRAGMA page_size = 4096")
            db.execute("PRAGMA journal_mode = OFF")
            db.execute("BEGIN")
            for statement in _TABLES:
                db.execute(statement)
            numbered = list(_numbered(rows, shards))
            db.executemany(
                "INSERT INTO samples VALUES (?, ?, ?, ?, ?)",
                (
                    (tar, row["sample_id"], n, begin, end - begin)
                    for tar, n, row in numbered
                    for begin, end in [_span(row)]
                ),
            )
            db.executemany(
                "INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)",
                (
                    (tar, n, member["suffix"], member["offset"], member["size"])
                    for tar, n, row in numbered
                    for member in row["members"]
                ),
            )
            for statement in _INDEXES:
                db.execute(statement)
            db.execute("COMMIT")
            db.execute("VACUUM")
        with temporary.open("r+b") as handle:
            handle.seek(_SQLITE_VERSION[0])
            handle.write(_SQLITE_VERSION[1])


def _numbered(
    rows: Sequence[dict[str, Any]], shards: list[str]
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Rows with the number of their shard and theirs in it."""
    number = {name: n for n, name in enumerate(shards)}
    seen = dict.fromkeys(shards, 0)
    for row in rows:
        yield number[row["shard"]], seen[row["shard"]], row
        seen[row["shard"]] += 1
