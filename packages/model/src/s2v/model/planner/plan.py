"""A plan of a run: its layout explained and all others listed, or a refusal that says what fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import torch

from s2v.model.config import Config
from s2v.model.data.buckets import Bucket
from s2v.model.devices import DEVICES, GIB, Device
from s2v.model.errors import ModelError
from s2v.model.planner.layout import Layout, divides, layouts
from s2v.model.planner.memory import RESERVE, Memory, counts, encoder_bytes, memory, most
from s2v.model.planner.shapes import batches_of, sizes_of
from s2v.model.planner.speed import EFFICIENCY, SOURCE, Speed, flops_of, recomputed, speed

#: Numbers of devices that a refusal tries to name a way out.
_MORE: Final = (2, 4, 8, 16, 32, 64, 128, 256)
#: How much faster a layout with context parallelism has to look; see :func:`_rank`.
_CP_LOSS: Final = 1.3


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
        batch: samples of a micro-batch as configured.
        most: samples that would fit.
        memory: GiB by part, at ``batch``.
        speed: at ``batch``, were all slots of this bucket; None without a known device.
    """

    bucket: str
    tokens: int
    forward: int
    train: int
    recomputed: int
    batch: int
    most: int
    memory: dict[str, float]
    speed: Speed | None


@dataclass(frozen=True)
class Tried:
    """One layout.

    Attributes:
        layout: in words.
        settings: overrides that ask for it.
        fits: whether the configured micro-batches fit.
        why: what is in the way; empty where it fits.
        memory: GiB of the largest micro-batch, None where nothing divides.
        samples_s: predicted, over all buckets alike; None where it does not fit.
        mfu: the same.
    """

    layout: str
    settings: tuple[str, ...]
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
        settings: overrides that ask for it.
        slots: micro-batches of a step.
        batch: the largest ``train.batch`` that fits.
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
    settings: tuple[str, ...]
    slots: int
    batch: int
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
        raise ModelError(
            f"plan: --device {name} does not say how much memory there is; give --memory"
        )
    share = efficiency or p.efficiency
    source = "given" if share else SOURCE
    return Hardware(gpus or p.gpus, size, found, share or EFFICIENCY, source)


