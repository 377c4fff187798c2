"""What a video file says about itself, checked by decoding its first frame."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, Final

from s2v.datapipe.base.media.container import MAX_PIXELS, OpenVideo, open_video
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.orientation import Orientation, orientation_of
from s2v.datapipe.base.media.sniff import missing_mp4_bytes

_FIRST_FRAME_PACKETS: Final = 500
_DURATION_TAG: Final = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")  # Matroska's statistics
_TAIL_US: Final = 10_000_000
_VFR_SAMPLE: Final = 2000
_MAX_FPS: Final = 300
_HDR_TRANSFERS: Final = frozenset({16, 18})  # SMPTE 2084 (PQ) and ARIB B67 (HLG), ISO/IEC 23091-2


@dataclass(frozen=True)
class VideoProbe:
    """Facts of one video stream.

    Attributes:
        width, height: displayed pixels, after sample aspect ratio and rotation.
        coded_width, coded_height: pixels as stored.
        avg_fps: average frame rate as the container states it.
        duration_us: of the video stream, from its first frame.
        duration_declared: False where the container states none and the packets were read to
            find it; such a file cannot be known to be cut short.
        declared_frames: frames the container counts, None where it does not count.
        codec, pix_fmt: libav names.
        rotation: clockwise degrees already accounted for in width and height.
        orientation: the full turn, including mirrors.
        sar: sample aspect ratio.
        has_audio: whether an audio stream is present.
        vfr: a guess that frames are unevenly spaced (AVI and MPEG are never guessed so).
        hdr: PQ or HLG transfer; nothing here tone-maps, so colours will look washed out.
        bytes: file size.
        missing_bytes: bytes that an MP4 declares beyond the end of the file.
        demuxer, stream_index: for ffmpeg to open the same stream.
        start_offset_us: first video frame after the container's earliest stream.
    """

    width: int
    height: int
    coded_width: int
    coded_height: int
    avg_fps: Fraction
    duration_us: int
    duration_declared: bool
    declared_frames: int | None
    codec: str
    pix_fmt: str
    rotation: int
    orientation: Orientation
    sar: Fraction
    has_audio: bool
    vfr: bool
    hdr: bool
    bytes: int
    missing_bytes: int
    demuxer: str
    stream_index: int
    start_offset_us: int

    @property
    def frame_us(self) -> int:
        """Average spacing of frames, microseconds."""
        return round(1_000_000 / self.avg_fps)

    @property
    def bits_per_pixel(self) -> float:
        """File bits over displayed pixels of all frames: a plain measure of compression."""
        frames = max(1.0, self.duration_us / 1e6 * float(self.avg_fps))
        return self.bytes * 8 / (self.width * self.height * frames)


def probe(path: str | PathLike[str], max_pixels: int = MAX_PIXELS) -> VideoProbe:
    """Read the header and decode one frame.

    Args:
        path: local video file.
        max_pixels: pixel budget of one coded frame.

    Raises:
        MediaError: any kind but ``truncated`` for a file whose first part is whole: that is
            known after :func:`s2v.datapipe.base.media.decode.scan`; ``missing_bytes`` warns.
    """
    with open_video(path, max_pixels) as video:
        return probe_open(video, Path(path).stat().st_size)


def probe_open(video: OpenVideo, size: int) -> VideoProbe:
    """As :func:`probe` on an open file, which is left somewhere behind its first frame."""
    stream, container = video.stream, video.container
    duration_us = _declared_duration_us(video)
    avg_fps = _average_fps(video, duration_us)
    vfr = _looks_vfr(video)
    frame = _first_frame(video)
    declared = duration_us is not None
    if duration_us is None:
        duration_us = _measured_duration_us(video, avg_fps, 0)
    elif vfr:
        # Muxers add up decoding times, which end before the last uneven frames are shown.
        tail_us = max(0, duration_us - _TAIL_US)
        duration_us = max(duration_us, _measured_duration_us(video, avg_fps, tail_us))
    orientation = orientation_of(frame)
    sar = video.sample_aspect()
    width, height = max(1, round(frame.width * sar)), frame.height
    if orientation.transpose:
        width, height = height, width
    start = container.start_time or 0
    first = video.origin * stream.time_base * 1_000_000
    return VideoProbe(
        width=width,
        height=height,
        coded_width=frame.width,
        coded_height=frame.height,
        avg_fps=avg_fps,
        duration_us=duration_us,
        duration_declared=declared,
        declared_frames=stream.frames or None,
        codec=stream.codec_context.codec.canonical_name,
        pix_fmt=frame.format.name,
        rotation=orientation.rotation,
        orientation=orientation,
        sar=sar,
        has_audio=bool(container.streams.audio),
        vfr=vfr,
        hdr=int(frame.color_trc) in _HDR_TRANSFERS,
        bytes=size,
        missing_bytes=missing_mp4_bytes(video.path) if video.demuxer == "mov" else 0,
        demuxer=video.demuxer,
        stream_index=stream.index,
        start_offset_us=max(0, round(first - start)),
    )


def _first_frame(video: OpenVideo) -> Any:
    errors = 0
    for count, packet in enumerate(video.container.demux(video.stream)):
        if count > _FIRST_FRAME_PACKETS:
            break
        try:
            for frame in packet.decode():
                return frame
        except ValueError:  # InvalidDataError: a damaged start is no reason to give up yet
            errors += 1
    raise MediaError(
        MediaErrorKind.CORRUPT,
        video.path,
        f"no frame in the first {_FIRST_FRAME_PACKETS} packets, {errors} of them damaged",
    )


def _declared_duration_us(video: OpenVideo) -> int | None:
    """Duration of the video stream from its own header, its tag, or the container's."""
    stream, container = video.stream, video.container
    if stream.duration:
        duration: Fraction = 1_000_000 * stream.duration * stream.time_base
        return round(duration)
    origin: Fraction = 1_000_000 * video.origin * stream.time_base
    tag = _DURATION_TAG.fullmatch(stream.metadata.get("DURATION", "").strip())
    if tag:  # counts from zero, not from the stream's first frame
        hours, minutes, seconds = tag.groups()
        end = (int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)) * 1_000_000
        return round(end - origin)
    if container.duration:
        end = (container.start_time or 0) + Fraction(container.duration)
        return round(end - origin)
    return None


