"""Which kernels attention may use."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final

from torch.nn.attention import SDPBackend, sdpa_kernel

from s2v.model.config_parallel import ParallelConfig

_KERNELS: Final = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def attention_kernels(config: ParallelConfig) -> AbstractContextManager[None]:
    """For as long as it is entered, ``scaled_dot_product_attention`` uses the kernels named.

    Forward and backward must both run inside: what is recomputed must be what was computed.
    Nothing but the network should: frozen encoders and the decoder are often wider per head, or
    in float32, than the fast kernels take, and would find none.
    """
    if not config.attention:
        return nullcontext()
    chosen = [_KERNELS[name] for name in config.attention]
    return sdpa_kernel(chosen, set_priority=True)
