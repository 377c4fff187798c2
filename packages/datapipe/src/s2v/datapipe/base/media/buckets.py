"""Sizes and lengths that trainers batch by: the nearest bucket, and frames of the form s*k+1.

A video VAE folds time by 4 or 8 and keeps the first frame apart, so it wants 4k+1 or 8k+1
frames; a batch wants one size. A clip is scaled to cover its bucket and what sticks out is cut
away: on both sides alike, unless that would cut into what is to be kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Height and width in pixels, as trainers write them.
Bucket = tuple[int, int]


@dataclass(frozen=True)
class Fit:
    """How a picture gets into its bucket.

    Attributes:
        cover: width and height it is scaled to, even, nowhere smaller than ``size``.
        size: width and height of the bucket, cut from it.
    """

    cover: tuple[int, int]
    size: tuple[int, int]


def fit(width: int, height: int, buckets: Sequence[Bucket], max_enlarge: float) -> Fit | None:
    """The bucket nearest in aspect ratio that a picture fills without being enlarged too much.

    Args:
        width, height: of the picture, pixels.
        buckets: to choose from. Of equally near ones the largest is taken.
        max_enlarge: most that a side may grow, 1 for not at all.

    Returns:
        None where the picture is too small for every bucket.
    """
    best: tuple[tuple[float, int, Bucket], float] | None = None
    for high, wide in buckets:
        scale = max(wide / width, high / height)
        if scale > max_enlarge * (1 + 1e-9):
            continue
        distance = round(abs(math.log(width / height) - math.log(wide / high)), 6)
        rank = (distance, -high * wide, (high, wide))
        if best is None or rank < best[0]:
            best = (rank, scale)
    if best is None:
        return None
    (_, _, (high, wide)), scale = best
    cover = (_even(width * scale, wide), _even(height * scale, high))
    return Fit(cover, (wide, high))


def corner(
    cover: tuple[int, int], size: tuple[int, int], keep: Sequence[float] | None = None
) -> tuple[int, int]:
    """Where ``size`` is cut from ``cover``: the middle, moved no further than ``keep`` asks.

    Args:
        cover, size: width and height.
        keep: ``x0, y0, x1, y1`` of what should stay inside, as shares of the picture. Of what is
            too wide to stay whole the middle is kept.

    Returns:
        Left and top in even pixels.
    """
    spans = (None, None) if keep is None else ((keep[0], keep[2]), (keep[1], keep[3]))
    x, y = (_begin(*sides) for sides in zip(cover, size, spans, strict=True))
    return x, y


def _begin(whole: int, part: int, keep: tuple[float, float] | None) -> int:
    begin = (whole - part) // 4 * 2
    if keep is None or whole == part:
        return begin
    low, high = (min(max(edge, 0.0), 1.0) * whole for edge in keep)
    fits = high - low <= part
    wanted = min(max(begin, high - part), low) if fits else (low + high - part) / 2
    if wanted > begin:
        begin = 2 * math.ceil(wanted / 2)
    elif wanted < begin:
        begin = 2 * math.floor(wanted / 2)
    return min(max(begin, 0), (whole - part) // 2 * 2)


def _even(value: float, least: int) -> int:
    return max(least, 2 * round(value / 2))


def trimmed(frames: int, step: int) -> int:
    """The most frames of the form ``step * k + 1`` that are not more than ``frames``."""
    return (frames - 1) // step * step + 1