class Planner:
    """One configuration on one kind of hardware.

    Args:
        config: of the run.
        on: the devices.
    """

    def __init__(self, config: Config, on: Hardware) -> None:
        self.config, self.on = config, on
        self.count = counts(config)
        self.batches = batches_of(config)
        self.flops = {b: flops_of(config, sizes_of(config, b)) for b in self.batches}

    def layouts(self) -> list[Layout]:
        """All of these devices."""
        per_node = self.on.device.per_node if self.on.device else self.on.gpus
        compiled = self.config.parallel.compile
        return list(layouts(self.on.gpus, per_node, compiled=compiled))

    def tried(self, layout: Layout) -> Tried:
        """Whether it fits, and how fast it is."""
        settings = tuple(layout.settings())
        why = divides(self.config, layout, self.on.gpus, self.config.train.slots)
        if why is not None:
            return Tried(str(layout), settings, False, why, None, None, None)
        worst = self.worst(layout)
        size = worst.total / GIB
        if worst.total > self.on.room:
            return Tried(str(layout), settings, False, self._too_much(worst), size, None, None)
        rates = self._rates(layout)
        return Tried(str(layout), settings, True, "", size, *rates)

    def worst(self, layout: Layout) -> Memory:
        """Of the micro-batch that needs most."""
        found = (self._memory(layout, bucket, batch) for bucket, batch in self.batches.items())
        return max(found, key=lambda m: m.total)

    def explained(self, layout: Layout) -> tuple[BucketPlan, ...]:
        """Every bucket on this layout."""
        out = []
        for bucket, flops in self.flops.items():
            batch = self.batches[bucket]
            held = self._memory(layout, bucket, batch)
            out.append(
                BucketPlan(
                    bucket=shown(bucket),
                    tokens=flops.tokens,
                    forward=flops.forward,
                    train=flops.train,
                    recomputed=recomputed(flops, layout),
                    batch=batch,
                    most=most(self.config, self.count, layout, bucket, self.on.room, self.on.dtype),
                    memory={name: size / GIB for name, size in asdict(held).items()}
                    | {"total": held.total / GIB},
                    speed=self._speed(layout, bucket),
                )
            )
        return tuple(out)

    def _rates(self, layout: Layout) -> tuple[float | None, float | None]:
        """Samples per second and MFU, a step's slots being of all buckets alike."""
        if self.on.device is None:
            return None, None
        samples = seconds = done = 0.0
        for bucket, flops in self.flops.items():
            found = self._speed(layout, bucket)
            assert found is not None  # noqa: S101 - the device is known
            n = self.batches[bucket] * self.config.train.slots
            samples, seconds, done = samples + n, seconds + found.step_s, done + n * flops.train
        return samples / seconds, done / seconds / (self.on.device.peak * self.on.gpus)

    def _memory(self, layout: Layout, bucket: Bucket, batch: int) -> Memory:
        return memory(self.config, self.count, layout, bucket, batch, self.on.dtype)

    def _speed(self, layout: Layout, bucket: Bucket) -> Speed | None:
        if self.on.device is None:
            return None
        return speed(
            self.config, self.count, layout, self.on.device, bucket,
            batch=self.batches[bucket], slots=self.config.train.slots,
            efficiency=self.on.efficiency,
        )  # fmt: skip

    def _too_much(self, held: Memory) -> str:
        parts = sorted(asdict(held).items(), key=lambda part: -part[1])[:2]
        said = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts)
        return f"needs {held.total / GIB:.1f} of {self.on.room / GIB:.1f} GiB ({said})"


def plan(config: Config, on: Hardware, *, search: bool = False) -> Plan:
    """Explain the run's own layout on these devices, and list all others.

    Args:
        config: of the run.
        on: the devices.
        search: take the fastest layout that fits instead of the run's own.

    Raises:
        ModelError: it does not fit, or something does not divide; the message says what would.
    """
    planner = Planner(config, on)
    own = Layout.own(config, on.gpus)
    found = [(layout, planner.tried(layout)) for layout in planner.layouts()]
    fitting = sorted((p for p in found if p[1].fits), key=_rank)
    if search:
        if not fitting:
            raise ModelError(_refusal(planner, [tried for _, tried in found], None))
        own = fitting[0][0]
    verdict = planner.tried(own)
    if not verdict.fits:
        best = fitting[0][1] if fitting else None
        raise ModelError(_refusal(planner, [verdict], best))
    explained = planner.explained(own)
    return Plan(
        gpus=on.gpus,
        device=on.device.title if on.device else "CPU",
        memory=on.memory,
        efficiency=on.efficiency if on.device else None,
        source=on.source if on.device else None,
        parameters=planner.count.parameters,
        trained=planner.count.trained,
        frozen=planner.count.frozen,
        layout=str(own),
        settings=tuple(own.settings()),
        slots=config.train.slots,
        batch=explained[-1].most,
        buckets=explained,
        tried=(
            *(tried for _, tried in fitting),
            *(tried for _, tried in found if not tried.fits),
        ),
    )


def check(config: Config, gpus: int, memory_bytes: int, device: Device | None) -> None:
    """Refuse a run that cannot fit, before it is launched.

    Args:
        config: of the run.
        gpus: its processes.
        memory_bytes: of each one's device.
        device: what that is, where it is known.

    Raises:
        ModelError: as :func:`plan`.
    """
    on = Hardware(gpus, memory_bytes / GIB, device, EFFICIENCY, SOURCE)
    planner = Planner(config, on)
    verdict = planner.tried(Layout.own(config, gpus))
    if not verdict.fits:
        found = [(layout, planner.tried(layout)) for layout in planner.layouts()]
        fitting = sorted((p for p in found if p[1].fits), key=_rank)
        raise ModelError(_refusal(planner, [verdict], fitting[0][1] if fitting else None))


