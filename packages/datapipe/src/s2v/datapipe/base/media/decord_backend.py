"""Batches of frames by decord, where it is exact.

decord counts frames by index, so it goes wrong where index and time part: it seeks to other
frames in transport streams and behind open groups of pictures, numbers the hidden frames before
an edit, and converts more than 8 bits its own way (measured: docs/media.md). It reads the whole
file's packets on opening, and after one bad packet every later frame of a reader fails; the
caller then falls back to PyAV.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from s2v.datapipe.base.media.container import TIME_SLACK_US, OpenVideo, packet_times
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.probe import VideoProbe

_DEMUXERS: Final = frozenset({"mov", "matroska", "avi"})
_CODECS: Final = frozenset({"h264", "hevc", "vp8", "vp9"})  # decoders exact by standard
_PIXEL_FORMATS: Final = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuv444p"})
_ROUNDING_US: Final = 1000  # decord keeps seconds in float32
_BATCH_BYTES: Final = 128 << 20
_MIN_TIMES: Final = 8  # opening reads all packets of the file; a few frames are not worth it


def fits(facts: VideoProbe, pts_us: Sequence[int]) -> bool:
    """Whether decord is installed and known to give PyAV's frames for such a file."""
    mirrored = facts.orientation.transpose != (facts.orientation.hflip != facts.orientation.vflip)
    return (
        len(pts_us) >= _MIN_TIMES
        and facts.demuxer in _DEMUXERS
        and facts.codec in _CODECS
        and facts.pix_fmt in _PIXEL_FORMATS
        and not mirrored
        and importlib.util.find_spec("decord") is not None
    )


def frames_at(
    video: OpenVideo, pts_us: Sequence[int], *, required: bool = False
) -> list[tuple[int, np.ndarray]] | None:
    """Frames at or last before the given times, rotated but with pixels as stored.

    Args:
        video: the file as opened by PyAV, whose time stamps decord's must match.
        pts_us: times, any order.
        required: raise instead of returning None.

    Returns:
        ``(actual_pts_us, rgb)`` per asked time, or None where decord cannot serve the file.

    Raises:
        MediaError: ``corrupt``, when ``required`` and decord failed.
        ImportError: when ``required`` and decord is not installed.
    """
    try:
        import decord
    except ImportError:
        if required:
            raise
        return None
    decord.logging.set_level(decord.logging.QUIET)
    try:
        return _read(decord, video, pts_us)
    except (decord.DECORDError, RuntimeError) as error:
        if required:
            raise MediaError(MediaErrorKind.CORRUPT, video.path, f"decord: {error}") from error
        return None


def _read(decord: Any, video: OpenVideo, pts_us: Sequence[int]) -> list[tuple[int, np.ndarray]]:
    packets = packet_times(video)
    if packets is None or packets.leads:
        # It enters at their key frame and hands out what the decoder makes without the rest,
        # under other numbers: measured, more than half of the frames of such films.
        raise RuntimeError("open groups of pictures, or packets without time stamps")
    reader = decord.VideoReader(str(Path(video.path).absolute()), num_threads=1)
    seconds = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0]
    theirs = np.rint(seconds.astype(np.float64) * 1e6).astype(np.int64)
    # decord keeps seconds in float32: good enough to tell frames apart, not to name them.
    if len(packets.shown_us) != len(theirs):
        raise RuntimeError(f"{len(theirs)} frames where libav counts {len(packets.shown_us)}")
    stamps = np.asarray(packets.shown_us, np.int64)
    if np.abs(stamps - theirs).max() > _ROUNDING_US:
        raise RuntimeError("time stamps differ from libav's")
    wanted = np.asarray(pts_us, np.int64) + TIME_SLACK_US
    indices = np.maximum(np.searchsorted(stamps, wanted, side="right") - 1, 0)
    height, width, _ = reader[int(indices[0])].shape
    chunk = max(1, _BATCH_BYTES // (height * width * 3))
    frames: dict[int, np.ndarray] = {}
    unique = np.unique(indices)
    for first in range(0, len(unique), chunk):
        part = unique[first : first + chunk]
        batch = reader.get_batch(part).asnumpy()
        frames.update((int(index), frame) for index, frame in zip(part, batch, strict=True))
    return [(int(stamps[i]), frames[int(i)]) for i in indices]
