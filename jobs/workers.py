"""One process per GPU (or per CPU slot) of a Ray cluster, told who it is as ``torchrun`` would.

Why not ``ray.train``: all that is wanted of Ray is a set of machines with room for every process at
once, a meeting place, and an end for all when one ends. A placement group is the first, the rest is
this file. The trainer stays the program that ``torchrun`` starts, in a process of its own: signals
reach it, a crash frees its GPU, and it imports no Ray.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_GRACE_S: Final = 120.0  # for a checkpoint after SIGTERM
_TAIL: Final = 30  # lines of a process that are kept for its last words


@dataclass(frozen=True)
class Place:
    """Where a process runs.

    Attributes:
        node: Ray's id of the machine.
        address: of the machine.
        gpus: ids of the GPUs it was given.
    """

    node: str
    address: str
    gpus: tuple[str, ...]


class Worker:
    """Holds one place of the cluster and runs one process there. A Ray actor."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lines: deque[str] = deque()
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._asked = False

    def place(self) -> Place:
        """Where this is."""
        import ray

        gpus = tuple(str(gpu) for gpu in ray.get_gpu_ids())
        address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray's omission
        return Place(ray.get_runtime_context().get_node_id(), address, gpus)

    def port(self) -> int:
        """A port that is free on this machine now."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            port: int = probe.getsockname()[1]
            return port

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, list[str]]:
        """Run a program to its end; returns its status and its last lines."""
        self._process = subprocess.Popen(
            list(command), env={**os.environ, **environment}, text=True, bufsize=1,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if self._asked:
            self._process.send_signal(signal.SIGTERM)
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        for line in self._process.stdout:
            self._lines.append(line)
            self._tail.append(line.rstrip("\n"))
        return self._process.wait(), list(self._tail)

    def news(self) -> list[str]:
        """Lines since the last call."""
        out = []
        while self._lines:
            out.append(self._lines.popleft())
        return out

    def stop(self) -> None:
        """Ask the program to save and end; end it for good when it takes too long."""
        self._asked = True
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)

        def kill() -> None:
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()

        threading.Thread(target=kill, daemon=True).start()


def ranked(places: Sequence[Place]) -> list[int]:
    """The order of ranks: machine by machine, so that neighbours share one where they can."""
    nodes = list(dict.fromkeys(place.node for place in places))
    return sorted(range(len(places)), key=lambda i: (nodes.index(places[i].node), i))


def environments(places: Sequence[Place], port: int) -> list[dict[str, str]]:
    """What each process is told, ranks in the order of ``places``.

    All processes of a machine see the GPUs of all of them: they copy from one another's.
    """
    told = []
    for rank, place in enumerate(places):
        beside = [r for r, other in enumerate(places) if other.node == place.node]
        own = {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(places)),
            "LOCAL_RANK": str(beside.index(rank)),
            "LOCAL_WORLD_SIZE": str(len(beside)),
            "MASTER_ADDR": places[0].address,
            "MASTER_PORT": str(port),
        }
        gpus = [gpu for r in beside for gpu in places[r].gpus]
        if gpus:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        told.append(own)
    return told


def launch(
    command: Sequence[str], workers: int, *, cpus: float, gpus: float, patience_s: float = 600.0
) -> int:
    """Run ``command`` as ``workers`` processes of one training; returns the exit status.

    The first process that fails ends all others, and is named with its last line.

    Args:
        command: program and arguments, the same on every machine.
        workers: number of processes.
        cpus: of each.
        gpus: of each; 1, or 0 for a training on CPUs.
        patience_s: how long the cluster may take to make room.

    Raises:
        SystemExit: the cluster has no room for all processes at once.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    # This file travels with its actors: a worker's path need not have it.
    by_value: Any = ray.cloudpickle.register_pickle_by_value
    by_value(sys.modules[__name__])
    room = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    group = placement_group([room] * workers, strategy="PACK")
    try:
        if not group.wait(patience_s):
            resources = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's omission
            has = {k: resources.get(k, 0.0) for k in room}
            raise SystemExit(
                f"train: the cluster has no room for {workers} processes of {room} at once "
                f"(it has {has} in all); lower --workers or --cpus-per-worker, or add machines"
            )
        actors: list[Any] = [
            ray.remote(Worker)
            .options(
                num_cpus=cpus,
                num_gpus=gpus,
                max_concurrency=3,  # runs, tells and stops at once
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=i
                ),
            )
            .remote()
            for i in range(workers)
        ]
        places = ray.get([actor.place.remote() for actor in actors])
        order = ranked(places)
        actors, places = [actors[i] for i in order], [places[i] for i in order]
        told = environments(places, ray.get(actors[0].port.remote()))
        return _attend(actors, places, command, told)
    finally:
        remove_placement_group(group)


def _attend(
    actors: list[Any], places: list[Place], command: Sequence[str], told: list[dict[str, str]]
) -> int:
    """Wait for all processes, print what they say, end all when one fails."""
    import ray

    runs = {
        actor.run.remote(list(command), own): rank
        for rank, (actor, own) in enumerate(zip(actors, told, strict=True))
    }
    asked: list[int] = []
    before = {
        s: signal.signal(s, lambda number, _frame: asked.append(number))
        for s in (signal.SIGTERM, signal.SIGINT)
    }
    status, stopping, until = 0, False, 0.0
    waiting = dict(runs)
    try:
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=0.5)
            _tell(actors, waiting.values())
            for run in done:
                rank = waiting.pop(run)
                code, last = _outcome(run)
                if code and not stopping:
                    _tell(actors, [rank])
                    where = f"rank {rank} on {places[rank].address}"
                    print(f"train: {where} ended with status {code}: {last}", file=sys.stderr)
                if code and (status == 0 or status > 128):
                    status = code if code > 0 else 128 - code
                if code and not stopping:
                    stopping, until = True, time.monotonic() + _GRACE_S + 30
                    _stop(actors, waiting.values())
            if asked and not stopping:
                stopping, until = True, time.monotonic() + _GRACE_S + 30
                _stop(actors, waiting.values())
            if stopping and time.monotonic() > until:
                break  # their placement group goes, and they with it
        _tell(actors, range(len(actors)))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status


def _outcome(run: Any) -> tuple[int, str]:
    """Status of a process and its last line that says something."""
    import ray

    try:
        code, tail = ray.get(run)
    except ray.exceptions.RayError as error:
        return 1, f"lost ({' '.join(str(error).split())[:200]})"
    return code, next((line for line in reversed(tail) if line.strip()), "without a word")


def _tell(actors: list[Any], ranks: Any) -> None:
    """Print what the processes have said: rank 0 as it is, others with their number."""
    import ray

    for rank in list(ranks):
        try:
            lines = ray.get(actors[rank].news.remote(), timeout=30)
        except ray.exceptions.RayError:
            continue  # lost: its run says so
        for line in lines:
            print(line if rank == 0 else f"[rank {rank}] {line}", end="", file=sys.stderr)
    sys.stderr.flush()


def _stop(actors: list[Any], ranks: Any) -> None:
    for rank in list(ranks):
        actors[rank].stop.remote()
