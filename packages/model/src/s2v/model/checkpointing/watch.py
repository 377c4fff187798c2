"""When a checkpoint is due, agreed on by all processes.

Clocks differ, signals reach one process before another, and each learns on its own that a save
failed. If one acted alone the others would wait for it for ever, so they ask one another after
every step: three numbers, the largest counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Asked:
    """What all processes are to do after a step.

    Attributes:
        save: write a checkpoint.
        signal: number of a signal that one of them got; 0 without.
        failed: the last save in the background failed.
    """

    save: bool
    signal: int
    failed: bool


class Watch:
    """Knows what has been due since the last checkpoint.

    Args:
        every: steps between checkpoints.
        minutes: at most between checkpoints, by the clock of process 0; None for no such bound.
        clock: seconds that only grow.
    """

    def __init__(
        self, every: int, minutes: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.every, self.minutes, self._clock = every, minutes, clock
        self._last = clock()
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo") if together else None
        self._first = not together or dist.get_rank() == 0

    def look(self, step: int, last: bool, stop: Mapping[str, int], failed: bool) -> Asked:
        """Ask all processes.

        Args:
            step: finished steps.
            last: whether it was the last one.
            stop: ``{"signal": n}`` when this process got one.
            failed: :attr:`Saver.failed` of this process.
        """
        late = self._first and self.minutes is not None and self._overdue(self.minutes)
        said = torch.tensor([int(late), stop.get("signal", 0), int(failed)])
        if self._group is not None:
            dist.all_reduce(said, dist.ReduceOp.MAX, group=self._group)
        late_, signal, failed_ = (int(n) for n in said)
        due = step % self.every == 0 or last or bool(late_) or signal != 0
        return Asked(save=due, signal=signal, failed=bool(failed_))

    def saved(self) -> None:
        """A checkpoint was begun: the minutes start anew."""
        self._last = self._clock()

    def _overdue(self, minutes: float) -> bool:
        return self._clock() - self._last >= 60 * minutes
