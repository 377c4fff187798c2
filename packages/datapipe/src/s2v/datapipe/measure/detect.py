"""Boxes for the phrases on the sampled frames (paper section 3.1, step 6)."""

from __future__ import annotations

from typing import ClassVar

from s2v.datapipe.base import ids
from s2v.datapipe.base.media.boxes import area_share, iou
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.frame_stage import Frames, ModelStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.roles import Detector, Grounding, Phrase

#: Boxes of two phrases over this overlap are one object under two names (Phantom-Data).
SUPPRESS_IOU = 0.8


class DetectStage(ModelStage):
    """Phrase <-> box, one to one on each frame; ambiguous phrases say so."""

    name: ClassVar[str] = "detect"
    version = 1
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
    found = sorted(hits, key=lambda g: (-round(g.score, 4), g.phrase, g.box))
    return [
        {
            "detection_id": ids.detection_id(frame["clip_id"], frame["pts_us"], n),
            "subject_id": usable[hit.phrase]["subject_id"],
            "clip_id": frame["clip_id"],
            "frame_id": frame["frame_id"],
            "pts_us": frame["pts_us"],
            "box": [round(float(v), 1) for v in hit.box],
            "score": round(hit.score, 4),
            "area_share": round(area_share(hit.box, frame["width"], frame["height"]), 4),
            "reason": _ambiguity(n, found),
        }
        for n, hit in enumerate(found)
    ]


def _ambiguity(n: int, found: list[Grounding]) -> str | None:
    hit = found[n]
    if sum(other.phrase == hit.phrase for other in found) > 1:
        return "phrase fits several boxes"
    for better in found[:n]:
        if better.phrase != hit.phrase and iou(better.box, hit.box) > SUPPRESS_IOU:
            return "box taken by another phrase"
    return None
