"""Geometry of boxes, xyxy pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

Box = Sequence[float]


def area(box: Box) -> float:
    """Pixels inside; an inverted box has none."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def iou(a: Box, b: Box) -> float:
    """Intersection over union, 0..1."""
    inside = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = area(a) + area(b) - inside
    return inside / union if union > 0 else 0.0


def centre_inside(inner: Box, outer: Box) -> bool:
    """Whether the centre of ``inner`` lies in ``outer``."""
    x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    return outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3]


def source_scale(box: Box, area_share: float, width: int, height: int) -> float:
    """Factor from the box's pixels to those of a ``width`` x ``height`` source.

    Frames may be stored smaller than their source; the box's own share of its frame tells
    how large the frame was that it was measured on.
    """
    if area_share <= 0 or area(box) <= 0:
        return 1.0
    scale = math.sqrt(width * height * area_share / area(box))
    return 1.0 if abs(scale - 1) < 0.02 else scale
