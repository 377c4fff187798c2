"""Is one picture a copy of another? Local features and grey values, not what selection uses.

Selection refuses near copies by perceptual hash and by the cosine of its embedder. This judge
uses neither: it matches SIFT keypoints (Lowe 2004), asks RANSAC for the one shift, turn and scale
that explains most of them, lays one picture over the other and correlates what lies on top of
each other. A re-encoded, scaled, shifted, cut, brightened or mirrored copy fits; the same subject
in another pose or light does not. Figures and limits: docs/audit.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.embedded.net import one_cv_thread
from s2v.datapipe.roles import Image

Grey = npt.NDArray[np.uint8]

SIDE: Final = 400  # pixels of the longer side: enough for a frame, and 30 ms
KEYPOINTS: Final = 600
RATIO: Final = 0.8  # Lowe's: the nearest descriptor must be that much nearer than the second
REACH: Final = 5.0  # pixels a match may lie off the common transform
SCALES: Final = (0.2, 5.0)  # of the transform; beyond them it is an accident
SURE: Final = 40  # matches that no other picture has: its mirror image need not be tried
WINDOW: Final = 15  # pixels: correlation is local, so that brightness and large areas cancel
FLAT: Final = 4.0  # grey levels of deviation below which a window shows nothing to compare


@dataclass(frozen=True)
class Fit:
    """How well one picture lies on another.

    Attributes:
        matches: keypoints that the common transform explains; 0 where there is none.
        covered: share of the smaller picture that the other covers, 0..1.
        correlation: median local correlation of grey values there, -1..1; 0 without a transform.
        mirrored: the second picture was mirrored to fit.
    """

    matches: int = 0
    covered: float = 0.0
    correlation: float = 0.0
    mirrored: bool = False


class Picture:
    """A picture prepared for comparison: grey, small, with its keypoints.

    Args:
        image: RGB uint8 ``[H, W, 3]``.
    """

    def __init__(self, image: Image) -> None:
        scale = min(1.0, SIDE / max(image.shape[:2]))
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        with one_cv_thread():
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            self.grey: Grey = np.asarray(
                cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8
            )
            self.points, self.features = _keypoints(self.grey)

    @cached_property
    def mirror(self) -> Picture:
        """The same mirrored left to right."""
        turned = object.__new__(Picture)
        turned.grey = np.ascontiguousarray(self.grey[:, ::-1])
        with one_cv_thread():
            turned.points, turned.features = _keypoints(turned.grey)
        return turned


def _keypoints(grey: Grey) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """``[n, 2]`` positions and ``[n, 128]`` descriptors."""
    # A low contrast threshold: smooth drawn surfaces have few corners.
    finder = cv2.SIFT.create(nfeatures=KEYPOINTS, contrastThreshold=0.02)
    points, features = finder.detectAndCompute(grey, None)
    if not points:  # then there are no features either
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    return np.array([p.pt for p in points], np.float32), np.asarray(features, np.float32)


def fit(one: Picture, other: Picture) -> Fit:
    """Lay one picture on the other, and on its mirror image; the better of the two.

    The one with fewer keypoints is looked for in the other, whichever is given first.
    """
    less, more = sorted((one, other), key=lambda picture: len(picture.points))
    straight = _laid(less, more, mirrored=False)
    if straight.matches >= SURE:
        return straight
    turned = _laid(less, more.mirror, mirrored=True)
    return max(straight, turned, key=lambda f: (f.matches, f.correlation))


def _laid(one: Picture, other: Picture, *, mirrored: bool) -> Fit:
    if min(len(one.points), len(other.points)) < 3:
        return Fit(mirrored=mirrored)
    with one_cv_thread():
        pairs = cv2.BFMatcher().knnMatch(one.features, other.features, k=2)
        near = [(a.queryIdx, a.trainIdx) for a, b in pairs if a.distance < RATIO * b.distance]
        if len(near) < 3:
            return Fit(mirrored=mirrored)
        source = one.points[[q for q, _ in near]]
        target = other.points[[t for _, t in near]]
        cv2.setRNGSeed(0)
        matrix, kept = cv2.estimateAffinePartial2D(
            source, target, method=cv2.RANSAC, ransacReprojThreshold=REACH, maxIters=2000
        )
        if matrix is None or not _plausible(np.asarray(matrix, np.float64)):
            return Fit(mirrored=mirrored)
        matches = len({t for (_, t), k in zip(near, kept.ravel(), strict=True) if k})
        covered, correlation = _overlap(one.grey, other.grey, np.asarray(matrix, np.float64))
    return Fit(matches, covered, correlation, mirrored)


def _plausible(matrix: npt.NDArray[np.float64]) -> bool:
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    return SCALES[0] <= scale <= SCALES[1]


def _overlap(one: Grey, other: Grey, matrix: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Share of the smaller picture covered, and the local correlation there."""
    size = other.shape[::-1]
    laid = cv2.warpAffine(one, matrix, size, flags=cv2.INTER_AREA).astype(np.float32)
    inside = cv2.warpAffine(np.ones_like(one), matrix, size, flags=cv2.INTER_NEAREST) > 0
    area = float(np.linalg.det(matrix[:, :2])) * one.size
    covered = float(inside.sum()) / max(1.0, min(area, float(other.size)))
    still = other.astype(np.float32)

    def mean(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.asarray(cv2.blur(x, (WINDOW, WINDOW)), np.float32)

    a, b = mean(laid), mean(still)
    var_a, var_b = mean(laid * laid) - a * a, mean(still * still) - b * b
    shared = mean(laid * still) - a * b
    shows = inside & (np.maximum(var_a, var_b) > FLAT**2)
    if shows.sum() < WINDOW * WINDOW:
        return min(1.0, covered), 0.0
    local = shared[shows] / np.sqrt(np.maximum(var_a[shows] * var_b[shows], 1.0))
    return min(1.0, covered), round(float(np.clip(local, -1, 1).mean()), 4)
