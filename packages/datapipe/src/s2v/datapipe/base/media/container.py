"""Open a stranger's video file with every guard on, and read frames with their times.

One decoding thread, a forced demuxer (:mod:`.sniff`), local protocols only, a white list of
decoders and a pixel budget; time zero is the first frame of the video stream.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any, Final, NamedTuple

import av

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind, from_os_error
from s2v.datapipe.base.media.sniff import lacks_moov, sniff

MAX_PIXELS: Final = 8192 * 4352
"""Pixel budget of one frame: 8K UHD with padding. Checked before any frame is decoded."""

PROTOCOLS: Final = "file,pipe"

TIME_SLACK_US: Final = 500
"""Two times this near mean the same frame: stamps come rounded, Matroska's to milliseconds."""

_OPEN_TIMEOUT_S: Final = 30.0

_DECODERS: Final = ",".join(
    (
        "h264,hevc,vp8,vp9,libvpx,libvpx-vp9,av1,libdav1d,libaom-av1",
        "mpeg4,h263,flv,msmpeg4v1,msmpeg4v2,msmpeg4,mpeg1video,mpeg2video,vc1,wmv3",
        "mjpeg,prores,dnxhd,theora,ffv1,huffyuv,rawvideo",
        "aac,mp3,mp3float,ac3,eac3,opus,libopus,vorbis,flac,pcm_s16le,pcm_s24le,pcm_u8",
    )
)
"""Decoders that may be opened, among them audio's, which stream discovery wants."""


@dataclass
class OpenVideo:
    """An open container with its one chosen video stream and the rules of this product."""

    path: str
    demuxer: str
    container: Any  # av.container.InputContainer
    stream: Any  # av.video.stream.VideoStream
    origin: int  # stream time-base ticks of time zero

    def pts_us(self, pts: int) -> int:
        """Microseconds after the stream's first frame."""
        base = self._time_base
        whole, rest = divmod((pts - self.origin) * base.numerator * 1_000_000, base.denominator)
        # Half to even, as round() does; a Fraction would cost every frame 30 us.
        twice = 2 * rest
        up = twice > base.denominator or (twice == base.denominator and whole % 2 == 1)
        return int(whole + up)

    @functools.cached_property
    def _time_base(self) -> Fraction:
        return Fraction(self.stream.time_base)

    def seek(self, pts_us: int) -> None:
        """Go to the last entry point at or before ``pts_us``, as far as the container knows."""
        if pts_us <= 0 and self.demuxer in {"mpegts", "mpeg"}:
            # These search the packets; at the very first time stamp they find the second GOP.
            pts_us = -10_000_000
        ticks = self.origin + int(Fraction(pts_us, 1_000_000) / self.stream.time_base)
        try:
            self.container.seek(ticks, stream=self.stream, backward=True)
        except av.error.PermissionError:  # libav's -1: the index has no entry point up to there
            self.container.seek(ticks, stream=self.stream, backward=True, any_frame=True)

    def entry_us(self, pts_us: int) -> int | None:
        """Time of the last entry point at or before ``pts_us``, None where no index tells.

        Indices keep decoding times, which run a few frames early: good for choosing between a
        seek and decoding on, not for naming a frame.
        """
        entries = self.stream.index_entries
        ticks = self.origin + int(Fraction(pts_us, 1_000_000) / self.stream.time_base)
        found = entries.search_timestamp(ticks, backward=True) if len(entries) else -1
        return self.pts_us(entries[found].timestamp) if found >= 0 else None

    def sample_aspect(self) -> Fraction:
        """Sample (pixel) aspect ratio; square when absent or absurd."""
        for value in (
            self.stream.sample_aspect_ratio,
            self.stream.codec_context.sample_aspect_ratio,
        ):
            if value and Fraction(1, 8) <= value <= 8:
                return Fraction(value)
        return Fraction(1)


class Decoded(NamedTuple):
    """One frame as the decoder gave it.

    Attributes:
        pts_us: microseconds after the stream's first frame.
        frame: PyAV video frame.
        damaged: patched by the decoder, or built on a damaged or lost picture since the last
            whole key frame. Damage that happens to decode leaves no trace; no codec here has
            checksums.
    """

    pts_us: int
    frame: Any
    damaged: bool


