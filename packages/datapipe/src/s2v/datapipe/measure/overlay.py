"""What lies over the picture, and the part of the frame that is used: crop or drop.

Phantom drops clips with subtitles (figure 3), HunyuanCustom removes text, subtitles and
watermarks, Open-Sora 2.0 cuts black borders, Step-Video scores them all. Here borders are cut
away, bands and corners under subtitles and marks too where enough of the picture is left;
otherwise the frame stays whole and the selection drops the clip by its shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.base.media.boxes import area, iou
from s2v.datapipe.engine.stage import Row, Stage, Unit
from s2v.datapipe.measure import overlay_borders, overlay_crop
from s2v.datapipe.measure.frame_stage import Frames
from s2v.datapipe.measure.overlay_crop import Box
from s2v.datapipe.measure.overlay_static import Stillness
from s2v.datapipe.measure.overlay_text import covered, lines, shrunk
from s2v.datapipe.roles import Image, TextRegions

DIGITS: Final = 4
_LOWER_THIRD: Final = 2 / 3
_SAME_PLACE: Final = 0.5  # IoU of one line of text on two frames


class OverlaySettings(BaseModel):
    """What is cut away. The shares that drop a clip are thresholds of the selection."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crop: bool = Field(default=True, description="off: overlays are measured, nothing is cut away")
    min_kept: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="share of the picture inside its borders that has to be left; ours",
    )
    max_aspect: float = Field(
        default=3.0, ge=1, description="long side / short side of what is left (OS2)"
    )
    ignored: float = Field(
        default=0.002, ge=0, le=1, description="share of the frame not worth a cut; ours"
    )
    max_text: float = Field(
        default=0.02, ge=0, le=1, description="text of any kind from here on is cut away too (VXF)"
    )
    margin: float = Field(
        default=0.008, ge=0, le=0.1, description="around text and marks, share of the short side"
    )


class OverlayStage(Stage):
    """Text, static marks and borders of each clip, and the crop."""

    name: ClassVar[str] = "overlay"
    version = 2
    reads = ("clips", "frames")
    writes = ("overlays",)

    def __init__(
        self, settings: OverlaySettings, text: TextRegions | None, scan_short_side: int = 144
    ) -> None:
        """Settings, what finds text, and how exact the scan's borders are, in pixels."""
        self.settings = settings
        self.text = text
        self.scan_short_side = scan_short_side

    def identity(self) -> Mapping[str, Any]:
        """Settings and the model's id."""
        return {
            **self.settings.model_dump(),
            "scan_short_side": self.scan_short_side,
            "model": self.text.model_id if self.text is not None else None,
        }

    def setup(self) -> None:
        """Load the text detector."""
        if self.text is not None:
            self.text.load()

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """One row per clip."""
        frames = Frames(unit)
        rows: list[Row] = []
        for clip in unit.rows("clips"):
            with unit.guard(clip["clip_id"], self.name):
                images = [frames.image(row) for row in frames.of(clip["clip_id"])]
                rows.append({"clip_id": clip["clip_id"], **self._measure(clip, images)})
        return {"overlays": rows}

    def _measure(self, clip: Row, images: Sequence[Image]) -> Row:
        height, width = images[0].shape[:2]
        if any(image.shape != images[0].shape for image in images):
            raise ValueError(f"clip {clip['clip_id']}: its frames differ in size")
        still = clip["kind"] == "image"
        content = None
        if not still:  # a product on black is no picture with borders
            content = overlay_borders.refine(images, clip.get("content"), self.scan_short_side)
        found = find(images, self.text, content, clip.get("marks") or ())
        crop = None
        if self.settings.crop and not still:
            crop = self._crop((width, height), content, found)
            crop = overlay_borders.without_bars(images, crop) if crop is not None else None
        kept = 1.0 if crop is None else area(crop) / (width * height)
        return {
            "content": content,
            "text_boxes": None if found.text is None else [_rounded(b) for b in found.boxes()],
            "text_share": found.text_share(),
            "subtitle_share": found.subtitle_share(),
            "watermark_share": found.mark_share(),
            "crop": [float(v) for v in crop] if crop is not None else None,
            "crop_kept": round(kept, DIGITS),
        }

    def _crop(
        self, size: tuple[int, int], content: Box | None, found: Overlays
    ) -> overlay_crop.Crop | None:
        width, height = size
        margin = self.settings.margin * min(size)
        picture = content or (0.0, 0.0, float(width), float(height))
        bands = [
            # Two lines may come where one was seen, and lines are of all lengths.
            (picture[0], box[1] - (box[3] - box[1]) - margin, picture[2], picture[3])
            for box in found.subtitles
        ]
        if (found.subtitle_share() or 0.0) <= self.settings.ignored:
            bands = []
        marks = [overlay_crop.grown(box, margin) for box in found.marks or ()]
        if (found.mark_share() or 0.0) <= self.settings.ignored:
            marks = []
        text = [overlay_crop.grown(box, margin) for box in found.boxes()]
        return overlay_crop.choose(
            width,
            height,
            content,
            [bands + marks, bands + marks + text],
            lambda crop: found.text_left(crop) <= self.settings.max_text,
            min_kept=self.settings.min_kept,
            max_aspect=self.settings.max_aspect,
        )


