"""Subject similarity: does what the references show appear in the video.

Phantom's table 2 reports CLIP and DINO cosines between ten uniform frames and the reference,
once on whole frames and once after segmenting the subject ("-Seg"). A whole frame mixes the
background in; the segmented form needs a subject to be found, so its share of frames is part of
the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from s2v.evals.encoders import Image, ImageEmbedder, Mask, SubjectSegmenter
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

FRAMES = 10
FRAMES_SEGMENTED = 5
BACKGROUND = 255
MARGIN = 0.1
# A "subject" of less than this share of the image is a speck the segmenter left behind.
SMALLEST_SHARE = 0.005


def mean_cosine(references: npt.ArrayLike, frames: npt.ArrayLike) -> float:
    """``1 / (R T)`` times the sum over all reference-frame pairs of their cosine.

    Args:
        references: (R, D) of unit length, R >= 1.
        frames: (T, D) of unit length, T >= 1.

    Raises:
        ValueError: empty, of different width, or not of unit length (1e-3).
    """
    first = np.asarray(references, dtype=np.float64)
    second = np.asarray(frames, dtype=np.float64)
    if first.ndim != 2 or second.ndim != 2 or not first.size or not second.size:
        raise ValueError(f"mean cosine of {first.shape} and {second.shape}")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"embeddings of different width: {first.shape[1]}, {second.shape[1]}")
    for name, array in (("reference", first), ("frame", second)):
        if not np.allclose(np.linalg.norm(array, axis=1), 1.0, atol=1e-3):
            raise ValueError(f"{name} embeddings are not of unit length")
    return float((first @ second.T).mean())


def isolate(image: Image, mask: Mask) -> Image | None:
    """The subject alone: background white, cropped to its box with a tenth around it.

    Args:
        image: RGB uint8 (H, W, 3).
        mask: (H, W) bool.

    Returns:
        The crop, or None where the mask covers less than 0.5 % of the image.

    Raises:
        ValueError: mask and image differ in size.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask {mask.shape} does not fit image {image.shape[:2]}")
    if mask.mean() < SMALLEST_SHARE:
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    pad_y, pad_x = round((bottom - top) * MARGIN), round((right - left) * MARGIN)
    alone = np.where(mask[..., None], image, np.uint8(BACKGROUND))
    return np.ascontiguousarray(
        alone[max(0, top - pad_y) : bottom + pad_y, max(0, left - pad_x) : right + pad_x]
    )


class SubjectSimilarity:
    """Mean cosine of all references to ten whole frames.

    Args:
        spec: of the protocol.
        embedder: makes the image embedder at first use.
    """

    def __init__(self, spec: MetricSpec, embedder: Callable[[], ImageEmbedder]) -> None:
        self.spec = spec
        self._embedder = embedder

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Ten frames, first to last."""
        return linspace_inclusive(len(times_us), FRAMES)

    def measure(self, case: Case) -> Measurement:
        """Score one video against all its references."""
        if not case.references:
            return not_applicable("no_reference")
        embedder = self._embedder()
        references = embedder.embed([r.image for r in case.references])
        frames = np.concatenate(
            [
                case.once((embedder.id, i), lambda i=i: embedder.embed([case.frames[i]]))
                for i in self.plan(case.times_us)
            ]
        )
        # The baseline needs only the mean frame: the mean of cosines is linear in it.
        return scored(
            mean_cosine(references, frames),
            {},
            {"references": references, "mean_frame": frames.mean(axis=0)},
        )

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """Each video against the references of the other reference ids."""
        return other_references(peers)


def mask_of(case: Case, segmenter: SubjectSegmenter, index: int) -> Mask:
    """The subject of one frame, found once however many metrics ask."""
    found: Mask = case.once((segmenter.id, index), lambda: segmenter.mask(case.frames[index]))
    return found


class SegmentedSubjectSimilarity:
    """The same on the segmented subject of five frames and of every reference.

    Args:
        spec: of the protocol.
        embedder: makes the image embedder at first use.
        segmenter: makes the segmenter at first use.
        frames: sampled, first to last.
    """

    def __init__(
        self,
        spec: MetricSpec,
        embedder: Callable[[], ImageEmbedder],
        segmenter: Callable[[], SubjectSegmenter],
        *,
        frames: int = FRAMES_SEGMENTED,
    ) -> None:
        self._frames = frames
        self.spec = spec
        self._embedder = embedder
        self._segmenter = segmenter

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Five frames, first to last: segmenting is the dearest step of the suite."""
        return linspace_inclusive(len(times_us), self._frames)

    def measure(self, case: Case) -> Measurement:
        """Score one video; one in which no subject is found scores 0 with ``seg_rate`` 0.

        Scenes are left out, as in the paper: there is no subject to cut out of a place.
        """
        if not case.references:
            return not_applicable("no_reference")
        shown = [r for r in case.references if not r.is_scene]
        if not shown:
            return not_applicable("only_scene_references")
        embedder, segmenter = self._embedder(), self._segmenter()
        alone = [
            isolate(r.image, r.mask if r.mask is not None else segmenter.mask(r.image))
            for r in shown
        ]
        subjects = [image for image in alone if image is not None]
        if len(subjects) < len(alone):
            return failed("reference_without_subject")
        references = embedder.embed(subjects)
        indices = self.plan(case.times_us)
        found = [isolate(case.frames[i], mask_of(case, segmenter, i)) for i in indices]
        crops = [image for image in found if image is not None]
        parts = {"seg_rate": len(crops) / len(indices)}
        if not crops:
            nothing = np.zeros(references.shape[1])
            return scored(0.0, parts, {"references": references, "mean_frame": nothing})
        frames = embedder.embed(crops)
        return scored(
            mean_cosine(references, frames),
            parts,
            {"references": references, "mean_frame": frames.mean(axis=0)},
        )

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """Each video against the references of the other reference ids."""
        return other_references(peers)


def other_references(peers: Sequence[Peer]) -> list[float | None]:
    """Mean cosine of each video to every other reference id's references.

    Features of a network with rectified units are all positive, so unrelated images score well
    above zero; without this level a similarity cannot be read.
    """
    means: dict[str, npt.NDArray[np.float64]] = {}
    for peer in peers:
        if peer.measurement.status == "scored":
            means[peer.reference_id] = peer.measurement.array("references").mean(axis=0)
    levels: list[float | None] = []
    for peer in peers:
        others = [means[k] for k in sorted(means) if k != peer.reference_id]
        if peer.measurement.status != "scored" or not others:
            levels.append(None)
            continue
        frame = peer.measurement.array("mean_frame")[0]
        levels.append(float(np.mean([frame @ other for other in others])))
    return levels
