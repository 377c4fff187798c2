"""The configuration of a run: typed sections, one per room; unknown keys are errors."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.measure.frames import FrameSettings
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.measure.segment import SegmentSettings
from s2v.datapipe.measure.shots import ShotSettings
from s2v.datapipe.pair.settings import SelectSettings
from s2v.datapipe.sources import SourceSpec
from s2v.datapipe.write.settings import WriteSettings


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineSettings(_Section):
    """How the work is cut and spread; nothing here changes a result."""

    actors: int | None = Field(default=None, ge=1, description="actors per pool; else one per CPU")
    cpus: int | None = Field(default=None, ge=1, description="CPUs of a local Ray; else all")
    unit_clips: int = Field(default=64, ge=1, description="clips per unit, about")
    quarantine_budget: float = Field(
        default=0.5, ge=0, le=1, description="share of a stage's ids that may be quarantined"
    )


class RoleSettings(_Section):
    """Which models fill the roles."""

    profile: Literal["embedded"] = Field(
        default="embedded", description="small CPU nets from packages"
    )
    text_regions: bool = Field(default=True, description="measure overlaid text")
    safety: bool = Field(default=True, description="measure the not-safe-for-work score")


class Settings(_Section):
    """A whole curation run."""

    folder: str = Field(default="runs/default", description="the run folder")
    sources: list[SourceSpec] = Field(default_factory=list)
    engine: EngineSettings = EngineSettings()
    roles: RoleSettings = RoleSettings()
    shots: ShotSettings = ShotSettings()
    frames: FrameSettings = FrameSettings()
    gates: GateSettings = GateSettings()
    segment: SegmentSettings = SegmentSettings()
    select: SelectSettings = SelectSettings()
    exclusions: list[str] = Field(
        default_factory=list, description="exclusion and takedown lists, JSONL"
    )
    write: WriteSettings = WriteSettings()
