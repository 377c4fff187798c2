"""Which process this is among how many, and how they agree.

Processes come from ``torchrun`` or ``jobs/train.py``; both say who is who by the same variables
(``RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT``). Without them there is one process and
nothing here talks to anybody. Ranks are numbered (replicate, shard, cp), the last fastest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from s2v.model.config_parallel import ParallelConfig
from s2v.model.errors import Interrupted, ModelError, RankError

_LOOK_S: Final = 0.1  # between two looks into the store
_MOMENT_S: Final = 3.0
_FAILED: Final = "s2v/failed"
_CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: of this process.
        size: number of processes.
        replicate: groups that each hold the whole network.
        shard: processes among which one copy is shared out, apart from ``cp``.
        cp: processes that share every sample's tokens.
        device: where this process computes.
        mesh: ``(replicate, shard * cp)``; None where nobody talks.
        sequence: group of the ``cp`` processes of this sample; None where cp is 1.
        store: key-value store of all processes; None where there is one.
    """

    rank: int = 0
    size: int = 1
    replicate: int = 1
    shard: int = 1
    cp: int = 1
    device: torch.device = _CPU
    mesh: DeviceMesh | None = None
    sequence: dist.ProcessGroup | None = None
    store: Store | None = None

    @property
    def first(self) -> bool:
        """Whether this process speaks for all: it prints and writes."""
        return self.rank == 0

    @property
    def readers(self) -> int:
        """W: processes that read samples of their own; the ``cp`` of a group read the same."""
        return self.size // self.cp

    @property
    def reader(self) -> int:
        """Which of :attr:`readers` this is."""
        return self.rank // self.cp

    def check_slots(self, slots: int) -> None:
        """Refuse a number of slots that the readers do not divide.

        Raises:
            ModelError: names a number of slots and numbers of processes that fit.
        """
        W = self.readers
        if slots % W:
            fit = [n * self.cp for n in range(1, slots + 1) if slots % n == 0]
            cp = f" ({self.size} processes, parallel.cp {self.cp})" if self.cp > 1 else ""
            raise ModelError(
                f"train.slots {slots} does not divide among {W} data-parallel processes{cp}: a new "
                f"run may set train.slots = {-(-slots // W) * W}; with {slots} start "
                f"{', '.join(map(str, fit))} processes"
            )

    def gather(self, value: Any) -> list[Any]:
        """Every process's ``value``, by rank. Plain values only; all processes must call."""
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        dist.all_gather_object(out, value)
        return out

    def alone(self, name: str, work: Callable[[], None]) -> None:
        """Rank 0 works, the others wait however long it takes.

        Args:
            name: of the work; once per run.
            work: what rank 0 does.

        Raises:
            ModelError: on the others, when rank 0 failed.
        """
        if self.store is None:
            work()
        elif self.first:
            work()
            self.store.set(f"s2v/{name}", "done")
        else:
            self._wait(self.store, [f"s2v/{name}"])

    def meet(self, name: str) -> None:
        """Wait for all processes, however long the slowest takes; no collective times out.

        Args:
            name: of the place; once per run.

        Raises:
            ModelError: another process failed.
        """
        if self.store is not None:
            self.store.set(f"s2v/{name}/{self.rank}", "here")
            self._wait(self.store, [f"s2v/{name}/{rank}" for rank in range(self.size)])

    @staticmethod
    def _wait(store: Store, keys: list[str]) -> None:
        while not store.check(keys):
            if store.check([_FAILED]):
                raise ModelError(store.get(_FAILED).decode())
            time.sleep(_LOOK_S)