BadPacket = Callable[[int], None]
"""Called with the time of a packet that gave an error instead of frames."""

_BACK_OFF_US: Final = (0, 1_000_000, 5_000_000, 30_000_000)


def decoded(video: OpenVideo, frame_us: int, on_bad: BadPacket | None = None) -> Iterator[Decoded]:
    """Decode onwards from the current position; packets that the decoder refuses are skipped.

    Args:
        video: an open video.
        frame_us: spacing to assume for a stream without time stamps.
        on_bad: told of each refused packet.
    """
    previous = -frame_us
    damaged_from: int | None = None
    for packet in video.container.demux(video.stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            at = previous + frame_us if packet.pts is None else video.pts_us(packet.pts)
            damaged_from = at if damaged_from is None else min(at, damaged_from)
            if on_bad is not None:
                on_bad(at)
            continue
        for frame in frames:
            pts_us = previous + frame_us if frame.pts is None else video.pts_us(frame.pts)
            previous = pts_us
            if frame.is_corrupt:
                damaged_from = pts_us if damaged_from is None else damaged_from
            elif frame.key_frame and damaged_from is not None and pts_us > damaged_from:
                damaged_from = None
            yield Decoded(pts_us, frame, damaged_from is not None and pts_us >= damaged_from)


def decoded_from(
    video: OpenVideo, time_us: int, frame_us: int, on_bad: BadPacket | None = None
) -> Iterator[Decoded]:
    """As :func:`decoded`, beginning at a frame at or before ``time_us`` where there is one.

    Two things make a seek go further back and start over. Containers seek by decoding time or
    to packets that are no entry points, so the first frame may lie too late. And pictures
    behind an open-GOP entry point may refer to what lies before it, which a strict decoder
    reports as damage until the next key frame.
    """
    last: int | None = None
    for back_off in _BACK_OFF_US:
        target = max(0, time_us - back_off)
        final = target == 0 or back_off == _BACK_OFF_US[-1]
        video.seek(target)
        refused: list[int] = []
        whole_keys = 0
        start_over = False
        first = True
        for shown in decoded(video, frame_us, refused.append):
            if first and not final:
                refused.clear()  # of packets before the entry point
                start_over = shown.pts_us > time_us
            first = False
            whole_keys += bool(shown.frame.key_frame) and not shown.damaged
            if not final and whole_keys <= 1 and (refused or shown.damaged):
                start_over = True
            if start_over:
                break
            while refused and on_bad is not None:
                on_bad(refused.pop())
            if last is None or shown.pts_us > last:
                last = shown.pts_us
                yield shown
        if not start_over and not (first and not final):
            while refused and on_bad is not None:
                on_bad(refused.pop())
            return


class PacketTimes(NamedTuple):
    """What the packets say of a film's pictures.

    Attributes:
        shown_us: presentation times of all shown frames, sorted.
        leads: whether pictures are shown before the key frame that they came behind. Whoever
            enters at that key frame lacks what they are built on: an open group of pictures.
    """

    shown_us: list[int]
    leads: bool


def packet_times(video: OpenVideo) -> PacketTimes | None:
    """Read all packets without decoding.

    Returns:
        None when a packet has no time stamp.
    """
    video.seek(0)
    times: list[int] = []
    key: int | None = None
    leads = False
    for packet in video.container.demux(video.stream):
        if packet.size == 0:  # the flush packet
            continue
        if packet.pts is None:
            return None
        if packet.is_keyframe:
            key = packet.pts
        elif key is not None and packet.pts < key:
            leads = True
        if not packet.is_discard:
            times.append(video.pts_us(packet.pts))
    return PacketTimes(sorted(times), leads)


@contextmanager
def open_video(
    path: str | PathLike[str],
    max_pixels: int = MAX_PIXELS,
    threads: int = 1,
    demuxer: str | None = None,
) -> Iterator[OpenVideo]:
    """Open a local video file with one decoding thread and every guard on.

    Args:
        path: local file. A URL is a file that does not exist.
        max_pixels: largest coded frame, width x height.
        threads: decoder threads; 1 keeps an actor inside its CPU.
        demuxer: libavformat's name for a file that we wrote ourselves; strangers' are sniffed.

    Raises:
        MediaError: any kind; libav's errors inside the ``with`` block come out as MediaError.
    """
    source = Path(path).absolute()
    demuxer = demuxer or sniff(path)
    try:
        with av.open(
            f"file:{source}",
            format=demuxer,
            options={"protocol_whitelist": PROTOCOLS, "codec_whitelist": _DECODERS},
            timeout=(_OPEN_TIMEOUT_S, _OPEN_TIMEOUT_S),
            metadata_errors="replace",
        ) as container:
            stream = _video_stream(container, path)
            _check_codec(stream, path)
            _check_pixels(stream, path, max_pixels)
            stream.codec_context.thread_type = "NONE" if threads == 1 else "AUTO"
            stream.codec_context.thread_count = threads
            # A stream may change size in mid-air; the decoder itself must refuse then. It counts
            # whole macroblocks, so its own limit is wider.
            stream.codec_context.options = {
                "max_pixels": str(2 * max_pixels + (1 << 16)),
                # Left to itself the decoder paints over most damage without a word.
                "err_detect": "explode",
            }
            origin = stream.start_time
            if origin is None:
                start = container.start_time or 0
                origin = round(Fraction(start, 1_000_000) / stream.time_base)
            yield OpenVideo(str(path), demuxer, container, stream, origin)
    except (av.error.FFmpegError, OSError, MemoryError) as error:
        raise from_av_error(error, path, demuxer) from error


def _video_stream(container: Any, path: str | PathLike[str]) -> Any:
    attached = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & attached]
    if not streams:
        others = sorted({s.type for s in container.streams}) or ["nothing"]
        raise MediaError(
            MediaErrorKind.NO_VIDEO, path, f"no video stream, only {', '.join(others)}"
        )
    return streams[0]


