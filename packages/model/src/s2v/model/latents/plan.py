"""Which samples are encoded, in which sizes, and which process does which shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa

from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.model.config import Config
from s2v.model.data.index import select
from s2v.model.errors import ModelError
from s2v.model.latents.entry import Size, Want, sized, want

Part = Literal["train", "heldout"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Item:
    """One sample at one size."""

    sample: Sample
    wanted: Want


@dataclass(frozen=True)
class Task:
    """One shard.

    Attributes:
        shard: its name.
        rows: of the index, in its order.
        count: of entries that are wanted of it.
    """

    shard: str
    rows: tuple[int, ...]
    count: int


class Plan:
    """What is to be encoded of a shard folder.

    Args:
        config: which samples a run would use, and at which sizes. Held-out samples are measured
            with, not trained on: they get one variant.
        shards: folder with ``index/samples.parquet``.
        parts: ``train``, ``heldout`` or both.

    Attributes:
        index: of the folder.
        tasks: one per shard, by name; those with nothing to encode are there too.
        excluded: samples that are not encoded, by reason. With :attr:`samples` they add up to
            the index.

    Raises:
        ModelError: no sample is left.
    """

    def __init__(self, config: Config, shards: str | Path, parts: Sequence[Part] = PARTS) -> None:
        self.config, self.index = config, ShardIndex.open(shards)
        self._sizes: dict[str, tuple[tuple[Size, int], ...]] = {}
        self.excluded: dict[str, int] = {}
        rest = self.index
        if "heldout" in parts:
            self.excluded = self._heldout(needed="train" not in parts)
            others = [i not in self._sizes for i in rest.table["sample_id"].to_pylist()]
            rest = ShardIndex(rest.folder, rest.table.filter(pa.array(others, pa.bool_())))
        if "train" in parts:
            self.excluded = self._train(rest)
        rows: dict[str, list[int]] = {}
        for n, shard in enumerate(self.index.table["shard"].to_pylist()):
            rows.setdefault(str(shard), []).append(n)
        ids = self.index.table["sample_id"].to_pylist()
        counts = {s: sum(len(self._sizes.get(ids[n], ())) for n in rows[s]) for s in rows}
        self.tasks = tuple(Task(s, tuple(rows[s]), counts[s]) for s in sorted(rows))

    @property
    def samples(self) -> int:
        """To be encoded."""
        return len(self._sizes)

    def wants(self, sample_id: str) -> bool:
        """Whether anything is wanted of a sample."""
        return sample_id in self._sizes

    def of_shard(self, task: Task) -> list[Sample]:
        """All samples of a shard, wanted or not."""
        rows = self.index.table.take(pa.array(task.rows)).to_pylist()
        return [Sample(self.index.folder, row) for row in rows]

    def items(self, sample: Sample) -> list[Item]:
        """What is wanted of a sample, size by size."""
        out = []
        for size, variants in self._sizes.get(sample.id, ()):
            data = sized(self.config.data, size).model_copy(update={"variants": variants})
            out.append(Item(sample, want(sample, data)))
        return out

    def _train(self, index: ShardIndex) -> dict[str, int]:
        """Take what is trained on; returns why the others are not."""
        selection = select(index, self.config.data, "train")
        d = self.config.data
        for sample in selection.samples:
            self._sizes[sample.id] = (((d.frames, d.height, d.width), d.variants),)
        return selection.dropped

    def _heldout(self, *, needed: bool) -> dict[str, int]:
        """Take what is measured with; returns why the others are not."""
        try:
            selection = select(self.index, self.config.data, "heldout")
        except ModelError:
            if needed:
                raise
            return {}  # nothing was held out
        d = self.config.data
        for sample in selection.samples:
            self._sizes[sample.id] = (((d.frames, d.height, d.width), 1),)
        return selection.dropped


def divide(tasks: Sequence[Task], rank: int, world: int) -> list[Task]:
    """The tasks of one of ``world`` processes: every task is one's, and all have about as much.

    The largest shard goes to whoever has least, so the answer depends on the tasks alone.
    """
    load = [0] * world
    mine = []
    for task in sorted(tasks, key=lambda t: (-t.count, t.shard)):
        least = min(range(world), key=lambda r: (load[r], r))
        load[least] += task.count + 1
        if least == rank:
            mine.append(task)
    return sorted(mine, key=lambda t: t.shard)
