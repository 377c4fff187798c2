"""Copying: is the reference in the video as an image, and not only as a subject?

A network that learned from in-pairs, whose reference is cut from the very clip, may learn to paste
it: the likeness is perfect, and pose, light and background are the reference's too (Phantom,
section 3.1; Phantom-Data, section 1). Similarity scores reward that. Four looks at it, all to be
read against real clips: an in-pair *is* a copy of its reference, a cross-pair is not.

``paste``: the reference's subject, as an image, is searched in each frame at many sizes; the
mean of the best correlations is the score, and ``leak`` is that of the most copied frame.
``pose``: the subject's outline, brought to its box, against that of the reference.
``background``: what is around the reference's subject, against what is around the frame's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from s2v.evals.encoders import Image, ImageEmbedder, Mask, SubjectSegmenter
from s2v.evals.frames import linspace_inclusive
from s2v.evals.metrics.base import (
    Case,
    Measurement,
    MetricSpec,
    Peer,
    not_applicable,
    scored,
)
from s2v.evals.metrics.subject import SMALLEST_SHARE, mask_of, mean_cosine, other_references

FRAMES: Final = 5
FRAMES_LEAK: Final = 9
#: Frames are searched at this height, and subjects at these shares of it.
SEARCHED: Final = 96
SIZES: Final = (0.3, 0.35, 0.41, 0.48, 0.56, 0.65, 0.76, 0.88, 0.97)
#: Then around the best of them.
FINER: Final = (0.93, 0.96, 1.04, 1.07)
#: A subject of less than this many pixels on a side says nothing.
_SMALLEST: Final = 12
#: An outline is brought to a square of so many cells.
GRID: Final = 16
#: A background of less than this share of an image says nothing.
LEAST_BACKGROUND: Final = 0.15


Grey = npt.NDArray[Any]
"""(H, W)."""


def pasted(reference: Image, mask: Mask, frame: Image) -> float:
    """The best correlation of the reference's subject with any place of a frame, at any size.

    Grey values, inside the mask only, normalised for brightness and contrast, as it is and
    mirrored.

    Args:
        reference: RGB uint8 (h, w, 3).
        mask: (h, w) bool, on the subject.
        frame: RGB uint8 (H, W, 3).

    Returns:
        -1 to 1; 1 where the frame holds the very pixels. 0 where no size fits.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    subject = cv2.cvtColor(np.ascontiguousarray(reference[box]), cv2.COLOR_RGB2GRAY)
    inside = np.ascontiguousarray(mask[box]).astype(np.uint8)
    height, width = frame.shape[:2]
    size = (max(1, round(width * SEARCHED / height)), SEARCHED)
    grey = cv2.resize(
        cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA
    ).astype(np.float32)
    best, at = 0.0, SIZES[0]
    for share in SIZES:
        found = _correlation(subject, inside, grey, share)
        if found > best:
            best, at = found, share
    # Coarse sizes are a sixth apart: fine texture of a size between them correlates less.
    finer = [_correlation(subject, inside, grey, at * factor) for factor in FINER] if best else []
    return min(max([best, *finer]), 1.0)


def _correlation(subject: Grey, inside: Grey, frame: Grey, share: float) -> float:
    """The best of one size, as it is and mirrored; 0 where it does not fit."""
    height, width = frame.shape
    h = round(height * share)
    w = round(h * subject.shape[1] / subject.shape[0])
    if w > width:
        w, h = width, round(width * subject.shape[0] / subject.shape[1])
    if min(h, w) < _SMALLEST or h > height:
        return 0.0
    shrunk = cv2.resize(subject, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32)
    where = cv2.resize(inside, (w, h), interpolation=cv2.INTER_NEAREST).astype(np.float32)
    best = 0.0
    for flipped in (False, True):
        one, at = (shrunk[:, ::-1], where[:, ::-1]) if flipped else (shrunk, where)
        found = cv2.matchTemplate(
            frame,
            np.ascontiguousarray(one),
            cv2.TM_CCOEFF_NORMED,
            mask=np.ascontiguousarray(at),
        )
        # A flat stretch of the frame divides by zero: it resembles nothing.
        found = found[np.isfinite(found) & (np.abs(found) <= 1.001)]
        best = max(best, float(found.max(initial=0.0)))
    return best


def outline(mask: Mask) -> npt.NDArray[np.float64]:
    """A mask's box as ``GRID`` x ``GRID`` cells of 0 or 1, flat.

    Raises:
        ValueError: an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        raise ValueError("an empty mask has no outline")
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    cells = cv2.resize(cut, (GRID, GRID), interpolation=cv2.INTER_AREA)
    return (cells >= 0.5).astype(np.float64).ravel()


def overlap(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Intersection over union of two outlines."""
    union = float(np.maximum(first, second).sum())
    return float(np.minimum(first, second).sum()) / union if union else 0.0


def without_subject(image: Image, mask: Mask) -> Image | None:
    """The image with its subject filled by the mean colour of the rest.

    Returns:
        None where less than ``LEAST_BACKGROUND`` of it is left.
    """
    rest = ~mask
    if rest.mean() < LEAST_BACKGROUND:
        return None
    out = image.copy()
    out[mask] = image[rest].mean(axis=0).round().astype(np.uint8)
    return out


