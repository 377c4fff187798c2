"""Memory of one device, part by part.

States are exact: numbers of parameters times bytes. Activations are read off the network
(:mod:`.activations`). What is left is estimated and says so: temporary buffers of a backward, and
a share of the device for CUDA's context, NCCL's buffers and what an allocator cannot use. None
of it was measured on a GPU yet.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Final

import torch

from s2v.model import networks, tune
from s2v.model.config import Config
from s2v.model.data.buckets import Bucket
from s2v.model.parallel import seam
from s2v.model.planner.activations import SHAPING, Kept, kept
from s2v.model.planner.layout import Layout
from s2v.model.planner.shapes import grown, sizes_of, widths_of

#: Of a device, for CUDA's context, NCCL's buffers and fragmentation: ours, an estimate.
RESERVE: Final = 0.08
_FLOAT32: Final = 4
#: Blocks that are whole at the same time under FSDP2: one at work, one on its way.
_AHEAD: Final = 2
#: Results of the largest product that a backward holds at once: what came, what goes, its float32.
_TEMPORARY: Final = 4
#: Parameters of the frozen encoders as they are loaded, and bytes of each number.
_ENCODERS: Final = {
    "umt5": 5_680_910_336,
    "clip": 630_766_080,
    "wan-vae": 126_892_531,
}


@dataclass(frozen=True)
class Counts:
    """Numbers of a network.

    Attributes:
        parameters: all.
        trained: those with gradients.
        largest_block: of the largest block.
        outside: of what is in no block.
    """

    parameters: int
    trained: int
    largest_block: int
    outside: int

    @property
    def frozen(self) -> int:
        """Parameters without gradients."""
        return self.parameters - self.trained


def counts(config: Config) -> Counts:
    """Count on the meta device: nothing is allocated.

    Raises:
        ModelError: ``[tune]`` matches nothing of the network.
    """
    return _counts(config.model_dump_json(include=SHAPING))


@lru_cache(maxsize=16)
def _counts(shape: str) -> Counts:
    config = Config.model_validate_json(shape)
    with torch.device("meta"):
        model = networks.build(config, widths_of(config))
        tune.apply(model, config.tune)
    total = sum(p.numel() for p in model.parameters())
    learns = sum(p.numel() for p in model.parameters() if p.requires_grad)
    blocks = [sum(p.numel() for p in block.parameters()) for block in seam.blocks(model)]
    return Counts(total, learns, max(blocks), total - sum(blocks))


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        parameters: the float32 masters' shard.
        gradients: their shard.
        optimiser: AdamW's two moments, their shard.
        average: the EMA, its shard.
        gathered: blocks brought together for computing, and gradients before they are scattered.
        activations: what the forward keeps for the backward, and what is made again.
        temporary: buffers of one block's backward.
        latents: noisy and clean latents, noise, prediction, text features.
        encoders: frozen encoders that stay on the device.
    """

    parameters: int
    gradients: int
    optimiser: int
    average: int
    gathered: int
    activations: int
    temporary: int
    latents: int
    encoders: int

    @property
    def total(self) -> int:
        """All parts."""
        return sum(asdict(self).values())

    @property
    def states(self) -> int:
        """What does not depend on the batch."""
        return self.total - self.activations - self.temporary - self.latents


def memory(
    config: Config, count: Counts, layout: Layout, bucket: Bucket, batch: int, dtype: torch.dtype
) -> Memory:
    """Memory of one device at the worst moment of a step.

    Args:
        config: of the run.
        count: of its network.
        layout: over the devices.
        bucket: of the micro-batch.
        batch: its samples.
        dtype: in which the network computes; parameters are kept in float32.
    """
    width = torch.empty(0, dtype=dtype).element_size()
    k = kept(config, sizes_of(config, bucket), dtype)
    share = layout.states
    trained = _FLOAT32 * count.trained // share
    T, H, W, K = grown(config, bucket)
    widths = widths_of(config)
    latents = 5 * widths.latent * (T + K) * H * W + config.encoders.text_tokens * widths.text
    exchange = 0 if layout.cp == 1 else 4 * max(k.inputs)
    return Memory(
        parameters=_FLOAT32 * count.parameters // share,
        gradients=trained if layout.each_slot else _FLOAT32 * count.trained,
        optimiser=2 * trained,
        average=_FLOAT32 * count.parameters // share,
        gathered=_gathered(count, layout, width) if share > 1 or width != _FLOAT32 else 0,
        activations=batch * (_held(k, layout) + k.outside) // layout.cp,
        temporary=batch * (_TEMPORARY * k.largest + exchange) // layout.cp,
        latents=batch * _FLOAT32 * latents,
        encoders=encoder_bytes(config),
    )


def _held(k: Kept, layout: Layout) -> int:
    """Activations at the beginning of the backward, and what its first block makes again."""
    small = [sum(parts) for parts in zip(k.products, k.attended, k.inputs, strict=True)]
    plain = small if layout.compiled else list(k.blocks)
    if layout.recompute == "none":
        return sum(plain)
    if layout.recompute == "full":
        return sum(k.inputs) + max(plain)
    if layout.every:
        again = range(0, len(plain), layout.every)
        held = sum(plain) - sum(plain[i] - k.inputs[i] for i in again)
        return held + max(plain[i] for i in again)
    parts = {"mm": k.products, "sdpa": k.attended}
    held = sum(k.inputs) + sum(sum(parts[name]) for name in layout.keep)
    return held + max(plain) - min(small)


def _gathered(count: Counts, layout: Layout, width: int) -> int:
    """Whole weights of blocks at work and on their way, and a block's gradients to be shared."""
    blocks = _AHEAD * count.largest_block if layout.reshard else count.parameters - count.outside
    return width * (blocks + count.outside) + (width + _FLOAT32) * count.largest_block


def encoder_bytes(config: Config) -> int:
    """The release's frozen encoders, where a run loads them; others are small.

    A run whose samples are encoded before and which samples nothing on the way loads none.
    """
    if config.latents.use == "require" and not config.validation.sample_every:
        return 0
    e = config.encoders
    width = 2 if e.precision == "bfloat16" else _FLOAT32
    found = sum(width * _ENCODERS[name] for name in (e.text, e.image) if name in _ENCODERS)
    return found + (_FLOAT32 * _ENCODERS["wan-vae"] if config.autoencoder.kind == "wan" else 0)


def most(
    config: Config, count: Counts, layout: Layout, bucket: Bucket, room: float, dtype: torch.dtype
) -> int:
    """The largest batch of a bucket that fits into ``room`` bytes; 0 where not one does."""
    one = memory(config, count, layout, bucket, 1, dtype)
    each = one.total - one.states
    return max(0, int((room - one.states) // each))
