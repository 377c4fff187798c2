"""How samples are encoded and described."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class WriteSettings(BaseModel):
    """Clips, reference images and the dataset's name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    short_side: int = Field(default=480, ge=16, description="pixels; clips are never enlarged")
    fps: float | None = Field(default=None, gt=0, le=240, description="null keeps the source's")
    crf: int = Field(default=20, ge=0, le=51, description="x264 quality; lower is better")
    preset: Literal[
        "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower"
    ] = Field(default="veryfast", description="x264 speed; slower is smaller")
    crop_margin: float = Field(
        default=0.1, ge=0, le=1, description="kept around the box, share of its longer side"
    )
    jpeg_quality: int = Field(default=95, ge=50, le=95, description="reference images, 4:4:4")
    max_shard_bytes: int = Field(
        default=512_000_000,
        ge=100_000,
        description="a shard that would pass it is divided; smaller values apply to old ones too",
    )
    title: str = Field(default="Subject-to-video samples", description="of the dataset card")

    def encoding(self) -> dict[str, Any]:
        """Arguments of :func:`s2v.datapipe.base.media.cut.cut_clip`."""
        return self.model_dump(include={"short_side", "fps", "crf", "preset"})