def _check_codec(stream: Any, path: str | PathLike[str]) -> None:
    if stream.codec_context is None:
        raise MediaError(MediaErrorKind.UNSUPPORTED, path, "video codec unknown to this build")
    name = stream.codec_context.codec.name
    if name not in _DECODERS.split(","):
        raise MediaError(
            MediaErrorKind.UNSUPPORTED, path, f"video codec {name!r} is not let in; re-encode it"
        )


def _check_pixels(stream: Any, path: str | PathLike[str], max_pixels: int) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > max_pixels:
        raise MediaError(
            MediaErrorKind.TOO_LARGE,
            path,
            f"{width}x{height} passes the budget of {max_pixels} pixels a frame",
        )
    if width <= 0 or height <= 0:
        raise MediaError(
            MediaErrorKind.CORRUPT, path, f"declares a frame of {width}x{height} pixels"
        )


_AV_KINDS: Final[tuple[tuple[Any, MediaErrorKind], ...]] = (
    (MemoryError, MediaErrorKind.TOO_LARGE),
    ((av.error.TimeoutError, av.error.ExitError), MediaErrorKind.TIMEOUT),
    ((av.error.LookupError, av.error.PatchWelcomeError), MediaErrorKind.UNSUPPORTED),
    (av.error.InvalidDataError, MediaErrorKind.CORRUPT),
)


def from_av_error(
    error: BaseException, path: str | PathLike[str], demuxer: str | None = None
) -> MediaError:
    """Translate a libav error into the media room's terms."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, av.error.InvalidDataError) and demuxer == "mov" and lacks_moov(path):
        return MediaError(
            MediaErrorKind.TRUNCATED,
            path,
            "no moov box: the file was cut off before its index was written",
        )
    if isinstance(error, av.error.EOFError):
        return MediaError(MediaErrorKind.TRUNCATED, path, f"ends inside a header ({text})")
    for classes, kind in _AV_KINDS:
        if isinstance(error, classes):
            return MediaError(kind, path, text)
    if isinstance(error, OSError):
        return from_os_error(error, path)
    return MediaError(MediaErrorKind.CORRUPT, path, text)
