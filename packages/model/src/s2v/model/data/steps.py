"""Steps formed from the stream: slots of equal cost, the same at any world size.

A step has ``train.slots`` micro-batches. Each is of one bucket, and all of a step cost about the
same, so that no rank waits for another. A world of W ranks (W divides the slots) gives rank r the
slots r, r + W, ...: the plan knows neither ranks nor workers.

Draws wait in a bounded buffer until a step takes them. The oldest is always in the next step and
sets its cost: as many of its bucket as a micro-batch holds. Of the other buckets as many are put
together as cost the same within ``data.imbalance``, oldest first. Where the buffer has not enough
that fit, more is drawn; where it is full, the nearest in cost are taken, and the step says how
far apart they are. Nothing is thrown away: what waits is part of the state.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from s2v.model.config import Config
from s2v.model.config_data import DataConfig
from s2v.model.data.buckets import Bucket, Sizing, sizing
from s2v.model.data.plan import Draw, Plan
from s2v.model.data.pool import Pool
from s2v.model.errors import ModelError
from s2v.model.mmdit import Widths


@dataclass(frozen=True)
class Micro:
    """One slot of a step.

    Attributes:
        bucket: of all its samples.
        draws: in stream order.
        cost: predicted, of all its samples.
        phase: place in ``data.phases`` that holds in this step, 0 before the first.
    """

    bucket: Bucket
    draws: tuple[Draw, ...]
    cost: float
    phase: int = 0


@dataclass(frozen=True)
class Step:
    """What one optimiser step is made of.

    Attributes:
        number: finished steps before it.
        phase: place in ``data.phases`` that holds, 0 before the first.
        slots: micro-batches, ``train.slots`` of them.
        weight: what the summed losses are divided by: samples, or video tokens
            (``flow.reduction``). Known without asking other ranks.
    """

    number: int
    phase: int
    slots: tuple[Micro, ...]
    weight: float

    @property
    def samples(self) -> int:
        """Of all slots."""
        return sum(len(micro.draws) for micro in self.slots)

    @property
    def cost(self) -> float:
        """Of all slots."""
        return sum(micro.cost for micro in self.slots)

    def of_rank(self, rank: int, world: int) -> tuple[Micro, ...]:
        """The slots that a rank works on, one after the other."""
        return self.slots[rank::world]

    def imbalance(self, world: int | None = None) -> float:
        """How much dearer the dearest rank is than the mean; 0 is perfect.

        Args:
            world: ranks; None takes every slot for a rank of its own.
        """
        world = world or len(self.slots)
        costs = [sum(m.cost for m in self.of_rank(rank, world)) for rank in range(world)]
        return max(costs) * world / sum(costs) - 1


@dataclass(frozen=True)
class _Found:
    """A step that the buffer allows: per slot a bucket and its number of samples."""

    imbalance: float
    parts: tuple[tuple[Bucket, int], ...]


class StepPlan:
    """Steps without end, each a function of what came before; asking advances the state.

    Args:
        pool: the samples.
        mixes: share per source, for each phase.
        starts: the step each phase begins at; the first is 0.
        sizing: cost and batch size per bucket.
        slots: micro-batches of a step.
        seed: of the order.
        reduction: ``sample`` or ``token``, see :attr:`Step.weight`.
        imbalance: wanted at most.
        max_pending: draws that may wait; None: eight steps of the largest micro-batches.

    Raises:
        ModelError: a phase has no samples.
    """

    def __init__(
        self,
        pool: Pool,
        mixes: Sequence[Mapping[str, float]],
        starts: Sequence[int],
        sizing: Sizing,
        *,
        slots: int,
        seed: int,
        reduction: Literal["sample", "token"] = "sample",
        imbalance: float = 0.05,
        max_pending: int | None = None,
    ) -> None:
        self.plan = Plan(pool, mixes, seed)
        self.pool, self.sizing, self.slots = pool, sizing, slots
        self._starts, self._reduction, self._wanted = tuple(starts), reduction, imbalance
        largest = max(sizing.batch.values())
        # With as many waiting, some step of any oldest draw can always be formed.
        enough = (slots + len(sizing.batch)) * largest
        self.max_pending = max(enough, max_pending or 8 * slots * largest)
        self.number = 0
        self._waiting: dict[Bucket, deque[tuple[Draw, int]]] = {b: deque() for b in sizing.batch}
        self._held = 0
        self._mean, self._most = 0.0, 0.0

    @classmethod
    def of(cls, config: Config, pool: Pool, widths: Widths, image_tokens: int = 0) -> StepPlan:
        """The plan that a configuration asks for.

        Args:
            config: of the run.
            pool: of :func:`s2v.model.data.pool.pool_of`.
            widths: of what the encoders give.
            image_tokens: per reference.
        """
        stages, data = config.data.stages(), config.data
        return cls(
            pool,
            mixes(data),
            [stage.from_step for stage in stages],
            sizing(config, pool.buckets, widths, image_tokens),
            slots=config.train.slots,
            seed=config.train.seed,
            reduction=config.flow.reduction,
            imbalance=data.imbalance,
            max_pending=data.max_pending,
        )

    def __iter__(self) -> Iterator[Step]:
        while True:
            yield self.next()

    def phase(self, step: int) -> int:
        """The phase that holds in a step."""
        return bisect.bisect_right(self._starts, step) - 1

    def next(self) -> Step:
        """The next step."""
        phase = self.phase(self.number)
        while (found := self._formed()) is None:
            for _ in range(min(self.slots, self.max_pending - self._held)):
                draw = self.plan.next(phase)
                # The stream passes samples over that have no bucket here.
                bucket = self.pool.buckets[self.pool.places[phase][draw.row]]
                self._waiting[bucket].append((draw, phase))
                self._held += 1
        step = self._taken(found, phase)
        self.number += 1
        costs = [micro.cost for micro in step.slots]
        self._mean += sum(costs) / len(costs)
        self._most += max(costs)
        return step

    @property
    def imbalance(self) -> float:
        """Over all steps so far: time lost to waiting by the time that work would take."""
        return self._most / self._mean - 1 if self._mean else 0.0

    @property
    def pending(self) -> int:
        """Draws that wait."""
        return self._held

    def _formed(self) -> _Found | None:
        """The step that the oldest draw leads to, or None: draw more first."""
        if self._held < self.slots:
            return None
        oldest = min((w[0][0].number, b) for b, w in self._waiting.items() if w)[1]
        there, full = len(self._waiting[oldest]), self.sizing.batch[oldest]
        if there >= full:
            found = self._at(oldest, full, near=True)
            if found is not None and found.imbalance <= self._wanted:
                return found
        if self._held < self.max_pending:
            return None
        tried = [self._at(oldest, n, near=False) for n in range(min(there, full), 0, -1)]
        possible = [found for found in tried if found is not None]
        good = (found for found in possible if found.imbalance <= self._wanted)
        return next(good, None) or min(possible, key=lambda found: round(found.imbalance, 6))

    def _at(self, first: Bucket, count: int, *, near: bool) -> _Found | None:
        """The step whose cost is that of ``count`` samples of ``first``.

        Args:
            first: bucket of the oldest draw.
            count: samples of it.
            near: only micro-batches within the wanted imbalance; else the nearest in cost.
        """
        target = count * self.sizing.cost[first]
        offers: list[tuple[float, int, Bucket, int]] = []
        for bucket, waiting in self._waiting.items():
            n = count if bucket == first else self._count(bucket, target)
            off = abs(n * self.sizing.cost[bucket] / target - 1)
            if near and off > self._wanted / 2:
                continue
            for start in range(0, len(waiting) - n + 1, n):
                if start // n >= self.slots:
                    break
                offers.append((off, waiting[start][0].number, bucket, n))
        if len(offers) < self.slots:
            return None
        # The oldest draw's own micro-batch stands first in either order.
        offers.sort(key=(lambda o: o[1]) if near else (lambda o: (o[0], o[1])))
        parts = tuple((bucket, n) for _, _, bucket, n in offers[: self.slots])
        if (first, count) not in parts:
            parts = ((first, count), *parts[:-1])
        costs = [n * self.sizing.cost[bucket] for bucket, n in parts]
        return _Found(max(costs) * len(costs) / sum(costs) - 1, parts)

    def _count(self, bucket: Bucket, target: float) -> int:
        """Samples of a bucket whose cost is nearest to ``target``, as many as it may have."""
        below = max(1, int(target / self.sizing.cost[bucket]))
        cost = self.sizing.cost[bucket]
        n = below if abs(below * cost - target) <= abs((below + 1) * cost - target) else below + 1
        return min(n, self.sizing.batch[bucket])

    def _taken(self, found: _Found, phase: int) -> Step:
        slots = []
        for bucket, n in found.parts:
            waiting = self._waiting[bucket]
            draws = tuple(waiting.popleft()[0] for _ in range(n))
            slots.append(Micro(bucket, draws, n * self.sizing.cost[bucket], phase))
            self._held -= n
        slots.sort(key=lambda micro: micro.draws[0].number)
        per = self.sizing.video_tokens if self._reduction == "token" else None
        weight = sum(len(m.draws) * (1 if per is None else per[m.bucket]) for m in slots)
        return Step(self.number, phase, tuple(slots), float(weight))

    def state(self) -> dict[str, Any]:
        """The stream's counts, and the draws that wait as ``[number, source, turn, phase]``."""
        waiting = sorted(
            (draw.number, draw.source, draw.turn, phase)
            for queue in self._waiting.values()
            for draw, phase in queue
        )
        said = {
            "step": self.number,
            "plan": self.plan.state(),
            "pending": [list(one) for one in waiting],
            "cost": [self._mean, self._most],
            "digest": self.digest(),
        }
        return said | {"check": _check(said)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`; samples excluded since then are passed over.

        Raises:
            ModelError: the state is damaged, or of other samples, sizes or weights.
        """
        said = {key: value for key, value in state.items() if key != "check"}
        if state.get("check") != _check(said):
            raise ModelError("the data plan's state is damaged; use an older checkpoint")
        self.plan.check(said["plan"])  # first: other samples may bring other sizes along
        if said["digest"] != self.digest():
            raise ModelError(
                "the sizes, their batches or train.slots changed since the checkpoint, so its "
                "steps cannot go on; start a new run folder"
            )
        self.plan.restore(said["plan"])
        self.number, (self._mean, self._most) = int(said["step"]), said["cost"]
        self._held = 0
        for queue in self._waiting.values():
            queue.clear()
        for number, source, turn, phase in said["pending"]:
            draw = self.plan.at(number, source, turn)
            bucket = self.pool.bucket(draw.row, phase)
            if bucket is not None:
                self._waiting[bucket].append((draw, phase))
                self._held += 1

    def digest(self) -> str:
        """16 hex over what forms steps from the stream; the stream has its own."""
        s = self.sizing
        table = [[str(b), s.batch[b], f"{s.cost[b]:.9e}"] for b in sorted(s.batch)]
        rules = [self.slots, self._wanted, self.max_pending, self._starts, self._reduction]
        return hashlib.sha256(json.dumps([rules, table]).encode()).hexdigest()[:16]

    def peek(self, count: int) -> tuple[Step, ...]:
        """The next steps, without taking them."""
        other = self.copy()
        return tuple(islice(other, count))

    def copy(self) -> StepPlan:
        """Another plan at the same place."""
        other = copy(self)
        other.plan = self.plan.copy()
        other._waiting = {bucket: deque(queue) for bucket, queue in self._waiting.items()}
        return other

    def become(self, other: StepPlan) -> None:
        """Stand where another plan of the same kind stands; it is given up."""
        self.__dict__.update(other.__dict__)


def mixes(data: DataConfig) -> list[dict[str, float]]:
    """Share per source, for each phase."""
    return [{str(k): v for k, v in stage.mix.items()} for stage in data.stages()]


def _check(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
