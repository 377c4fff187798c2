"""Layouts of one configuration on one kind of hardware: whether each fits, and how fast it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from s2v.model.config import Config
from s2v.model.data.buckets import Bucket
from s2v.model.devices import GIB
from s2v.model.planner.hardware import Hardware
from s2v.model.planner.layout import Layout, divides, layouts
from s2v.model.planner.memory import Memory, counts, memory, most
from s2v.model.planner.shapes import batches_of, sizes_of
from s2v.model.planner.speed import Speed, flops_of, recomputed, speed

#: How much faster a layout with context parallelism has to look; see :func:`rank`.
_CP_LOSS: Final = 1.3


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


def rank(pair: tuple[Layout, Tried]) -> float:
    """Fastest first. Python sorts stably: of equally fast ones the plainest stays before.

    Sharing a sample's tokens makes every product smaller, which is not in the prediction:
    NVIDIA's Cosmos trainer took 26 to 30 s a step with it and 20 to 23 s without, for the same
    work. So such a layout has to be a third faster to be preferred.
    """
    layout, tried = pair
    return -(tried.samples_s or 0.0) / (_CP_LOSS if layout.cp > 1 else 1.0)


def shown(bucket: Bucket) -> str:
    """``frames x height x width + references``."""
    return f"{bucket.frames}x{bucket.height}x{bucket.width}+{bucket.references}"
