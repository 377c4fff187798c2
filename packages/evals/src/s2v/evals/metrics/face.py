"""Face similarity: does the person in the video have the reference's face.

The published scheme (ConsisID, OpenS2V, the three FaceSim columns of Phantom's table 1): the
largest face of the reference and of each sampled frame, embedded, compared, clamped at zero,
averaged over the frames that have a face. Ours follows it with light models under its own
protocol ids, keeps zeros in the mean (OpenS2V drops exact zeros for one of its columns), and
always says on what share of the frames the number stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from s2v.evals.encoders import Face, FaceDetector, FaceEmbedder, Image, Vectors
from s2v.evals.frames import linspace_inclusive
from s2v.evals.metrics.base import (
    Case,
    Measurement,
    MetricSpec,
    Peer,
    failed,
    not_applicable,
    scored,
)

FRAMES = 8
PAD_SHARE = 0.25
PAD_GREY = 128


Similarity = Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""One reference (D,) and faces (N, D) -> (N,) unclamped similarity, 1 for equal ones."""


def cosine(
    reference: npt.NDArray[np.float64], faces: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """For networks trained with an angular loss (ArcFace, SFace)."""
    norms = np.linalg.norm(faces, axis=-1) * np.linalg.norm(reference)
    return np.asarray(faces @ reference / norms, dtype=np.float64)


def one_minus_distance(
    reference: npt.NDArray[np.float64], faces: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """For dlib's network, trained so that one person's faces lie within 0.6 of each other.

    Cosines between its vectors are high for strangers too, so the distance it was trained for
    is turned round instead: 0.4 is dlib's own same-person threshold.
    """
    return np.asarray(1.0 - np.linalg.norm(faces - reference, axis=-1), dtype=np.float64)


def face_score(similarities: npt.ArrayLike, frames: int) -> tuple[float, dict[str, float]]:
    """Reduce the similarities of the frames that have a face.

    Zero-keep: negative similarities count as 0 and stay in the mean; frames without a face are
    left out of it; a video without any face scores 0, as published.

    Args:
        similarities: (D,) unclamped, one per frame with a face; D may be 0.
        frames: number of sampled frames T >= D, positive.

    Returns:
        ``(score, parts)``: parts are ``face_rate`` = D / T, ``score_zero`` (frames without a
        face as 0), ``minimum`` and ``drop`` (first minus last third of the faces, positive when
        the identity drifts away; 0 with fewer than three).

    Raises:
        ValueError: more similarities than frames, or a NaN.
    """
    values = np.asarray(similarities, dtype=np.float64).reshape(-1)
    if values.size > frames or frames < 1:
        raise ValueError(f"{values.size} faces on {frames} frames")
    if np.isnan(values).any():
        raise ValueError("a face similarity is NaN")
    clamped = np.clip(values, 0.0, 1.0)
    third = clamped.size // 3
    return (
        float(clamped.mean()) if clamped.size else 0.0,
        {
            "face_rate": clamped.size / frames,
            "score_zero": float(clamped.sum()) / frames,
            "minimum": float(clamped.min()) if clamped.size else 0.0,
            "drop": float(clamped[:third].mean() - clamped[-third:].mean()) if third else 0.0,
        },
    )


def largest(faces: Sequence[Face]) -> Face | None:
    """The face with the largest box; the first of equals."""
    return max(faces, key=lambda f: f.area, default=None)


def detect_largest(detector: FaceDetector, image: Image) -> Face | None:
    """Largest face, with a second try on the image padded by a quarter with grey.

    A face that touches the border, as in a tight reference crop, is often found only with
    something around it. Coordinates are those of the unpadded image.
    """
    found = largest(detector.detect(image))
    if found is not None:
        return found
    height, width = image.shape[:2]
    pad_y, pad_x = round(height * PAD_SHARE), round(width * PAD_SHARE)
    padded = np.pad(
        image, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), constant_values=np.uint8(PAD_GREY)
    )
    found = largest(detector.detect(padded))
    if found is None:
        return None
    shift = np.array([pad_x, pad_y], dtype=np.float32)
    return Face(found.box - np.tile(shift, 2), found.points - shift, found.score)


class FaceSimilarity:
    """Largest-face similarity to the one face reference.

    Args:
        spec: of the protocol.
        detector: makes the detector at first use.
        embedder: makes the embedder at first use.
        similarity: the one its network was trained for.
    """

    def __init__(
        self,
        spec: MetricSpec,
        detector: Callable[[], FaceDetector],
        embedder: Callable[[], FaceEmbedder],
        similarity: Similarity,
    ) -> None:
        self.spec = spec
        self._detector = detector
        self._embedder = embedder
        self._similarity = similarity

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Eight frames, first to last."""
        return linspace_inclusive(len(times_us), FRAMES)

    def measure(self, case: Case) -> Measurement:
        """Score one video.

        Not applicable without a face reference, and with several: the largest face of a frame
        cannot be told to belong to one of them. Failed with ``reference_without_face``: a
        number there would be about nothing.
        """
        references = [r for r in case.references if r.is_face]
        if not references:
            return not_applicable("no_face_reference")
        if len(references) > 1:
            return not_applicable("several_face_references")
        detector, embedder = self._detector(), self._embedder()
        reference = references[0].image
        face = case.once((detector.id, "reference"), lambda: detect_largest(detector, reference))
        if face is None:
            return failed("reference_without_face")
        target = embedder.embed(reference, face)
        indices = self.plan(case.times_us)
        embedded: list[Vectors] = []
        for i in indices:
            frame = case.frames[i]
            here = case.once((detector.id, i), lambda frame=frame: detect_largest(detector, frame))
            if here is not None:
                embedded.append(embedder.embed(frame, here))
        faces = np.stack(embedded) if embedded else np.zeros((0, target.size), np.float32)
        score, parts = face_score(self._similarity(_wide(target), _wide(faces)), len(indices))
        return scored(score, parts, {"reference": target, "faces": faces})

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """Each video against the face references of the *other* identities: strangers."""
        references = {
            p.reference_id: p.measurement.array("reference")[0]
            for p in peers
            if p.measurement.status == "scored"
        }
        return [self._against_others(references, p) for p in peers]

    def _against_others(
        self, references: dict[str, npt.NDArray[np.float64]], peer: Peer
    ) -> float | None:
        others = [references[k] for k in sorted(references) if k != peer.reference_id]
        if peer.measurement.status != "scored" or not others:
            return None
        faces = peer.measurement.array("faces")
        if faces.size == 0:
            return 0.0
        return float(np.mean([np.clip(self._similarity(o, faces), 0.0, 1.0) for o in others]))


def _wide(vectors: Vectors) -> npt.NDArray[np.float64]:
    return vectors.astype(np.float64)