def _measured_duration_us(video: OpenVideo, avg_fps: Fraction, from_us: int) -> int:
    """Read the packets from a time to the end, without decoding, for the last time stamp."""
    video.seek(from_us)
    last = 0
    for packet in video.container.demux(video.stream):
        if packet.pts is not None:
            shown_us = 1_000_000 * Fraction(packet.duration or 0) * video.stream.time_base
            last = max(last, video.pts_us(packet.pts) + round(shown_us or 1_000_000 / avg_fps))
    return last


def _average_fps(video: OpenVideo, duration_us: int | None) -> Fraction:
    """Average rate; the guessed one where the average is absent or out of this world."""
    stream = video.stream
    rates = [stream.average_rate, stream.guessed_rate, stream.base_rate]
    if stream.frames and duration_us:
        rates.append(Fraction(stream.frames * 1_000_000, duration_us))
    for rate in rates:
        if rate and 0 < rate <= _MAX_FPS:
            return Fraction(rate)
    raise MediaError(MediaErrorKind.CORRUPT, video.path, f"no believable frame rate among {rates}")


def _looks_vfr(video: OpenVideo) -> bool:
    """Whether frames are unevenly spaced, from the index where there is one."""
    stream = video.stream
    entries = stream.index_entries
    if video.demuxer == "mov" and len(entries) > 2:
        stamps = [entry.timestamp for entry in entries[: min(len(entries), _VFR_SAMPLE)]]
        steps = sorted(b - a for a, b in pairwise(stamps))
        # One sample may hide an edit or the last frame's odd length; two per cent may not.
        trim = len(steps) // 50
        low, high = steps[trim], steps[-1 - trim]
        tick_us = float(stream.time_base * 1_000_000)
        return bool((high - low) * tick_us > max(2 * tick_us, 1500.0, 0.1 * low * tick_us))
    if video.demuxer in {"matroska", "flv", "mov"}:
        average, base = stream.average_rate, stream.base_rate
        return bool(average and base and not 0.95 < average / base < 1.05)
    return False
