"""The blocks of a network, and how their forward is wrapped.

What is done to a block (recomputing, compiling, sharing out tokens) replaces its ``forward`` by a
wrapped one: names of parameters stay, and hooks that FSDP puts around the module stay outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from s2v.model.mmdit import MMDiT
from s2v.model.networks import Network
from s2v.model.wan import WanModel

Forward = Callable[..., Any]


def blocks(model: Network) -> list[nn.Module]:
    """In the order in which they are run."""
    if isinstance(model, WanModel):
        return list(model.blocks)
    assert isinstance(model, MMDiT)  # noqa: S101 - there are two
    return [*model.double_blocks, *model.single_blocks]


def wrap(block: nn.Module, wrapper: Callable[[Forward], Forward]) -> None:
    """Put ``wrapper`` around the forward that a block has now."""
    block.forward = wrapper(block.forward)
