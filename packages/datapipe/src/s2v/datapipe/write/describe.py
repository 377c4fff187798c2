"""What stands beside the shards: ``wids.json``, the dataset card, the Croissant description."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from s2v.datapipe.base import atomic
from s2v.datapipe.write.card import card
from s2v.datapipe.write.croissant import croissant


@dataclass(frozen=True)
class ShardFile:
    """One tar of the folder."""

    name: str
    samples: int
    bytes: int
    sha256: str
    md5: str  # wids asks for it


@dataclass(frozen=True)
class Dataset:
    """A written shard folder and where it came from.

    Attributes:
        folder: the shard folder.
        title: of the dataset.
        index: its ``index/samples.parquet``.
        sources: table of the run.
        reference_sources: ``video_id`` of what references were cut from.
    """

    folder: Path
    title: str
    index: pa.Table
    sources: pa.Table
    reference_sources: frozenset[str]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the index, without members."""
        return list(self.index.drop_columns(["members"]).to_pylist())

    @cached_property
    def files(self) -> list[ShardFile]:
        """The tars in index order."""
        counts: dict[str, int] = {}
        for row in self.rows:
            counts[row["shard"]] = counts.get(row["shard"], 0) + 1
        return [self._file(name, samples) for name, samples in counts.items()]

    def _file(self, name: str, samples: int) -> ShardFile:
        path = self.folder / name
        sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        for block in _blocks(path):
            sha256.update(block)
            md5.update(block)
            size += len(block)
        return ShardFile(name, samples, size, sha256.hexdigest(), md5.hexdigest())


def write_descriptions(dataset: Dataset) -> None:
    """Write the three descriptions, each atomically."""
    atomic.write_json(dataset.folder / "wids.json", wids(dataset))
    atomic.write_bytes(dataset.folder / "README.md", card(dataset).encode())
    atomic.write_json(dataset.folder / "croissant.json", croissant(dataset))


def wids(dataset: Dataset) -> dict[str, Any]:
    """Index of the ``wids`` library (``wids-shard-index-v1``); urls are beside the file."""
    return {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": dataset.title,
        "shardlist": [
            {"url": f.name, "md5sum": f.md5, "nsamples": f.samples, "filesize": f.bytes}
            for f in dataset.files
        ],
    }


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            yield block
