"""From frames as coded to frames as displayed: rotation and mirroring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type as SideDataType


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to turn a coded frame into the displayed one.

    Applied in this order: transpose, then horizontal flip, then vertical flip.
    """

    transpose: bool = False
    hflip: bool = False
    vflip: bool = False

    @property
    def rotation(self) -> int:
        """Clockwise degrees in {0, 90, 180, 270}; a mirror image reports its rotation part."""
        if self.transpose:
            return 90 if self.hflip else 270
        return 180 if self.vflip else 0

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Turn ``(H, W, ...)`` as coded into the displayed orientation, contiguous."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        if self.hflip:
            image = image[:, ::-1]
        if self.vflip:
            image = image[::-1]
        return np.ascontiguousarray(image)

    @staticmethod
    def from_matrix(matrix: bytes) -> Orientation:
        """Read a display matrix (nine native int32: a b u, c d v, x y w).

        A coded point (x, y) is shown at (a x + c y, b x + d y). Angles between the right ones
        snap to the nearest, which is what every phone writes anyway.
        """
        a, b, _, c, d, *_ = (int(value) for value in np.frombuffer(matrix, np.int32)[:9])
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return Orientation(False, a < 0, d < 0)
        return Orientation(True, c < 0, b < 0)


def orientation_of(frame: Any) -> Orientation:
    """Orientation that a decoded PyAV frame carries in its side data."""
    matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    return Orientation.from_matrix(bytes(matrix)) if matrix is not None else Orientation()
