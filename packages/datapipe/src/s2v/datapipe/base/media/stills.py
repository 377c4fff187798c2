"""Photographs as videos: of one frame, or with a camera move that says it is no recording."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from os import PathLike
from typing import Final, Literal

import ffmpeg as ffmpeg_python
import numpy as np

from s2v.datapipe.base.media import ffmpeg
from s2v.datapipe.base.media.encode import (
    AS_IT_IS,
    SCALE_FLAGS,
    CutResult,
    Shape,
    cut_out,
    encoding,
    even_size,
    frame_rate,
    verify,
    written,
)
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.images import load_image, resize

Motion = Literal["zoom_in", "zoom_out", "pan_left", "pan_right"]

_ZOOM: Final = 1.25
_SUPERSAMPLING: Final = 4  # zoompan rounds to whole pixels; four times as many hide the jitter
_RESIZES_AT_MOST: Final = 4096


def animate_still(
    image: str | PathLike[str] | bytes,
    dst: str | PathLike[str],
    *,
    seconds: float,
    fps: Fraction | float = 24,
    kind: Motion = "zoom_in",
    short_side: int = 480,
    crf: int = 23,
    timeout_s: float = 300.0,
) -> CutResult:
    """A camera move over one photograph, which says in its own title that it is one.

    Args:
        image: file or encoded bytes.
        dst: MP4 to write.
        seconds: length.
        fps: frame rate.
        kind: the move.
        short_side: pixels of the shorter side of the result.
        crf: of x264.
        timeout_s: wall clock.

    Raises:
        MediaError: the image does not load, or the file does not verify.
    """
    name = "<bytes>" if isinstance(image, bytes) else image
    rgb = load_image(image)
    rate = frame_rate(fps)
    frames = max(2, round(seconds * rate))
    width, height = even_size(rgb.shape[1], rgb.shape[0], short_side)
    factor = max(1, min(_SUPERSAMPLING, _RESIZES_AT_MOST // max(width, height)))
    big = resize(rgb, (width * factor, height * factor))
    source = ffmpeg_python.input(
        "pipe:0", f="rawvideo", pix_fmt="rgb24", s=f"{width * factor}x{height * factor}", r=1
    )
    video = (
        source.filter(
            "zoompan",
            **_move(kind, frames),
            d=frames,
            s=f"{width}x{height}",
            fps=f"{rate.numerator}/{rate.denominator}",
        )
        .filter("scale", width, height, flags=SCALE_FLAGS, out_range="tv")
        .filter("setsar", 1)
    )
    with written(dst, name) as temporary:
        options = encoding(crf, "medium", **{"frames:v": frames, "r": str(rate)})
        options["metadata"] = f"title=animated still ({kind}), not a recorded video"
        ffmpeg.run(
            video.output(str(temporary), **options),
            name,
            timeout_s=timeout_s,
            stdin=np.ascontiguousarray(big).tobytes(),
        )
        return verify(temporary, dst, name, frames=frames, size=(width, height), rate=rate)


def still_clip(
    image: str | PathLike[str] | bytes,
    dst: str | PathLike[str],
    *,
    short_side: int = 480,
    fps: Fraction | float | None = None,
    crf: int = 23,
    preset: str = "medium",
    shape: Shape = AS_IT_IS,
    keep: Sequence[float] | None = None,
    timeout_s: float = 120.0,
) -> CutResult:
    """A photograph as a video of one frame: the target of an image sample (Phantom, section 3.1).

    Args:
        image: file or encoded bytes.
        dst: MP4 to write; it appears whole or not at all.
        short_side: pixels of the shorter side; smaller photographs are not enlarged.
        fps: rate of the track, which one frame does not have; None writes 24.
        crf, preset: of x264.
        shape: buckets of size; one frame is of every length's form.
        keep: as for :func:`s2v.datapipe.base.media.cut.cut_clip`.
        timeout_s: wall clock.

    Raises:
        MediaError: the image does not load, or the file does not decode to one frame.
    """
    name = "<bytes>" if isinstance(image, bytes) else image
    rgb = load_image(image)
    rate = frame_rate(fps if fps is not None else 24)
    height, width = rgb.shape[:2]
    cover, size = shape.sizes(name, width, height, short_side)
    source = ffmpeg_python.input(
        "pipe:0", f="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=str(rate)
    )
    video = source.filter("scale", *cover, flags=SCALE_FLAGS, out_range="tv")
    video = cut_out(video, cover, size, keep).filter("setsar", 1)
    with written(dst, name) as temporary:
        options = encoding(crf, preset, **{"frames:v": 1, "r": str(rate)})
        ffmpeg.run(
            video.output(str(temporary), **options),
            name,
            timeout_s=timeout_s,
            stdin=np.ascontiguousarray(rgb).tobytes(),
        )
        made = verify(temporary, dst, name, frames=1, size=size, rate=rate)
        if made.frames != 1:
            raise MediaError(
                MediaErrorKind.CORRUPT, name, f"its clip decodes to {made.frames} frames, not to 1"
            )
        return made


def _move(kind: Motion, frames: int) -> dict[str, str]:
    """Zoompan's expressions; ``on`` is the number of the output frame."""
    progress = f"on/{frames - 1}"
    centre = {"x": "(iw-iw/zoom)/2", "y": "(ih-ih/zoom)/2"}
    side = {"z": str(_ZOOM), "y": "(ih-ih/zoom)/2"}
    gain = _ZOOM - 1
    moves = {
        "zoom_in": {"z": f"1+{gain}*{progress}", **centre},
        "zoom_out": {"z": f"{_ZOOM}-{gain}*{progress}", **centre},
        "pan_left": {**side, "x": f"(iw-iw/zoom)*(1-{progress})"},
        "pan_right": {**side, "x": f"(iw-iw/zoom)*{progress}"},
    }
    if kind not in moves:
        raise ValueError(f"no move {kind!r}; there are {', '.join(moves)}")
    return moves[kind]
