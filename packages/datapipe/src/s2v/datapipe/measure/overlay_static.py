"""What stays the same while the picture behind it moves: logos, watermarks, tickers.

Three sampled frames are all there is. An edge that has the same place and direction on all of
them was either drawn over the film or belongs to a thing in front of a camera that stands still.
The rest of the picture tells the two apart: behind an overlay everything moves. Where much else
stays too, nothing is claimed by the clip alone; the whole film may know (:mod:`.marks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.measure.overlay_crop import Box
from s2v.datapipe.roles import Image

Grey = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

_EDGE: Final = 10.0  # grey levels per pixel; codec noise lies below
_COSINE: Final = 0.9  # between an edge's directions on two frames
_FADED: Final = 0.25  # weakest / strongest: what lies behind a see-through mark changes its edges
_MOVED: Final = 10.0  # grey levels between two frames
_GAP: Final = 7  # pixels that letters of one mark lie apart
_RING: Final = 24  # pixels around a mark that are looked at
_MIN_EDGES: Final = 60  # pixels of static edge in a mark: fewer are chance
# Scenery that seems to stay for a while is part of a pattern, or lines that move along themselves.
# Of the demo's marks and drawn-in logos all but one pass both bounds, of its false ones none.
_MIN_STAYING: Final = 0.4  # static edges / edges inside the mark
_MIN_DIRECTIONS: Final = 0.25  # weaker / stronger of the two main directions of its edges
_MIN_DENSITY: Final = 0.12  # static edge pixels / box: a mark is full of edges
_MIN_RING_MOVED: Final = 0.5
_HINT: Final = 4  # pixels that a box of the scan may be off
_MAX_MARK: Final = 0.08  # share of the frame; larger things that stay are scenery
# Share of the edges outside marks that stay: at most 0.007 on demo clips whose camera moves, but
# for two, and from 0.05 up where it stands still.
_MAX_SCENERY: Final = 0.01


class Stillness:
    """Static edges and moving places of one clip's frames, all 640 pixels long or less.

    Attributes:
        static: ``[h, w]``, edges that are on all frames alike.
        moved: ``[h, w]``, pixels that differ between two frames.
        edges: ``[frames, h, w]``, all edges.
    """

    def __init__(self, images: Sequence[Image]) -> None:
        greys = [
            cv2.GaussianBlur(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), (3, 3), 0).astype(np.float32)
            for i in images
        ]
        slopes = [_slopes(grey) for grey in greys]
        strength = np.stack([np.linalg.norm(s, axis=2) for s in slopes])
        self._slopes = slopes[len(slopes) // 2]
        weakest = strength.min(axis=0)
        self.edges: Flags = np.asarray(strength > _EDGE)
        self.static: Flags = (weakest > _EDGE) & (weakest > _FADED * strength.max(axis=0))
        self.moved: Flags = np.zeros(greys[0].shape, np.bool_)
        for n in range(len(greys)):
            for m in range(n):
                along = (slopes[n] * slopes[m]).sum(axis=2)
                self.static &= along > _COSINE * strength[n] * strength[m]
                self.moved |= np.abs(greys[n] - greys[m]) > _MOVED

    def marks(self) -> list[Box]:
        """Boxes of static edges in moving surroundings, in pixels of the small frames."""
        near = cv2.morphologyEx(
            self.static.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((_GAP, _GAP), np.uint8)
        )
        count, labels, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
        found: list[Box] = []
        height, width = near.shape
        for n in range(1, count):
            x, y, w, h = (int(v) for v in stats[n][:4])
            if w * h > _MAX_MARK * width * height:
                continue
            if self._is_mark((slice(y, y + h), slice(x, x + w)), labels == n):
                found.append((float(x), float(y), float(x + w), float(y + h)))
        if self._scenery(found) > _MAX_SCENERY:
            return []
        return sorted(found, key=lambda box: (box[1], box[0], box))

    def _is_mark(self, there: tuple[slice, slice], own: Flags) -> bool:
        static = self.static[there] & own[there]
        count = int(static.sum())
        if count < max(_MIN_EDGES, _MIN_DENSITY * static.size):
            return False
        slopes = self._slopes[there][static]
        weak, strong = np.linalg.eigvalsh(slopes.T @ slopes)
        if weak < _MIN_DIRECTIONS * strong:
            return False
        edges = float(self.edges[(slice(None), *there)].sum(axis=(1, 2)).mean())
        y, x = there
        ring = (x.start, y.start, x.stop, y.stop)
        return count >= _MIN_STAYING * edges and self.surroundings_move(ring)

    def _scenery(self, marks: Sequence[Box]) -> float:
        """Share of the edges outside marks that stay."""
        outside = np.ones(self.static.shape, np.bool_)
        for x0, y0, x1, y1 in marks:
            outside[max(int(y0) - 2, 0) : int(y1) + 2, max(int(x0) - 2, 0) : int(x1) + 2] = False
        edges = float((self.edges & outside).sum(axis=(1, 2)).mean())
        return float((self.static & outside).sum()) / max(edges, 1.0)

    def marks_within(self, hints: Sequence[Sequence[float]]) -> list[Box]:
        """Marks of the whole film that are on this clip too, by static edges inside their boxes.

        Args:
            hints: boxes in pixels of the small frames, a little too large or too small.
        """
        found: list[Box] = []
        height, width = self.static.shape
        for x0, y0, x1, y1 in hints:
            x, y = max(int(x0) - _HINT, 0), max(int(y0) - _HINT, 0)
            there = (slice(y, min(int(y1) + _HINT, height)), slice(x, min(int(x1) + _HINT, width)))
            static = self.static[there]
            edges = float(self.edges[(slice(None), *there)].sum(axis=(1, 2)).mean())
            if static.sum() < max(_MIN_EDGES, _MIN_STAYING * edges):
                continue
            rows, columns = np.flatnonzero(static.any(axis=1)), np.flatnonzero(static.any(axis=0))
            left, top = float(x + columns[0]), float(y + rows[0])
            found.append((left, top, float(x + columns[-1] + 1), float(y + rows[-1] + 1)))
        return found

    def surroundings_move(self, box: Sequence[float]) -> bool:
        """Whether most of the ring around a box changes between the frames."""
        x0, y0, x1, y1 = (round(v) for v in box)
        ring = np.zeros(self.moved.shape, np.bool_)
        ring[max(y0 - _RING, 0) : y1 + _RING, max(x0 - _RING, 0) : x1 + _RING] = True
        ring[max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2] = False
        return bool(ring.any()) and float(self.moved[ring].mean()) >= _MIN_RING_MOVED

    def stays(self, box: Sequence[float], frame: int) -> bool:
        """Whether most edges that a frame has inside a box are static."""
        x0, y0, x1, y1 = (round(v) for v in box)
        inside = self.edges[frame, y0:y1, x0:x1]
        return bool(inside.any()) and float(self.static[y0:y1, x0:x1][inside].mean()) >= 0.5


def _slopes(grey: Grey) -> Grey:
    """Horizontal and vertical differences, grey levels per pixel, ``[h, w, 2]``."""
    across = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    down = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    return np.stack([across, down], axis=2)
