"""Text on a frame, looked at twice.

A detector takes a group of animals or an undergrowth for huge lettering now and then. Lettering
is lettering at another size too, so where there are few boxes each is looked for again in a
cut-out of another scale, and where that fails in one of a third. What is found at no other size
is dropped.

Of 205 boxes around drawn-in lines, titles and logos the first of the two finds 196 again and both
203; of the four that the detector made up on 560 frames of the demo's film neither finds any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from s2v.datapipe.base.media.boxes import area
from s2v.datapipe.measure.overlay_crop import Box
from s2v.datapipe.roles import Image, TextRegions

SIDE: Final = 640  # of the longer side; smaller lines than that shows are credits far away
_PAGE: Final = 8  # boxes on a frame; from here on it is a page of text, and not looked at twice
_AGAIN: Final = 0.3  # share of a box to be covered at the second look: real ones were from 0.42 up
_ROOM: Final = 6.0  # area of the cut-out / area of the box: detectors expect pictures around text
_SMALLER: Final = 0.62
_SECOND_SIDE: Final = 448
_ENLARGED_FROM: Final = 300  # cut-outs smaller than that are enlarged, larger ones shrunk
_THIRD_SCALE: Final = 1.25  # of the first look: lines that are lost when enlarged much more


def shrunk(image: Image, side: int = SIDE) -> tuple[Image, float]:
    """The image with its longer side at most ``side``, and the factor back."""
    factor = max(1.0, max(image.shape[:2]) / side)
    return (_resized(image, 1 / factor), factor) if factor > 1 else (image, 1.0)


def lines(image: Image, finder: TextRegions) -> list[Box]:
    """Boxes of text on a frame, in its pixels, sorted.

    Args:
        image: a frame at full size.
        finder: finds text.
    """
    small, factor = shrunk(image)
    found = sorted(tuple(v * factor for v in region.box) for region in finder.regions(small))
    boxes: list[Box] = [(b[0], b[1], b[2], b[3]) for b in found]
    if len(boxes) < _PAGE:
        boxes = [box for box in boxes if _seen_again(image, box, finder, factor)]
    return boxes


def _seen_again(image: Image, box: Box, finder: TextRegions, factor: float) -> bool:
    height, width = image.shape[:2]
    across, down = box[2] - box[0], box[3] - box[1]
    # (across + 2 m) * (down + 2 m) = room * across * down
    wanted = _ROOM * area(box)
    margin = (math.sqrt((across - down) ** 2 + 4 * wanted) - across - down) / 4
    x0, y0 = max(int(box[0] - margin), 0), max(int(box[1] - margin), 0)
    x1, y1 = min(int(box[2] + margin), width), min(int(box[3] + margin), height)
    part = image[y0:y1, x0:x1]
    if min(part.shape[:2]) < 2:
        return False
    side = max(part.shape[:2])
    first = side / factor  # its side at the first look
    scale = (_SECOND_SIDE if first < _ENLARGED_FROM else max(first * _SMALLER, 96.0)) / side
    place = (box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0)
    scales = (scale, _THIRD_SCALE / factor)
    return any(_covers(finder, part, place, scale) for scale in scales)


def _covers(finder: TextRegions, part: Image, box: Box, scale: float) -> bool:
    """Whether text found on a cut-out at another scale covers enough of a box in it."""
    again = np.zeros(part.shape[:2], np.bool_)
    for region in finder.regions(_resized(np.ascontiguousarray(part), scale)):
        a, b, c, d = (round(v / scale) for v in region.box)
        again[max(b, 0) : d, max(a, 0) : c] = True
    inside = again[round(box[1]) : round(box[3]), round(box[0]) : round(box[2])]
    return inside.size > 0 and float(inside.mean()) >= _AGAIN


def _resized(image: Image, scale: float) -> Image:
    size = tuple(max(32, round(n * scale)) for n in image.shape[1::-1])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)


def covered(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> float:
    """Share of a frame of ``size`` (width, height) inside any of the boxes, 0..1."""
    width, height = size
    flags = np.zeros((height, width), np.bool_)
    for x0, y0, x1, y1 in boxes:
        flags[max(round(y0), 0) : max(round(y1), 0), max(round(x0), 0) : max(round(x1), 0)] = True
    return round(float(flags.mean()), 4)
