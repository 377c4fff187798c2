"""Quality scores beyond the scan, on the frames as they are used: cut to the clip's crop.

Step-Video scores blur, saturation, text, watermark, aesthetics and safety on eight frames,
Open-Sora 2.0 blur by majority of five and aesthetics on three; here all three sampled frames are
looked at, and of three values the median is a majority. There is no embedded aesthetic model, so
that column stays null; it is never filled by a stand-in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.base.embedded.niqe import Niqe
from s2v.datapipe.base.media.boxes import overlap
from s2v.datapipe.engine.stage import Row, Stage, Unit
from s2v.datapipe.measure import overlay, technical
from s2v.datapipe.measure.frame_stage import Frames
from s2v.datapipe.measure.overlay_crop import moved
from s2v.datapipe.measure.overlay_text import shrunk
from s2v.datapipe.roles import AestheticScorer, Image, SafetyScorer, TextRegions

DIGITS: Final = 4
_SAFETY_SIDE: Final = 640


class QualitySettings(BaseModel):
    """What is measured of the quality; thresholds are the selection's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    niqe: bool = Field(default=True, description="needs the asset niqe, 11 kB; off: column null")


class QualityStage(Stage):
    """Text, marks, sharpness, blocks, exposure, naturalness, aesthetics and safety of each clip."""

    name: ClassVar[str] = "quality"
    version = 3
    reads = ("clips", "frames", "overlays")
    writes = ("quality",)

    def __init__(
        self,
        settings: QualitySettings,
        text: TextRegions | None,
        safety: SafetyScorer | None,
        aesthetics: AestheticScorer | None,
    ) -> None:
        self.text = text
        self.safety = safety
        self.aesthetics = aesthetics
        self.niqe = Niqe.from_assets() if settings.niqe else None

    def identity(self) -> Mapping[str, Any]:
        """Model ids, null for a role left empty."""
        models = {
            "text": self.text,
            "safety": self.safety,
            "aesthetics": self.aesthetics,
            "niqe": self.niqe,
        }
        return {name: m.model_id if m is not None else None for name, m in models.items()}

    def setup(self) -> None:
        """Load the models."""
        for model in (self.text, self.safety, self.aesthetics, self.niqe):
            if model is not None:
                model.load()

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """One row per clip."""
        frames = Frames(unit)
        overlays = {row["clip_id"]: row for row in unit.rows("overlays")}
        rows: list[Row] = []
        for clip in unit.rows("clips"):
            with unit.guard(clip["clip_id"], self.name):
                name = clip["clip_id"]
                images = [frames.image(row) for row in frames.of(name)]
                middle = frames.image(frames.middle(name))
                found = overlays[name]
                rows.append({"clip_id": name, **self._measure(clip, images, middle, found)})
        return {"quality": rows}

    def _measure(self, clip: Row, images: Sequence[Image], middle: Image, found: Row) -> Row:
        low, high = zip(*(technical.exposure(image) for image in images), strict=True)
        return {
            **self._overlaid(clip, images, found),
            "blur": _median(images, technical.sharpness),
            "blockiness": _median(images, technical.blockiness),
            "exposure_low": round(median(low), DIGITS),
            "exposure_high": round(median(high), DIGITS),
            "saturation": _median(images, technical.saturation),
            "niqe": self.niqe.score(middle) if self.niqe is not None else None,
            "nsfw": self._nsfw(images),
            "aesthetic": self._aesthetic(images),
        }

    def _overlaid(self, clip: Row, images: Sequence[Image], found: Row) -> Row:
        """Shares of text, subtitles and static marks inside the crop."""
        crop = found["crop"]
        if crop is None:
            names = ("text_share", "subtitle_share", "watermark_share")
            return {name: found[name] for name in names}
        boxes = found["text_boxes"]
        left = any(overlap(crop, box) > 0 for box in boxes or ())
        hints = [moved(box, crop) for box in clip.get("marks") or () if overlap(box, crop) > 0]
        seen = overlay.find(images, self.text if left else None, None, hints)
        none = None if boxes is None else 0.0  # of what was not there before the cut either
        return {
            "text_share": seen.text_share() if left else none,
            "subtitle_share": seen.subtitle_share() if left else none,
            "watermark_share": seen.mark_share(),
        }

    def _nsfw(self, images: Sequence[Image]) -> float | None:
        if self.safety is None:
            return None
        scores = [self.safety.score(shrunk(image, _SAFETY_SIDE)[0]) for image in images]
        return round(max(scores), DIGITS)

    def _aesthetic(self, images: Sequence[Image]) -> float | None:
        if self.aesthetics is None:
            return None
        return round(fmean(self.aesthetics.score(images)), DIGITS)


def _median(images: Sequence[Image], score: Callable[[Image], float]) -> float:
    return round(median(score(image) for image in images), DIGITS)
