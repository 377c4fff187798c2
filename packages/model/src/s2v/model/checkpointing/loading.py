"""Going on from a checkpoint, in any number of processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

from s2v.model.checkpointing import layout, lock, names
from s2v.model.checkpointing.layout import Described, describe
from s2v.model.checkpointing.parts import Part, open_part, weights
from s2v.model.checkpointing.saver import Checkpoint
from s2v.model.checkpointing.staging import flat
from s2v.model.checkpointing.storage import Reader
from s2v.model.checkpoints.weights import Weights
from s2v.model.errors import ModelError

Tensors = Mapping[str, Mapping[str, Tensor]]


def resume_point(folder: Path) -> Path | None:
    """For the start of a training: sweep what kills left, then the newest checkpoint, or None.

    Process 0 looks and all others hear, so that they go on from the same one. It also keeps other
    trainings out until its :class:`Saver` is closed.

    Raises:
        ModelError: another training is at work here.
    """
    if not _together():
        lock.hold(folder)
        names.sweep(folder)
        return names.latest(folder)
    found: list[Any] = [None]
    if dist.get_rank() == 0:
        lock.hold(folder)
        names.sweep(folder)
        found = [str(path) if (path := names.latest(folder)) else None]
    dist.broadcast_object_list(found, src=0)
    return Path(found[0]) if found[0] is not None else None


def load(path: Path, into: Tensors | None = None) -> Checkpoint:
    """Read a checkpoint, its digests checked.

    Args:
        path: ``step-<n>``.
        into: tensors to be filled in place, by part and name: plain ones, or DTensors of any mesh.
            Every process reads only what it holds. Without it, one process gets whole tensors.

    Returns:
        The checkpoint, over the tensors of ``into`` where it was given.

    Raises:
        ModelError: a file is missing or changed, or the tensors are others than those saved.
    """
    described = describe(path)
    _verify(described)
    parts = {part: open_part(described, part) for part in layout.PARTS}
    if into is None:
        whole = {
            part: {name: opened.read(name).clone() for name in opened.entries}
            for part, opened in parts.items()
        }
        return _checkpoint(described, whole)
    if described.format == layout.FIRST:
        raise ModelError(
            f"{path}: written by an earlier version, whose plan of samples this one does not "
            "continue; its weights can be sampled, inspected and exported. Finish the run with "
            "the version that began it, or start another run folder"
        )
    for part, tensors in into.items():
        _same(path, part, parts[part], tensors)
    _fill(path, {part: parts[part] for part in into}, into)
    return _checkpoint(described, {part: into.get(part, {}) for part in layout.PARTS})


def blank_optimiser(
    path: Path, parameters: Iterable[tuple[str, nn.Parameter]]
) -> dict[str, Tensor]:
    """Zeros for ``load`` to fill with the optimiser's state, shaped and cut as the parameters.

    A fresh optimiser has no state to be filled. What is saved tells which parameters have one.

    Raises:
        ModelError: the checkpoint has state of a parameter that the network lacks.
    """
    held = dict(parameters)
    out: dict[str, Tensor] = {}
    part = open_part(describe(path), "optim")
    for name, entry in part.entries.items():
        of = held.get(name.rpartition("/")[0])
        if of is None:
            raise ModelError(f"{path}: has the optimiser's {name}, of no trained parameter here")
        dtype = getattr(torch, entry.dtype)
        if entry.shape == tuple(of.shape) and entry.shape:
            out[name] = torch.zeros_like(of, dtype=dtype, requires_grad=False)
        else:  # a counter, which every process holds
            out[name] = torch.zeros(entry.shape, dtype=dtype, device=of.device)
    return out


def load_weights(path: Path, which: str) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """The ``ema`` or ``model`` weights alone, whole, in one process.

    Returns:
        ``(weights, about, digest of their files)``.

    Raises:
        ModelError: as :func:`load`.
    """
    described = describe(path)
    opened = open_part(described, which, verify=True)
    # Cloned: what is mapped would lie in a file that the training may remove.
    tensors = {name: opened.read(name).clone() for name in opened.entries}
    return tensors, dict(described.about), described.digest(which)


def open_weights(path: Path, which: str, *, verify: bool = False) -> Weights:
    """The same, each tensor read when it is asked for.

    Args:
        path: ``step-<n>``.
        which: ``ema`` or ``model``.
        verify: check the digests of all of the checkpoint's files first.

    Raises:
        ModelError: no checkpoint, or a file is missing or broken.
    """
    described = describe(path)
    if verify:
        _verify(described)
    return weights(described, which)


def _verify(described: Described) -> None:
    """Compare digests, each file by one of the processes; all hear what one found."""
    files = [file for part in layout.PARTS for file in described.files[part]]
    rank, world = (dist.get_rank(), dist.get_world_size()) if _together() else (0, 1)
    faults = [layout.check(described, file) for file in files[rank::world]]
    found: list[Any] = [faults]
    if world > 1:
        found = [None] * world
        dist.all_gather_object(found, faults)
    for fault in (f for of_one in found for f in of_one if f is not None):
        raise layout.damaged(described.path, fault)


def _same(path: Path, part: str, saved: Part, wanted: Mapping[str, Tensor]) -> None:
    other = sorted(saved.entries.keys() ^ wanted.keys())
    if other:
        where = "the checkpoint lacks" if other[0] in wanted else "the network lacks the saved"
        raise ModelError(f"{path}: {part}: {where} {other[0]}, and {len(other) - 1} more differ")
    for name, entry in saved.entries.items():
        tensor = wanted[name]
        is_ = (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        if is_ != (entry.dtype, entry.shape):
            raise ModelError(
                f"{path}: {part}: {name} was saved as {entry.dtype} {entry.shape}, "
                f"here it is {is_[0]} {is_[1]}"
            )


def _fill(path: Path, parts: Mapping[str, Part], into: Tensors) -> None:
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    group = dist.new_group(backend="gloo") if _together() else None
    try:
        state_dict_loader.load(
            flat(into),
            storage_reader=Reader(parts),
            planner=planner,
            process_group=group,
            no_dist=group is None,
        )
    except CheckpointException as error:
        rank, (cause, _) = sorted(error.failures.items())[0]
        text = str(cause) if isinstance(cause, ModelError | OSError) else repr(cause)
        raise ModelError(f"{path}: process {rank} cannot read the checkpoint ({text})") from None
    finally:
        if group is not None:
            dist.destroy_process_group(group)


def _checkpoint(described: Described, parts: Tensors) -> Checkpoint:
    return Checkpoint(
        step=described.step, state=described.state, about=described.about, **dict(parts)
    )


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
