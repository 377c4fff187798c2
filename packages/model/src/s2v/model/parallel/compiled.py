"""Every block as one compiled graph, shared by all blocks of a kind.

Whole networks are not compiled: thirty equal blocks would be one graph of thirty times the size.
A block is compiled once per kind and per set of sizes; sizes that vary between buckets become
symbols at their second value, so that the number of graphs stays small. It is logged, because
each costs minutes on a large network.
"""

from __future__ import annotations

from typing import Final

import torch
from torch._dynamo.utils import counters

from s2v.model.config import Config
from s2v.model.errors import ModelError
from s2v.model.networks import Network
from s2v.model.parallel.seam import Forward, blocks, wrap

#: Graphs of one kind of block before torch gives up, which would end the run: every size has one
#: under ``compile_dynamic = "never"``, and training, measuring, one sample and several, with a
#: mask and without have theirs. torch's own limit is 8.
_GRAPHS: Final = 256


def compile_blocks(model: Network, config: Config) -> None:
    """Compile the forward that each block has now.

    Raises:
        ModelError: the backend is unknown, or ``network.masking = "packed"``, whose sizes depend
            on data.
    """
    p = config.parallel
    if not p.compile:
        return
    if config.network.kind == "mmdit" and config.network.masking == "packed":
        raise ModelError(
            "parallel.compile: network.masking = 'packed' cuts rows to sizes that only the data "
            "tells, which no graph has; set it to 'bias'"
        )
    known = torch._dynamo.list_backends(exclude_tags=())
    if p.compile_backend not in known:
        raise ModelError(
            f"parallel.compile_backend {p.compile_backend!r}: not one of {', '.join(sorted(known))}"
        )
    dynamic = None if p.compile_dynamic == "auto" else False
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _GRAPHS)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, 16 * _GRAPHS)

    def compiled(forward: Forward) -> Forward:
        out: Forward = torch.compile(
            forward, fullgraph=True, backend=p.compile_backend, dynamic=dynamic
        )
        return out

    for block in blocks(model):
        wrap(block, compiled)


def graphs() -> int:
    """Graphs compiled so far in this process; all but the first of each kind are recompiles."""
    return int(counters["stats"]["unique_graphs"])
