"""Logos and watermarks over a whole window of a film: shots change, the mark stays.

Within one clip a mark over a still scene looks like scenery. Over many views it does not: an edge
that most of them show at the same place, in the same direction, was drawn over the film. Views
are taken from the scan's small frames, a new one whenever the picture has become another: a
camera that pushes in on one scene gives no new views, nor does light that goes on and off.

Two frames a second are compared with the last view, as thumbnails; a new view costs two Sobel
filters of 144 rows. What is found is a hint only: whether a clip bears the mark is seen on its own
sampled frames (:meth:`.overlay_static.Stillness.marks_within`).
"""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Share = tuple[float, float, float, float]

_SAME_VIEW: Final = 0.6  # correlation of thumbnails from which two frames show one scene
_THUMB: Final = (32, 18)  # width and height of a thumbnail
_FLAT: Final = 2.0  # grey levels of deviation below which a frame shows nothing
_MIN_VIEWS: Final = 6
_EDGE: Final = 5.0  # grey levels per pixel
_MOST: Final = 0.6  # of the views have to show the edge
_GAP: Final = 5  # pixels that letters of one mark lie apart
_MIN_EDGES: Final = 14  # pixels of lasting edge in a mark
_MIN_DIRECTIONS: Final = 0.12  # weaker / stronger direction of its edges: a border is one line
_MAX_MARK: Final = 0.15  # share of the frame
_SCENERY: Final = 0.2  # share of a view's other edges that last: the views were of one scene
_BORDER: Final = 0.8  # of the side: a line as long is the edge of a black border


class Marks:
    """Gathers edges over views.

    Attributes:
        views: pictures that were unlike the one before.
    """

    def __init__(self) -> None:
        self.views = 0
        self._edges = 0  # pixels of edge in all views
        self._last: npt.NDArray[np.float32] | None = None
        self._along: npt.NDArray[np.float32] | None = None  # [2, h, w], sums of unit vectors

    def see(self, grey: Bytes) -> None:
        """One more frame, uint8 ``[h, w]``; most are no new view and cost a thumbnail."""
        thumb = cv2.resize(grey, _THUMB, interpolation=cv2.INTER_AREA).astype(np.float32)
        # Without what whole rows or columns share: black borders, skies, are no likeness.
        thumb -= thumb.mean(axis=0) + thumb.mean(axis=1, keepdims=True) - thumb.mean()
        length = float(np.linalg.norm(thumb))
        if length < _FLAT * math.sqrt(thumb.size):
            return
        thumb /= length
        if self._last is not None and float((thumb * self._last).sum()) >= _SAME_VIEW:
            return
        self._last = thumb
        self.views += 1
        slopes = [cv2.Sobel(grey, cv2.CV_32F, dx, 1 - dx, ksize=3, scale=1 / 8) for dx in (1, 0)]
        strength = cv2.magnitude(*slopes)
        edge = strength > _EDGE
        self._edges += int(np.count_nonzero(edge))
        if self._along is None:
            self._along = np.zeros((2, *grey.shape), np.float32)
        strength[~edge] = np.inf
        for axis, slope in enumerate(slopes):
            self._along[axis] += slope / strength

    def boxes(self) -> list[Share] | None:
        """Where marks are, ``x0, y0, x1, y1`` as shares of the frame; from top to bottom.

        Returns:
            ``None`` where too few views were seen, or all of one scene.
        """
        if self._along is None or self.views < _MIN_VIEWS:
            return None
        lasting = np.linalg.norm(self._along, axis=0) >= _MOST * self.views
        height, width = lasting.shape
        kernel = np.ones((_GAP, _GAP), np.uint8)
        near = cv2.morphologyEx(lasting.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
        found: list[Share] = []
        scenery = 0
        for n in range(1, count):
            x, y, w, h = (int(v) for v in stats[n][:4])
            own = lasting & (labels == n)
            line = not self._has_directions(own)
            if line and (w >= _BORDER * width or h >= _BORDER * height):
                continue
            small = int(own.sum()) < _MIN_EDGES
            if line or small or w * h > _MAX_MARK * width * height:
                scenery += int(own.sum())
            else:
                found.append((x / width, y / height, (x + w) / width, (y + h) / height))
        if scenery > _SCENERY * max(self._edges / self.views, 1.0):
            return None
        return sorted(found, key=lambda box: (box[1], box[0], box))

    def pixels(self, width: int, height: int) -> list[list[float]] | None:
        """:meth:`boxes` in whole pixels of a frame ``width`` by ``height``, rounded outwards."""
        shares = self.boxes()
        if shares is None:
            return None
        return [
            [
                float(math.floor(x0 * width)),
                float(math.floor(y0 * height)),
                float(math.ceil(x1 * width)),
                float(math.ceil(y1 * height)),
            ]
            for x0, y0, x1, y1 in shares
        ]

    def _has_directions(self, own: npt.NDArray[np.bool_]) -> bool:
        if self._along is None or not own.any():
            return False
        slopes = self._along[:, own]
        weak, strong = np.linalg.eigvalsh(slopes @ slopes.T)
        return bool(weak >= _MIN_DIRECTIONS * strong)
