"""Stop-gap until data/steps.py: one bucket, slots of ``train.batch`` samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from s2v.model.config import Config
from s2v.model.data.collate import Batch, choose, collate
from s2v.model.data.features import FeatureStore
from s2v.model.data.plan import Draw, Plan


@dataclass(frozen=True)
class Bucket:
    frames: int
    height: int
    width: int
    references: int


@dataclass(frozen=True)
class Micro:
    bucket: Bucket
    draws: tuple[Draw, ...]


@dataclass(frozen=True)
class Step:
    number: int
    slots: tuple[Micro, ...]


class StepPlan:
    def __init__(self, plan: Plan, config: Config) -> None:
        self.plan, self.config, self.number = plan, config, 0
        d = config.data
        self.bucket = Bucket(d.frames, d.height, d.width, d.max_references)

    def next(self) -> Step:
        t = self.config.train
        slots = tuple(
            Micro(self.bucket, tuple(self.plan.next() for _ in range(t.batch)))
            for _ in range(t.slots)
        )
        self.number += 1
        return Step(self.number, slots)

    def state(self) -> dict[str, Any]:
        return self.plan.state()

    def restore(self, state: Any) -> None:
        self.plan.restore(state)


class Loader:
    def __init__(
        self, plan: StepPlan, store: FeatureStore, samples: Any, config: Config, rank: int, world: int
    ) -> None:
        self.plan, self.store, self.samples, self.config = plan, store, samples, config
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[tuple[Step, list[Batch]]]:
        while True:
            step = self.plan.next()
            mine = step.slots[self.rank :: self.world]
            yield step, [collate([self._item(d) for d in micro.draws]) for micro in mine]

    def _item(self, draw: Draw) -> Any:
        data = self.config.data
        return choose(
            (draw.sample_id, draw.number),
            self.store.get(self.samples[draw.sample_id]),
            {str(form): odds for form, odds in data.forms.items()},
            self.config.train.seed,
            epoch=draw.epoch,
            most=data.max_references,
        )
