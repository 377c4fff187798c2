"""What a run is planned for: kind, number and memory of the devices."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from s2v.model.config import Config
from s2v.model.devices import DEVICES, GIB, Device
from s2v.model.errors import ModelError
from s2v.model.planner.memory import RESERVE
from s2v.model.planner.speed import EFFICIENCY, SOURCE


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
