"""How samples are encoded and described."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class WriteSettings(BaseModel):
    """Clips, reference images and the dataset's name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    short_side: int = Field(default=480, ge=16, description="pixels; clips are never enlarged")
    fps: float | None = Field(default=None, gt=0, le=240, description="null keeps the source's")
    crf: int = Field(default=20, ge=0, le=51, description="x264 quality; lower is better")
    preset: Literal[
        "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower"
    ] = Field(default="veryfast", description="x264 speed; slower is smaller")
    buckets: tuple[tuple[int, int], ...] = Field(
        default=(),
        description="heights and widths; a clip is scaled to cover the nearest in aspect ratio "
        "and cut to it so that its subjects stay inside; none keeps short_side",
    )
    max_enlarge: float = Field(
        default=1.0, ge=1, le=4, description="most that a clip may grow to fill a bucket"
    )
    frame_step: Literal[1, 4, 8] = Field(
        default=1, description="frames are a multiple of it plus one, as video VAEs want"
    )
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
        """Arguments of :func:`s2v.datapipe.base.media.cut.cut_clip`, as plain data.

        ``shape`` is there only when it is not the default, so that clips cut before it was known
        keep their names.
        """
        plain = self.model_dump(include={"short_side", "fps", "crf", "preset"})
        shape = self.model_dump(mode="json", include={"buckets", "max_enlarge", "frame_step"})
        return {**plain, "shape": shape} if self.buckets or self.frame_step > 1 else plain

    @field_validator("buckets")
    @classmethod
    def _of_whole_blocks(cls, buckets: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        for height, width in buckets:
            if min(height, width) < 16 or height % 2 or width % 2:
                raise ValueError(
                    f"bucket {height}x{width}: height and width are even and 16 at least"
                )
        return buckets
