"""Hard cuts: PySceneDetect's two detectors over shared colour differences, each cut verified.

Both detectors read the same number, the mean difference of hue, saturation and value between
neighbouring frames. Computed once and compared with both thresholds it gives the cuts of
``ContentDetector`` and ``AdaptiveDetector`` (scenedetect 0.7, no minimum length; a test holds
it to that) at a twentieth of their cost. Their minimum length would merge a flash, but also
swallow a short insert and leave its frames in a clip. Here it is asked only of changes that do
not stand out from their neighbours, and each candidate is looked at instead: when the picture is
the same again within a fifth of a second it was a flash, and when a shift of the picture explains
the change it was a fast pan.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.uint8]

MIN_CONTENT: Final = 15.0
"""Score under which the adaptive detector never cuts (scenedetect's default)."""

NEIGHBOURS: Final = 2
"""Frames on each side that the adaptive detector averages over (scenedetect's default)."""

BURST: Final = 8
"""Frames after a large change in which another one must stand out from its neighbours to count:
violent movement changes every frame."""

FLASH_US: Final = 200_000
SAME_AGAIN: Final = 0.5
"""A change is undone when what is left of it is at most this share."""

SHIFTED: Final = 0.5
"""A change is a movement when a shift of the picture leaves at most this share of it."""

_RING: Final = 64


class Look(NamedTuple):
    """What is remembered of a frame while a candidate may still be verified."""

    number: int
    pts_us: int
    hsv: Plane
    grey: Plane


class CutDetector:
    """Fed every frame in order; finds hard cuts and what only looked like one.

    Attributes:
        scores: per frame, the mean HSV difference to the frame before, 0..255; 0 for the first.
        cuts: indices of the first frames of new shots; those found so far are final.
        refused: index -> ``flash``, ``movement`` or ``burst``, candidates that were no cut.
    """

    def __init__(self, content_threshold: float, adaptive_threshold: float) -> None:
        self.content_threshold = content_threshold
        self.adaptive_threshold = adaptive_threshold
        self.scores: list[float] = []
        self.cuts: list[int] = []
        self.refused: dict[int, str] = {}
        self._ring: deque[Look] = deque(maxlen=_RING)
        self._open: deque[int] = deque()  # candidates that wait for the frames after them
        self._last = -BURST  # the newest verified candidate

    def __call__(self, pts_us: int, hsv: Plane, grey: Plane) -> float:
        """One more frame.

        Args:
            pts_us: its time.
            hsv: OpenCV's HSV of it, uint8 ``[h, w, 3]``.
            grey: uint8 ``[h, w]``.

        Returns:
            Its score.
        """
        index = len(self.scores)
        before = self._ring[-1] if self._ring else None
        score = 0.0 if before is None else difference(hsv, before.hsv)
        self.scores.append(score)
        self._ring.append(Look(index, pts_us, hsv, grey))
        middle = index - NEIGHBOURS
        if middle > 0 and self.is_candidate(middle):
            self._open.append(middle)
        while self._open and self._is_due(self._open[0], pts_us):
            self._verify(self._open.popleft())
        return score

    def finish(self) -> list[int]:
        """Verify what still waits; returns the cuts, sorted."""
        for index in range(max(1, len(self.scores) - NEIGHBOURS), len(self.scores)):
            if self.is_candidate(index):
                self._open.append(index)
        while self._open:
            self._verify(self._open.popleft())
        return self.cuts

    def is_candidate(self, index: int) -> bool:
        """Whether either of PySceneDetect's detectors would cut here."""
        return self.scores[index] >= self.content_threshold or is_adaptive_cut(
            self.scores, index, self.adaptive_threshold
        )

    def _accept(self, index: int) -> None:
        """A verified candidate is a cut, unless it follows another and does not stand out."""
        stands_out = is_adaptive_cut(self.scores, index, self.adaptive_threshold)
        if index - self._last >= BURST or stands_out:
            self.cuts.append(index)
        else:
            self.refused[index] = "burst"
        self._last = index

    def _is_due(self, index: int, now_us: int) -> bool:
        first = self._ring[0].number
        looked = self._ring[index - first]
        # The ring holds a second and more at common rates; at others the frames there are do.
        return now_us - looked.pts_us > FLASH_US or index - first <= _RING // 2

    def _verify(self, index: int) -> None:
        first = self._ring[0].number
        place = index - first
        if place <= 0:
            self._accept(index)
            return
        looks = list(self._ring)
        if self._is_flash(looks, place):
            self.refused[index] = "flash"
        elif is_movement(looks[place - 1].grey, looks[place].grey):
            self.refused[index] = "movement"
        else:
            self._accept(index)

    def _is_flash(self, looks: list[Look], place: int) -> bool:
        """Whether a frame shortly before the change looks like one shortly after it."""
        limit = SAME_AGAIN * self.scores[looks[place].number]
        for a in range(place - 1, -1, -1):
            if looks[place].pts_us - looks[a].pts_us > FLASH_US:
                break
            for b in range(place, len(looks)):
                if looks[b].pts_us - looks[a].pts_us > FLASH_US + 1000:
                    break
                if b - a > 1 and difference(looks[a].hsv, looks[b].hsv) <= limit:
                    return True
        return False


def difference(a: Plane, b: Plane) -> float:
    """Mean absolute difference of two uint8 images of one shape."""
    return float(cv2.norm(a, b, cv2.NORM_L1)) / a.size


def is_adaptive_cut(scores: list[float], index: int, threshold: float) -> bool:
    """``AdaptiveDetector``'s rule: the score stands out from its neighbours' mean."""
    if index < NEIGHBOURS or index + NEIGHBOURS >= len(scores) or scores[index] < MIN_CONTENT:
        return False
    around = sum(scores[index - NEIGHBOURS : index + NEIGHBOURS + 1]) - scores[index]
    average = around / (2 * NEIGHBOURS)
    return average < 1e-5 or min(scores[index] / average, 255.0) >= threshold


def is_movement(before: Plane, after: Plane) -> bool:
    """Whether shifting ``before`` as a whole explains most of the difference to ``after``."""
    a, b = before.astype(np.float32), after.astype(np.float32)
    (dx, dy), _ = cv2.phaseCorrelate(a, b, _hanning(a.shape))
    height, width = before.shape
    # Of unlike pictures the peak may lie anywhere, also outside them.
    if not (abs(dx) < width and abs(dy) < height):
        return False
    move = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    moved = np.asarray(cv2.warpAffine(before, move, (width, height)))
    left, right = max(0, round(dx)), min(width, width + round(dx))
    top, bottom = max(0, round(dy)), min(height, height + round(dy))
    if (right - left) * (bottom - top) < 0.4 * width * height:
        return False
    common = (slice(top, bottom), slice(left, right))
    still = difference(np.ascontiguousarray(before[common]), np.ascontiguousarray(after[common]))
    rest = difference(np.ascontiguousarray(moved[common]), np.ascontiguousarray(after[common]))
    return rest <= SHIFTED * still


_windows: dict[tuple[int, ...], Any] = {}


def _hanning(shape: tuple[int, ...]) -> Any:
    if shape not in _windows:
        _windows[shape] = cv2.createHanningWindow((shape[1], shape[0]), cv2.CV_32F)
    return _windows[shape]
