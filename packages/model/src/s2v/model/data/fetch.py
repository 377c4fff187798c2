"""One micro-batch from its plan: read its samples, and fill the places of those that cannot be.

A place is filled by a rule that needs nobody else: stand-ins of a draw are a function of the
seed, its number, its bucket and its source, tried in their order until one can be read. Which
samples are bad is a property of the shards, so any rank, worker or resumed run that reads this
micro-batch fills it alike. First come samples of the same bucket and source, then of the bucket;
where none of them can be read, the whole micro-batch is filled from the next smaller bucket that
has one. The draw keeps its number, and with it its noise; the step keeps its weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Generic, TypeVar

import numpy as np

from s2v.datapipe.base.shards import ShardError
from s2v.model.data.buckets import Bucket, Ints
from s2v.model.data.plan import Draw, permuted
from s2v.model.data.pool import Pool
from s2v.model.data.steps import Micro
from s2v.model.errors import ModelError

T = TypeVar("T")
Read = Callable[[Draw, Bucket], T]

TRIES: Final = 8  # stand-ins per place and kind
_READS: Final = 2  # of one file, before what the system says is believed


class LeftOut(ModelError):  # noqa: N818 - not a fault of the sample
    """A sample that an exclusion list names by what only the sample itself says."""


@dataclass(frozen=True)
class Outcome:
    """What became of one reading; None of ``fault`` is good."""

    sample_id: str
    fault: str | None = None
    excluded: bool = False


@dataclass(frozen=True)
class Got(Generic[T]):
    """A micro-batch, read.

    Attributes:
        micro: as planned.
        draws: as trained: stand-ins in the places of what could not be read; none where not one
            sample and stand-in of a place could be.
        bucket: of all of them.
        items: what was read, one per draw.
        outcomes: of every reading, in order.
    """

    micro: Micro
    draws: tuple[Draw, ...]
    bucket: Bucket
    items: tuple[T, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def stand_ins(self) -> int:
        """Places that others had to fill."""
        if not self.draws:
            return 0
        pairs = zip(self.micro.draws, self.draws, strict=True)
        return sum(planned.row != trained.row for planned, trained in pairs)


class Fetch(Generic[T]):
    """Reads micro-batches; what it returns is a function of the plan and the shards alone.

    Args:
        pool: where stand-ins come from.
        read: one sample; a :class:`ModelError` costs the sample its place.
        seed: of the run.
    """

    def __init__(self, pool: Pool, read: Read[T], seed: int) -> None:
        self.pool, self.read, self._seed = pool, read, seed
        self._rows = lru_cache(maxsize=256)(self._find)

    def __call__(self, micro: Micro, begin: Callable[[str], None] = lambda _: None) -> Got[T]:
        """Read a micro-batch.

        Args:
            micro: of the plan.
            begin: told each sample before it is read.

        Returns:
            Without draws where its samples and their stand-ins cannot be read; the outcomes say
            why.
        """
        outcomes: list[Outcome] = []

        def attempt(draw: Draw, bucket: Bucket) -> tuple[Draw, T] | None:
            begin(draw.sample_id)
            try:
                item = self._read(draw, bucket)
            except ModelError as error:
                outcomes.append(Outcome(draw.sample_id, str(error), isinstance(error, LeftOut)))
                return None
            outcomes.append(Outcome(draw.sample_id))
            return draw, item

        for bucket in (micro.bucket, *self._others(micro)):
            found: list[tuple[Draw, T]] = []
            for planned in micro.draws:
                tries = self._tries(planned, bucket, micro)
                one = next((got for draw in tries if (got := attempt(draw, bucket))), None)
                if one is None:
                    break
                found.append(one)
            if len(found) == len(micro.draws):
                draws, items = zip(*found, strict=True)
                return Got(micro, draws, bucket, items, tuple(outcomes))
        return Got(micro, (), micro.bucket, (), tuple(outcomes))

    def _read(self, draw: Draw, bucket: Bucket) -> T:
        for left in range(_READS - 1, -1, -1):
            try:
                return self.read(draw, bucket)
            except (OSError, ShardError) as error:
                # A disk far away may fail once; a sample is bad when it fails twice.
                if not left:
                    raise ModelError(f"sample {draw.sample_id}: {error}") from None
        raise AssertionError

    def _tries(self, planned: Draw, bucket: Bucket, micro: Micro) -> Iterator[Draw]:
        """The planned sample, then its stand-ins."""
        if bucket == micro.bucket:
            yield planned
        seen = {planned.row}
        for source in (planned.source, ""):
            rows = self._rows(bucket, micro.phase, source)
            for attempt in range(min(TRIES, len(rows))):
                at = permuted(attempt, len(rows), self._seed, "stand-in", planned.number)
                row = int(rows[at])
                if row not in seen:
                    seen.add(row)
                    yield replace(planned, sample_id=self.pool.id(row), row=row)

    def _others(self, micro: Micro) -> list[Bucket]:
        """Other buckets of the phase: smaller ones from the largest down, then larger ones."""

        def volume(bucket: Bucket) -> tuple[int, Bucket]:
            return bucket.frames * bucket.height * bucket.width, bucket

        mine = volume(micro.bucket)
        there = [b for b in self.pool.buckets if len(self._rows(b, micro.phase, ""))]
        below = sorted((b for b in there if volume(b) < mine), key=volume, reverse=True)
        return [*below, *sorted((b for b in there if volume(b) > mine), key=volume)]

    def _find(self, bucket: Bucket, phase: int, source: str) -> Ints:
        """Rows of a bucket in a phase, of one source or (``""``) of all."""
        place = self.pool.places[phase]
        number = self.pool.buckets.index(bucket)
        wanted: Sequence[str] = [source] if source else sorted(self.pool.rows)
        parts = [r[place[r] == number] for s in wanted if (r := self.pool.rows.get(s)) is not None]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def __getstate__(self) -> dict[str, object]:
        return {"pool": self.pool, "read": self.read, "seed": self._seed}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(state["pool"], state["read"], state["seed"])  # type: ignore[misc]  # its own
