"""Generated frames to files: mp4, png, and a contact sheet of references over frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from s2v.datapipe.base.atomic import replacing

Pixels = npt.NDArray[np.uint8]
_SHEET_FRAMES: Final = 6
_GAP: Final = 4


def write_mp4(path: Path, video: Pixels, fps: float) -> None:
    """Encode ``[F, H, W, 3]`` as H.264, one thread, bit-exact, atomically.

    Raises:
        ValueError: odd height or width, which 4:2:0 cannot hold.
    """
    frames, height, width, _ = video.shape
    if height % 2 or width % 2:
        raise ValueError(f"{path}: {width} x {height} must be even to be encoded")
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with (
        replacing(path) as temporary,
        av.open(os.fspath(temporary), "w", format="mp4", options=options) as file,
    ):
        rate = Fraction(fps).limit_denominator(1001)
        stream = file.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.thread_count = 1
        # x264's macroblock tree reads memory it did not set at some widths, and then the same
        # frames give other bytes from one process to the next.
        stream.options = {
            "crf": "16",
            "preset": "medium",
            "threads": "1",
            "flags": "+bitexact",
            "x264-params": "mbtree=0",
        }
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(video[i]), format="rgb24")
            frame.pts = i
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def write_png(path: Path, image: Pixels) -> None:
    """Write ``[h, w, 3]``, atomically."""
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def write_sheet(path: Path, references: Sequence[Pixels], video: Pixels) -> None:
    """One row: the padded references, a wider gap, then frames spread over the video.

    Args:
        path: the png.
        references: each ``[H, W, 3]`` of the video's size.
        video: ``[F, H, W, 3]``.
    """
    frames, height = video.shape[:2]
    picks = np.linspace(0, frames - 1, min(_SHEET_FRAMES, frames)).round().astype(int)
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    wide = np.full((height, 4 * _GAP, 3), 40, np.uint8)
    row: list[Pixels] = []
    for reference in references:
        row += [reference, gap]
    if references:
        row.append(wide)
    for i in picks:
        row += [gap, video[i]]
    write_png(path, np.concatenate(row, axis=1))
