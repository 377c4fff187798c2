"""Several people: is everybody there, and does each keep their own face.

Phantom leaves multi-subject videos to raters and OpenS2V leaves them out of FaceSim, because the
largest face of a frame belongs to nobody in particular. Here the references and the faces of each
frame are matched one to one so that the sum of similarities is greatest (Hungarian method). What
can go wrong is counted apart: a reference that nobody matches, a face that looks more like another
reference than like its own (confusion), and a person who turns into another one along a track.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from s2v.evals.encoders import Face, FaceDetector, FaceEmbedder
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
from s2v.evals.metrics.face import FRAMES, Similarity, faces_of, largest, vector_of

SAME_TRACK = 0.3
"""Least overlap (IoU) of one face in two neighbouring sampled frames."""
SUCCESS_FRAMES = 0.8
"""Share of frames in which every reference must be matched above the threshold."""

Array = npt.NDArray[np.float64]


def assign(similarities: npt.ArrayLike) -> list[int | None]:
    """Face of each reference, one to one, the sum of similarities greatest.

    Args:
        similarities: (K, F) references by faces; F may be 0. A pair that is not similar at all
            (0 or less) is no match.

    Returns:
        K face indices; None for a reference that is left over.
    """
    table = np.asarray(similarities, np.float64)
    found: list[int | None] = [None] * table.shape[0]
    if not table.size:
        return found
    # Clamped: a very negative pair must not push a good one aside.
    for row, column in zip(
        *linear_sum_assignment(np.maximum(table, 0), maximize=True), strict=True
    ):
        if table[row, column] > 0:
            found[int(row)] = int(column)
    return found


def overlap(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Intersection over union of two boxes xyxy."""
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sides = np.clip(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), 0, None)
    both = float(np.prod(sides))
    areas = [float(np.prod(np.clip(box[2:] - box[:2], 0, None))) for box in (first, second)]
    union = sum(areas) - both
    return both / union if union > 0 else 0.0


def continued(before: Sequence[npt.ArrayLike], after: Sequence[npt.ArrayLike]) -> dict[int, int]:
    """Which box of the next frame goes on from which, by overlap alone: no embedding decides.

    Args:
        before: boxes xyxy.
        after: likewise.

    Returns:
        Index before -> index after, for overlaps of at least 0.3.
    """
    if not before or not after:
        return {}
    table = np.array([[overlap(a, b) for b in after] for a in before])
    rows, columns = linear_sum_assignment(table, maximize=True)
    return {int(r): int(c) for r, c in zip(rows, columns, strict=True) if table[r, c] >= SAME_TRACK}


@dataclass(frozen=True)
class Frame:
    """One sampled frame.

    Attributes:
        similarities: (K, F) unclamped.
        boxes: F boxes xyxy.
    """

    similarities: Array
    boxes: Sequence[npt.ArrayLike]


def identity_score(frames: Sequence[Frame], threshold: float) -> tuple[float, dict[str, float]]:
    """Reduce the frames of one video.

    Args:
        frames: at least one; all with K references, K >= 1.
        threshold: similarity from which on two faces are one person's.

    Returns:
        ``(score, parts)``. The score is the mean similarity of all matched pairs, clamped to
        [0, 1], 0 when there is none. Parts: ``score_zero`` (unmatched references as 0),
        ``unmatched_rate`` (of references times frames), ``confusion_rate`` (of matched faces that
        are more like another reference), ``confusion_i_j`` (i != j: of the faces matched to
        reference i, the share most like j), ``swaps`` (times a tracked face changes its
        reference), ``success`` (1 when every reference is matched above the threshold in at least
        0.8 of the frames and nobody swaps) and ``threshold``.

    Raises:
        ValueError: no frame or no reference, a NaN.
    """
    if not frames or frames[0].similarities.shape[0] < 1:
        raise ValueError("identities need a frame and a reference")
    references = frames[0].similarities.shape[0]
    counts = np.zeros((references, references))
    matched: list[float] = []
    complete = 0
    assigned = []
    for frame in frames:
        if np.isnan(frame.similarities).any():
            raise ValueError("a face similarity is NaN")
        found = assign(frame.similarities)
        assigned.append({face: ref for ref, face in enumerate(found) if face is not None})
        here = []
        for ref, face in enumerate(found):
            if face is not None:
                here.append(float(np.clip(frame.similarities[ref, face], 0, 1)))
                counts[ref, int(frame.similarities[:, face].argmax())] += 1
        matched += here
        complete += len(here) == references and min(here) >= threshold
    swaps = 0
    for (before, owners), (after, heirs) in pairwise(zip(frames, assigned, strict=True)):
        for i, j in continued(before.boxes, after.boxes).items():
            swaps += i in owners and j in heirs and owners[i] != heirs[j]
    total = counts.sum()
    chances = references * len(frames)
    rows = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = {
        "score_zero": sum(matched) / chances,
        "unmatched_rate": 1 - len(matched) / chances,
        "confusion_rate": float(total - np.trace(counts)) / total if total else 0.0,
        "swaps": float(swaps),
        "success": float(complete >= SUCCESS_FRAMES * len(frames) and not swaps),
        "threshold": threshold,
    }
    parts |= {
        f"confusion_{i}_{j}": float(counts[i, j] / rows[i, 0])
        for i in range(references)
        for j in range(references)
        if i != j
    }
    return (float(np.mean(matched)) if matched else 0.0, parts)


class IdentitySimilarity:
    """Every face reference against every face of every sampled frame, matched one to one.

    Args:
        spec: of the protocol.
        detector: makes the detector at first use.
        embedder: makes the embedder at first use.
        similarity: the one its network was trained for.
        threshold: from which on it calls two faces one person's.
        frames: sampled, first to last.
    """

    def __init__(
        self,
        spec: MetricSpec,
        detector: Callable[[], FaceDetector],
        embedder: Callable[[], FaceEmbedder],
        similarity: Similarity,
        *,
        threshold: float,
        frames: int = FRAMES,
    ) -> None:
        self.spec = spec
        self._detector = detector
        self._embedder = embedder
        self._similarity = similarity
        self._threshold = threshold
        self._frames = frames

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Frames from the first to the last, evenly."""
        return linspace_inclusive(len(times_us), self._frames)

    def measure(self, case: Case) -> Measurement:
        """Score one video; failed with ``reference_without_face`` if any reference has none."""
        people = [(n, r.image) for n, r in enumerate(case.references) if r.is_face]
        if not people:
            return not_applicable("no_face_reference")
        detector, embedder = self._detector(), self._embedder()
        targets = []
        for number, image in people:
            which = ("reference", number)
            face = largest(faces_of(case, detector, which, image))
            if face is None:
                return failed("reference_without_face")
            targets.append(vector_of(case, embedder, which, image, face).astype(np.float64))
        frames = []
        for i in self.plan(case.times_us):
            frame = case.frames[i]
            faces: list[Face] = faces_of(case, detector, i, frame)
            vectors = [vector_of(case, embedder, i, frame, f).astype(np.float64) for f in faces]
            table = (
                np.stack([self._similarity(t, np.stack(vectors)) for t in targets])
                if vectors
                else np.zeros((len(targets), 0))
            )
            frames.append(Frame(table, [f.box for f in faces]))
        return scored(*identity_score(frames, self._threshold))

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """None: the best of several matches has another chance level in every crowd."""
        return [None] * len(peers)
