"""Black borders: the scan sees them on every frame but small, stored frames show them exactly.

A border is a run of rows or columns from the edge inwards that are black on all frames. What the
scan found is trusted to a pixel of its own size; without its word only thin lines count, because
a dark scene may be black at its edge on three frames too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.measure.overlay_crop import Box, Crop, inside_even
from s2v.datapipe.roles import Image

BLACK: Final = 26.0  # grey level; video black with the noise of a bad encoder
_BRIGHT_SHARE: Final = 0.02  # of a line's pixels may be brighter: noise, not picture
_SCAN_PIXELS: Final = 2.0  # how far the scan's edge may be off, in its pixels
_THIN: Final = 0.025  # of the side: lines the scan is too small to see
_BAR: Final = 0.15  # of the side: what is left of a bar when a subtitle was cut off it
_STEP: Final = 16.0  # grey levels between a thin line and the picture behind it


def refine(
    images: Sequence[Image], seen: Sequence[float] | None, scan_short_side: int
) -> Box | None:
    """The picture inside black borders, to the pixel and a little inwards.

    Args:
        images: stored frames of one clip, all of one size, displayed pixels.
        seen: what the scan found on all frames, coarse; ``None`` for no borders.
        scan_short_side: pixels of the frames scanned.

    Returns:
        A box of even edges, or ``None`` without borders.
    """
    height, width = images[0].shape[:2]
    step = _SCAN_PIXELS * max(1.0, min(height, width) / scan_short_side)
    return _picture(images, seen or (0, 0, width, height), step, _THIN)


def without_bars(images: Sequence[Image], crop: Crop) -> Crop:
    """A crop without the rest of a bar that text lay on, which hid the bar from the scan."""
    x0, y0, x1, y1 = crop
    height, width = images[0].shape[:2]
    parts = [image[y0:y1, x0:x1] for image in images]
    cut = (y0 > 0 or y1 < height, x0 > 0 or x1 < width)
    found = _picture(parts, (0, 0, x1 - x0, y1 - y0), 0.0, _BAR, rows=cut[0], columns=cut[1])
    if found is None:
        return crop
    a, b, c, d = (int(v) for v in found)
    return (x0 + a, y0 + b, x0 + c, y0 + d)


def _picture(
    images: Sequence[Image],
    seen: Sequence[float],
    step: float,
    thin: float,
    *,
    rows: bool = True,
    columns: bool = True,
) -> Box | None:
    height, width = images[0].shape[:2]
    grey = np.max([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images], axis=0)
    x0, y0, x1, y1 = seen
    top, bottom, left, right = 0, height, 0, width
    if rows:
        top, bottom = _edges(_Lines(grey, 1), y0, y1, step, thin)
    if columns:
        # Between the upper and lower border only: there all columns are black.
        left, right = _edges(
            _Lines(grey[top:bottom] if top < bottom else grey, 0), x0, x1, step, thin
        )
    if (left, top, right, bottom) == (0, 0, width, height):
        return None
    found = inside_even((left, top, right, bottom), width, height)
    return (*map(float, found),) if found else None  # type: ignore[return-value]  # four of four


class _Lines:
    """Grey levels of rows or columns: what all but a few pixels stay below, and the median."""

    def __init__(self, grey: npt.NDArray[np.uint8], axis: int) -> None:
        share = 1 - _BRIGHT_SHARE
        self.high = np.asarray(np.quantile(grey, share, axis=axis, method="lower"), np.float64)
        self.middle = np.asarray(np.median(grey, axis=axis), np.float64)

    def backwards(self) -> _Lines:
        other = object.__new__(_Lines)
        other.high, other.middle = self.high[::-1], self.middle[::-1]
        return other


def _edges(lines: _Lines, first: float, last: float, step: float, thin: float) -> tuple[int, int]:
    """First and last line of the picture, half-open."""
    count = len(lines.high)
    begin = _border(lines, first, step, thin)
    return begin, count - _border(lines.backwards(), count - last, step, thin)


def _border(lines: _Lines, seen: float, step: float, thin: float) -> int:
    """Lines to cut away at the beginning."""
    bright = np.flatnonzero(lines.high > BLACK)
    if not len(bright):
        return round(seen)
    run = int(bright[0])
    if seen > 0:
        # Dark scenery at its edge looks like more border, text on the border like less.
        run = run if abs(run - seen) <= step else round(seen)
    else:
        behind = lines.middle[run + 1 : run + 4]
        narrow = 0 < run <= thin * len(lines.high)
        if not narrow or not len(behind) or behind.mean() - lines.middle[:run].mean() <= _STEP:
            return 0
    # The next line is a mixture of border and picture where scaling blurred the edge.
    return run + 1
