"""Energon opens the folder as it is: no `energon prepare`, its own index and splits agree."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from written_run import hashes

from s2v.datapipe.base.shards import ShardIndex
from s2v.datapipe.write.write import Written

energon = pytest.importorskip("megatron.energon")


def opened(folder: Path, part: str, config: str) -> Iterator[dict[str, Any]]:
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        get_loader,
        get_val_dataset,
        stateless,
    )

    @stateless
    def cook(sample: dict[str, Any]) -> dict[str, Any]:
        return sample

    class Samples(DefaultTaskEncoder[Any, Any, Any, Any]):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(raw_batch_type=dict)

        cookers = (Cooker(cook=cook),)

        def encode_sample(self, sample: dict[str, Any]) -> dict[str, Any]:
            return sample

        def batch(self, samples: list[Any]) -> list[Any]:
            return samples

        def encode_batch(self, batch: list[Any]) -> list[Any]:
            return batch

    data = get_val_dataset(
        str(folder),
        split_part=part,
        split_config=config,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=1,
        task_encoder=Samples(),
    )
    for batch in get_loader(data):
        yield from batch


def test_energon_reads_every_member_of_the_right_split(film_shards: Written) -> None:
    index = {sample.id: sample for sample in ShardIndex.open(film_shards.folder)}
    wanted = {
        "train": {
            k for k, s in index.items() if s.row["split"] == "train" and not s.row["heldout"]
        },
        "val": {k for k, s in index.items() if s.row["heldout"]},
        "test": {k for k, s in index.items() if s.row["split"] == "test"},
    }
    assert sum(map(len, wanted.values())) == len(index)
    assert wanted["train"]
    assert wanted["val"]
    for part, keys in wanted.items():
        if not keys:
            continue
        found = {s["__key__"]: s for s in opened(film_shards.folder, part, "split.yaml")}
        assert found.keys() == keys
        for key, sample in found.items():
            parts = {name for name in sample if not name.startswith("__")}
            assert parts == set(index[key].suffixes)
            assert sample["txt"] == index[key].row["caption"]
            assert sample["json"] == json.loads(index[key].read("json"))
            height, width = sample["ref0.jpg"].shape[-2:]
            assert sample["ref0.mask.png"].shape[-2:] == (height, width)


def test_the_index_is_what_energon_itself_would_prepare(film_copy: Path, tmp_path: Path) -> None:
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

    ours = {path.name: path.read_bytes() for path in film_copy.glob("*.idx")}
    rows = dump(film_copy)
    counts = json.loads((film_copy / ".nv-meta" / ".info.json").read_text())["shard_counts"]
    for path in film_copy.glob("*.idx"):
        path.unlink()
    for path in (film_copy / ".nv-meta").iterdir():
        path.unlink()
    WebdatasetPreparator.prepare_dataset(
        EPath(film_copy), list(counts), split_parts_ratio=[("train", 1.0)], workers=1
    )
    theirs = json.loads((film_copy / ".nv-meta" / ".info.json").read_text())
    assert theirs["shard_counts"] == counts
    assert {path.name: path.read_bytes() for path in film_copy.glob("*.idx")} == ours
    assert dump(film_copy) == rows


def dump(folder: Path) -> dict[str, list[Any]]:
    with sqlite3.connect(folder / ".nv-meta" / "index.sqlite") as db:
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master ORDER BY name")]
        tables = {
            "samples": sorted(db.execute("SELECT * FROM samples")),
            "parts": sorted(db.execute("SELECT * FROM sample_parts")),
        }
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {**tables, "names": names}


def test_a_second_write_gives_the_same_index_bytes(film_shards: Written, film_copy: Path) -> None:
    meta = {n: h for n, h in hashes(film_shards.folder).items() if ".nv-meta" in n or ".idx" in n}
    assert len(meta) == 5 + len(film_shards.shards)
    identity = (film_copy / ".nv-meta" / "index.uuid").read_text()
    assert len(identity) == 36
    assert identity[14] == "5"
