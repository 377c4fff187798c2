"""Copy a stretch of packets into a file of our own that can be cut exactly.

Transport and program streams have no index: ffmpeg's own seek lands between entry points and
then either reports the broken references as damage or hides real damage with them. Copying the
packets from the entry point on, undecoded, gives ffmpeg a file whose first frame is whole.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Final

import av

from s2v.datapipe.base.media.container import MAX_PIXELS, OpenVideo, open_video
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind

UNINDEXED: Final = frozenset({"mpegts", "mpeg"})
"""Demuxers whose files go through here before they are cut."""

FORMAT: Final = "nut"  # keeps the time base and any codec as they are

_BACK_OFF_US: Final = (2_000_000, 10_000_000, 60_000_000, 1 << 60)
_REORDER_US: Final = 1_000_000


def copy_span(
    src: str | PathLike[str],
    start_us: int,
    end_us: int,
    dst: Path,
    max_pixels: int = MAX_PIXELS,
) -> int:
    """Copy the video packets that ``[start_us, end_us)`` needs, from its entry point on.

    Args:
        src: local video file.
        start_us, end_us: microseconds from its first frame.
        dst: NUT file to write.
        max_pixels: pixel budget of one coded frame.

    Returns:
        The film's time of the copy's time zero, microseconds.

    Raises:
        MediaError: no entry point before the span, or any reason of ``open_video``.
    """
    with open_video(src, max_pixels) as video:
        packets = _packets(video, start_us, end_us)
        if not packets:
            raise MediaError(
                MediaErrorKind.TRUNCATED, src, f"no packets in [{start_us}, {end_us}) us"
            )
        zero = min(packet.dts for packet in packets)
        with av.open(str(dst), "w", format=FORMAT) as copy:
            stream = copy.add_stream_from_template(video.stream)
            for packet in packets:
                packet.pts -= zero
                packet.dts -= zero
                packet.stream = stream
                copy.mux(packet)
        return video.pts_us(zero)


def _packets(video: OpenVideo, start_us: int, end_us: int) -> list[Any]:
    """Packets from the last entry point at or before the start to behind the end."""
    packets: list[Any] = []
    for back_off in _BACK_OFF_US:
        target = max(0, start_us - back_off)
        video.seek(target)
        packets, found = [], False
        for packet in video.container.demux(video.stream):
            if packet.pts is None or packet.dts is None:
                continue  # the flush packet, or one that says no time
            at = video.pts_us(packet.pts)
            if packet.is_keyframe and (at <= start_us or not packets):
                packets, found = [], at <= start_us
            if not packets and not packet.is_keyframe:
                continue
            if video.pts_us(packet.dts) > end_us + _REORDER_US:
                break
            packets.append(packet)
        if found or target == 0:
            break
    return packets
