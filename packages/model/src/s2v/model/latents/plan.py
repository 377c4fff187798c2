"""Which samples are encoded, in which sizes, and which process does which shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import pyarrow as pa

from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.model.config import Config
from s2v.model.data.exclusions import Exclusions
from s2v.model.data.held import held
from s2v.model.data.index import select
from s2v.model.data.pool import pool_of
from s2v.model.errors import ModelError
from s2v.model.latents.entry import Size, Want, sized, want

Part = Literal["train", "heldout"]
PARTS: tuple[Part, ...] = get_args(Part)
_SHORT: Final = "clip shorter than the window"


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


@dataclass
class Shard:
    """A shard's samples.

    Attributes:
        samples: that may be encoded, wanted or not.
        items: what is wanted of them, size by size.
        excluded: wanted samples that a list names by what only they themselves say, by reason.
    """

    samples: list[Sample] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    excluded: Counter[str] = field(default_factory=Counter)


class Plan:
    """What is to be encoded of a shard folder.

    Args:
        config: which samples a run would use, and in which sizes over all its phases. Held-out
            samples are measured with, not trained on: they get one variant.
        shards: folder with ``index/samples.parquet``.
        parts: ``train``, ``heldout`` or both.

    Attributes:
        index: of the folder.
        tasks: one per shard, by name; those with nothing to encode are there too.
        excluded: samples that are not encoded, by reason. With :attr:`samples` they add up to
            the index.

    Raises:
        ModelError: no sample is left, or an exclusion list cannot be read.
    """

    def __init__(self, config: Config, shards: str | Path, parts: Sequence[Part] = PARTS) -> None:
        self.config, self.index = config, ShardIndex.open(shards)
        table = self.index.table
        self._lists = Exclusions.read(config.data.exclusions, table)
        reasons = self._lists.reasons
        self._banned = np.zeros(len(table), np.bool_)
        if reasons is not None:
            self._banned = np.array([why is not None for why in reasons], np.bool_)
        self.excluded: dict[str, int] = {}
        self._sizes: dict[int, tuple[Size, ...]] = {}
        self._held = self._heldout(needed="train" not in parts) if "heldout" in parts else {}
        if "train" in parts:
            rest = np.array([n for n in range(len(table)) if n not in self._held], np.int64)
            listed = None if reasons is None else reasons[rest]
            where = str(self.index.folder)
            pool = pool_of(table.take(pa.array(rest)), config.data, excluded=listed, where=where)
            for row in pool.drawn_rows().tolist():
                self._sizes[int(rest[row])] = tuple(pool.sizes(row))
            self.excluded = dict(pool.dropped)
        rows: dict[str, list[int]] = {}
        for n, shard in enumerate(table["shard"].to_pylist()):
            rows.setdefault(str(shard), []).append(n)
        self.tasks = tuple(
            Task(s, tuple(rows[s]), sum(len(self._wanted(n)) for n in rows[s]))
            for s in sorted(rows)
        )

    @property
    def samples(self) -> int:
        """To be encoded."""
        return len(self._sizes) + len(self._held)

    def shard(self, task: Task) -> Shard:
        """The samples of a shard and what is wanted of them."""
        out = Shard()
        table = self.index.table.take(pa.array(task.rows, pa.int64()))
        for n, row in zip(task.rows, table.to_pylist(), strict=True):
            sample, wanted = Sample(self.index.folder, row), self._wanted(n)
            why = self._why(sample)
            if why is not None and wanted:
                out.excluded[why] += 1
            if why is None and not self._banned[n]:
                out.samples.append(sample)
                out.items += [Item(sample, self._want(sample, *one)) for one in wanted]
        return out

    def _wanted(self, row: int) -> list[tuple[Size, int]]:
        """Sizes and variants of a row."""
        d = self.config.data
        if row in self._held:
            return [(size, 1) for size in self._held[row]]
        return [(size, d.variants) for size in self._sizes.get(row, ())]

    def _want(self, sample: Sample, size: Size, variants: int) -> Want:
        data = sized(self.config.data, size).model_copy(update={"variants": variants})
        return want(sample, data)

    def _why(self, sample: Sample) -> str | None:
        """Why a list keeps a sample out by its references."""
        with suppress(ModelError):  # it is quarantined when it is read
            return self._lists.of_sample(sample)
        return None

    def _heldout(self, *, needed: bool) -> dict[int, tuple[Size, ...]]:
        """Rows that are measured with, and in which sizes: the run's own, and that of training."""
        d = self.config.data
        own = (d.frames, d.height, d.width)
        try:
            selection = select(self.index, d, "validate")
            others = held(self.index, d, len(self.index))
        except ModelError:
            if needed:
                raise
            return {}  # nothing was held out
        self.excluded = dict(selection.dropped)
        where = {name: n for n, name in enumerate(self.index.table["sample_id"].to_pylist())}
        found = {where[sample.id]: {own: None} for sample in selection.samples}
        for one in others:
            row = where[one.sample.id]
            if row not in found:  # too short for the run's own size, not for that of a phase
                self.excluded[_SHORT] -= 1
            found.setdefault(row, {})[one.size] = None
        return {row: tuple(sizes) for row, sizes in found.items()}


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
