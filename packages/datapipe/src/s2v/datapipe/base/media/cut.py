"""Encode: clips cut from films, previews for the report, animated stills.

One pinned ffmpeg, one thread, bit-exact flags: the same source and arguments give the same
bytes. Every file written is decoded again and its frames counted before it gets its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal

import ffmpeg as ffmpeg_python
import numpy as np

from s2v.datapipe.base.atomic import replacing, sha256_file
from s2v.datapipe.base.media import ffmpeg, remux
from s2v.datapipe.base.media.container import TIME_SLACK_US, decoded, open_video
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind, from_os_error
from s2v.datapipe.base.media.images import load_image, resize
from s2v.datapipe.base.media.probe import VideoProbe, probe

Motion = Literal["zoom_in", "zoom_out", "pan_left", "pan_right"]

_SCALE_FLAGS: Final = "lanczos+accurate_rnd+full_chroma_int+bitexact"
_ZOOM: Final = 1.25
_SUPERSAMPLING: Final = 4  # zoompan rounds to whole pixels; four times as many hide the jitter
_RESIZES_AT_MOST: Final = 4096


@dataclass(frozen=True)
class CutResult:
    """An encoded file as it was verified.

    Attributes:
        frames: frames that the written file decodes to.
        width, height: pixels, even, square.
        fps: constant frame rate.
        sha256: hex digest of the file.
        bytes: file size.
        path: where it is.
    """

    frames: int
    width: int
    height: int
    fps: Fraction
    sha256: str
    bytes: int
    path: str


def cut_clip(
    src: str | PathLike[str],
    start_us: int,
    end_us: int,
    dst: str | PathLike[str],
    *,
    short_side: int = 480,
    fps: Fraction | float | None = None,
    crf: int = 23,
    preset: str = "medium",
    source: VideoProbe | None = None,
    timeout_s: float | None = None,
) -> CutResult:
    """Cut ``[start_us, end_us)`` into an H.264 MP4 that decodes to exactly what it should.

    8-bit 4:2:0, constant frame rate, even size, square pixels, upright, no audio, index first.

    Args:
        src: local video file.
        start_us, end_us: microseconds from the first frame of the film.
        dst: file to write; it appears whole or not at all.
        short_side: pixels of the shorter side; smaller films are not enlarged.
        fps: output rate; None keeps the source's average rate.
        crf, preset: of x264.
        source: the film's probe, if at hand.
        timeout_s: wall clock; by default a minute and 20 s per second of clip.

    Raises:
        MediaError: ``truncated`` or ``corrupt`` when the span does not decode whole, or the
            written frames are not the span times the rate (within one).
        ValueError: an empty span, or one behind the declared end.
    """
    if not 0 <= start_us < end_us:
        raise ValueError(f"{src}: empty span [{start_us}, {end_us}) us")
    facts = source or probe(src)
    if end_us > facts.duration_us + 3 * facts.frame_us:
        raise ValueError(f"{src}: span ends at {end_us} us, the film at {facts.duration_us} us")
    end_us = min(end_us, facts.duration_us)
    rate = _rate(fps if fps is not None else facts.avg_fps)
    span_s = (end_us - start_us) / 1e6
    expected = max(1, round(span_s * rate))
    width, height = _even_size(facts.width, facts.height, short_side)
    with (
        _written(dst, src) as temporary,
        _packets_of(src, facts, start_us, end_us, temporary) as (
            packets,
            zero_us,
        ),
    ):
        begin = max(0, start_us - zero_us - TIME_SLACK_US)  # early, as stamps are rounded
        stream = ffmpeg_python.input(
            _file(packets),
            **ffmpeg.source_arguments(remux.FORMAT),
            noautorotate=None,
            copyts=None,  # or ffmpeg shifts time zero to the first picture shown
        )
        video = (
            _turned(stream["v:0"], facts)
            .filter("trim", start=f"{begin}us")
            .filter("setpts", f"PTS-{begin}/1000000/TB")
            # Rate before size, frames counted afterwards: the filter knows the last one's end.
            .filter("fps", fps=f"{rate.numerator}/{rate.denominator}", start_time=0)
            .filter("scale", width, height, flags=_SCALE_FLAGS, out_range="tv")
            .filter("setsar", 1)
        )
        encoding = _encoding(crf, preset, **{"frames:v": expected, "r": str(rate)})
        spec = video.output(str(temporary), **encoding)
        ffmpeg.run(spec, src, timeout_s=timeout_s or 60 + 20 * span_s)
        return _verify(temporary, dst, src, frames=expected, size=(width, height), rate=rate)


def _turned(stream: Any, facts: VideoProbe) -> Any:
    """Apply the film's own display matrix, which the copied packets no longer carry."""
    if facts.orientation.transpose:
        stream = stream.filter("transpose", dir="cclock_flip")  # along the main diagonal
    if facts.orientation.hflip:
        stream = stream.filter("hflip")
    if facts.orientation.vflip:
        stream = stream.filter("vflip")
    return stream


