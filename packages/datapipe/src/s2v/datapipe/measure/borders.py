"""Black borders: letterbox, pillarbox, or both, from a few small frames of a clip.

A border is black at all times and ends in a straight line that is bright along most of its
length. A night sky is black too, but what bounds it below is never a bright straight line from
side to side; and where nothing in the clip is bright enough to show a line, none is claimed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

PER_SECOND: Final = 2
"""Frames looked at per second of film."""

BLACK: Final = 24
"""Grey level (of 255) that no pixel of a border passes; ffmpeg's cropdetect has 24 as well."""

LIT: Final = 48
"""Grey level of a pixel that is part of a picture."""

LIT_SHARE: Final = 0.6
"""Share of the line beside the border that must be lit at one time."""

SOFT: Final = 2
"""Rows in which a border may turn into picture: one of both, and one of filter ringing."""

SMALLEST: Final = 0.015
"""Share of the side under which a border is left alone."""

LEAST_PICTURE: Final = 0.3
"""Share of the frame that must be picture: text on black is no letterbox."""


@dataclass
class Profiles:
    """Per frame looked at: how bright its rows and columns are.

    Attributes:
        index: frame number of the scan.
        rows_max, rows_lit: per row its brightest pixel, and the share (of 255) of lit pixels.
        columns_max, columns_lit: the same per column.
    """

    index: list[int] = field(default_factory=list)
    rows_max: list[Bytes] = field(default_factory=list)
    rows_lit: list[Bytes] = field(default_factory=list)
    columns_max: list[Bytes] = field(default_factory=list)
    columns_lit: list[Bytes] = field(default_factory=list)

    def look(self, index: int, grey: Bytes) -> None:
        """Add a frame, uint8 ``[h, w]``."""
        lit = cv2.threshold(grey, LIT - 1, 255, cv2.THRESH_BINARY)[1]
        self.index.append(index)
        self.rows_max.append(grey.max(axis=1))  # OpenCV's takes twenty times as long
        self.columns_max.append(grey.max(axis=0))
        self.rows_lit.append(np.asarray(cv2.reduce(lit, 1, cv2.REDUCE_AVG), np.uint8).reshape(-1))
        self.columns_lit.append(
            np.asarray(cv2.reduce(lit, 0, cv2.REDUCE_AVG), np.uint8).reshape(-1)
        )

    def content(self, first: int, last: int) -> tuple[float, float, float, float] | None:
        """The picture inside black borders, over frames ``first <= i < last``.

        Returns:
            ``x0, y0, x1, y1`` as shares of the frame, rounded inwards by up to two small rows;
            None where there are no borders, or no evidence of them.
        """
        chosen = [n for n, index in enumerate(self.index) if first <= index < last]
        if not chosen:
            return None
        height, width = len(self.rows_max[0]), len(self.columns_max[0])
        top, bottom = _span([self.rows_max[n] for n in chosen])
        left, right = _span([self.columns_max[n] for n in chosen])
        # Lit shares count over the whole line, borders of the other direction included.
        rows = _lit([self.rows_lit[n] for n in chosen]) * width / max(right - left, 1)
        columns = _lit([self.columns_lit[n] for n in chosen]) * height / max(bottom - top, 1)
        y0, y1 = _edges(top, bottom, rows)
        x0, x1 = _edges(left, right, columns)
        if (y0, x0, y1, x1) == (0, 0, height, width):
            return None
        if (y1 - y0) * (x1 - x0) < LEAST_PICTURE * width * height:
            return None
        return x0 / width, y0 / height, x1 / width, y1 / height


def _span(lines: list[Bytes]) -> tuple[int, int]:
    """First and one past the last line that is ever brighter than black."""
    bright = np.flatnonzero(np.max(lines, axis=0) > BLACK)
    return (int(bright[0]), int(bright[-1]) + 1) if len(bright) else (0, 0)


def _lit(lines: list[Bytes]) -> npt.NDArray[np.float64]:
    return np.asarray(np.max(lines, axis=0) / 255.0)


def _edges(first: int, last: int, lit: npt.NDArray[np.float64]) -> tuple[int, int]:
    """The picture's first and one past its last line, inwards; the whole side without evidence."""
    size = len(lit)
    start, end = 0, size
    if first >= max(1, SMALLEST * size):
        inside = np.flatnonzero(lit[first : first + SOFT + 1] >= LIT_SHARE)
        if len(inside):
            start = first + max(1, int(inside[0]))
    if size - last >= max(1, SMALLEST * size):
        inside = np.flatnonzero(lit[last - SOFT - 1 : last][::-1] >= LIT_SHARE)
        if len(inside):
            end = last - max(1, int(inside[0]))
    return start, end
