"""Boxes: xyxy float pixels of the displayed frame, x1 and y1 exclusive."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

Box = Sequence[float]


def area(box: Box) -> float:
    """Square pixels; 0 for a box turned inside out."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def area_share(box: Box, width: int, height: int) -> float:
    """Share of the frame that the box covers, in [0, 1] (Phantom-Data keeps 4 to 90 %)."""
    return area(clip(box, width, height)) / (width * height)


def clip(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """The part of the box inside a frame; a box outside becomes an empty one at the edge."""
    x0, x1 = (min(max(float(x), 0.0), float(width)) for x in (box[0], box[2]))
    y0, y1 = (min(max(float(y), 0.0), float(height)) for y in (box[1], box[3]))
    return x0, y0, max(x0, x1), max(y0, y1)


def overlap(a: Box, b: Box) -> float:
    """Square pixels that two boxes share."""
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def iou(a: Box, b: Box) -> float:
    """Intersection over union; 0 where both are empty."""
    inner = overlap(a, b)
    union = area(a) + area(b) - inner
    return inner / union if union > 0 else 0.0


def centre_inside(inner: Box, outer: Box) -> bool:
    """Whether the centre of ``inner`` lies in ``outer``."""
    x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    return outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3]


def iou_matrix(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Intersection over union of all pairs.

    Args:
        a: ``(N, 4)``.
        b: ``(M, 4)``.

    Returns:
        float64 ``(N, M)``.
    """
    first = np.asarray(a, np.float64).reshape(-1, 1, 4)
    second = np.asarray(b, np.float64).reshape(1, -1, 4)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    inner = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(np.clip(x[..., 2:] - x[..., :2], 0, None), axis=-1) for x in (first, second)]
    union = areas[0] + areas[1] - inner
    return np.asarray(np.divide(inner, union, out=np.zeros_like(inner), where=union > 0))


def expand(box: Box, margin: float, width: int, height: int) -> tuple[int, int, int, int]:
    """Grow a box by ``margin`` times its longer side on every side, to whole pixels inside.

    Returns:
        Integer xyxy, never empty for a box that touches the frame.

    Raises:
        ValueError: the box lies outside the frame or has no area.
    """
    if area(clip(box, width, height)) <= 0:
        raise ValueError(f"box {tuple(box)} has no area inside a frame of {width}x{height}")
    grow = margin * max(box[2] - box[0], box[3] - box[1])
    x0, y0, x1, y1 = clip(
        (box[0] - grow, box[1] - grow, box[2] + grow, box[3] + grow), width, height
    )
    return math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)


def crop(image: np.ndarray, box: Box, margin: float = 0.0) -> tuple[np.ndarray, tuple[int, ...]]:
    """Cut a box with margin out of an image or mask.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``.
        box: xyxy in pixels of ``image``.
        margin: share of the box's longer side to keep around it, where the frame has it.

    Returns:
        The crop, copied, and its integer xyxy in the frame.

    Raises:
        ValueError: the box lies outside the frame or has no area.
    """
    x0, y0, x1, y1 = expand(box, margin, image.shape[1], image.shape[0])
    return image[y0:y1, x0:x1].copy(), (x0, y0, x1, y1)
