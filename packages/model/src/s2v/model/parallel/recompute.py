"""Activations made again in the backward instead of kept (Chen et al., 1604.06174).

``full`` keeps a block's inputs; ``selective`` keeps every block but each n-th whole, or, by
operation, the results of attention and of products, so that only what is cheap is made again.
Gradients are the same to the last bit: the same operations run on the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from s2v.model.config_parallel import ParallelConfig
from s2v.model.networks import Network
from s2v.model.parallel.seam import Forward, blocks, wrap

_aten = torch.ops.aten
_KEPT: Final = {
    "sdpa": {
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
        _aten._scaled_dot_product_attention_math.default,
    },
    "mm": {_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default},
}
#: Tokens that travelled between processes are not sent twice where anything is kept.
_SENT: Final = {torch.ops._c10d_functional.all_to_all_single.default}


def recompute(model: Network, config: ParallelConfig) -> int:
    """Wrap the blocks that ``[parallel] recompute*`` names; returns how many."""
    if config.recompute == "none":
        return 0
    if config.recompute == "full":
        chosen, wrapper = blocks(model), _whole
    elif config.recompute_every:
        chosen, wrapper = blocks(model)[:: config.recompute_every], _whole
    else:
        keep = set().union(*(_KEPT[name] for name in config.recompute_keep), _SENT)
        chosen, wrapper = blocks(model), partial(_but, context=partial(_contexts, keep))
    for block in chosen:
        wrap(block, wrapper)
    return len(chosen)


def _whole(forward: Forward) -> Forward:
    def again(*args: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False)

    return again


def _but(forward: Forward, *, context: Callable[[], Any]) -> Forward:
    def again(*args: Any) -> Any:
        return checkpoint(
            forward, *args, use_reentrant=False, preserve_rng_state=False, context_fn=context
        )

    return again


def _contexts(keep: set[Any]) -> Any:
    def policy(_context: Any, operation: Any, *_args: Any, **_named: Any) -> CheckpointPolicy:
        if operation in keep:
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]  # torch's
