"""Our loader behind the same commands as the others', see ``peers/loader_peers.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent / "peers"))  # scripts, no package

import loader_peers

from s2v.datapipe.base.shards import ShardIndex
from s2v.model.data.buckets import Bucket, Sizing
from s2v.model.data.fetch import Fetch
from s2v.model.data.loader import Loader
from s2v.model.data.plan import Draw
from s2v.model.data.pool import Pool
from s2v.model.data.steps import StepPlan

SLOTS = 2


class Read:
    """One sample's bytes; its id is what is compared."""

    def __init__(self, index: ShardIndex) -> None:
        self.index = index

    def __call__(self, draw: Draw, bucket: Bucket) -> str:
        sample = self.index[draw.row]
        sample.read("bin")
        return sample.id


def together(bucket: Bucket, draws: Sequence[Draw], items: Sequence[str]) -> list[str]:
    """A batch is its ids."""
    return list(items)


def ours(options: argparse.Namespace) -> loader_peers.Loader:
    """Two slots a step, of ``batch * world / 2`` samples: the same steps at world 1 and 2."""
    index = ShardIndex.open(options.folder)
    pool = Pool.of_ids({"in": index.table["sample_id"].to_pylist()})
    (bucket,) = pool.buckets
    each = options.batch * options.world // SLOTS
    sizing = Sizing({bucket: 1.0}, {bucket: 1}, {bucket: 1}, {bucket: each})
    plan = StepPlan(pool, [{"in": 1.0}], [0], sizing, slots=SLOTS, seed=loader_peers.SEED)
    loader: Loader[Any, list[str]] = Loader(
        plan,
        Fetch(pool, Read(index), loader_peers.SEED),
        together,
        rank=options.rank,
        world=options.world,
        workers=options.workers,
    )

    def batches() -> Iterator[list[str]]:
        for _, parts in loader:
            yield [one for part in parts for one in part.batch]

    return batches, loader.state, loader.restore


if __name__ == "__main__":
    sys.exit(loader_peers.serve({"ours": ours}))
