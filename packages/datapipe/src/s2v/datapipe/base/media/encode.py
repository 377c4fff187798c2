"""What every file we encode has in common: options, sizes, and being decoded before it counts.

One pinned ffmpeg, one thread, bit-exact flags: the same source and arguments give the same
bytes. Every file written is decoded again and its frames counted before it gets its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any, Final

from s2v.datapipe.base.atomic import replacing, sha256_file
from s2v.datapipe.base.media.buckets import Bucket, corner, fit
from s2v.datapipe.base.media.container import decoded, open_video
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind, from_os_error

SCALE_FLAGS: Final = "lanczos+accurate_rnd+full_chroma_int+bitexact"


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


def encoding(crf: int, preset: str, **more: Any) -> dict[str, Any]:
    """Output options of a deterministic H.264 MP4 without sound.

    Args:
        crf, preset: of x264.
        more: further options of ffmpeg, as ffmpeg-python spells them.
    """
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


def frame_rate(fps: Fraction | float) -> Fraction:
    """The rate as a fraction that containers can write, 23.976 as 24000/1001.

    Raises:
        ValueError: outside (0, 240].
    """
    rate = Fraction(fps).limit_denominator(1001)
    if not 0 < rate <= 240:
        raise ValueError(f"frame rate {fps} is outside (0, 240]")
    return rate


def even_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Even width and height with the shorter side at most ``short_side``; never enlarged."""
    factor = min(1.0, short_side / min(width, height))
    return max(2, 2 * round(width * factor / 2)), max(2, 2 * round(height * factor / 2))


@dataclass(frozen=True)
class Shape:
    """Sizes and lengths that clips are brought to.

    Attributes:
        buckets: height and width of each; none leaves the clip's own aspect ratio.
        max_enlarge: most that a side may grow to fill its bucket.
        frame_step: frames are a multiple of it plus one; 1 keeps them all.
    """

    buckets: tuple[Bucket, ...] = ()
    max_enlarge: float = 1.0
    frame_step: int = 1

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Shape:
        """From plain data, as it travels between processes."""
        buckets = tuple((int(height), int(width)) for height, width in plain["buckets"])
        return cls(**{**plain, "buckets": buckets})

    def sizes(
        self, src: str | PathLike[str], width: int, height: int, short_side: int
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Width and height to scale to, and those to cut from it.

        Raises:
            MediaError: ``unsupported`` where the picture is too small for every bucket.
        """
        if not self.buckets:
            size = even_size(width, height, short_side)
            return size, size
        found = fit(width, height, self.buckets, self.max_enlarge)
        if found is None:
            raise MediaError(
                MediaErrorKind.UNSUPPORTED,
                src,
                f"{width}x{height} would be enlarged more than {self.max_enlarge:g} times to fill "
                "any of write.buckets; add a smaller one",
            )
        return found.cover, found.size


AS_IT_IS: Final = Shape()


def cut_out(
    stream: Any, cover: tuple[int, int], size: tuple[int, int], keep: Sequence[float] | None
) -> Any:
    """Cut ``size`` from a stream of ``cover``; :func:`.buckets.corner` says where."""
    if cover == size:
        return stream
    x, y = corner(cover, size, keep)
    return stream.filter("crop", *size, x, y, exact=1)


def local(path: str | PathLike[str]) -> str:
    """A path that ffmpeg cannot take for an option, a pattern or another protocol."""
    return f"file:{Path(path).absolute()}"


@contextmanager
def written(dst: str | PathLike[str], src: str | PathLike[str]) -> Iterator[Path]:
    """A temporary path that becomes ``dst`` on success; a full disk blames the machine."""
    try:
        with replacing(Path(dst)) as temporary:
            yield temporary
    except OSError as error:
        raise from_os_error(error, src) from error


def verify(
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
