"""A plan of a run: every layout of the devices tried, the best one explained, or a refusal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from s2v.model.config import Config
from s2v.model.devices import DEVICES, GIB, Device
from s2v.model.errors import ModelError
from s2v.model.planner import speed as speeds
from s2v.model.planner.layout import Layout, divides, layouts
from s2v.model.planner.memory import RESERVE, Counts, Memory, counts, memory, most
from s2v.model.planner.shapes import Bucket, buckets_of, sizes_of
from s2v.model.planner.speed import Speed, flops_of, recomputed, speed

#: Numbers of devices that a refusal tries to name a way out.
_MORE: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Hardware:
    """What is planned for.

    Attributes:
        gpus: number of devices.
        memory: GiB of each.
        device: what they are; None for CPUs, whose peak nobody states.
        efficiency: share of the peak to predict with.
        source: where that share comes from.
    """

    gpus: int
    memory: float
    device: Device | None
    efficiency: float
    source: str

    @property
    def room(self) -> float:
        """Bytes that a plan may fill."""
        return self.memory * GIB * (1 - RESERVE)

    @property
    def dtype(self) -> torch.dtype:
        """In which networks compute: bf16, on a CPU float32."""
        return torch.float32 if self.device is None else torch.bfloat16


@dataclass(frozen=True)
class BucketPlan:
    """One bucket on the chosen layout.

    Attributes:
        bucket: ``frames x height x width + references``.
        tokens: of video and references.
        forward, train, recomputed: operations per sample.
        most: samples of a micro-batch that fit.
        batch: samples that make a micro-batch cost about what the others cost.
        memory: GiB by part, at ``batch``.
        speed: at ``batch``; None without a known device.
    """

    bucket: str
    tokens: int
    forward: int
    train: int
    recomputed: int
    most: int
    batch: int
    memory: dict[str, float]
    speed: Speed | None


@dataclass(frozen=True)
class Tried:
    """One layout.

    Attributes:
        layout: in words.
        fits: whether one sample of the dearest bucket fits.
        why: what is in the way, with the way out; empty where it fits.
        memory: GiB of one sample of the dearest bucket, None where nothing divides.
        samples_s: predicted, over all buckets alike; None where it does not fit.
        mfu: the same.
    """

    layout: str
    fits: bool
    why: str
    memory: float | None
    samples_s: float | None
    mfu: float | None


@dataclass(frozen=True)
class Plan:
    """The answer.

    Attributes:
        gpus, device, memory: what it is planned for.
        efficiency, source: what the prediction stands on; None without a device.
        parameters, trained, frozen: of the network.
        layout: the chosen one.
        chosen: its fields.
        slots: micro-batches of a step.
        buckets: on the chosen layout, the dearest last.
        tried: all layouts, those that fit first, fastest first.
    """

    gpus: int
    device: str
    memory: float
    efficiency: float | None
    source: str | None
    parameters: int
    trained: int
    frozen: int
    layout: str
    chosen: Layout
    slots: int
    buckets: tuple[BucketPlan, ...]
    tried: tuple[Tried, ...]

    def to_json(self) -> dict[str, Any]:
        """As nested plain values."""
        return asdict(self)


def hardware(
    config: Config,
    *,
    gpus: int | None = None,
    memory: float | None = None,
    device: str | None = None,
    efficiency: float | None = None,
) -> Hardware:
    """What was said, else what the recipe is meant for.

    Args:
        config: of the run.
        gpus: number of devices.
        memory: GiB of each; where it is not given either, what the device is sold with.
        device: a name of :data:`s2v.model.devices.DEVICES`, or ``cpu``.
        efficiency: share of the dense peak.

    Raises:
        ModelError: a CPU's memory is not known.
    """
    p = config.plan
    name = device or p.device
    found = DEVICES.get(name)
    size = memory or (p.memory if device in (None, p.device) else None)
    if size is None and found is not None:
        size = found.memory
    if size is None:
        raise ModelError(f"plan: --device {name} does not say how much memory there is; give --memory")
    share = efficiency or p.efficiency
    source = "given" if share else speeds.SOURCE
    return Hardware(gpus or p.gpus, size, found, share or speeds.EFFICIENCY, source)


def plan(config: Config, on: Hardware, *, slots: int | None = None) -> Plan:
    """Try every layout and explain the fastest that fits.

    Args:
        config: of the run.
        on: the devices.
        slots: micro-batches of a step; one per data-parallel rank by default.

    Raises:
        ModelError: nothing fits or divides; the message says what would.
    """
    count, buckets = counts(config), buckets_of(config)
    per_node = on.device.per_node if on.device else on.gpus
    found = [
        (layout, _tried(config, count, layout, on, buckets, slots))
        for layout in layouts(on.gpus, per_node, compiled=on.device is not None)
    ]
    fitting = [pair for pair in found if pair[1].fits]
    if not fitting:
        raise ModelError(_refusal(config, on, slots, [tried for _, tried in found]))
    # Python's sort is stable: of equally fast ones the plainest stands first.
    fitting.sort(key=lambda pair: -(pair[1].samples_s or 0.0))
    best = fitting[0][0]
    others = [tried for _, tried in found if not tried.fits]
    return Plan(
        gpus=on.gpus,
        device=on.device.title if on.device else "CPU",
        memory=on.memory,
        efficiency=on.efficiency if on.device else None,
        source=on.source if on.device else None,
        parameters=count.parameters,
        trained=count.trained,
        frozen=count.frozen,
        layout=str(best),
        chosen=best,
        slots=slots or best.data,
        buckets=_explained(config, count, best, on, buckets, slots),
        tried=(*(tried for _, tried in fitting), *others),
    )


def _tried(
    config: Config,
    count: Counts,
    layout: Layout,
    on: Hardware,
    buckets: Sequence[Bucket],
    slots: int | None,
) -> Tried:
    why = divides(config, layout, slots or layout.data)
    if why is not None:
        return Tried(str(layout), False, why, None, None, None)
    one = memory(config, count, layout, buckets[-1], 1, on.dtype)
    size = one.total / GIB
    if one.total > on.room:
        return Tried(str(layout), False, _too_much(one, on), size, None, None)
    each = _explained(config, count, layout, on, buckets, slots)
    speeds = [b.speed for b in each if b.speed]
    if not speeds:
        return Tried(str(layout), True, "", size, None, None)
    seconds = sum(1 / s.samples_s for s in speeds)
    done = sum(b.train for b in each)
    assert on.device is not None  # speeds are predicted for known devices only
    mfu = done / seconds / (on.device.peak * on.gpus)
    return Tried(str(layout), True, "", size, len(speeds) / seconds, mfu)


def _too_much(one: Memory, on: Hardware) -> str:
    parts = sorted(asdict(one).items(), key=lambda part: -part[1])[:2]
    said = ", ".join(f"{name} {size / GIB:.0f}" for name, size in parts)
    return f"needs {one.total / GIB:.0f} of {on.room / GIB:.0f} GiB ({said})"


def _explained(
    config: Config,
    count: Counts,
    layout: Layout,
    on: Hardware,
    buckets: Iterable[Bucket],
    slots: int | None,
) -> tuple[BucketPlan, ...]:
    """Batches that cost about alike: what fits of the dearest bucket sets the cost."""
    rows = []
    for bucket in buckets:
        sizes = sizes_of(config, bucket)
        flops = flops_of(config, sizes)
        fits = most(config, count, layout, bucket, on.room, on.dtype)
        rows.append((bucket, flops, fits))
    cost = rows[-1][1].train * rows[-1][2]
    out = []
    for bucket, flops, fits in rows:
        batch = max(1, min(fits, round(cost / flops.train)))
        held = memory(config, count, layout, bucket, batch, on.dtype)
        predicted = None
        if on.device is not None:
            predicted = speed(
                config, count, layout, on.device, bucket, batch=batch,
                slots=slots or layout.data, efficiency=on.efficiency,
            )  # fmt: skip
        out.append(
            BucketPlan(
                bucket=str(bucket),
                tokens=flops.tokens,
                forward=flops.forward,
                train=flops.train,
                recomputed=recomputed(flops, layout.checkpointing),
                most=fits,
                batch=batch,
                memory={name: size / GIB for name, size in asdict(held).items()}
                | {"total": held.total / GIB},
                speed=predicted,
            )
        )
    return tuple(out)


def _refusal(config: Config, on: Hardware, slots: int | None, tried: Sequence[Tried]) -> str:
    """Why nothing fits, and the nearest changes that would."""
    sized = [t for t in tried if t.memory is not None]
    where = f"{on.gpus} x {on.device.title if on.device else 'CPU'} of {on.memory:.0f} GiB"
    if not sized:
        return f"plan: no layout of {where} divides; {tried[0].why}"
    least = min(sized, key=lambda t: t.memory or 0.0)
    ways = _ways_out(config, on, slots)
    said = "; ".join(ways) if ways else "no single change fits; take a smaller network"
    return f"plan: nothing fits into {where}: {least.layout} {least.why}. What would fit: {said}"


def _ways_out(config: Config, on: Hardware, slots: int | None) -> list[str]:
    """Single changes that make some layout fit, each at its smallest."""
    ways = []
    for gpus in _MORE:
        if gpus > on.gpus and _any_fits(config, replace(on, gpus=gpus), slots):
            ways.append(f"--gpus {gpus}")
            break
    data = config.data
    for frames in range(data.frames - 4, 0, -4):
        if _any_fits(_with_data(config, frames=frames), on, slots):
            ways.append(f"data.frames={frames}")
            break
    if data.max_references and _any_fits(_with_data(config, max_references=0), on, slots):
        fewer = next(
            k
            for k in range(data.max_references - 1, -1, -1)
            if _any_fits(_with_data(config, max_references=k), on, slots)
        )
        ways.append(f"data.max_references={fewer}")
    return ways


def _with_data(config: Config, **changes: int) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update=changes)})


def _any_fits(config: Config, on: Hardware, slots: int | None) -> bool:
    count, bucket = counts(config), buckets_of(config)[-1]
    per_node = on.device.per_node if on.device else on.gpus
    return any(
        divides(config, layout, slots or layout.data) is None
        and memory(config, count, layout, bucket, 1, on.dtype).total <= on.room
        for layout in layouts(on.gpus, per_node, compiled=on.device is not None)
    )
