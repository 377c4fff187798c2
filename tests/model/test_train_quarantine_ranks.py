"""What several processes could not read, put together: the list and the run of one process."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s2v.datapipe.base.shards import ShardIndex
from s2v.model import metrics
from s2v.model.config import Config
from s2v.model.data.pool import pool_of
from s2v.model.progress import quiet
from s2v.model.train import train

sys.path.append(str(Path(__file__).parent))  # a kit that several tests share

from ranks_kit import together

Tiny = Callable[..., Config]
RUN = ("train.slots=2", "train.batch=2", "train.steps=6", "train.checkpoint_every=3",
       "train.log_every=1")  # fmt: skip


def _rotten(shards: Path, to: Path, bad: set[str]) -> Path:
    """A copy of the shards in which some samples' clips are damaged."""
    shutil.copytree(shards, to)
    for sample in ShardIndex.open(to):
        if sample.id in bad:
            member = next(m for m in sample.row["members"] if m["suffix"] == "mp4")
            with (to / str(sample.row["shard"])).open("r+b") as file:
                file.seek(member["offset"] + 30)
                file.write(b"\xff" * 9)
    return to


def _both(config: Config, shards: Path, folder: Path) -> tuple[Path, Path]:
    """The same training by one process and by two, from one latent space."""
    train(config, shards, folder / "one", quiet, cache=folder / "cache")
    (folder / "two").mkdir()
    for path in (folder / "one").glob("autoencoder.*"):
        shutil.copy(path, folder / "two")

    def do(_: int) -> None:
        # A cache of their own: what one process made would hide what these two cannot.
        train(config, shards, folder / "two", quiet, cache=folder / "other")

    assert together(2, do, talk=False) == [0, 0]
    return folder / "one", folder / "two"


def _result(run: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((run / "result.json").read_text())
    return {k: told[k] for k in ("samples", "dropped", "quarantined", "stand_ins", "steps")}


def _same(one: Path, two: Path) -> None:
    assert _result(one) == _result(two)
    assert (one / "quarantine.jsonl").read_bytes() == (two / "quarantine.jsonl").read_bytes()
    ours, theirs = (metrics.read(run / "metrics.jsonl") for run in (one, two))
    assert [x["loss"] for x in ours] == pytest.approx([x["loss"] for x in theirs], rel=1e-6)
    assert [x["epochs"] for x in ours] == [x["epochs"] for x in theirs]


def test_a_process_whose_whole_share_is_bad_ends_nothing(
    drawn_shards: Path, tiny: Tiny, tmp_path: Path
) -> None:
    """Each prepares a share: what one of them finds is left out by all, and none speaks alone."""
    config, index = tiny(*RUN), ShardIndex.open(drawn_shards)
    rows = pool_of(index.table, config.data).drawn_rows().tolist()
    bad = {index[row].id for row in rows[1::2]}  # all that process 1 has
    shards = _rotten(drawn_shards, tmp_path / "shards", bad)
    one, two = _both(config, shards, tmp_path)
    assert _result(two)["quarantined"] == len(bad) == 6
    _same(one, two)
    lines = [json.loads(line) for line in (two / "quarantine.jsonl").read_text().splitlines()]
    assert {line["sample_id"] for line in lines} == bad


def test_what_each_process_meets_in_its_slots_stands_in_one_list(
    drawn_shards: Path, tiny: Tiny, tmp_path: Path
) -> None:
    bad = {"in-00-001", "in-01-002", "cross-00-000"}
    shards = _rotten(drawn_shards, tmp_path / "shards", bad)
    one, two = _both(tiny(*RUN, "data.prepare=false"), shards, tmp_path)
    _same(one, two)
    lines = [json.loads(line) for line in (two / "quarantine.jsonl").read_text().splitlines()]
    assert {line["sample_id"] for line in lines} == bad  # else this has shown nothing
    assert _result(two)["stand_ins"] >= 3
