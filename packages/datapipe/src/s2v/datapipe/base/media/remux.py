"""Copy the packets that a span needs, undecoded, into a small file of our own.

Cutting works on that copy. So no seek can land between entry points, damage elsewhere in the
film does not matter, and ffmpeg never parses the stranger's container, only its coded pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, Final

import av

from s2v.datapipe.base.media.container import (
    MAX_PIXELS,
    TIME_SLACK_US,
    OpenVideo,
    decoded,
    open_video,
)
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.probe import VideoProbe

FORMAT: Final = "nut"  # keeps any codec and the time base as they are

_BACK_OFF_US: Final = (0, 2_000_000, 10_000_000, 60_000_000, 1 << 60)
_MAX_MISSING_SHARE: Final = 0.1


@dataclass(frozen=True)
class Copied:
    """A copied span.

    Attributes:
        zero_us: the film's time of the copy's time zero.
        packets: video packets in the copy.
    """

    zero_us: int
    packets: int


def copy_span(
    src: str | PathLike[str],
    facts: VideoProbe,
    start_us: int,
    end_us: int,
    dst: Path,
    *,
    run_up_us: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> Copied:
    """Copy the video packets that ``[start_us, end_us)`` needs, from its entry point on.

    Args:
        src: local video file.
        facts: its probe.
        start_us, end_us: microseconds from its first frame.
        dst: NUT file to write.
        run_up_us: begin at an entry point at least this long before the span.
        max_pixels: pixel budget of one coded frame.

    Raises:
        MediaError: ``truncated`` when the packets end before the span does, ``corrupt`` when
            more than a tenth of an even film's span is missing in between.
    """
    with open_video(src, max_pixels) as video:
        entry_us = max(0, start_us - run_up_us)
        packets = _packets(video, entry_us, end_us, one_more=facts.vfr)
        _check(src, facts, [video.pts_us(p.pts) for p in packets], start_us, end_us)
        if any(packet.is_corrupt for packet in packets):
            raise MediaError(MediaErrorKind.TRUNCATED, src, "a packet of the span is cut off")
        _complete_dts(packets, round(Fraction(facts.frame_us, 1_000_000) / video.stream.time_base))
        zero = min(packet.dts for packet in packets)
        with av.open(str(dst), "w", format=FORMAT) as copy:
            stream = copy.add_stream_from_template(video.stream)
            for packet in packets:
                packet.pts -= zero
                packet.dts -= zero
                packet.stream = stream
                copy.mux(packet)
        return Copied(video.pts_us(zero), len(packets))


def _packets(video: OpenVideo, entry_us: int, end_us: int, *, one_more: bool) -> list[Any]:
    """Packets from the last entry point at or before ``entry_us`` to the end, as decoded.

    Args:
        video: an open video.
        entry_us: the time to be entered at.
        end_us: the end of the span.
        one_more: also the first picture behind the span, which says how long an unevenly
            spaced film shows the last one.
    """
    # MP4 knows its true entry points; elsewhere any key frame has to do.
    trusted = video.demuxer == "mov"
    packets: list[Any] = []
    for back_off in _BACK_OFF_US:
        target = max(0, entry_us - back_off)
        video.seek(target)
        packets, found = [], False
        for packet in video.container.demux(video.stream):
            if packet.pts is None:
                continue  # the flush packet, or one that says no time
            if packet.dts is not None and video.pts_us(packet.dts) >= end_us:
                packets += [packet] * one_more
                break
            early = video.pts_us(packet.pts) <= entry_us + TIME_SLACK_US
            if packet.is_keyframe and early and not (trusted and found):
                packets, found = [], True
            packets.append(packet)
        if found or target == 0:
            break
    return packets


def _complete_dts(packets: list[Any], step: int) -> None:
    """Give decoding times to the first packets after a seek in Matroska, which have none."""
    known = [index for index, packet in enumerate(packets) if packet.dts is not None]
    first = known[0] if known else len(packets)
    dts = packets[first].dts if known else packets[-1].pts + step
    for packet in reversed(packets[:first]):
        dts = min(dts - step, packet.pts)
        packet.dts = dts


def is_whole(copy: Path, copied: Copied, frame_us: int, start_us: int, end_us: int) -> bool:
    """Decode a copy and say whether no picture of the span is damaged or missing.

    Unlike the encoder's own strictness this forgives what an entry point does to the pictures
    right behind it, as long as a whole key frame lies between them and the span.
    """
    begin, end = (time - copied.zero_us - TIME_SLACK_US for time in (start_us, end_us))
    refused: list[int] = []
    with open_video(copy, demuxer=FORMAT) as video:
        video.origin = 0
        shown = [
            frame.damaged
            for frame in decoded(video, frame_us, refused.append)
            if begin <= frame.pts_us < end
        ]
    return bool(shown) and not any(shown) and not any(begin <= at < end for at in refused)


def _check(
    src: str | PathLike[str], facts: VideoProbe, times: list[int], start_us: int, end_us: int
) -> None:
    """Hold the packets' times against the span."""
    step = facts.frame_us
    shown = sorted(time for time in times if start_us - TIME_SLACK_US <= time < end_us)
    if not facts.vfr and (not shown or end_us - shown[-1] > 3 * step):
        there = f"the last is at {shown[-1]} us" if shown else "there are none"
        raise MediaError(
            MediaErrorKind.TRUNCATED,
            src,
            f"the frames of [{start_us}, {end_us}) us end early: {there}; fetch the file again",
        )
    if not times or (facts.vfr and max(times) < end_us and facts.duration_us - end_us > 3 * step):
        raise MediaError(
            MediaErrorKind.TRUNCATED,
            src,
            f"no frame behind {max(times, default=0)} us, {facts.duration_us} us are declared",
        )
    missing = sum(
        max(0, b - a - step) for a, b in pairwise([start_us, *shown]) if b - a > 1.5 * step
    )
    if not facts.vfr and missing > _MAX_MISSING_SHARE * (end_us - start_us) + step:
        raise MediaError(
            MediaErrorKind.CORRUPT,
            src,
            f"{missing} us of [{start_us}, {end_us}) us have no frames: the file has a hole",
        )
