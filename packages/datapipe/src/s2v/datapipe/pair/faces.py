"""Which faces can say who a person is, and persons' vectors made of body and face.

MAGREF filters faces by yaw, pitch, roll and quality, OpenS2V by the detector's score, Concat-ID by
the share of the frame. A face that fails is not used; its person stays, without a face.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from s2v.datapipe.base.media import boxes
from s2v.datapipe.pair.columns import Vectors
from s2v.datapipe.pair.rows import Row, Tables, by, group, read
from s2v.datapipe.pair.settings import SelectSettings


class Faces:
    """The faces of all frames, and the first rule that each fails."""

    def __init__(self, tables: Tables, settings: SelectSettings) -> None:
        self._rules = settings.face
        self._overlap = settings.detection.max_overlap
        self._rows = read(tables, "faces")
        self._on_frame = group(self._rows, "frame_id")
        self._frames = by(read(tables, "frames"), "frame_id")
        self._boxes = {r["detection_id"]: r["box"] for r in read(tables, "detections")}
        self._faults = {_key(row): next(self._fails(row), None) for row in self._rows}

    def reasons(self) -> list[Row]:
        """``frame_id``, ``face`` and the first rule failed of every face, by these."""
        return [
            {"frame_id": frame, "face": n, "reason": None if why is None else f"face: {why}"}
            for (frame, n), why in sorted(self._faults.items())
        ]

    def of(self, detection: Row) -> Row | None:
        """The largest usable face of the person in a box.

        It was given to this box (``faces.detection_id``), or to another box of the same person,
        or to none while its middle lies in this one. Another person's face is not taken.
        """
        found = [
            face
            for face in self._on_frame.get(detection["frame_id"], [])
            if self._faults[_key(face)] is None
            and boxes.centre_inside(face["box"], detection["box"])
            and self._may_own(face, detection)
        ]
        return min(found, key=lambda f: (-boxes.area(f["box"]), f["face"]), default=None)

    def _may_own(self, face: Row, detection: Row) -> bool:
        owner = face["detection_id"]
        if owner in (None, detection["detection_id"]):
            return True
        # Two phrases may have grounded one person; only the surer box was given the face.
        theirs = self._boxes.get(owner)
        return theirs is not None and boxes.iou(theirs, detection["box"]) > self._overlap

    def _fails(self, face: Row) -> Iterator[str]:
        rules, box = self._rules, face["box"]
        if face["embedding"] is None:
            yield "not measured: embedding"
        if face["score"] < rules.min_score:
            yield "low score"
        if min(box[2] - box[0], box[3] - box[1]) < rules.min_side:
            yield "too few pixels"
        yield from self._area_fails(face)
        for angle, limit in (
            ("yaw", rules.max_yaw),
            ("pitch", rules.max_pitch),
            ("roll", rules.max_roll),
        ):
            if limit is not None and face[angle] is None:
                yield f"not measured: {angle}"
            elif limit is not None and abs(face[angle]) > limit:
                yield f"turned away: {angle}"
        if rules.min_sharpness is not None:
            if face["sharpness"] is None:
                yield "not measured: sharpness"
            elif face["sharpness"] < rules.min_sharpness:
                yield "blurred"

    def _area_fails(self, face: Row) -> Iterator[str]:
        rules = self._rules
        frame = self._frames[face["frame_id"]]
        share = boxes.area(face["box"]) / (frame["width"] * frame["height"])
        if rules.min_area_share is not None and share < rules.min_area_share:
            yield "too small a share"
        if rules.max_area_share is not None and share > rules.max_area_share:
            yield "too large a share"


def _key(face: Row) -> tuple[str, int]:
    return face["frame_id"], face["face"]


def joint_vectors(bodies: Vectors, faces: Vectors, weight: float) -> Vectors:
    """Body and face in one vector, so that one search weighs both (Phantom-Data, step 2).

    Phantom-Data concatenates the two vectors as they are; then the longer one decides. Here each
    has length one and the square root of its weight, so the cosine of two joint vectors is
    ``(1 - weight) * cos(bodies) + weight * cos(faces)``.

    Args:
        bodies: subject embeddings, ``[n, d]``.
        faces: face embeddings of the same subjects, ``[n, e]``.
        weight: of the face, 0..1.

    Returns:
        ``[n, d + e]``, of length one. Comparable only between subjects of the same ``embedder``,
        ``face_embedder`` and weight.

    Raises:
        ValueError: a vector of length zero.
    """
    parts = []
    for vectors, share in ((bodies, 1 - weight), (faces, weight)):
        wide = np.asarray(vectors, np.float64)
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        if (lengths == 0).any():
            raise ValueError("a vector of length zero has no direction to compare")
        parts.append(wide / lengths * np.sqrt(share))
    return np.asarray(np.concatenate(parts, axis=1), np.float32)


def with_face(face: Row | None) -> Row:
    """The columns of SUBJECTS that a usable face fills; none without one."""
    if face is None:
        return {}
    return {
        "face": face["face"],
        "face_score": face["score"],
        "face_embedder": face["embedder"],
        "face_phash": face["phash"],
        "face_yaw": face["yaw"],
    }
