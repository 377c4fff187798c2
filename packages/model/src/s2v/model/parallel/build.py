"""A network as a run wants it: what learns of it, and how processes share it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from s2v.model import lora, networks, tune
from s2v.model.config import Config
from s2v.model.mmdit import Widths
from s2v.model.networks import Network
from s2v.model.parallel.compiled import compile_blocks
from s2v.model.parallel.meta import Recipes, fill
from s2v.model.parallel.recompute import recompute
from s2v.model.parallel.shard import shard
from s2v.model.parallel.ulysses import share_tokens
from s2v.model.parallel.world import World


def build(config: Config, widths: Widths, world: World, *, fresh: bool = True) -> Network:
    """Build, choose what learns, wrap the blocks, share out, fill.

    The order is fixed: what is recomputed is compiled with it, what is compiled computes on a
    process's own tokens, and FSDP gathers weights around all of it.

    Args:
        config: of the run.
        widths: of what the encoders give.
        world: the processes.
        fresh: False where a checkpoint will be loaded: then values mean nothing yet.

    Raises:
        ModelError: sizes, patterns or a file that do not fit.
    """
    torch.manual_seed(config.train.seed)  # initial weights only
    empty = world.mesh is not None and config.parallel.meta is not False
    values: dict[str, Callable[[], Tensor]] = {}
    if not empty:
        model = (networks.start if fresh else networks.build)(config, widths)
    elif fresh and config.train.start_from is not None:
        model, values = networks.stream(config, widths)
    else:
        with (recipes := Recipes()), torch.device("meta"):
            model = networks.build(config, widths)
        values = recipes.named(model) if fresh else {}
    layers = tune.apply(model, config.tune)
    if not empty:
        model = model.to(world.device)
    recompute(model, config.parallel)
    compile_blocks(model, config)
    if world.sequence is not None:
        share_tokens(model, config, world.sequence)
    if world.mesh is not None:
        shard(model, config.parallel, world)
    if empty:
        for name, value in (lora.fresh(layers, model) if fresh else {}).items():
            values[name] = partial(_given, value)
        fill(model, values, world.device)
    return model


def _given(value: Tensor) -> Tensor:
    return value
