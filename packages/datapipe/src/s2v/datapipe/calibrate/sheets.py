"""Contact sheets for labelling without a browser: numbered pairs, no score, no name.

``sheet-01.jpg`` and so on show the pairs; ``pairs.csv`` says which number is which pair, and has
an empty column for the label. Filled in, it is a labels file.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from s2v.datapipe.base import atomic
from s2v.datapipe.base.media.images import encode_jpeg
from s2v.datapipe.calibrate.candidates import Candidate
from s2v.datapipe.calibrate.pictures import Views, fitted
from s2v.datapipe.roles import Image

ACROSS: Final = 3
DOWN: Final = 4
_SIDE: Final = 230  # pixels of a crop
_FRAME: Final = 100  # of the frame below it
_HEAD: Final = 24
_GAP: Final = 8


def write_sheets(
    folder: Path, pairs: Sequence[Candidate], pictures: Mapping[str, Views]
) -> list[Path]:
    """Write the sheets and ``pairs.csv``.

    Args:
        folder: made if need be.
        pairs: in the order they are shown.
        pictures: of every subject.

    Returns:
        the sheets, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for at in range(0, len(pairs), ACROSS * DOWN):
        part = pairs[at : at + ACROSS * DOWN]
        tiles = [
            tile(at + n, pictures[one.target], pictures[one.reference])
            for n, one in enumerate(part, start=1)
        ]
        blank = np.full_like(tiles[0], 255)
        tiles += [blank] * (-len(tiles) % ACROSS)
        rows = [np.hstack(tiles[n : n + ACROSS]) for n in range(0, len(tiles), ACROSS)]
        path = folder / f"sheet-{at // (ACROSS * DOWN) + 1:02d}.jpg"
        atomic.write_bytes(path, encode_jpeg(np.ascontiguousarray(np.vstack(rows)), 88))
        made.append(path)
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as handle:
        out = csv.writer(handle, lineterminator="\n")
        out.writerow(["number", "target", "reference", "label"])
        out.writerows([n, c.target, c.reference, ""] for n, c in enumerate(pairs, start=1))
    return made


def tile(number: int, left: Views, right: Views) -> Image:
    """Both subjects side by side under their number; crops above, frames below."""
    height = _HEAD + _SIDE + _FRAME + 3 * _GAP
    canvas = np.full((height, 2 * _SIDE + 3 * _GAP, 3), 255, np.uint8)
    canvas[:, -2:] = canvas[-2:] = 160
    place = (_GAP, _HEAD - 6)
    cv2.putText(canvas, str(number), place, cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 2)
    for n, one in enumerate((left, right)):
        x = _GAP + n * (_SIDE + _GAP)
        _put(canvas, fitted(one.crop, (_SIDE, _SIDE))[0], x, _HEAD)
        _put(canvas, fitted(one.frame, (_SIDE, _FRAME))[0], x, _HEAD + _SIDE + _GAP)
    return canvas


def _put(canvas: Image, image: Image, x: int, y: int) -> None:
    height, width = image.shape[:2]
    canvas[y : y + height, x : x + width] = image