@contextmanager
def begin(config: ParallelConfig, device: torch.device) -> Iterator[World]:
    """Join the other processes, and say to them why this one ended, if it fails.

    Args:
        config: the sizes.
        device: ``cpu``, or ``cuda`` for the GPU of this process's ``LOCAL_RANK``.

    Raises:
        ModelError: the sizes do not multiply to the number of processes; there is no GPU for one
            of them; or this or another
            process failed, with its rank and its reason.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    replicate, shard = _sizes(config, size)
    alone = size == 1
    if device.type == "cuda":
        device = _own_gpu()
        torch.cuda.set_device(device)
    if alone and not needs_group(config, device):
        yield World(device=device)
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(minutes=config.timeout_minutes)
    if alone:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=timeout)
    else:
        dist.init_process_group(backend, timeout=timeout)
    try:
        mesh = init_device_mesh(
            device.type, (replicate, shard * config.cp), mesh_dim_names=("replicate", "shard")
        )
        for group in mesh.get_all_groups():  # which are born with torch's own ten minutes
            dist.distributed_c10d._set_pg_timeout(timeout, group)
        world = World(
            rank=dist.get_rank(),
            size=size,
            replicate=replicate,
            shard=shard,
            cp=config.cp,
            device=device,
            mesh=mesh,
            sequence=_sequence_group(size, config.cp, timeout),
            store=None if alone else dist.distributed_c10d._get_default_store(),
        )
        with _last_words(world):
            yield world
        world.gather(None)  # rank 0 holds the store: it leaves last
    except BaseException:
        _leave(device, failed=True)
        raise
    _leave(device)


def _leave(device: torch.device, *, failed: bool = False) -> None:
    """End the talking; not where this process failed on a GPU.

    NCCL's orderly end waits for what the others are in the middle of, and they for this process.
    The end of the process itself cuts the connections.
    """
    if not (failed and device.type == "cuda"):
        dist.destroy_process_group()


def needs_group(config: ParallelConfig, device: torch.device) -> bool:
    """Whether one process alone wraps its network as many do: for bfloat16 or a meta start."""
    return bool(config.meta) or precision(config, device) is torch.bfloat16


def precision(config: ParallelConfig, device: torch.device) -> torch.dtype:
    """Of the products."""
    if config.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if config.precision == "bfloat16" else torch.float32


def _own_gpu() -> torch.device:
    """The GPU of this process's ``LOCAL_RANK``."""
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise ModelError(
            f"process {number} of this machine has no GPU: torch sees {there}; start at most that "
            "many processes on a machine, or set train.device = cpu"
        )
    return torch.device("cuda", number)


def _sizes(config: ParallelConfig, size: int) -> tuple[int, int]:
    """``(replicate, shard)``."""
    fixed = config.replicate * config.cp
    shard = config.shard if config.shard is not None else max(1, size // fixed)
    if fixed * shard != size:
        said = f"parallel.replicate {config.replicate} x shard {shard} x cp {config.cp}"
        raise ModelError(
            f"{said} = {fixed * shard}, but {size} processes were started; start "
            f"{fixed * shard}, or set shard = null and replicate x cp to a divisor of {size}"
        )
    return config.replicate, shard


def _sequence_group(size: int, cp: int, timeout: timedelta) -> dist.ProcessGroup | None:
    """The group of this process; every process takes part in making all of them."""
    if cp == 1:
        return None
    own = None
    for start in range(0, size, cp):
        ranks = list(range(start, start + cp))
        group = dist.new_group(ranks, timeout=timeout)
        if dist.get_rank() in ranks:
            own = group
    return own


@contextmanager
def _last_words(world: World) -> Iterator[None]:
    """Leave the reason of a failure in the store; say another's where that is why we fail.

    A process that dies closes its connections, so that the others fail in their next collective,
    with words that name neither. The first to fail is the one to be named.
    """
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        if world.store is None:
            raise
        if _of_the_wire(error):
            raise ModelError(_told(world.store)) from error
        told = " ".join(str(error).split()) or type(error).__name__
        reason = f"rank {world.rank}: {told}"
        first = world.store.compare_set(_FAILED, "", reason).decode() == reason
        if isinstance(error, ModelError):
            raise (RankError if first else ModelError)(reason) from error
        raise


def _told(store: Store) -> str:
    """Another's reason, if it comes within a moment."""
    until = time.monotonic() + _MOMENT_S
    try:
        while time.monotonic() < until:
            if store.check([_FAILED]):
                return str(store.get(_FAILED).decode())
            time.sleep(_LOOK_S)
    except (dist.DistError, RuntimeError):
        pass  # it was kept by the process that ended
    return "another process ended without a word; see its output above"


def _of_the_wire(error: Exception) -> bool:
    """Whether a collective failed, not what this process computes."""
    if isinstance(error, dist.DistError):
        return True
    words = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL", "Timed out")
    return isinstance(error, RuntimeError) and any(w in str(error) for w in words)
