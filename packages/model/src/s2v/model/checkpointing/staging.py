"""What this process writes of a checkpoint, and a copy of it made while training stands still.

A tensor that several processes hold whole (the optimiser's counters; every shard of HSDP's
replicas) is written by one of them, chosen by its name, so that the work is spread and nobody
copies what another one writes.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import (
    DefaultSavePlanner,
    create_default_local_save_plan,
)
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, WriteItem
from torch.distributed.tensor import DTensor, Replicate, Shard

Tensors = Mapping[str, Mapping[str, Tensor]]


def flat(parts: Tensors) -> dict[str, Tensor]:
    """``{"model": {"w": t}}`` as ``{"model/w": t}``: one name per tensor, as torch plans them."""
    return {f"{part}/{name}": t for part, inner in parts.items() for name, t in inner.items()}


class Staging:
    """Copies on the CPU, in buffers that are kept from one save to the next."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def plan(self, parts: Tensors, rank: int, world: int, *, copy: bool) -> Planner:
        """Choose what process ``rank`` of ``world`` writes.

        Args:
            parts: plain tensors, equal on all processes, or DTensors.
            rank: of this process.
            world: number of processes.
            copy: take copies, so that training may go on; without, the tensors themselves are
                read while they are written.
        """
        tensors = {n: t for n, t in flat(parts).items() if _mine(n, t, rank, world)}
        items = create_default_local_save_plan(tensors, rank == 0).items
        items = [item for item in items if _volume(item) or not tensors[item.index.fqn].numel()]
        local = {item.index.fqn: _local(tensors[item.index.fqn]) for item in items}
        if copy:
            local = {name: self._copied(name, tensor) for name, tensor in local.items()}
            if any(t.is_cuda for t in tensors.values()):
                torch.cuda.synchronize()  # the copies were only asked for
        return Planner(items, local)

    def _copied(self, name: str, tensor: Tensor) -> Tensor:
        key = (name, tuple(tensor.shape))
        buffer = self._buffers.get(key)
        if buffer is None or buffer.dtype != tensor.dtype:
            # Pinned memory lets a GPU copy on its own, and is worth keeping: asking is slow.
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[key] = buffer
        buffer.copy_(tensor, non_blocking=tensor.is_cuda)
        return buffer


class Planner(DefaultSavePlanner):
    """Torch's planner over a plan that was made, and data that was copied, beforehand."""

    def __init__(self, items: list[WriteItem], local: Mapping[str, Tensor]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.items, self.local = items, local

    @property
    def bytes(self) -> int:
        """What this process writes, headers aside."""
        return sum(t.numel() * t.element_size() for t in self.local.values())

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        storage_meta: StorageMeta | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Nothing: all is here."""
        self.is_coordinator = is_coordinator

    def create_local_plan(self) -> SavePlan:
        """The plan made beforehand."""
        self.plan = SavePlan(self.items)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """The piece that an item means."""
        return self.local[write_item.index.fqn]


def _local(tensor: Tensor) -> Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def _volume(item: WriteItem) -> int:
    """Elements; a process of many may hold an empty piece of a short tensor."""
    data = item.tensor_data
    return data.chunk.sizes.numel() if data is not None else 0


def _mine(name: str, tensor: Tensor, rank: int, world: int) -> bool:
    lot = zlib.crc32(name.encode())
    if not isinstance(tensor, DTensor):
        return lot % world == rank
    here = tensor.device_mesh.get_coordinate()
    if here is None:
        return False
    which, copies = 0, 1
    for dim, placement in enumerate(tensor.placements):
        if isinstance(placement, Replicate):
            which = which * tensor.device_mesh.size(dim) + here[dim]
            copies *= tensor.device_mesh.size(dim)
        elif not isinstance(placement, Shard):
            raise TypeError(f"{name}: {placement} is not a state that can be saved")
    return lot % copies == which
