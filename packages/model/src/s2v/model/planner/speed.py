"""How long a step takes: operations over what a device does, and what travels between devices.

Two figures. The *ceiling* takes what the best public kernels reach alone, and is not reached by
a whole step. The *prediction* takes a stated share of the device's peak, on all operations that
are done, those made again included; its default is a published figure of another code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from s2v.model.config import Config
from s2v.model.data.buckets import Bucket
from s2v.model.devices import Device
from s2v.model.flops import Flops, Sizes, mmdit_flops, product, wan_flops
from s2v.model.planner.layout import Layout
from s2v.model.planner.memory import Counts
from s2v.model.planner.shapes import sizes_of, widths_of

#: NVIDIA's Megatron trainer of Wan2.1-14B on 128 H100 (NeMo DFM's performance summary, 2026-08):
#: 325.8 of 989 dense TFLOP/s. Its FSDP2 trainer: 0.178 on 8 and 0.231 on 64.
EFFICIENCY: Final = 0.33
SOURCE: Final = "NVIDIA NeMo DFM, Wan2.1-14B on 128 H100: 325.8 of 989 TFLOP/s"

#: Shares of the peak that kernels alone reach on H100 and H200: cuDNN's or FlashAttention-3's
#: attention (620 forward, 550 backward of 989 TFLOP/s) and large products (690); estimates from
#: public kernel benchmarks.
_ATTENTION_FORWARD: Final = 620 / 989
_ATTENTION_BACKWARD: Final = 550 / 989
_PRODUCTS: Final = 690 / 989
#: A fused attention's backward makes the scores again: five products to the forward's two.
_BACKWARD_PRODUCTS: Final = 2.5
_ATTENTION_PARTS: Final = ("self-attention", "cross-attention", "attention")
_OUTSIDE: Final = ("patches", "text", "time", "image", "head", "pooled text")
#: Bytes that AdamW and the average read and write per trained parameter: four and three numbers,
#: and two more.
_OPTIMISER_BYTES: Final = 36


def flops_of(config: Config, sizes: Sizes) -> Flops:
    """Operations of one sample, without the weight gradients that ``[tune]`` does not want.

    A LoRA's own pairs are not counted: at rank 32 they are under two hundredths.
    """
    if config.network.kind == "wan":
        flops = wan_flops(config.wan, sizes)
    else:
        flops = mmdit_flops(config.network, widths_of(config), sizes)
    if config.tune.kind == "full":
        return flops
    frozen = {name: n for name, n in flops.parts.items() if name not in _ATTENTION_PARTS}
    spared = sum(frozen.values())
    if config.tune.kind == "attention":
        spared = sum(frozen.get(name, 0) for name in (*_OUTSIDE, "mlp", "modulation"))
        if config.network.kind == "mmdit":  # its single blocks' MLPs learn with the projections
            n, rows = config.network, flops.tokens + sizes.text
            rows += sizes.references * sizes.image_tokens
            spared -= 2 * n.single_layers * product(rows, n.width, n.mlp_ratio * n.width)
    return replace(flops, ungraded=flops.ungraded + spared)


def recomputed(flops: Flops, layout: Layout) -> int:
    """Operations of one sample that are done a second time."""
    if layout.recompute == "none":
        return 0
    blocks = flops.forward - sum(flops.parts.get(name, 0) for name in _OUTSIDE)
    if layout.recompute == "full":
        return blocks
    if layout.every:
        return blocks // layout.every
    attention = sum(flops.parts.get(name, 0) for name in _ATTENTION_PARTS)
    again = 0 if "sdpa" in layout.keep else attention
    return again + (0 if "mm" in layout.keep else blocks - attention)


def ceiling(
    flops: Flops,
    layout: Layout,
    *,
    forward: float = _ATTENTION_FORWARD,
    backward: float = _ATTENTION_BACKWARD,
) -> float:
    """The share of the peak that the model's operations reach where every kernel runs at its best.

    Args:
        flops: of one sample.
        layout: what is made again.
        forward, backward: shares of the peak that attention's kernels reach.
    """
    attention = sum(flops.parts.get(name, 0) for name in _ATTENTION_PARTS)
    others = flops.forward - attention
    once = attention / forward + others / _PRODUCTS
    seconds = once + _BACKWARD_PRODUCTS * attention / backward + 2 * others / _PRODUCTS
    seconds += once * recomputed(flops, layout) / flops.forward
    return flops.train / seconds


@dataclass(frozen=True)
class Speed:
    """One micro-batch on one device, and a step.

    Attributes:
        compute_s: operations at the stated efficiency.
        gather_s: sharded parameters to every rank twice and gradients back once; hidden behind
            computing as far as that lasts.
        exchange_s: context parallelism's exchanges, which nothing hides.
        micro_s: of a micro-batch.
        step_s: of all slots and the optimiser.
        samples_s: of all devices.
        tokens_s: video and reference tokens, of all devices.
        mfu: the model's operations over the peak of all devices.
        ceiling: of ``mfu``, were every kernel at its best and nothing travelled.
    """

    compute_s: float
    gather_s: float
    exchange_s: float
    micro_s: float
    step_s: float
    samples_s: float
    tokens_s: float
    mfu: float
    ceiling: float


def speed(
    config: Config,
    count: Counts,
    layout: Layout,
    device: Device,
    bucket: Bucket,
    *,
    batch: int,
    slots: int,
    efficiency: float = EFFICIENCY,
) -> Speed:
    """Predict; see the module.

    Args:
        config: of the run.
        count: of its network.
        layout: over the devices.
        device: what they are.
        bucket: of every micro-batch.
        batch: samples of a micro-batch.
        slots: micro-batches of a step.
        efficiency: share of the dense peak, on all operations that are done.
    """
    sizes = sizes_of(config, bucket)
    flops = flops_of(config, sizes)
    done = batch * (flops.train + recomputed(flops, layout)) / layout.cp
    compute = done / (device.peak * efficiency)
    inside = layout.states <= device.per_node
    rate = device.link if inside else device.network
    far = (layout.states - 1) / layout.states
    # Two gatherings in bf16, one scattering in float32; copies then agree on their sums.
    gather = far * count.parameters * (2 * 2 + 4) / rate
    if layout.replicate > 1:
        gather += 2 * 4 * count.trained / layout.states / device.network
    exchange = 0.0
    if layout.cp > 1:
        width = config.wan.width if config.network.kind == "wan" else config.network.width
        layers = _layers(config)
        part = batch * flops.tokens * width * 2 / layout.cp
        exchange = 8 * layers * part * (layout.cp - 1) / layout.cp / device.link
    micro = max(compute, gather) + exchange
    optimiser = _OPTIMISER_BYTES * count.trained / layout.states / device.memory_rate
    step = slots // layout.readers * micro + optimiser
    samples = batch * slots / step
    return Speed(
        compute_s=compute,
        gather_s=gather,
        exchange_s=exchange,
        micro_s=micro,
        step_s=step,
        samples_s=samples,
        tokens_s=samples * flops.tokens,
        mfu=samples * flops.train / (device.peak * layout.world),
        ceiling=ceiling(flops, layout),
    )


def _layers(config: Config) -> int:
    n = config.network
    return config.wan.layers if n.kind == "wan" else n.double_layers + n.single_layers
