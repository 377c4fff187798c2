"""Boxes for the phrases on the sampled frames (paper section 3.1, step 6)."""

from __future__ import annotations

from typing import ClassVar

from s2v.datapipe.base import ids
from s2v.datapipe.base.media.boxes import area, area_share, clip, iou
from s2v.datapipe.base.reasons import SEVERAL_BOXES
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.frame_stage import Frames, ModelStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.roles import Detector, Grounding, Phrase

#: Boxes over this overlap are one region: found twice by one phrase, or one object under the names
#: of two phrases (Phantom-Data).
SUPPRESS_IOU = 0.8


class DetectStage(ModelStage):
    """Phrase <-> box, one to one on each frame; ambiguous phrases say so.

    The reasons written here only spare masks and checks: the selection asks again, with its own
    thresholds. ``segment.several_boxes`` has ambiguous boxes segmented all the same.
    """

    name: ClassVar[str] = "detect"
    version = 2
    reads = ("clips", "frames", "overlays", "phrases", "quality")
    writes = ("detections",)

    def __init__(self, detector: Detector, gates: GateSettings) -> None:
        super().__init__(detector, gates)
        self.detector = detector

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """Ground every usable phrase on every sampled frame."""
        frames = Frames(unit)
        phrases = {
            clip: usable
            for clip, rows in unit.by_id("phrases").items()
            if (usable := [row for row in rows if row["reason"] is None])
        }

        def work(clip: str) -> list[Row]:
            shown, usable = frames.of(clip), phrases[clip]
            found = self.detector.ground(
                [frames.image(row) for row in shown], [as_phrase(row) for row in usable]
            )
            return [
                row
                for frame, hits in zip(shown, found, strict=True)
                for row in _rows(frame, usable, hits)
            ]

        return {"detections": self.each(unit, phrases, work)}


def as_phrase(row: Row) -> Phrase:
    """A row of table ``phrases`` as the roles know it."""
    return Phrase(
        *(row["phrase"], row["start"], row["end"], row["noun"], row["bank"]),
        category=row.get("class"),
    )


def _rows(frame: Row, usable: list[Row], hits: list[Grounding]) -> list[Row]:
    """Rows of one frame, surest first; boxes lie inside the frame, those without a pixel go."""
    inside = [(hit, clip(hit.box, frame["width"], frame["height"])) for hit in hits]
    found = [
        Grounding(hit.phrase, tuple(round(v, 1) for v in box), round(hit.score, 4))  # type: ignore[arg-type]  # four of four
        for hit, box in inside
        if area(box) >= 1
    ]
    found.sort(key=lambda g: (-g.score, g.phrase, g.box))
    return [
        {
            "detection_id": ids.detection_id(frame["clip_id"], frame["pts_us"], n),
            "subject_id": usable[hit.phrase]["subject_id"],
            "clip_id": frame["clip_id"],
            "frame_id": frame["frame_id"],
            "pts_us": frame["pts_us"],
            "box": list(hit.box),
            "score": hit.score,
            "area_share": round(area_share(hit.box, frame["width"], frame["height"]), 4),
            "reason": _ambiguity(n, found),
        }
        for n, hit in enumerate(found)
    ]


def _ambiguity(n: int, found: list[Grounding]) -> str | None:
    """Why a hit is no region of its own, given all hits of the frame, surest first."""
    hit = found[n]
    same = [other for other in found if other.phrase == hit.phrase]
    if any(iou(better.box, hit.box) > SUPPRESS_IOU for better in same[: same.index(hit)]):
        return "same region again"
    if any(iou(other.box, hit.box) <= SUPPRESS_IOU for other in same):
        return SEVERAL_BOXES
    for better in found[:n]:
        if better.phrase != hit.phrase and iou(better.box, hit.box) > SUPPRESS_IOU:
            return "box taken by another phrase"
    return None
