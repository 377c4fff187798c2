"""Saving in the background: training stands still for a copy, not for the disk.

Every process has a saver. Its copies are written by one thread, which speaks to the other
processes through a group of its own, so that nothing it says gets between the training's words.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException

from s2v.model.checkpointing import lock, names
from s2v.model.checkpointing.staging import Planner, Staging
from s2v.model.checkpointing.storage import Writer
from s2v.model.errors import ModelError
from s2v.model.explaining import FULL, way_out

# One process is what we mean then; torch says so at every save.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninit")


@dataclass(frozen=True)
class Checkpoint:
    """All that training needs to go on.

    Attributes:
        step: finished steps.
        model: weights; plain tensors (equal on all processes) or DTensors.
        ema: their moving average.
        optim: ``<parameter>/<exp_avg|exp_avg_sq|step>``.
        state: plan, counters; JSON values, equal on all processes.
        about: network, widths of its inputs, fingerprint of the encoders; JSON values.
    """

    step: int
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    optim: Mapping[str, Tensor]
    state: Mapping[str, Any]
    about: Mapping[str, Any]

    def parts(self) -> dict[str, Mapping[str, Tensor]]:
        """The tensors, by part."""
        return {"model": self.model, "ema": self.ema, "optim": self.optim}


class Saver:
    """Writes checkpoints of one run.

    Made, and called, by all processes of a training alike.

    Args:
        folder: of all checkpoints; the same for all processes.
        keep: newest checkpoints that stay.
        asynchronous: copy and go on; without, every save waits until it is on the disk, and no
            memory is needed for copies.
        tell: takes what a user should know though training goes on; standard error by default.
        by: what else ``written_by`` says beside torch's version and the number of processes.

    Attributes:
        waited_s: seconds that training has stood still for saves, copies included.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        *,
        asynchronous: bool = True,
        tell: Callable[[str], None] | None = None,
        by: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.keep, self.asynchronous = folder, keep, asynchronous
        self.waited_s = 0.0
        self._by = dict(by or {})
        self._tell = tell or (lambda text: print(f"s2v-model: {text}", file=sys.stderr))
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.world = dist.get_world_size() if together else 1
        # Objects travel over it, from another thread: never the training's own group.
        self._group = dist.new_group(backend="gloo") if self.world > 1 else None
        self._staging = Staging()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="s2v-checkpoint")
        self._pending: Future[None] | None = None

    def save(self, checkpoint: Checkpoint, *, wait: bool = False) -> Path:
        """Write ``folder/step-<n>`` by rename; remove all but the newest ``keep``.

        A save that is still under way is waited for first. If that one failed, it is said, and
        this one is the second try: it waits until it is on the disk.

        Args:
            checkpoint: the same step on all processes.
            wait: return when it is on the disk.

        Returns:
            Where it will be.

        Raises:
            ModelError: this one (when waited for) could not be written.
        """
        began = time.monotonic()
        try:
            wait = self._told_of_failure(checkpoint.step) or wait
            copy = self.asynchronous and not wait
            plan = self._staging.plan(checkpoint.parts(), self.rank, self.world, copy=copy)
            head = {
                "step": checkpoint.step,
                "state": _plain(checkpoint.state),
                "about": _plain(checkpoint.about),
                "written_by": {
                    "torch": torch.__version__,
                    "processes": self.world,
                    **_plain(self._by),
                },
            }
            self._pending = self._thread.submit(self._write, plan, head)
            if not copy:
                self._settle()
        finally:
            self.waited_s += time.monotonic() - began
        return names.final(self.folder, checkpoint.step)

    @property
    def failed(self) -> bool:
        """Whether the save in the background has ended with an error, on this process so far.

        The processes learn of it one by one: let them agree (see :mod:`.watch`) before
        :meth:`retry` is called by all.
        """
        pending = self._pending
        return pending is not None and pending.done() and pending.exception() is not None

    def retry(self, checkpoint: Checkpoint) -> Path:
        """After a failure in the background: say it, and try once more, waiting.

        A hiccup of the storage costs nothing then; where it lasts, training ends with the
        reason while its last steps can still be told.

        Raises:
            ModelError: it failed again.
        """
        return self.save(checkpoint, wait=True)

    def close(self) -> None:
        """Wait for the last save.

        Raises:
            ModelError: it could not be written.
        """
        began = time.monotonic()
        try:
            self._settle()
        finally:
            self.waited_s += time.monotonic() - began
            self._thread.shutdown()
            lock.release(self.folder)
            if self._group is not None:
                dist.destroy_process_group(self._group)
                self._group = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        """Close. Where training ends with an error, a failed save does not hide it."""
        try:
            self.close()
        except ModelError as failed:
            if kind is None:
                raise
            self._tell(str(failed))

    def _told_of_failure(self, step: int) -> bool:
        """Wait for the save before; whether it failed, which is then said."""
        try:
            self._settle()
        except ModelError as error:
            if self.rank == 0:
                self._tell(f"{error}; trying once more at step {step}")
            return True
        return False

    def _settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, plan: Planner, head: Mapping[str, Any]) -> None:
        writer = Writer(self.folder, self.rank, head, self.keep)
        try:
            state_dict_saver.save(
                {},
                storage_writer=writer,
                planner=plan,
                process_group=self._group,
                no_dist=self.world == 1,
            )
        except CheckpointException as error:
            if self.rank == 0:
                shutil.rmtree(writer.hidden, ignore_errors=True)
            raise self._said(writer, plan, error) from None
        except RuntimeError as error:  # a connection closed: no word from the others any more
            raise ModelError(
                f"{writer.final}: not written: another process ended meanwhile ({error}); start "
                "again, it goes on from the one before"
            ) from None

    def _said(self, writer: Writer, plan: Planner, error: CheckpointException) -> ModelError:
        rank, (cause, _) = sorted(error.failures.items())[0]
        if isinstance(cause, ModelError):
            return cause
        if not isinstance(cause, OSError):
            text = f"process {rank} met {type(cause).__name__}: {cause}"
            return ModelError(f"{writer.final}: cannot write the checkpoint: {text}")
        room = ""
        if cause.errno in FULL:
            size = _told(plan.bytes * self.world)
            try:
                free = f"{_told(shutil.disk_usage(self.folder).free)} are free"
            except OSError:
                free = "how much is free is not known"
            room = f"; it needs about {size} beside the {self.keep} kept, {free}"
        way = way_out(cause.errno)
        where = f" on process {rank}" if self.world > 1 else ""
        return ModelError(
            f"{writer.final}: cannot write the checkpoint{where} "
            f"({cause}){room}; {way}, and start again: "
            + (
                "it goes on from the one before"
                if names.latest(self.folder)
                else "there is none yet"
            )
        )


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Save once, waiting; see :meth:`Saver.save`. A loop keeps a :class:`Saver` instead."""
    saver = Saver(folder, keep, asynchronous=False)
    try:
        return saver.save(checkpoint)
    finally:
        saver.close()


def _told(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that later steps do not change."""
    out: dict[str, Any] = json.loads(json.dumps(dict(values)))
    return out
