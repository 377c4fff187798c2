"""A rank's batches, step by step: planned here, read by workers, put together here.

The plan is the same on every rank; a rank reads only its own slots. Workers change nothing but
the time it takes: what they return is taken in the plan's order. ``state()`` is that of the last
step that was handed out, whatever has been read ahead.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from s2v.model.data.buckets import Bucket
from s2v.model.data.fetch import Fetch, Got
from s2v.model.data.plan import Draw
from s2v.model.data.quarantine import Quarantine
from s2v.model.data.steps import Micro, Step, StepPlan
from s2v.model.data.workers import Workers, warm
from s2v.model.errors import ModelError

T = TypeVar("T")
B = TypeVar("B")
Finish = Callable[[Bucket, Sequence[Draw], Sequence[T]], B]

_AHEAD = 64  # steps planned ahead at most; memory bounds what is read


@dataclass(frozen=True)
class Part(Generic[B]):
    """One slot of a step, ready to train on.

    Attributes:
        micro: as planned.
        draws: as trained: others stand in for samples that could not be read.
        bucket: of all of them.
        batch: put together.
    """

    micro: Micro
    draws: tuple[Draw, ...]
    bucket: Bucket
    batch: B


@dataclass
class Figures:
    """What loading cost and met on this rank, since the loader was made.

    Attributes:
        waited_s: time that a step had to wait for its samples.
        last_wait_s: of that, the last step's.
        finish_s: time spent on encoding and putting batches together.
        stand_ins: places filled by other samples.
        excluded: readings that an exclusion list forbade.
    """

    waited_s: float = 0.0
    last_wait_s: float = 0.0
    finish_s: float = 0.0
    stand_ins: int = 0
    excluded: int = 0


class Loader(Generic[T, B]):
    """Iterates ``(step, this rank's parts)``.

    Args:
        plan: at the place to go on from; it is advanced as steps are handed out.
        fetch: reads a micro-batch; sent to the workers, so it must be picklable where there are.
        finish: makes a batch of a bucket's draws and what was read of them, in this process.
        rank: of ``world``, along the axis that data is divided over.
        world: ranks; divides ``train.slots``.
        until: number of steps after which the iteration ends; None: never.
        workers: processes; 0 reads in this one.
        prefetch_bytes: that may wait in memory.
        timeout_s: for one sample, where workers read.
        quarantine: collects what could not be read.
        tell: is told of each sample that could not be, once.

    Raises:
        ModelError: ``world`` does not divide the slots.
    """

    def __init__(
        self,
        plan: StepPlan,
        fetch: Fetch[T],
        finish: Finish[T, B],
        *,
        rank: int = 0,
        world: int = 1,
        until: int | None = None,
        workers: int = 0,
        prefetch_bytes: int = 2 << 30,
        timeout_s: float = 300.0,
        quarantine: Quarantine | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        if plan.slots % world:
            near = [w for w in range(1, plan.slots + 1) if plan.slots % w == 0]
            raise ModelError(
                f"train.slots {plan.slots} does not divide by {world} data-parallel ranks; start "
                f"one of {near} ranks, or set train.slots to a multiple of {world}"
            )
        self.plan, self._fetch, self._finish = plan, fetch, finish
        self._rank, self._world, self._until = rank, world, until
        self._count, self._bytes, self._timeout = workers, prefetch_bytes, timeout_s
        self.quarantine = quarantine or Quarantine(20)
        if workers:
            warm()
        self._tell, self.figures = tell, Figures()

    def state(self) -> dict[str, Any]:
        """Of the plan after the last step that was handed out."""
        return self.plan.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`, of whatever world size and number of workers.

        Raises:
            ModelError: see :meth:`s2v.model.data.steps.StepPlan.restore`.
        """
        self.plan.restore(state)

    def __iter__(self) -> Iterator[tuple[Step, tuple[Part[B], ...]]]:
        return self._here() if self._count == 0 else self._ahead()

    def _here(self) -> Iterator[tuple[Step, tuple[Part[B], ...]]]:
        while self._until is None or self.plan.number < self._until:
            step = self.plan.next()
            self.figures.last_wait_s = 0.0
            yield (
                step,
                tuple(
                    self._part(lambda micro=micro: self._fetch(micro))  # type: ignore[misc]  # bound now
                    for micro in step.of_rank(self._rank, self._world)
                ),
            )

    def _ahead(self) -> Iterator[tuple[Step, tuple[Part[B], ...]]]:
        workers: Workers[Micro, Got[T]] = Workers(
            self._fetch, self._count, self._bytes, self._timeout
        )
        future, planned = self.plan.copy(), deque[tuple[Step, StepPlan]]()
        try:
            while self._until is None or self.plan.number < self._until:
                self._plan_ahead(future, planned, workers)
                step, after = planned.popleft()
                self.figures.last_wait_s = 0.0
                parts = []
                for _ in step.of_rank(self._rank, self._world):
                    parts.append(self._part(workers.take))
                    self._plan_ahead(future, planned, workers)
                self.plan.become(after)
                yield step, tuple(parts)
        finally:
            workers.close()

    def _plan_ahead(
        self,
        future: StepPlan,
        planned: deque[tuple[Step, StepPlan]],
        workers: Workers[Micro, Got[T]],
    ) -> None:
        while not planned or (workers.hungry and len(planned) < _AHEAD):
            if self._until is not None and future.number >= self._until:
                return
            step = future.next()
            planned.append((step, future.copy()))
            for micro in step.of_rank(self._rank, self._world):
                workers.give(micro)

    def _part(self, read: Callable[[], Got[T]]) -> Part[B]:
        began = time.perf_counter()
        got = read()
        waited = time.perf_counter() - began
        self.figures.waited_s += waited
        self.figures.last_wait_s += waited
        self._note(got)
        if not got.draws:
            last = next(o for o in reversed(got.outcomes) if o.fault)
            raise ModelError(
                f"none of {len(got.outcomes)} samples that were tried can be read, the last: "
                f"{last.fault}"
            )
        batch = self._finish(got.bucket, got.draws, got.items)
        self.figures.finish_s += time.perf_counter() - began - waited
        return Part(got.micro, got.draws, got.bucket, batch)

    def _note(self, got: Got[T]) -> None:
        """Count in the plan's order, so that workers do not change what the fuse sees."""
        self.figures.stand_ins += got.stand_ins
        for outcome in got.outcomes:
            if outcome.fault is None:
                self.quarantine.good()
            elif outcome.excluded:
                self.figures.excluded += 1
            elif self.quarantine.add(outcome.sample_id, ModelError(outcome.fault)) and self._tell:
                self._tell(f"{outcome.fault}; other samples take the place of this one")
