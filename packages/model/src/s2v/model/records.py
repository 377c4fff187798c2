"""What a step was, kept where it was computed until the host may wait for it.

Reading a number off a GPU makes the host wait until the GPU has it, and leaves the GPU without
work after that. So losses and norms of several steps stay there and come over together; then the
processes tell one another theirs, and rank 0 has whole lines, the same for any number of processes.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from s2v.model import conditioning, metrics
from s2v.model.data.plan import Draw
from s2v.model.figures import Figures
from s2v.model.flops import Sizes
from s2v.model.parallel.world import World


@dataclass(frozen=True)
class SlotRecord:
    """One micro-batch as this process computed it.

    Attributes:
        number: of the slot in its step.
        losses: ``[B]``, on the device.
        levels: of noise, ``[B]``.
        draws: of its samples.
        references: how many each has.
        hidden: what was not shown.
        sizes: of its samples, as arithmetic counts them.
    """

    number: int
    losses: Tensor
    levels: Sequence[float]
    draws: Sequence[Draw]
    references: Sequence[int]
    hidden: Sequence[conditioning.Hidden]
    sizes: Sequence[Sizes] = ()


@dataclass(frozen=True)
class StepRecord:
    """One step as this process computed it.

    Attributes:
        step: its number, from 1.
        norm: of all gradients, 0-dim, on the device.
        slots: of this process.
        waited: seconds in which this process had no samples.
        loads: predicted cost of each data-parallel process.
        more: what rank 0 adds to the line.
    """

    step: int
    norm: Tensor
    slots: Sequence[SlotRecord]
    waited: float = 0.0
    loads: Sequence[float] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


class Records:
    """Steps that have not been written yet.

    Attributes:
        counts: of dropout states, sources and samples since step 0; whole on rank 0 only.
    """

    def __init__(self, world: World, counts: Mapping[str, int], figures: Figures) -> None:
        self._world, self._figures = world, figures
        self._began = time.perf_counter()
        self._steps: list[StepRecord] = []
        self.counts: Counter[str] = Counter(counts)

    def add(self, record: StepRecord) -> None:
        """Keep one; nothing waits."""
        self._steps.append(record)

    def flush(self) -> list[dict[str, Any]]:
        """The lines of all steps since the last call; on other ranks than 0 there are none.

        All processes must call it after the same step.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return []
        parts = [part for s in steps for part in (s.norm.reshape(1), *(x.losses for x in s.slots))]
        values = iter(torch.cat([p.detach().double().flatten() for p in parts]).tolist())
        own = [(next(values), [_plain(x, values) for x in s.slots], s.waited) for s in steps]
        # The device has done them all now: only their mean is known of the time each took.
        seconds = (time.perf_counter() - self._began) / len(steps)
        # Processes that share a sample's tokens have the same to tell.
        told = self._world.gather(own)[:: self._world.cp]
        if not self._world.first:
            return []
        lines = []
        for i, record in enumerate(steps):
            slots = [slot for rank in told for slot in rank[i][1]]
            line = self._line(record, own[i][0], sorted(slots, key=lambda s: int(s["number"])))
            line["figures"] = self._figures.step(
                [size for slot in slots for size in slot["sizes"]],
                seconds,
                waited=max(rank[i][2] for rank in told),
                loads=record.loads,
            )
            lines.append(line)
        return lines

    def resume(self) -> None:
        """Count time from here: what was done since the last flush was no training."""
        self._began = time.perf_counter()

    def _line(self, record: StepRecord, norm: float, slots: list[dict[str, Any]]) -> dict[str, Any]:

        def joined(name: str) -> list[Any]:
            return [value for slot in slots for value in slot[name]]

        values, sources = joined("losses"), joined("sources")
        for slot in slots:
            self.counts.update(slot["tally"])
        self.counts.update(f"source {source}" for source in sources)
        return {
            "step": record.step,
            "loss": sum(values) / len(values),
            "loss_by_pair": metrics.by_group(values, sources),
            "loss_by_level": metrics.by_group(values, map(metrics.level_bin, joined("levels"))),
            "loss_by_references": metrics.by_group(values, map(str, joined("references"))),
            "hidden": conditioning.rates(self.counts),
            "grad_norm": norm if math.isfinite(norm) else None,
            "epochs": dict(zip(sources, joined("epochs"), strict=True)),
            **record.more,
        }


def _plain(slot: SlotRecord, values: Iterable[float]) -> dict[str, Any]:
    """What other processes are told; ``values`` gives the losses."""
    walk = iter(values)
    return {
        "number": slot.number,
        "losses": [next(walk) for _ in range(slot.losses.numel())],
        "levels": list(slot.levels),
        "sources": [d.source for d in slot.draws],
        "epochs": [d.epoch for d in slot.draws],
        "references": list(slot.references),
        "sizes": list(slot.sizes),
        "tally": dict(conditioning.tally(slot.hidden)),
    }