def _rank(pair: tuple[Layout, Tried]) -> float:
    """Fastest first. Python sorts stably: of equally fast ones the plainest stays before.

    Sharing a sample's tokens makes every product smaller, which is not in the prediction:
    NVIDIA's Cosmos trainer took 26 to 30 s a step with it and 20 to 23 s without, for the same
    work. So such a layout has to be a third faster to be preferred.
    """
    layout, tried = pair
    return -(tried.samples_s or 0.0) / (_CP_LOSS if layout.cp > 1 else 1.0)


def _refusal(planner: Planner, tried: Sequence[Tried], best: Tried | None) -> str:
    """Why it does not fit, and single changes that would make it."""
    on = planner.on
    where = f"{on.gpus} x {on.device.title if on.device else 'CPU'} of {on.memory:.0f} GiB"
    sized = [t for t in tried if t.memory is not None]
    one = min(sized, key=lambda t: t.memory or 0.0) if sized else tried[0]
    ways = [] if best is None else [" ".join(f"--set {s}" for s in best.settings)]
    if sized and best is None:
        ways = _ways_out(planner.config, on)
    said = "; or ".join(ways) if ways else "no single change is known to; take a smaller network"
    if not sized:
        said = "; or ".join([one.why.partition("; ")[2], *ways])
        return f"plan: {where}: {one.layout}: {one.why.partition('; ')[0]}. What would fit: {said}"
    return f"plan: {where}: {one.layout}: {one.why}. What would fit: {said}"


def _ways_out(config: Config, on: Hardware) -> list[str]:
    """Single changes that make some layout fit, each at its smallest."""
    ways = []
    train, data = config.train, config.data
    batch = _largest(train.batch - 1, lambda n: _any_fits(_with(config, "train", batch=n), on))
    if batch:
        ways.append(f"--set train.batch={batch}")
    if encoder_bytes(config):
        latents = _with(_with(config, "latents", use="require"), "validation", sample_every=0)
        if _any_fits(latents, on):
            ways.append(
                "s2v-model encode before, then --set latents.use=require "
                "--set validation.sample_every=0"
            )
    for gpus in _MORE:
        slots = -(-train.slots // gpus) * gpus
        if gpus > on.gpus and _any_fits(
            _with(config, "train", slots=slots), replace(on, gpus=gpus)
        ):
            ways.append(f"--gpus {gpus} (train.slots={slots})")
            break
    if not data.sizes and not data.phases:
        fewer = (data.frames - 1) // 4 - 1
        quarter = _largest(fewer, lambda n: _any_fits(_with(config, "data", frames=4 * n + 1), on))
        if quarter:
            ways.append(f"--set data.frames={4 * quarter + 1}")
    for references in range(data.max_references - 1, -1, -1):
        if _any_fits(_with(config, "data", max_references=references), on):
            ways.append(f"--set data.max_references={references}")
            break
    return ways


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest of 1 to ``most`` that fits, 0 where none does; less always needs less."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def shown(bucket: Bucket) -> str:
    """``frames x height x width + references``."""
    return f"{bucket.frames}x{bucket.height}x{bucket.width}+{bucket.references}"


def _with(config: Config, section: str, **changes: Any) -> Config:
    changed = getattr(config, section).model_copy(update=changes)
    return config.model_copy(update={section: changed})


def _any_fits(config: Config, on: Hardware) -> bool:
    """Whether some layout takes the configured micro-batches."""
    planner = Planner(config, on)
    return any(
        divides(config, layout, on.gpus, config.train.slots) is None
        and planner.worst(layout).total <= on.room
        for layout in planner.layouts()
    )
