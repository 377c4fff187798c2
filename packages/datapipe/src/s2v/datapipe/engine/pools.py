"""Which stages share an actor, how many actors of each there are, and whether it all fits.

Stages that run on CPUs and follow each other share one pool; a stage with a GPU, and stages that
wait for a server, have pools of their own. All pools run at once, streaming, where their minimums
fit the cluster together; else one after the other over committed units. What cannot be placed at
all is refused before anything starts, with the numbers: Ray would wait without a word.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

RESERVED_CPUS: Final = 0.25  # for Ray Data's own tasks, so that a pool never starves them
GIB: Final = 1 << 30

Mode = Literal["auto", "stream", "phases"]


class AdmissionError(RuntimeError):
    """A plan that cannot run on this machine or cluster, refused before it starts."""


@dataclass(frozen=True)
class Need:
    """What one actor of a stage is booked with, and how many there may be.

    Attributes:
        cpus, gpus: shares are allowed.
        memory_gb: ``None`` leaves memory to Ray.
        actors: at most so many; ``None`` for as many as fit.
        served: it waits for a server, and so is kept apart from stages that compute.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float | None = None
    actors: int | None = None
    served: bool = False

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU"]
        parts += [f"{self.gpus:g} GPU"] if self.gpus else []
        parts += [f"{self.memory_gb:g} GiB"] if self.memory_gb else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Node:
    """What one machine offers."""

    cpus: float
    gpus: float = 0.0
    memory_gb: float = math.inf

    def holds(self, need: Need) -> int:
        """How many actors of ``need`` fit on it."""
        counts = [self.cpus / need.cpus]
        if need.gpus:
            counts.append(_gpu_slots(self.gpus, need.gpus))
        if need.memory_gb:
            counts.append(self.memory_gb / need.memory_gb)
        return int(min(counts) + 1e-9)


@dataclass(frozen=True)
class Pool:
    """An actor pool: its stages, how many actors, and what each is booked with."""

    stages: tuple[str, ...]
    actors: int
    need: Need

    @property
    def cpus_each(self) -> float:
        """CPUs of one actor."""
        return self.need.cpus


@dataclass(frozen=True)
class Placement:
    """Phases one after the other; the pools of a phase stream at the same time."""

    phases: tuple[tuple[Pool, ...], ...]

    def describe(self) -> list[str]:
        """One line per phase."""
        return [
            " -> ".join(f"{'+'.join(p.stages)} x{p.actors} ({p.need})" for p in phase)
            for phase in self.phases
        ]


def share_actors(stages: Sequence[tuple[str, Need]]) -> list[tuple[tuple[str, ...], Need]]:
    """Group neighbouring stages that may share an actor.

    They take turns, so the group is booked with the most CPUs and GPUs of each; but it holds all
    their models at the same time, so their memory adds up.
    """
    grouped: list[tuple[tuple[str, ...], Need]] = []
    for kind, members in itertools.groupby(stages, key=lambda item: _kind(*item)):
        found = list(members)
        needs = [need for _, need in found]
        grouped.append(
            (
                tuple(name for name, _ in found),
                Need(
                    cpus=max(n.cpus for n in needs),
                    gpus=max(n.gpus for n in needs),
                    memory_gb=sum(n.memory_gb or 0.0 for n in needs) or None,
                    actors=min((n.actors for n in needs if n.actors), default=None),
                    served=kind == "served",
                ),
            )
        )
    return grouped


def place(
    stages: Sequence[tuple[str, Need]],
    nodes: Sequence[Node],
    units: int,
    *,
    wanted: int | None = None,
    mode: Mode = "auto",
    reserved: Sequence[Need] = (),
) -> Placement:
    """Decide on pools and phases.

    Args:
        stages: name and need of every stage, in order.
        nodes: the machines of the cluster.
        units: how many units there are; more actors than units would idle.
        wanted: actors of each pool asked for by the configuration, else as many as fit.
        mode: ``stream`` insists on all pools at once, ``phases`` on one after the other.
        reserved: what others of this run (its own servers) hold of the machines.

    Raises:
        AdmissionError: an actor fits no machine, or all pools at once were insisted on and do
            not fit.
    """
    groups = share_actors(stages)
    nodes = without(nodes, reserved)
    beside = " beside the run's own servers" if reserved else ""
    cpus = sum(node.cpus for node in nodes)
    if cpus < 1:
        raise AdmissionError(
            f"the cluster ({machines(nodes)}) offers {cpus:g} CPUs{beside}; at least 1 is needed"
        )
    for names, need in groups:
        _check_fits_somewhere(names, need, nodes, beside)
        if wanted is not None and wanted * need.cpus > cpus:
            raise AdmissionError(
                f"engine.actors = {wanted} at {need.cpus:g} CPUs each, but the cluster has "
                f"{cpus:g} CPUs{beside}; lower engine.actors or leave it out"
            )
    if mode != "phases" and (len(groups) == 1 or (why := _too_much(groups, nodes)) is None):
        return Placement((_sized(groups, nodes, units, wanted),))
    if mode == "stream":
        raise AdmissionError(f"engine.mode = 'stream' does not fit: {why}; use 'auto' or 'phases'")
    return Placement(tuple(_sized([group], nodes, units, wanted) for group in groups))


