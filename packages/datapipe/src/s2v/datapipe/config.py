"""The configuration of a run: typed sections, one per room; unknown keys are errors."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.backends.vlm.serve import VllmSettings
from s2v.datapipe.engine.pools import Mode, Need
from s2v.datapipe.measure.caption import CaptionSettings
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.measure.overlay import OverlaySettings
from s2v.datapipe.measure.quality import QualitySettings
from s2v.datapipe.measure.sampling import FrameSettings
from s2v.datapipe.measure.segment import SegmentSettings
from s2v.datapipe.measure.shots import ShotSettings
from s2v.datapipe.pair.settings import SelectSettings
from s2v.datapipe.sources import DownloadSettings, SourceSpec
from s2v.datapipe.write.settings import WriteSettings


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineSettings(_Section):
    """How the work is cut and spread; nothing here changes a result."""

    actors: int | None = Field(default=None, ge=1, description="actors per pool; else one per CPU")
    cpus: int | None = Field(default=None, ge=1, description="CPUs of a local Ray; else all")
    mode: Mode = Field(
        default="auto",
        description="stream: all actor pools at once; phases: one after the other; auto: as fits",
    )
    unit_clips: int = Field(default=64, ge=1, description="clips per unit, about")
    missing_budget: float = Field(
        default=0.1, ge=0, le=1, description="share of sources whose file may be missing"
    )
    quarantine_budget: float = Field(
        default=0.5, ge=0, le=1, description="share of a stage's ids that may be quarantined"
    )


class Backend(BaseModel):
    """The model of one role, where it runs, and the backend's own options beside them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    backend: str | None = Field(default=None, description="else the profile's; 'none' for empty")
    cpus: float = Field(default=1.0, gt=0, description="CPUs of one actor")
    gpus: float = Field(default=0.0, ge=0, description="GPUs of one actor; a fraction shares one")
    memory_gb: float | None = Field(default=None, gt=0, description="memory of one actor")
    actors: int | None = Field(default=None, ge=1, description="actors at most; else as fit")

    def need(self) -> Need:
        """What one actor is booked with."""
        return Need(self.cpus, self.gpus, self.memory_gb, self.actors)

    def options(self) -> dict[str, Any]:
        """What the backend itself is told."""
        return dict(self.model_extra or {})


class RoleSettings(_Section):
    """Which models fill the roles: a profile, and role by role what differs from it."""

    profile: Literal["embedded", "production"] = Field(
        default="embedded",
        description="embedded: small CPU nets from packages; production: models you name",
    )
    captioner: Backend = Backend()
    phrases: Backend = Backend()
    detector: Backend = Backend()
    checker: Backend = Backend()
    verifier: Backend = Backend()
    segmenter: Backend = Backend()
    faces: Backend = Backend()
    embedder: Backend = Backend()
    text_regions: Backend = Backend()
    text_reader: Backend = Backend()
    safety: Backend = Backend()
    aesthetics: Backend = Backend()
    shots: Backend = Backend()

    def chosen(self) -> dict[str, tuple[str | None, dict[str, Any]]]:
        """Role -> backend and options, as :func:`s2v.datapipe.backends.registry.fill` takes it."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name != "profile"}
        return {name: (one.backend, one.options()) for name, one in given.items()}


class ServeSettings(VllmSettings):
    """Servers of a vision-language model that the run starts for itself and ends."""

    count: int = Field(default=1, ge=1, description="servers; one per GPU, or group of them")


class Settings(_Section):
    """A whole curation run."""

    folder: str = Field(default="runs/default", description="the run folder")
    sources: list[SourceSpec] = Field(default_factory=list)
    downloads: DownloadSettings = DownloadSettings()
    engine: EngineSettings = EngineSettings()
    roles: RoleSettings = RoleSettings()
    serve: ServeSettings | None = Field(
        default=None, description="vLLM servers of the run's own, for roles that name no urls"
    )
    shots: ShotSettings = ShotSettings()
    frames: FrameSettings = FrameSettings()
    overlay: OverlaySettings = OverlaySettings()
    quality: QualitySettings = QualitySettings()
    caption: CaptionSettings = CaptionSettings()
    gates: GateSettings = GateSettings()
    segment: SegmentSettings = SegmentSettings()
    select: SelectSettings = SelectSettings()
    exclusions: list[str] = Field(
        default_factory=list, description="exclusion and takedown lists, JSONL"
    )
    exclude_copies: bool = Field(
        default=True,
        description="leave out clips that show what a clip of `s2v-data takedown` shows",
    )
    write: WriteSettings = WriteSettings()
