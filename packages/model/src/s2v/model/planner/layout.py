"""How a run is laid over devices: what divides what, and which layouts there are to try."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from s2v.model.config import Config

Recompute = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class Layout:
    """One way to lay a run over its devices; names as in ``[parallel]``.

    Attributes:
        replicate: whole copies of the shared states (HSDP); 1 is plain FSDP.
        shard: data-parallel ranks that share one copy.
        cp: ranks that share one sample's tokens (Ulysses).
        recompute: which activations are made again in the backward.
        compiled: blocks are compiled.
        every: ``selective``: every n-th block in full; 0: all, by operation.
        keep: ``selective`` by operation: whose results are kept.
        reshard: gathered weights are given back after a block's forward.
        each_slot: gradients are shared out after every micro-batch.
    """

    replicate: int
    shard: int
    cp: int
    recompute: Recompute
    compiled: bool = True
    every: int = 0
    keep: tuple[str, ...] = ("sdpa", "mm")
    reshard: bool = True
    each_slot: bool = True

    @classmethod
    def own(cls, config: Config, gpus: int) -> Layout:
        """What ``[parallel]`` asks for on so many devices; it need not divide."""
        p = config.parallel
        shard = p.shard if p.shard is not None else max(1, gpus // (p.replicate * p.cp))
        return cls(
            p.replicate, shard, p.cp, p.recompute, p.compile, p.recompute_every,
            p.recompute_keep, p.reshard, p.reduce_every_slot,
        )  # fmt: skip

    @property
    def world(self) -> int:
        """Devices."""
        return self.replicate * self.shard * self.cp

    @property
    def readers(self) -> int:
        """Ranks that see different samples."""
        return self.replicate * self.shard

    @property
    def states(self) -> int:
        """Ranks that one copy of parameters, gradients, optimiser and average lies on."""
        return self.shard * self.cp

    def settings(self) -> list[str]:
        """The overrides that ask for it."""
        out = [f"parallel.replicate={self.replicate}", f"parallel.shard={self.shard}"]
        out += [f"parallel.cp={self.cp}", f"parallel.recompute={self.recompute}"]
        return [*out, f"parallel.compile={str(self.compiled).lower()}"]

    def __str__(self) -> str:
        if self.replicate > 1:
            name = f"HSDP {self.replicate}x{self.shard}"
        else:
            name = f"FSDP {self.shard}" if self.states > 1 else "one device"
        cp = f", CP {self.cp}" if self.cp > 1 else ""
        return f"{name}{cp}, recompute {self.recompute}{', compiled' if self.compiled else ''}"


def heads_of(config: Config) -> tuple[str, int]:
    """Section and number of attention heads."""
    section = "wan" if config.network.kind == "wan" else "network"
    return section, config.wan.heads if section == "wan" else config.network.heads


def divides(config: Config, layout: Layout, gpus: int, slots: int) -> str | None:
    """Why a layout is impossible, with the way out; None where all divides."""
    section, heads = heads_of(config)
    if layout.world != gpus:
        return (
            f"parallel.replicate {layout.replicate} x shard {layout.shard} x cp {layout.cp} = "
            f"{layout.world}, not {gpus} devices; leave parallel.shard out, and take replicate "
            f"x cp of the divisors of {gpus}"
        )
    if heads % layout.cp:
        near = ", ".join(str(d) for d in _divisors(heads))
        return f"parallel.cp {layout.cp} does not divide {section}.heads {heads}; take {near}"
    if slots % layout.readers:
        return (
            f"train.slots {slots} does not divide among {layout.readers} data-parallel ranks; "
            f"--set train.slots={-(-slots // layout.readers) * layout.readers}"
        )
    return None


def layouts(gpus: int, per_node: int, *, compiled: bool) -> Iterator[Layout]:
    """Every layout of so many devices, context groups inside a node, plainest first.

    A compiler keeps the results of products and attention alone, which is what selective
    recomputation keeps; so the two together are not tried.
    """
    for recompute in get_args(Recompute):
        if compiled and recompute == "selective":
            continue
        for cp in _divisors(gpus):
            if cp > per_node:
                continue
            readers = gpus // cp
            for shard in reversed(_divisors(readers)):
                yield Layout(readers // shard, shard, cp, recompute, compiled)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
