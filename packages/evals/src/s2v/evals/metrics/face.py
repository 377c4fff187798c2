"""Face similarity: does the person in the video have the reference's face.

The published scheme (ConsisID, OpenS2V, the three FaceSim columns of Phantom's table 1): the
largest face of the reference and of each sampled frame, embedded, compared, clamped at zero,
averaged over the frames that have a face. The same scheme serves the published networks and the
light ones, each under a protocol id of its own, and always says on what share of the frames the
number stands. With several people in a sample see `s2v.evals.metrics.identities`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

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


def face_score(
    similarities: npt.ArrayLike, frames: int, *, drop_zeros: bool = False
) -> tuple[float, dict[str, float]]:
    """Reduce the similarities of the frames that have a face.

    Negative similarities count as 0; frames without a face are left out; a video without any face
    scores 0, as published. Two conventions exist for the zeros that clamping makes: ConsisID keeps
    them in the mean, OpenS2V drops them for FaceSim-Cur, which forgives a frame that shows
    somebody else. Both are always reported, the score is one of them.

    Args:
        similarities: (D,) unclamped, one per frame with a face; D may be 0.
        frames: number of sampled frames T >= D, positive.
        drop_zeros: the score is OpenS2V's mean.

    Returns:
        ``(score, parts)``: parts are ``face_rate`` = D / T, ``zero_keep`` and ``zero_drop`` (the
        two means), ``score_zero`` (frames without a face as 0), ``unclamped`` (mean cosine),
        ``minimum``, ``p10``, ``drop`` (first minus last third of the faces, positive when the
        identity drifts away; 0 with fewer than three).

    Raises:
        ValueError: more similarities than frames, or a NaN.
    """
    values = np.asarray(similarities, dtype=np.float64).reshape(-1)
    if values.size > frames or frames < 1:
        raise ValueError(f"{values.size} faces on {frames} frames")
    if np.isnan(values).any():
        raise ValueError("a face similarity is NaN")
    clamped = np.clip(values, 0.0, 1.0)
    positive = clamped[clamped > 0]
    third = clamped.size // 3
    keep = float(clamped.mean()) if clamped.size else 0.0
    dropped = float(positive.mean()) if positive.size else 0.0
    return (
        dropped if drop_zeros else keep,
        {
            "face_rate": clamped.size / frames,
            "zero_keep": keep,
            "zero_drop": dropped,
            "score_zero": float(clamped.sum()) / frames,
            "unclamped": float(values.mean()) if values.size else 0.0,
            "minimum": float(clamped.min()) if clamped.size else 0.0,
            "p10": float(np.quantile(clamped, 0.1)) if clamped.size else 0.0,
            "drop": float(clamped[:third].mean() - clamped[-third:].mean()) if third else 0.0,
        },
    )


def largest(faces: Sequence[Face]) -> Face | None:
    """The face with the largest box; the first of equals."""
    return max(faces, key=lambda f: f.area, default=None)


def detect_padded(detector: FaceDetector, image: Image) -> list[Face]:
    """All faces, with a second try on the image padded by a quarter with grey.

    A face that touches the border, as in a tight reference crop, is often found only with
    something around it. Coordinates are those of the unpadded image.
    """
    faces = detector.detect(image)
    if faces:
        return faces
    height, width = image.shape[:2]
    pad_y, pad_x = int(height * PAD_SHARE), int(width * PAD_SHARE)
    padded = np.pad(
        image, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), constant_values=np.uint8(PAD_GREY)
    )
    shift = np.array([pad_x, pad_y], dtype=np.float32)
    return [
        Face(f.box - np.tile(shift, 2), f.points - shift, f.score, (pad_x, pad_y))
        for f in detector.detect(padded)
    ]


def detect_largest(detector: FaceDetector, image: Image) -> Face | None:
    """Largest face of `detect_padded`."""
    return largest(detect_padded(detector, image))


def faces_of(case: Case, detector: FaceDetector, which: Hashable, image: Image) -> list[Face]:
    """The faces of one image of a case, detected once however many metrics ask."""
    found: list[Face] = case.once((detector.id, which), lambda: detect_padded(detector, image))
    return found


def vector_of(
    case: Case, embedder: FaceEmbedder, which: Hashable, image: Image, face: Face
) -> Vectors:
    """(D,) of one face of one image of a case, embedded once however many metrics ask.

    The largest-face protocols and the matching ones look at the same faces. The five points belong
    to the key: another detector may put them elsewhere in the same box.
    """
    key = ("face vector", embedder.id, which, face.box.tobytes(), face.points.tobytes(), face.pad)
    found: Vectors = case.once(key, lambda: embedder.embed(image, face))
    return found


class FaceSimilarity:
    """Largest-face similarity to the one face reference.

    Args:
        spec: of the protocol.
        detector: makes the detector at first use.
        embedder: makes the embedder at first use.
        similarity: the one its network was trained for.
        frames: sampled, first to last.
        drop_zeros: OpenS2V's mean; see `face_score`.
    """

    def __init__(
        self,
        spec: MetricSpec,
        detector: Callable[[], FaceDetector],
        embedder: Callable[[], FaceEmbedder],
        similarity: Similarity,
        *,
        frames: int = FRAMES,
        drop_zeros: bool = False,
    ) -> None:
        self._frames = frames
        self._drop_zeros = drop_zeros
        self.spec = spec
        self._detector = detector
        self._embedder = embedder
        self._similarity = similarity

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Frames from the first to the last, evenly."""
        return linspace_inclusive(len(times_us), self._frames)

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
        number = next(n for n, r in enumerate(case.references) if r.is_face)
        which = ("reference", number)
        face = largest(faces_of(case, detector, which, reference))
        if face is None:
            return failed("reference_without_face")
        target = vector_of(case, embedder, which, reference, face)
        indices = self.plan(case.times_us)
        embedded: list[Vectors] = []
        for i in indices:
            frame = case.frames[i]
            here = largest(faces_of(case, detector, i, frame))
            if here is not None:
                embedded.append(vector_of(case, embedder, i, frame, here))
        faces = np.stack(embedded) if embedded else np.zeros((0, target.size), np.float32)
        score, parts = face_score(
            self._similarity(_wide(target), _wide(faces)),
            len(indices),
            drop_zeros=self._drop_zeros,
        )
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
