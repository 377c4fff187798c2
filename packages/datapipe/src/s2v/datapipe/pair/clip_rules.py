"""Thresholds on files and on the scores of clips; what the letters mean is in :mod:`.settings`.

docs/quality.md says what these rules find and miss at their values.
"""

from __future__ import annotations

from types import NoneType
from typing import Any, Final, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

OFF: Final = "off"


class Strict(BaseModel):
    """Settings that refuse keys they do not know, and never change.

    TOML has no null: ``"off"`` stands for it where ``None`` switches a rule off.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _switched_off(cls, data: Any) -> Any:
        if not isinstance(data, dict) or OFF not in data.values():
            return data
        optional = {
            name for name, one in cls.model_fields.items() if NoneType in get_args(one.annotation)
        }
        return {
            name: None if value == OFF and name in optional else value
            for name, value in data.items()
        }


class SourceRules(Strict):
    """Rules on the file (OS2); a source that fails takes its clips along."""

    min_short_side: int | None = Field(default=None, ge=1, description="pixels; O keeps >= 480")
    min_fps: float | None = Field(default=16.0, gt=0, description="videos; OS2")
    min_bits_per_pixel: float | None = Field(default=0.02, gt=0, description="videos; OS2")
    max_aspect: float | None = Field(default=3.0, ge=1, description="long side / short side; OS2")


class ClipRules(Strict):
    """Rules on a clip's scores; those of the sequential scan are asked of videos only."""

    min_seconds: float = Field(default=2.0, ge=0, description="O and OS2")
    max_seconds: float = Field(default=10.0, gt=0, description="O; our shots are split there")
    min_motion: float | None = Field(
        default=0.002,
        description="frame heights per second; ours (P names the filter, not the value)",
    )
    max_motion: float | None = Field(default=3.0, description="frame heights per second; ours")
    max_motion_peak: float | None = Field(
        default=None, description="95th percentile of the same; off: one jolt is no fault of a clip"
    )
    min_luma: float | None = Field(default=0.06, description="mean, 0..1; ours")
    max_luma: float | None = Field(default=0.94, description="mean, 0..1; ours")
    min_contrast: float | None = Field(default=0.03, description="luma_std, 0..1; ours")
    max_black: float | None = Field(default=0.3, description="share of frames; ours")
    max_freeze: float | None = Field(
        default=0.95, description="share of frames; animation holds frames, so loose; ours"
    )
    max_text_share: float | None = Field(default=0.02, description="of the cropped frame; VXF 0.02")
    max_subtitle_share: float | None = Field(
        default=0.003, description="of the cropped frame; P drops subtitled clips; value ours"
    )
    max_watermark_share: float | None = Field(
        default=0.003,
        description="of the cropped frame, videos; SV and HC name the filter, value ours",
    )
    min_crop_kept: float | None = Field(
        default=None, description="share of the frame inside the crop; a pillarboxed phone has 0.32"
    )
    min_blur: float | None = Field(
        default=6.0,
        description="variance of the Laplacian at 480 px; OS2 and SV name the filter, value ours",
    )
    max_blockiness: float | None = Field(
        default=0.5, description="0 without blocks, videos; value ours"
    )
    max_exposure_low: float | None = Field(
        default=0.7, description="share of crushed pixels, videos; ours"
    )
    max_exposure_high: float | None = Field(
        default=0.6,
        description="share of blown pixels, videos; products stand on white, so loose; ours",
    )
    min_saturation: float | None = Field(
        default=None, description="0..1; SV names the filter; off, as black and white is no fault"
    )
    max_saturation: float | None = Field(default=None, description="0..1; SV names the filter")
    max_niqe: float | None = Field(
        default=None,
        description="off: made for photographs, rendered film lies where faults do (10 to 18)",
    )
    max_nsfw: float | None = Field(
        default=0.8, description="0..1; open_nsfw's authors call scores above it unsafe"
    )
    min_aesthetic: float | None = Field(
        default=None, description="O keeps >= 4.5; null when unmeasured"
    )
    drop_duplicates: bool = Field(
        default=True, description="of clips alike in several files keep the smallest id"
    )
    max_per_concept: int | None = Field(
        default=None,
        ge=1,
        description="videos kept per concept, the best ones; SV balances its concepts. Off: how "
        "many are too many depends on the corpus, and one film is one concept in many clips",
    )
    concept_cosine: float = Field(
        default=0.8,
        ge=-1,
        le=1,
        description="of subject and background together, to the clip that founded the concept; "
        "for the embedder in use; ours",
    )
