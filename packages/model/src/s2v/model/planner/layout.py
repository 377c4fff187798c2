"""How a run is laid over devices: what divides what, and which layouts there are to try."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from s2v.model.config import Config

Checkpointing = Literal["none", "selective", "full"]
CHECKPOINTING: tuple[Checkpointing, ...] = ("none", "selective", "full")


@dataclass(frozen=True)
class Layout:
    """One way to lay a run over its devices.

    Attributes:
        replicate: whole copies of the sharded states (HSDP); 1 is plain FSDP.
        shard: data-parallel ranks that share one copy.
        context: ranks that share one sample's tokens (Ulysses).
        checkpointing: which activations are made again in the backward.
        compiled: blocks are compiled.
    """

    replicate: int
    shard: int
    context: int
    checkpointing: Checkpointing
    compiled: bool = True

    @property
    def world(self) -> int:
        """Devices."""
        return self.replicate * self.shard * self.context

    @property
    def data(self) -> int:
        """Ranks that see different samples."""
        return self.replicate * self.shard

    @property
    def states(self) -> int:
        """Ranks that one copy of parameters, gradients, optimiser and average lies on."""
        return self.shard * self.context

    def __str__(self) -> str:
        kind = "HSDP" if self.replicate > 1 else "FSDP" if self.states > 1 else "one device"
        size = f" {self.replicate}x{self.shard}" if self.replicate > 1 else f" {self.shard}"
        size = "" if kind == "one device" else size
        context = f", CP {self.context}" if self.context > 1 else ""
        return f"{kind}{size}{context}, AC {self.checkpointing}"


def heads_of(config: Config) -> int:
    """Attention heads of the network."""
    return config.wan.heads if config.network.kind == "wan" else config.network.heads


def divides(config: Config, layout: Layout, slots: int) -> str | None:
    """Why a layout is impossible, with the way out; None where all divides."""
    heads = heads_of(config)
    if heads % layout.context:
        near = [d for d in range(1, heads + 1) if heads % d == 0]
        return (
            f"context parallelism {layout.context} does not divide the {heads} heads; "
            f"take one of {', '.join(map(str, near))}"
        )
    windowed = config.network.kind == "mmdit" and config.network.attention == "window"
    if layout.context > 1 and windowed:
        return "context parallelism splits full attention; set network.attention = 'full', or 1"
    if slots % layout.data:
        return (
            f"{slots} slots do not divide over {layout.data} data-parallel ranks; "
            f"take a multiple of {layout.data} slots"
        )
    return None


def layouts(gpus: int, per_node: int, *, compiled: bool = True) -> Iterator[Layout]:
    """Every layout of so many devices, context groups inside a node, plainest first."""
    for checkpointing in CHECKPOINTING:
        for context in _divisors(gpus):
            if context > per_node:
                continue
            data = gpus // context
            for shard in reversed(_divisors(data)):
                yield Layout(data // shard, shard, context, checkpointing, compiled)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