@dataclass(frozen=True)
class Overlays:
    """What was found on the sampled frames, in displayed pixels.

    Attributes:
        size: width and height.
        text: boxes of text per frame; ``None`` when nothing looked for text.
        subtitles: text of the lower third that is not on all frames.
        marks: what stays the same on all frames while the camera moves; ``None`` when there is
            one frame only.
    """

    size: tuple[int, int]
    text: tuple[tuple[Box, ...], ...] | None
    subtitles: tuple[Box, ...]
    marks: tuple[Box, ...] | None

    def boxes(self) -> list[Box]:
        """Text of all frames."""
        return sorted({box for frame in self.text or () for box in frame})

    def text_share(self) -> float | None:
        """Share of the frame under text, largest of the frames."""
        if self.text is None:
            return None
        return max(covered(frame, self.size) for frame in self.text)

    def text_left(self, crop: overlay_crop.Crop) -> float:
        """Share of a crop under text, largest of the frames; 0 when nothing looked for text."""
        size = (crop[2] - crop[0], crop[3] - crop[1])
        inside = [[overlay_crop.moved(box, crop) for box in frame] for frame in self.text or ()]
        return max((covered(frame, size) for frame in inside), default=0.0)

    def subtitle_share(self) -> float | None:
        """Share of the frame under subtitles, largest of the frames."""
        if self.text is None:
            return None
        wanted = set(self.subtitles)
        return max(covered([b for b in f if b in wanted], self.size) for f in self.text)

    def mark_share(self) -> float | None:
        """Share of the frame under static marks."""
        return None if self.marks is None else covered(self.marks, self.size)


def find(
    images: Sequence[Image],
    text: TextRegions | None,
    content: Box | None,
    hints: Sequence[Sequence[float]] = (),
) -> Overlays:
    """Look for text and static marks on small copies of a clip's frames.

    Args:
        images: frames of one size.
        text: finds text; ``None`` leaves that out.
        content: the picture inside black borders, ``None`` without borders.
        hints: where the whole film has marks, in pixels; over a still scene nothing else tells.
    """
    height, width = images[0].shape[:2]
    smalls = [shrunk(image) for image in images]
    factor = smalls[0][1]
    stillness = Stillness([small for small, _ in smalls]) if len(images) > 1 else None
    marks: list[Box] | None = None
    if stillness is not None:
        hinted = stillness.marks_within([[v / factor for v in hint] for hint in hints])
        marks = [_times(box, factor) for box in dict.fromkeys([*stillness.marks(), *hinted])]
    if text is None:
        return Overlays((width, height), None, (), None if marks is None else tuple(marks))
    found = tuple(tuple(lines(image, text)) for image in images)
    subtitles: list[Box] = []
    top, bottom = (content[1], content[3]) if content else (0.0, float(height))
    lower = top + _LOWER_THIRD * (bottom - top)
    for n, boxes in enumerate(found):
        for box in boxes:
            if stillness is None or marks is None:
                continue
            if _stays(box, n, found, stillness, factor):
                if stillness.surroundings_move(_times(box, 1 / factor)):
                    marks.append(box)
            elif (box[1] + box[3]) / 2 > lower:
                subtitles.append(box)
    return Overlays(
        (width, height), found, tuple(subtitles), None if marks is None else tuple(marks)
    )


def _stays(
    box: Box, frame: int, found: Sequence[Sequence[Box]], stillness: Stillness, factor: float
) -> bool:
    """Whether a line of text has the same place on all frames, and the same letters."""
    return stillness.stays(_times(box, 1 / factor), frame) and all(
        any(iou(box, other) >= _SAME_PLACE for other in boxes) for boxes in found
    )


def _times(box: Box, factor: float) -> Box:
    return (box[0] * factor, box[1] * factor, box[2] * factor, box[3] * factor)


def _rounded(box: Sequence[float]) -> list[float]:
    return [round(v, 1) for v in box]
