"""What part of a frame is used: arithmetic of boxes, in displayed pixels, no pixels looked at.

A crop cuts away black borders and, if enough of the picture is left, the band or the corner
under subtitles and watermarks. Its edges are even, so that the picture can be cut out of a film
with halved colour resolution without moving the colour against the light.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise, product
from typing import Final

from s2v.datapipe.base.media.boxes import area, overlap

Box = tuple[float, float, float, float]
Crop = tuple[int, int, int, int]

MAX_OBSTACLES: Final = 12
"""More boxes than that are a page of text, and joined."""


def whole(width: int, height: int) -> Crop:
    """The whole frame; its odd last row or column stays."""
    return (0, 0, width, height)


def inside_even(box: Sequence[float], width: int, height: int) -> Crop | None:
    """The largest box of even edges inside ``box`` and the frame, or ``None`` when it is empty."""
    x0 = 2 * math.ceil(max(box[0], 0) / 2)
    y0 = 2 * math.ceil(max(box[1], 0) / 2)
    x1 = 2 * math.floor(min(box[2], width) / 2)
    y1 = 2 * math.floor(min(box[3], height) / 2)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def grown(box: Sequence[float], by: float) -> Box:
    """The box with a margin of ``by`` pixels on all sides."""
    return (box[0] - by, box[1] - by, box[2] + by, box[3] + by)


def moved(box: Sequence[float], crop: Sequence[float]) -> Box:
    """The part of the box inside a crop, counted from its corner; empty where there is none."""
    x0, x1 = (min(max(x, crop[0]), crop[2]) - crop[0] for x in (box[0], box[2]))
    y0, y1 = (min(max(y, crop[1]), crop[3]) - crop[1] for y in (box[1], box[3]))
    return (x0, y0, x1, y1)


def free_of(frame: Sequence[float], obstacles: Iterable[Sequence[float]]) -> Box | None:
    """The largest box inside ``frame`` that touches no obstacle; ``None`` if nothing is left.

    Each edge of the answer lies on the frame or on an obstacle, so all such boxes are tried.
    Of equal areas the one that starts further up, then further left, is taken.
    """
    blocks = _few([(o[0], o[1], o[2], o[3]) for o in obstacles if overlap(frame, o) > 0])
    best: tuple[float, float, float, Box] | None = None
    lefts = sorted({frame[0], *(b[2] for b in blocks if frame[0] < b[2] < frame[2])})
    tops = sorted({frame[1], *(b[3] for b in blocks if frame[1] < b[3] < frame[3])})
    rights = sorted({frame[2], *(b[0] for b in blocks if frame[0] < b[0] < frame[2])})
    bottoms = sorted({frame[3], *(b[1] for b in blocks if frame[1] < b[1] < frame[3])})
    for x0, x1 in product(lefts, rights):
        if x0 >= x1:
            continue
        column = [b for b in blocks if b[0] < x1 and b[2] > x0]
        for y0, y1 in product(tops, bottoms):
            box = (x0, y0, x1, y1)
            key = (-area(box), y0, x0, box)
            if y0 >= y1 or (best is not None and key > best):
                continue
            if all(b[1] >= y1 or b[3] <= y0 for b in column):
                best = key
    return best[3] if best else None


def _few(blocks: list[Box]) -> list[Box]:
    """At most ``MAX_OBSTACLES`` boxes that cover the given ones; neighbours from top to bottom
    are joined where that covers least besides."""
    few = sorted(set(blocks), key=lambda box: (box[1], box))
    while len(few) > MAX_OBSTACLES:
        waste = [area(_join(a, b)) - area(a) - area(b) for a, b in pairwise(few)]
        n = waste.index(min(waste))
        few[n : n + 2] = [_join(few[n], few[n + 1])]
    return few


def _join(a: Box, b: Box) -> Box:
    return (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))


def choose(
    width: int,
    height: int,
    content: Sequence[float] | None,
    wishes: Sequence[Sequence[Box]],
    clean: Callable[[Crop], bool],
    *,
    min_kept: float,
    max_aspect: float,
) -> Crop | None:
    """Decide on the crop of a clip.

    Args:
        width, height: of the displayed frame.
        content: the picture inside black borders, ``None`` without borders. Borders always go.
        wishes: sets of boxes to get rid of; the first that leaves enough, and leaves it clean,
            is taken.
        clean: whether a crop is worth it; a clip that is dropped anyway stays whole.
        min_kept: share of the picture inside the borders that has to be left.
        max_aspect: long side over short side; a crop may not pass it, unless the picture does.

    Returns:
        Even pixels, or ``None`` for the whole frame.
    """
    frame = whole(width, height)
    picture = inside_even(content, width, height) if content is not None else None
    base = picture or frame
    for boxes in wishes:
        found = free_of(base, boxes)
        even = inside_even(found, width, height) if found else None
        if even is None or area(even) < min_kept * area(base):
            continue
        if _aspect(even) > max(max_aspect, _aspect(base)):
            continue
        if any(overlap(base, box) for box in boxes) and clean(even):
            return even
    return picture if picture != frame else None


def _aspect(box: Sequence[float]) -> float:
    sides = sorted((box[2] - box[0], box[3] - box[1]))
    return sides[1] / sides[0]
