"""Small frames for measuring: cheap to make, good enough to compare, never to keep.

Libswscale's exact area filter costs 0.4 ms a frame, a third of decoding it. Measuring needs no
such care: halving the planes by OpenCV, which averages 2 x 2 pixels exactly, and one linear step
at the end costs 0.13 ms and aliases no more. The colours are BT.601's, whatever the film declares.
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.media.orientation import Orientation

Plane = npt.NDArray[np.uint8]

LIMITED: Final = frozenset({"yuv420p", "nv12"})
"""Pixel formats whose planes are taken as they are; others go through libswscale."""

FULL: Final = frozenset({"yuvj420p"})


def fits(frame: Any) -> bool:
    """Whether a PyAV frame has planes that :class:`DraftFrames` can take."""
    return frame.format.name in LIMITED or frame.format.name in FULL


class DraftFrames:
    """Coded frames in 8-bit 4:2:0 to small displayed RGB.

    Args:
        width, height: of the small frame as coded (before it is turned), pixels.
        orientation: how to turn it.
    """

    def __init__(self, width: int, height: int, orientation: Orientation) -> None:
        self._size = (width, height)
        # OpenCV's YUV conversion wants even sides: made a little larger and cut.
        self._even = (width + width % 2, height + height % 2)
        self._orientation = orientation
        wide, high = self._even
        self._joined = np.empty((high * 3 // 2, wide), np.uint8)

    def __call__(self, frame: Any) -> npt.NDArray[np.uint8]:
        """RGB uint8 ``(h, w, 3)`` in display orientation."""
        luma, blue, red = _planes(frame)
        wide, high = self._even
        half = (wide // 2, high // 2)
        pixels = half[0] * half[1]
        chroma = self._joined[high:].reshape(-1)
        self._joined[:high] = shrink(luma, (wide, high))
        chroma[:pixels] = shrink(blue, half).reshape(-1)
        chroma[pixels:] = shrink(red, half).reshape(-1)
        if _is_full_range(frame):
            rgb = _full_range_rgb(self._joined, wide, high)
        else:
            rgb = np.asarray(cv2.cvtColor(self._joined, cv2.COLOR_YUV2RGB_I420), np.uint8)
        if self._even != self._size:
            rgb = rgb[: self._size[1], : self._size[0]]
        return self._orientation.apply(rgb)


def shrink(plane: Plane, size: tuple[int, int]) -> Plane:
    """Shrink ``[H, W(, C)]`` to ``(width, height)``: halved while that is exact, then linear."""
    width, height = size
    while (
        plane.shape[1] >= 2 * width
        and plane.shape[0] >= 2 * height
        and plane.shape[0] % 2 == 0
        and plane.shape[1] % 2 == 0
    ):
        plane = _resize(plane, (plane.shape[1] // 2, plane.shape[0] // 2), cv2.INTER_AREA)
    if (plane.shape[1], plane.shape[0]) == size:
        return plane
    far = plane.shape[1] >= 2 * width or plane.shape[0] >= 2 * height
    return _resize(plane, size, cv2.INTER_AREA if far else cv2.INTER_LINEAR)


def _resize(plane: Plane, size: tuple[int, int], how: int) -> Plane:
    return np.asarray(cv2.resize(plane, size, interpolation=how), np.uint8)


def _planes(frame: Any) -> tuple[Plane, Plane, Plane]:
    """Views of Y, U and V, without a copy where the format has three planes."""
    shown = [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]
        for plane in frame.planes
    ]
    luma = shown[0][:, : frame.width]
    if frame.format.name == "nv12":
        both = shown[1][:, : 2 * frame.planes[1].width].reshape(frame.planes[1].height, -1, 2)
        return luma, np.ascontiguousarray(both[..., 0]), np.ascontiguousarray(both[..., 1])
    return luma, shown[1][:, : frame.planes[1].width], shown[2][:, : frame.planes[2].width]


def _is_full_range(frame: Any) -> bool:
    return frame.format.name in FULL or int(frame.color_range) == 2  # AVCOL_RANGE_JPEG


def _full_range_rgb(joined: Plane, wide: int, high: int) -> Plane:
    """As OpenCV's I420 conversion, whose luma is always 16 to 235, for a luma of 0 to 255."""
    luma = joined[:high]
    pixels = wide * high // 4
    chroma = joined[high:].reshape(-1)
    blue, red = (
        _resize(part.reshape(high // 2, wide // 2), (wide, high), cv2.INTER_LINEAR)
        for part in (chroma[:pixels], chroma[pixels:])
    )
    return np.asarray(cv2.cvtColor(cv2.merge([luma, red, blue]), cv2.COLOR_YCrCb2RGB), np.uint8)