class _WithMasks:
    """What the three share: five frames, and a mask of every reference."""

    def __init__(self, spec: MetricSpec, segmenter: Callable[[], SubjectSegmenter]) -> None:
        self.spec = spec
        self._segmenter = segmenter

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Five frames, first to last."""
        return linspace_inclusive(len(times_us), FRAMES)

    def _references(self, case: Case) -> list[tuple[Image, Mask]]:
        """Those with a subject, by their own mask where they have one."""
        segmenter = None
        found = []
        for reference in case.references:
            if reference.is_scene:  # the whole of a place may be shown: that is not pasting
                continue
            mask = reference.mask
            if mask is None:
                segmenter = segmenter or self._segmenter()
                mask = segmenter.mask(reference.image)
            if mask.mean() >= SMALLEST_SHARE:
                found.append((reference.image, mask))
        return found

    def _masks(self, case: Case) -> list[tuple[Image, Mask]]:
        """The frames with their salient subject; the segmenter looks at each frame once."""
        segmenter = self._segmenter()
        pairs = [(case.frames[i], mask_of(case, segmenter, i)) for i in self.plan(case.times_us)]
        return [(frame, mask) for frame, mask in pairs if mask.mean() >= SMALLEST_SHARE]


class Paste(_WithMasks):
    """Mean over frames of the best correlation with any reference."""

    def measure(self, case: Case) -> Measurement:
        """Score one video; ``leak`` is by how much its most copied frame exceeds its median."""
        found = self._found(case)
        if found is None:
            return not_applicable("no_reference")
        return scored(
            float(found.mean()),
            {"most": float(found.max()), "leak": float(found.max() - np.median(found))},
        )

    def _found(self, case: Case) -> npt.NDArray[np.float64] | None:
        """The best correlation of each planned frame, searched once however many ask."""
        references = self._references(case)
        if not references:
            return None
        return np.array(
            [
                case.once(
                    ("pasted", i),
                    lambda i=i: max(pasted(r, m, case.frames[i]) for r, m in references),
                )
                for i in self.plan(case.times_us)
            ]
        )

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """None: a search in other videos would cost as much again for each of them."""
        return [None] * len(peers)


class Leak(Paste):
    """The most copied frame of nine: a reference that is shown once is in the video.

    A network that learned from in-pairs may begin with its reference and move on from it, so that
    the mean over frames looks innocent.
    """

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Nine frames, first to last; five of them are those of the mean."""
        return linspace_inclusive(len(times_us), FRAMES_LEAK)

    def measure(self, case: Case) -> Measurement:
        """Score one video; ``when`` is where in it that frame is, 0 at the start to 1."""
        found = self._found(case)
        if found is None:
            return not_applicable("no_reference")
        when = int(found.argmax()) / max(1, found.size - 1)
        return scored(float(found.max()), {"median": float(np.median(found)), "when": when})


class Pose(_WithMasks):
    """Mean over frames of the best overlap of outlines with any reference."""

    def measure(self, case: Case) -> Measurement:
        """Score one video."""
        references = [outline(mask) for _, mask in self._references(case)]
        if not references:
            return not_applicable("no_reference")
        frames = [outline(mask) for _, mask in self._masks(case)]
        rate = {"seg_rate": len(frames) / len(self.plan(case.times_us))}
        if not frames:
            return not_applicable("no_subject_in_frames")
        best = [max(overlap(frame, r) for r in references) for frame in frames]
        return scored(
            float(np.mean(best)),
            rate,
            {"references": np.array(references), "frames": np.array(frames)},
        )

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """Each video's outlines against the references of the other reference ids."""
        outlines: dict[str, npt.NDArray[np.float64]] = {}
        for peer in peers:
            if peer.measurement.status == "scored":
                outlines[peer.reference_id] = peer.measurement.array("references")
        levels: list[float | None] = []
        for peer in peers:
            others = [outlines[k] for k in sorted(outlines) if k != peer.reference_id]
            if peer.measurement.status != "scored" or not others:
                levels.append(None)
                continue
            frames = peer.measurement.array("frames")
            levels.append(
                float(np.mean([max(overlap(f, r) for r in o) for o in others for f in frames]))
            )
        return levels


class Background(_WithMasks):
    """Mean cosine of what is around the subject, in references and frames."""

    def __init__(
        self,
        spec: MetricSpec,
        segmenter: Callable[[], SubjectSegmenter],
        embedder: Callable[[], ImageEmbedder],
    ) -> None:
        super().__init__(spec, segmenter)
        self._embedder = embedder

    def measure(self, case: Case) -> Measurement:
        """Score one video; references cut tight to their subject have no background to copy."""
        around = [without_subject(image, mask) for image, mask in self._references(case)]
        references = [image for image in around if image is not None]
        if not references:
            return not_applicable("no_reference_background")
        frames = [without_subject(image, mask) for image, mask in self._masks(case)]
        kept = [image for image in frames if image is not None]
        if not kept:
            return not_applicable("no_frame_background")
        embedder = self._embedder()
        told, seen = embedder.embed(references), embedder.embed(kept)
        return scored(
            mean_cosine(told, seen), {}, {"references": told, "mean_frame": seen.mean(axis=0)}
        )

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """Each video against the backgrounds of the other reference ids."""
        return other_references(peers)
