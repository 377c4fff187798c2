"""Frames and masks of imported references; strangers' bytes are bounded before they are decoded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from s2v.datapipe.base.media import isolated, masks
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.interop.errors import RowError
from s2v.datapipe.interop.imported import Candidate, to_frame
from s2v.datapipe.interop.videos import unusable

_MAX_RUNS: Final = 4 << 20  # characters of one mask's run lengths


def mask_and_box(
    candidate: Candidate, width: int, height: int
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Bool ``(H, W)`` and the box around it; without a mask the box is filled."""
    if candidate.mask is None:
        box = to_frame(candidate.box, candidate.canvas, width, height)
        mask = np.zeros((height, width), np.bool_)
        x0, y0, x1, y1 = (round(v) for v in box)
        mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
        return mask, box
    mask = decode_mask(candidate.mask, (height, width))
    around = masks.bounding_box(mask)
    if around is None:
        raise RowError("mask empty", f"{candidate.id}: no pixel is set")
    return mask, (float(around[0]), float(around[1]), float(around[2]), float(around[3]))


def decode_mask(rle: masks.Rle, size: tuple[int, int]) -> np.ndarray:
    """Bool ``(H, W)`` of a stranger's run lengths; nothing is allocated before they fit.

    Raises:
        RowError: of another size, or unreadable.
    """
    if tuple(rle["size"]) != size:
        raise RowError("mask of another size", f"{list(rle['size'])} on a frame of {list(size)}")
    if len(rle["counts"]) > _MAX_RUNS:
        raise RowError("mask unreadable", f"{len(rle['counts'])} characters of run lengths")
    try:
        return masks.decode(rle)
    except (ValueError, OverflowError) as error:
        raise RowError("mask unreadable", str(error)) from None


@lru_cache(maxsize=8)
def frame_at(path: Path, time_us: int) -> tuple[int, np.ndarray]:
    """One frame of a stranger's video; objects of one frame follow each other."""
    try:
        (found,) = isolated.frames_at(path, [time_us])
    except MediaError as error:
        raise unusable(error) from None
    except ValueError as error:
        raise RowError("frame beyond the clip", str(error)) from None
    found[1].setflags(write=False)  # shared by all that ask
    return found
