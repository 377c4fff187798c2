"""Masks: bool ``(H, W)`` in memory, COCO compressed run lengths in tables.

The compressed string is COCO's own code (``rleToString`` of its C API): runs over columns,
zeros first; from the fourth run on the difference to the run two before; five bits a
character, low bits first, bit 5 says "more follows", offset 48.
"""

from __future__ import annotations

from typing import TypedDict

import cv2
import numpy as np


class Rle(TypedDict):
    """COCO's compressed run-length mask."""

    size: list[int]  # height, width
    counts: str


def encode(mask: np.ndarray) -> Rle:
    """Compress a mask.

    Args:
        mask: bool ``(H, W)``.

    Raises:
        ValueError: anything else.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask is bool (H, W), not {mask.dtype} {mask.shape}")
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate(([0], edges, [flat.size]))
    runs = np.diff(bounds).tolist()
    if flat.size and flat[0]:
        runs.insert(0, 0)  # zeros come first, if none of them
    return {"size": [mask.shape[0], mask.shape[1]], "counts": _to_string(runs)}


def decode(rle: Rle) -> np.ndarray:
    """Bool ``(H, W)`` of a compressed mask.

    Raises:
        ValueError: the runs are negative, unreadable, or do not fill the size.
    """
    height, width = rle["size"]
    runs = _runs(rle)
    values = np.zeros(len(runs), np.bool_)
    values[1::2] = True
    return np.asarray(np.repeat(values, runs).reshape((height, width), order="F"))


def area(rle: Rle) -> int:
    """Pixels of the mask, without decoding it."""
    return int(_runs(rle)[1::2].sum())


def area_share(rle: Rle) -> float:
    """Share of the frame that the mask covers."""
    height, width = rle["size"]
    return area(rle) / (height * width)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool masks of one size; 0 where both are empty."""
    if a.shape != b.shape:
        raise ValueError(f"masks of {a.shape} and {b.shape} do not compare")
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 0.0


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Integer xyxy around the mask's pixels, None for an empty mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


#: Erosion, as a share of the mask's size, and the smallest piece that counts. Of 120 masks of an
#: animated film they find three of the four that hold several subjects, and one butterfly.
EROSION, SMALLEST_PART = 0.12, 0.05


def parts(mask: np.ndarray) -> int:
    """How many pieces a bool ``(H, W)`` mask has once eroded; thin bridges break."""
    size = float(mask.sum())
    side = int(EROSION * size**0.5) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    eroded = cv2.erode(mask.astype(np.uint8), kernel)
    _, _, stats, _ = cv2.connectedComponentsWithStats(eroded)
    return int((stats[1:, cv2.CC_STAT_AREA] > SMALLEST_PART * size).sum())


def _runs(rle: Rle) -> np.ndarray:
    height, width = rle["size"]
    runs = np.asarray(_from_string(rle["counts"]), np.int64)
    if height < 0 or width < 0 or (runs < 0).any() or int(runs.sum()) != height * width:
        raise ValueError(f"run lengths of a {height}x{width} mask sum to {int(runs.sum())}")
    return runs


def _to_string(runs: list[int]) -> str:
    characters = []
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            characters.append(chr((bits | (0x20 if more else 0)) + 48))
    return "".join(characters)


def _from_string(counts: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            raise ValueError(f"{character!r} is no character of COCO run lengths")
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("COCO run lengths end inside a number")
    return runs
