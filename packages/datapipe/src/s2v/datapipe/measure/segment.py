"""Masks, only for boxes that survive: one or two per subject, the largest clear ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.base.media import masks
from s2v.datapipe.base.reasons import SEVERAL_BOXES
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.frame_stage import Frames, ModelStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.roles import Mask, Segment, Segmenter


class SegmentSettings(BaseModel):
    """Which boxes are worth a mask."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_side: int = Field(default=64, description="pixels; smaller boxes are not segmented")
    min_area_share: float = Field(default=0.02, description="looser than the selection's threshold")
    max_area_share: float = Field(default=0.95)
    per_subject: int = Field(default=2, ge=1, description="masks per subject, best boxes first")
    several_boxes: bool = Field(
        default=False,
        description="also the surest box of a frame on which its phrase fits several; for "
        "select.phrase.several_boxes = 'best'",
    )


class SegmentStage(ModelStage):
    """Box -> mask of the whole frame, as COCO RLE."""

    name: ClassVar[str] = "segment"
    version = 2
    reads = ("clips", "frames", "overlays", "phrases", "detections", "quality")
    writes = ("masks",)

    def __init__(
        self, segmenter: Segmenter, settings: SegmentSettings, gates: GateSettings
    ) -> None:
        super().__init__(segmenter, gates)
        self.segmenter = segmenter
        self.settings = settings

    def identity(self) -> Mapping[str, Any]:
        """Model id and settings."""
        return {**super().identity(), **self.settings.model_dump()}

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """One row per box that was segmented; an empty mask carries a reason."""
        frames = Frames(unit)
        banks = {row["subject_id"]: row["bank"] for row in unit.rows("phrases")}
        boxes = unit.by_id("detections")

        def work(clip: str) -> list[Row]:
            by_frame: dict[str, list[Row]] = {}
            for row in sorted(
                chosen(boxes[clip], self.settings), key=lambda r: str(r["detection_id"])
            ):
                by_frame.setdefault(row["frame_id"], []).append(row)
            return [
                row
                for frame, rows in sorted(by_frame.items())
                for row in self._masks(frames, frame, rows, [banks[r["subject_id"]] for r in rows])
            ]

        return {"masks": self.each(unit, boxes, work)}

    def _masks(self, frames: Frames, frame: str, rows: list[Row], banks: list[str]) -> list[Row]:
        """All boxes of a frame at once: the segmenter looks at the image once."""
        image = frames.image(frames.row(frame))
        made = self.segmenter.segment(image, [tuple(row["box"]) for row in rows], banks)
        return [_mask_row(row, one, bank) for row, one, bank in zip(rows, made, banks, strict=True)]


def chosen(detections: list[Row], settings: SegmentSettings) -> list[Row]:
    """The best boxes of each subject: usable, of fair size, by score then area."""
    by_subject: dict[str, list[Row]] = {}
    for row in detections:
        if _usable(row, settings):
            by_subject.setdefault(row["subject_id"], []).append(row)
    best = []
    for rows in by_subject.values():
        rows.sort(key=lambda row: (-row["score"], -row["area_share"], row["detection_id"]))
        frames: dict[str, Row] = {}
        for row in rows:
            frames.setdefault(row["frame_id"], row)
        best += list(frames.values())[: settings.per_subject]
    return best


def _usable(row: Row, settings: SegmentSettings) -> bool:
    ambiguous = settings.several_boxes and row["reason"] == SEVERAL_BOXES
    x0, y0, x1, y1 = row["box"]
    return bool(
        (row["reason"] is None or ambiguous)
        and min(x1 - x0, y1 - y0) >= settings.min_side
        and settings.min_area_share <= row["area_share"] <= settings.max_area_share
    )


def _mask_row(row: Row, segment: Segment, bank: str) -> Row:
    mask = segment.mask
    x0, y0, x1, y1 = row["box"]
    area = int(mask.sum())
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return {
        "detection_id": row["detection_id"],
        "clip_id": row["clip_id"],
        "rle": masks.encode(mask)["counts"],
        "rle_height": mask.shape[0],
        "rle_width": mask.shape[1],
        "area_share": round(area / mask.size, 4),
        "box_fill": round(area / max((x1 - x0) * (y1 - y0), 1.0), 4),
        "touches_border": bool(border.mean() > 0.02),
        "score": None if segment.score is None else round(segment.score, 4),
        "reason": _fault(mask, area, bank),
    }


def _fault(mask: Mask, area: int, bank: str) -> str | None:
    if not area:
        return "empty mask"
    if bank != "thing" and masks.parts(mask) > 1:
        return "mask of several subjects"
    return None
