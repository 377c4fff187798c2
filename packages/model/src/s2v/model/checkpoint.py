"""Checkpoints: whole or not there, verified when read, no pickle.

``checkpoints/step-00000100/`` holds ``model ema optim``, each in the files of the processes that
wrote it, and ``state.json`` with the step, the plan, the counters and the digest of every file.
It is written under another name and renamed, so a process killed at any moment leaves the one
before as the latest. :mod:`s2v.model.checkpointing` says how; here is what others call.

A training loop::

    path = checkpoint.resume_point(folder)              # sweeps what kills left; None: begin
    with checkpoint.Saver(folder, keep) as saver:       # leaving it waits for the last save
        watch = checkpoint.Watch(every, minutes)
        ...                                             # after each step, on all processes:
        asked = watch.look(step, step == steps, signals, saver.failed)
        if asked.failed:
            saver.retry(now())
        elif asked.save:
            saver.save(now(), wait=bool(asked.signal))
        if asked.failed or asked.save:
            watch.saved()

``now()`` is a :class:`Checkpoint` of plain tensors or DTensors. To go on from ``path``::

    into = {"model": model.state_dict(), "ema": ema.weights,
            "optim": checkpoint.blank_optimiser(path, model.named_parameters())}
    saved = checkpoint.load(path, into)                 # fills them in place, whatever the mesh
    optim.load_state_tensors(model, optimiser, saved.optim)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s2v.model.checkpointing.layout import Described, describe
from s2v.model.checkpointing.loading import (
    blank_optimiser,
    load,
    load_weights,
    open_weights,
    resume_point,
)
from s2v.model.checkpointing.names import latest, sweep
from s2v.model.checkpointing.saver import Checkpoint, Saver, save
from s2v.model.checkpointing.watch import Asked, Watch
from s2v.model.mmdit import Widths

__all__ = [
    "Asked",
    "Checkpoint",
    "Described",
    "Saver",
    "Watch",
    "blank_optimiser",
    "describe",
    "latest",
    "load",
    "load_weights",
    "open_weights",
    "resume_point",
    "save",
    "sweep",
    "widths_of",
]


def widths_of(about: Mapping[str, Any]) -> Widths:
    """The network's input widths as stored."""
    return Widths(**about["widths"])
