"""What an earlier write left: its shards, what they were made of, and their rows of the index."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base import atomic, shards

RECORDS_FILE: Final = "index/shards.parquet"
_SCHEMA: Final = pa.schema(
    [
        pa.field("shard", pa.string()),
        pa.field("samples", pa.int64()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("md5", pa.string()),  # wids asks for it
        pa.field("inputs", pa.string()),  # digest of what the shard was made of
    ]
)


@dataclass(frozen=True)
class ShardRecord:
    """One tar of a folder; a row of ``index/shards.parquet``."""

    shard: str
    samples: int
    bytes: int
    sha256: str
    md5: str
    inputs: str


def record(path: Path, samples: int, inputs: str) -> ShardRecord:
    """Read a tar once and say what it is."""
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            sha256.update(block)
            md5.update(block)
            size += len(block)
    return ShardRecord(path.name, samples, size, sha256.hexdigest(), md5.hexdigest(), inputs)


def write_records(folder: Path, records: Iterable[ShardRecord]) -> None:
    """Write ``index/shards.parquet`` atomically; rows in the order given."""
    table = pa.Table.from_pylist([asdict(one) for one in records], schema=_SCHEMA)
    with atomic.replacing(folder / RECORDS_FILE) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_records(folder: Path) -> list[ShardRecord]:
    """Rows of ``index/shards.parquet``.

    Raises:
        FileNotFoundError: the folder has none; older versions wrote none.
        pyarrow.ArrowInvalid, TypeError: it is damaged, or of another version.
    """
    rows = pq.read_table(folder / RECORDS_FILE, partitioning=None).to_pylist()
    return [ShardRecord(**row) for row in rows]


class Previous:
    """The folder as the last write left it; nothing of it is used where it is not whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tars = frozenset(path.name for path in folder.glob("*.tar"))
        self.records: dict[str, ShardRecord] = {}
        self._rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        try:
            for sample in shards.ShardIndex.open(folder):
                self._rows[str(sample.row["shard"])].append(sample.row)
            self.records = {one.shard: one for one in read_records(folder)}
        except (shards.ShardError, OSError, pa.ArrowException, TypeError):
            self.records = {}

    def sha256(self, name: str) -> str | None:
        """Of a tar of the folder, as recorded or else as it is; ``None`` for one not there."""
        if name in self.records:
            return self.records[name].sha256
        return atomic.sha256_file(self.folder / name) if name in self.tars else None

    def same(self, name: str, inputs: str) -> tuple[ShardRecord, list[dict[str, Any]]] | None:
        """A shard made of the same inputs, with its rows, if it still has its bytes."""
        known = self.records.get(name)
        if known is None or known.inputs != inputs or len(self._rows[name]) != known.samples:
            return None
        path = self.folder / name
        if name not in self.tars or path.stat().st_size != known.bytes:
            return None
        return (known, self._rows[name]) if atomic.sha256_file(path) == known.sha256 else None