def _kind(name: str, need: Need) -> str:
    if need.gpus:
        return f"gpu {name}"
    return "served" if need.served else "cpu"


def _check_fits_somewhere(
    names: tuple[str, ...], need: Need, nodes: Sequence[Node], beside: str
) -> None:
    if any(node.holds(need) for node in nodes):
        return
    best = max(nodes, key=lambda node: (node.gpus, node.cpus))
    memory = "" if best.memory_gb == math.inf else f", {best.memory_gb:.0f} GiB"
    raise AdmissionError(
        f"stage {'+'.join(names)}: one actor asks for {need}, and none of the cluster's "
        f"{machines(nodes)} offers that{beside} (the largest: {best.cpus:g} CPUs, "
        f"{best.gpus:g} GPUs{memory}); lower what its role asks for (cpus, gpus, memory_gb), or "
        "add a machine"
    )


def _too_much(groups: Sequence[tuple[tuple[str, ...], Need]], nodes: Sequence[Node]) -> str | None:
    """Why one actor of every pool cannot run at the same time, or ``None``."""
    cpus = sum(node.cpus for node in nodes)
    asked = sum(need.cpus for _, need in groups) + RESERVED_CPUS
    if asked > cpus:
        return f"{len(groups)} pools ask for {asked:g} CPUs at least, the cluster has {cpus:g}"
    free = [[node.cpus, node.gpus, node.memory_gb] for node in nodes]
    for names, need in sorted(groups, key=lambda g: (-g[1].gpus, -g[1].cpus, g[0])):
        # First fit, the largest first; fractions of a GPU must come from one GPU.
        for room in free:
            if Node(*room).holds(need):
                room[0] -= need.cpus
                room[1] -= need.gpus
                room[2] -= need.memory_gb or 0
                break
        else:
            return f"pool {'+'.join(names)} ({need}) finds no room beside the others"
    return None


def _sized(
    groups: Sequence[tuple[tuple[str, ...], Need]],
    nodes: Sequence[Node],
    units: int,
    wanted: int | None,
) -> tuple[Pool, ...]:
    """Pools of one phase: one actor each is certain, more as what is left allows."""
    cpus = sum(node.cpus for node in nodes) - RESERVED_CPUS
    if len(groups) == 1:
        names, need = groups[0]
        actors = _actors(need, sum(node.holds(need) for node in nodes), units, wanted)
        # Actors give a little each, so that the tasks that feed them are never starved.
        each = math.floor(min(need.cpus, cpus / actors) * 1000) / 1000
        return (Pool(names, actors, _with_cpus(need, each)),)
    left = cpus - sum(need.cpus for _, need in groups)
    pools = []
    for names, need in groups:
        extra = int(left / need.cpus + 1e-9)
        fits = min(1 + extra, sum(node.holds(need) for node in nodes))
        pools.append(Pool(names, _actors(need, fits, units, wanted), need))
    return tuple(pools)


def _actors(need: Need, fits: int, units: int, wanted: int | None) -> int:
    """At least one, and never more than asked for, than fit, than there is work for."""
    bounds = (wanted, need.actors, fits, units)
    return max(1, min(bound for bound in bounds if bound is not None))


def _with_cpus(need: Need, cpus: float) -> Need:
    return Need(cpus, need.gpus, need.memory_gb, need.actors, need.served)


def _gpu_slots(gpus: float, each: float) -> float:
    """Actors on the GPUs of a machine: a fraction lies on one GPU, a whole number takes whole."""
    if each >= 1:
        return gpus / each
    return math.floor(gpus) * math.floor(1 / each + 1e-9) + math.floor((gpus % 1) / each + 1e-9)


def without(nodes: Sequence[Node], taken: Sequence[Need]) -> list[Node]:
    """What is left of the machines when ``taken`` is placed on them, on the roomiest first.

    Raises:
        AdmissionError: it fits no machine.
    """
    left = list(nodes)
    for placed, need in enumerate(taken):
        n = max(
            range(len(left)), key=lambda i: (left[i].holds(need) > 0, left[i].gpus, left[i].cpus)
        )
        node = left[n]
        if not node.holds(need):
            raise AdmissionError(
                f"[serve]: {len(taken)} servers ask for {need} each, and the cluster "
                f"({machines(nodes)}) holds {placed} of them; lower serve.count, serve.cpus or "
                "serve.gpus, or add a machine"
            )
        left[n] = Node(
            node.cpus - need.cpus,
            node.gpus - need.gpus,
            node.memory_gb - (need.memory_gb or 0),
        )
    return left


def machines(nodes: Sequence[Node]) -> str:
    """How many there are, in words."""
    return f"{len(nodes)} machine{'s' if len(nodes) != 1 else ''}"


def nodes_of_cluster(described: Sequence[Mapping[str, object]]) -> list[Node]:
    """The living machines of ``ray.nodes()``."""
    found = []
    for node in described:
        resources = node.get("Resources") or {}
        if node.get("Alive") and isinstance(resources, Mapping):
            found.append(
                Node(
                    float(resources.get("CPU", 0)),
                    float(resources.get("GPU", 0)),
                    float(resources.get("memory", 0)) / GIB,  # what Ray lacks it never books
                )
            )
    return found
