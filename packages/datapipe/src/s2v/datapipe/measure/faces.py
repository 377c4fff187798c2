"""Faces of the people: box, landmarks, identity vector (Phantom, supplement 4)."""

from __future__ import annotations

from typing import ClassVar

from s2v.datapipe.base.media.boxes import centre_inside
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.frame_stage import Frames, ModelStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.roles import FaceRecogniser


class FaceStage(ModelStage):
    """All faces on frames where a person was grounded, each tied to the person's box."""

    name: ClassVar[str] = "faces"
    version = 1
    reads = ("clips", "frames", "overlays", "phrases", "detections", "quality")
    writes = ("faces",)

    def __init__(self, recogniser: FaceRecogniser, gates: GateSettings) -> None:
        super().__init__(recogniser, gates)
        self.recogniser = recogniser

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """One row per face."""
        frames = Frames(unit)
        people = {r["subject_id"] for r in unit.rows("phrases") if r["bank"] == "person"}
        detections = unit.by_id("detections")

        def work(clip: str) -> list[Row]:
            boxes = [
                row
                for row in detections[clip]
                if row["subject_id"] in people and row["reason"] is None
            ]
            wanted = {row["frame_id"] for row in boxes}
            if not wanted:
                return []
            return [
                row
                for frame in frames.of(clip)
                if frame["frame_id"] in wanted
                for row in self._frame(
                    frames, frame, [r for r in boxes if r["frame_id"] == frame["frame_id"]]
                )
            ]

        return {"faces": self.each(unit, detections, work)}

    def _frame(self, frames: Frames, frame: Row, people: list[Row]) -> list[Row]:
        rows = []
        for n, face in enumerate(self.recogniser.faces(frames.image(frame))):
            owners = [row for row in people if centre_inside(face.box, row["box"])]
            # Of overlapping people, the smallest box that holds the face is its owner's.
            owner = min(owners, key=lambda r: (r["area_share"], r["detection_id"]), default=None)
            rows.append(
                {
                    "clip_id": frame["clip_id"],
                    "frame_id": frame["frame_id"],
                    "face": n,
                    "detection_id": owner["detection_id"] if owner else None,
                    "box": [round(float(v), 1) for v in face.box],
                    "points": [round(float(v), 1) for v in face.points.reshape(-1)],
                    "score": round(face.score, 4),
                    "embedder": self.recogniser.model_id,
                    "embedding": [round(float(v), 6) for v in face.embedding],
                }
            )
        return rows
