"""Faces and people: boxes, landmarks, pose, sharpness, identity vectors (Phantom, supplement 4).

Faces are looked for on *every* sampled frame, not only where the caption's people were grounded.
It costs one detector pass a frame, little beside detection and masks, and three rules rest on it:
a source whose policy is "no faces" must not pass because its captions mention nobody, a thing that
lies over a face is dropped whoever it belongs to, and people are counted.
"""

from __future__ import annotations

from typing import ClassVar

from s2v.datapipe.base.media.boxes import crop
from s2v.datapipe.base.media.phash import perceptual_hash
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure import people
from s2v.datapipe.measure.frame_stage import Frames, ModelStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.measure.pose import aligned_face, head_pose, sharpness
from s2v.datapipe.roles import Face, FaceRecogniser, Image

HASH_MARGIN = 0.25  # of the box: with the hair, near copies of a face agree best (docs/faces.md)


class FaceStage(ModelStage):
    """All faces of the sampled frames, each with the person whose it is; and who is there."""

    name: ClassVar[str] = "faces"
    version = 2
    reads = ("clips", "frames", "overlays", "phrases", "detections", "quality")
    writes = ("faces", "people")

    def __init__(self, recogniser: FaceRecogniser, gates: GateSettings) -> None:
        super().__init__(recogniser, gates)
        self.recogniser = recogniser

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """One row per face, and one row of PEOPLE per clip."""
        frames = Frames(unit)
        persons = {r["subject_id"] for r in unit.rows("phrases") if r["bank"] == "person"}
        detections = unit.by_id("detections")
        seen: dict[str, Row] = {}

        def work(clip: str) -> list[Row]:
            rows, counts, found = [], [], []
            for frame in frames.of(clip):
                boxes = [
                    row
                    for row in detections.get(clip, ())
                    if row["subject_id"] in persons
                    and row["reason"] is None
                    and row["frame_id"] == frame["frame_id"]
                ]
                image = frames.image(frame)
                faces = self.recogniser.faces(image)
                owned = people.owners(faces, boxes)
                rows += [
                    self._row(frame, n, image, face, owner)
                    for n, (face, owner) in enumerate(zip(faces, owned, strict=True))
                ]
                counts.append(people.count(faces, owned, len(people.distinct(boxes))))
                found.append(faces)
            seen[clip] = people.clip_row(clip, counts, found)
            return rows

        clips = unit.by_id("frames")
        rows = self.each(unit, clips, work)
        return {"faces": rows, "people": [seen[clip] for clip in sorted(seen)]}

    def _row(self, frame: Row, n: int, image: Image, face: Face, owner: people.Owner | None) -> Row:
        pose = head_pose(face.points)
        return {
            "clip_id": frame["clip_id"],
            "frame_id": frame["frame_id"],
            "face": n,
            "detection_id": owner.detection_id if owner else None,
            "box": [round(float(v), 1) for v in face.box],
            "points": [round(float(v), 1) for v in face.points.reshape(-1)],
            "score": round(face.score, 4),
            "embedder": self.recogniser.model_id,
            "embedding": [round(float(v), 6) for v in face.embedding],
            "containment": owner.containment if owner else None,
            "yaw": pose.yaw if pose else None,
            "pitch": pose.pitch if pose else None,
            "roll": pose.roll if pose else None,
            "sharpness": sharpness(aligned_face(image, face.points)),
            "phash": perceptual_hash(crop(image, face.box, HASH_MARGIN)[0]),
        }
