"""Pictures and masks of the small world of ``synthetic_tables``, drawn and stored for real."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from synthetic_vectors import rng

WIDTH, HEIGHT = 320, 192
AXES = (42, 72)  # half of a subject's width and height


def scene(shot: str, position: float) -> np.ndarray:
    """A picture without subjects: the same for the same shot and moment."""
    small = rng("picture", shot, position).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def draw(picture: np.ndarray, box: Sequence[float], identity: str) -> None:
    """Draw a subject into a picture; every identity has a colour."""
    x0, y0, x1, y1 = (int(v) for v in box)
    colour = [int(c) for c in rng("colour", identity).integers(0, 256, 3)]
    cv2.ellipse(picture, ((x0 + x1) // 2, (y0 + y1) // 2), AXES, 0, 0, 360, colour, -1)


def silhouette(centre: tuple[int, int]) -> np.ndarray:
    """The mask of a subject."""
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(drawn, centre, AXES, 0, 0, 360, 1, -1)
    return drawn.astype(np.bool_)


def store(run: Path, frames: Iterable[dict[str, Any]], pictures: Mapping[str, np.ndarray]) -> None:
    """Write pictures as JPEG members of a tar, as the frames stage does, and say where they lie."""
    path = run / "frames" / "all.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for row in frames:
            bgr = cv2.cvtColor(pictures[row["frame_id"]], cv2.COLOR_RGB2BGR)
            data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            info = tarfile.TarInfo(f"{row['frame_id']}.jpg")
            info.size = len(data)
            row["offset"], row["size"] = tar.offset + tarfile.BLOCKSIZE, len(data)
            tar.addfile(info, io.BytesIO(data))
