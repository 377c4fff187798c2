"""The hardware that a recipe is meant for, which ``s2v-model plan`` takes where none is said."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from s2v.model.config_types import Positive, Size, Strict


class PlanConfig(Strict):
    """Devices; a run may be started on others."""

    gpus: Size = 1
    #: Its dense bf16 peak, memory and links stand in ``devices.py``; ``cpu`` has no peak.
    device: Literal["cpu", "a100", "h100", "h200", "b200", "gb200"] = "cpu"
    #: GiB of each; null: what the device is sold with.
    memory: Positive | None = None
    #: Share of the peak that is predicted with; null: a published one, which the plan names.
    efficiency: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
