"""How a run is spread over processes, and what it spends to fit: ``[parallel]``.

The defaults are one process that does everything as it stands in the code. Nothing here changes
which samples a step sees or what it computes, only rounding; a run may go on under other values.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from s2v.model.config_types import Count, Positive, Size, Strict

Precision = Literal["auto", "float32", "bfloat16"]


class ParallelConfig(Strict):
    """Processes, precision, recomputation, compilation. ``docs/distributed.md`` is the guide."""

    replicate: Size = Field(
        default=1, description="groups of processes that each hold the whole network (HSDP)"
    )
    shard: Size | None = Field(
        default=None,
        description="processes that share one copy of the network; null: all that are left",
    )
    cp: Size = Field(
        default=1,
        description="processes that share every sample's tokens (Ulysses); divides the heads",
    )
    precision: Precision = Field(
        default="auto",
        description="of the products; weights, gradients' sums and optimiser stay float32. "
        "auto: bfloat16 on a GPU, float32 on a CPU",
    )
    reshard: bool = Field(
        default=True,
        description="give a block's gathered weights back after its forward: less memory, one "
        "more gathering in the backward",
    )
    prefetch_forward: Count = Field(
        default=0,
        description="blocks whose weights are asked for ahead in the forward; 0: torch's choice",
    )
    prefetch_backward: Count = Field(default=0, description="the same in the backward")
    reduce_every_slot: bool = Field(
        default=True,
        description="share gradients after every micro-batch; false: once a step, for the memory "
        "of a whole gradient per process",
    )
    recompute: Literal["none", "full", "selective"] = Field(
        default="none", description="activations made again in the backward instead of kept"
    )
    recompute_every: Count = Field(
        default=0,
        description="selective: every n-th block in full; 0: all blocks, but recompute_keep kept",
    )
    recompute_keep: tuple[Literal["sdpa", "mm"], ...] = Field(
        default=("sdpa", "mm"), description="selective: operations whose results are kept"
    )
    compile: bool = Field(default=False, description="torch.compile of every block, as one graph")
    compile_backend: str = Field(default="inductor", description="of torch.compile")
    compile_dynamic: Literal["auto", "never"] = Field(
        default="auto",
        description="sizes that vary become symbols at their second value (auto), or every size "
        "has its own graph (never)",
    )
    meta: bool | None = Field(
        default=None,
        description="start without memory and fill each process's share tensor by tensor; null: "
        "where the network is sharded",
    )
    attention: tuple[Literal["cudnn", "flash", "efficient", "math"], ...] = Field(
        default=(),
        description="kernels that scaled_dot_product_attention may use, best first; (): torch's",
    )
    timeout_minutes: Positive = Field(
        default=30.0, description="a collective that takes longer ends the run: a process hangs"
    )
