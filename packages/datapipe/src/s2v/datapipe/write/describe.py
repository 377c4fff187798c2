"""What stands beside the shards: ``wids.json``, the dataset card, the Croissant description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa

from s2v.datapipe.base import atomic
from s2v.datapipe.base.shards import Part
from s2v.datapipe.write import figures
from s2v.datapipe.write.card import card
from s2v.datapipe.write.croissant import croissant
from s2v.datapipe.write.previous import ShardRecord


@dataclass(frozen=True)
class Dataset:
    """A written shard folder and where it came from.

    Attributes:
        folder: the shard folder.
        title: of the dataset.
        index: its ``index/samples.parquet``.
        files: its tars in index order.
        sources: table of the run.
        reference_sources: ``video_id`` of what references were cut from.
        classes: class of every reference of every sample.
        motion: of the clip of every sample, where it was measured.
    """

    folder: Path
    title: str
    index: pa.Table
    files: Sequence[ShardRecord]
    sources: pa.Table
    reference_sources: frozenset[str]
    classes: tuple[str, ...] = ()
    motion: tuple[float, ...] = ()

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the index, without members."""
        return list(self.index.drop_columns(["members"]).to_pylist())

    @cached_property
    def parts(self) -> list[str]:
        """Those of train, val and test that have samples."""
        there = {row["part"] for row in self.rows}
        return [part for part in get_args(Part) if part in there]

    @cached_property
    def used_sources(self) -> list[dict[str, Any]]:
        """Sources that clips or references of the samples come from, by id."""
        used = {row["video_id"] for row in self.rows} | self.reference_sources
        rows = sorted(self.sources.to_pylist(), key=lambda row: str(row["video_id"]))
        return [row for row in rows if row["video_id"] in used]


def write_descriptions(dataset: Dataset) -> None:
    """Write the descriptions and the card's figures, each atomically."""
    for figure in figures.figures(dataset):
        path = dataset.folder / figures.FOLDER / f"{figure.name}.svg"
        atomic.write_bytes(path, figure.svg().encode())
    atomic.write_json(dataset.folder / "wids.json", wids(dataset.title, dataset.files))
    part_of = {row["shard"]: row["part"] for row in dataset.rows}
    for part in dataset.parts:
        files = [file for file in dataset.files if part_of[file.shard] == part]
        atomic.write_json(
            dataset.folder / f"wids-{part}.json", wids(f"{dataset.title} ({part})", files)
        )
    atomic.write_bytes(dataset.folder / "README.md", card(dataset).encode())
    atomic.write_json(dataset.folder / "croissant.json", croissant(dataset))


def wids(name: str, files: Sequence[ShardRecord]) -> dict[str, Any]:
    """Index of the ``wids`` library (``wids-shard-index-v1``); urls are beside the file."""
    return {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": name,
        "shardlist": [
            {"url": f.shard, "md5sum": f.md5, "nsamples": f.samples, "filesize": f.bytes}
            for f in files
        ],
    }
