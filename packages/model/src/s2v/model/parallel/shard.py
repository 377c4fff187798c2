"""FSDP2, block by block: each process holds its share of every tensor (Zhao et al., 2304.11277).

Gradients are *summed* over processes, never averaged: a step's loss is divided by the weight of
all its samples before it is differentiated, which is right for any number of processes and slots.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from s2v.model.config_parallel import ParallelConfig
from s2v.model.networks import Network
from s2v.model.parallel.seam import blocks
from s2v.model.parallel.world import World, precision
from s2v.model.wan import WanModel

# A single-stream block gives two views of one tensor; nobody writes into them.
warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")


def shard(model: Network, config: ParallelConfig, world: World) -> None:
    """Share a network out over ``world.mesh``, in place.

    Args:
        model: on any device, also without memory.
        config: ``precision reshard prefetch_*``.
        world: with a mesh. One replica: plain FSDP; several: HSDP, which shares inside a replica
            and sums gradients over all.
    """
    assert world.mesh is not None  # noqa: S101 - the caller has looked
    mesh = world.mesh if world.replicate > 1 else world.mesh["shard"]
    dtype = precision(config, world.device)
    # Inputs are not cast: noise levels and rotary tables stay float32, and the networks bring
    # what they are given to the type of their weights themselves.
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype is torch.float32 else dtype,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    stack = blocks(model)
    for i, block in enumerate(stack):
        # The last one is wanted again at once, by its own backward.
        again = config.reshard and i < len(stack) - 1
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=again)
    if isinstance(model, WanModel):  # the release makes the time vector in float32
        wide = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        for layers in (model.time_embedding, model.time_projection):
            fully_shard(layers, mesh=mesh, mp_policy=wide, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in units(model):
        module.set_force_sum_reduction_for_comms(True)
        module.set_gradient_divide_factor(1.0)
    _prefetch(stack, config)


def units(model: nn.Module) -> list[FSDPModule]:
    """The network and its blocks, where they are sharded."""
    return [m for m in model.modules() if isinstance(m, FSDPModule)]


def share_gradients(model: nn.Module, now: bool) -> None:
    """Whether the next backward hands its gradients on; else they wait in full on each process."""
    for module in units(model):
        module.set_requires_gradient_sync(now, recurse=False)


def reshard(model: nn.Module) -> None:
    """Give gathered weights back, so that the next forward gathers what they are then.

    A backward does it by itself; a forward without one leaves the last block's and the root's.
    """
    for module in units(model):
        module.reshard()


def _prefetch(stack: list[nn.Module], config: ParallelConfig) -> None:
    sharded: list[FSDPModule] = [m for m in stack if isinstance(m, FSDPModule)]
    for i, block in enumerate(sharded):
        if config.prefetch_forward:
            block.set_modules_to_forward_prefetch(sharded[i + 1 : i + 1 + config.prefetch_forward])
        if config.prefetch_backward:
            before = sharded[max(0, i - config.prefetch_backward) : i]
            block.set_modules_to_backward_prefetch(before[::-1])