@contextmanager
def _packets_of(
    src: str | PathLike[str], facts: VideoProbe, start_us: int, end_us: int, beside: Path
) -> Iterator[tuple[Path, int]]:
    """The packets of a span as a file beside the target, and the film's time of its zero."""
    copy = beside.with_name(f"{beside.name}.{remux.FORMAT}")
    try:
        yield copy, remux.copy_span(src, facts, start_us, end_us, copy).zero_us
    finally:
        copy.unlink(missing_ok=True)


def preview_clip(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    *,
    height: int = 180,
    max_seconds: float = 4.0,
    crf: int = 30,
    timeout_s: float = 120.0,
) -> CutResult:
    """A small MP4 of a file's first seconds, for a report page.

    Args:
        src: local video file, usually a clip of this pipeline.
        dst: file to write.
        height: pixels; the width follows.
        max_seconds: length at most.
        crf: of x264.
        timeout_s: wall clock.

    Raises:
        MediaError: as :func:`cut_clip`.
    """
    facts = probe(src)
    end_us = min(facts.duration_us, round(max_seconds * 1e6))
    short_side = round(height * min(facts.width, facts.height) / facts.height)
    return cut_clip(
        src,
        0,
        end_us,
        dst,
        short_side=short_side,
        crf=crf,
        preset="veryfast",
        source=facts,
        timeout_s=timeout_s,
    )


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
    rate = _rate(fps)
    frames = max(2, round(seconds * rate))
    width, height = _even_size(rgb.shape[1], rgb.shape[0], short_side)
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
        .filter("scale", width, height, flags=_SCALE_FLAGS, out_range="tv")
        .filter("setsar", 1)
    )
    with _written(dst, name) as temporary:
        encoding = _encoding(crf, "medium", **{"frames:v": frames, "r": str(rate)})
        encoding["metadata"] = f"title=animated still ({kind}), not a recorded video"
        ffmpeg.run(
            video.output(str(temporary), **encoding),
            name,
            timeout_s=timeout_s,
            stdin=np.ascontiguousarray(big).tobytes(),
        )
        return _verify(temporary, dst, name, frames=frames, size=(width, height), rate=rate)


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


def _encoding(crf: int, preset: str, **more: Any) -> dict[str, Any]:
    return {
        "f": "mp4",
        "c:v": "libx264",
        "preset": preset,
        "crf": crf,
        "pix_fmt": "yuv420p",
        "threads": 1,
        # Without it x264 rounds by the CPU's instruction set.
        "x264-params": "cpu-independent=1",
        "fps_mode": "cfr",
        "flags:v": "+bitexact",
        "fflags": "+bitexact",
        "map_metadata": -1,
        "map_chapters": -1,
        "movflags": "+faststart",
        "an": None,
        "sn": None,
        "dn": None,
        **more,
    }


def _rate(fps: Fraction | float) -> Fraction:
    rate = Fraction(fps).limit_denominator(1001)
    if not 0 < rate <= 240:
        raise ValueError(f"frame rate {fps} is outside (0, 240]")
    return rate


def _even_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    factor = min(1.0, short_side / min(width, height))
    return max(2, 2 * round(width * factor / 2)), max(2, 2 * round(height * factor / 2))


def _file(path: str | PathLike[str]) -> str:
    return f"file:{Path(path).absolute()}"


@contextmanager
def _written(dst: str | PathLike[str], src: str | PathLike[str]) -> Iterator[Path]:
    try:
        with replacing(Path(dst)) as temporary:
            yield temporary
    except OSError as error:
        raise from_os_error(error, src) from error


def _verify(
    temporary: Path,
    dst: str | PathLike[str],
    src: str | PathLike[str],
    *,
    frames: int,
    size: tuple[int, int],
    rate: Fraction,
) -> CutResult:
    """Decode what was written and hold it to what was asked for."""
    found = 0
    with open_video(temporary) as video:
        frame_us = round(1_000_000 / rate)
        for index, (pts_us, frame, damaged) in enumerate(decoded(video, frame_us)):
            found += 1
            if (frame.width, frame.height) != size or damaged:
                raise MediaError(
                    MediaErrorKind.CORRUPT,
                    src,
                    f"frame {index} of the cut is {frame.width}x{frame.height}, "
                    f"{size[0]}x{size[1]} was asked for",
                )
            if abs(pts_us - index * 1_000_000 / rate) > frame_us / 2:
                raise MediaError(
                    MediaErrorKind.CORRUPT, src, f"frame {index} of the cut is at {pts_us} us"
                )
    if abs(found - frames) > 1:
        raise MediaError(
            MediaErrorKind.TRUNCATED,
            src,
            f"the span gave {found} frames, {frames} were due; fetch the file again",
        )
    return CutResult(
        frames=found,
        width=size[0],
        height=size[1],
        fps=rate,
        sha256=sha256_file(temporary),
        bytes=os.path.getsize(temporary),
        path=str(dst),
    )
