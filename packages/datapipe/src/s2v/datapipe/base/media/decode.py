"""Single frames at full size: decord for batches where it is exact, PyAV everywhere else.

Both give the same bytes (a test holds them to it): libswscale's own conversion at coded size,
then one shared step to square pixels and the displayed orientation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from s2v.datapipe.base.media import decord_backend
from s2v.datapipe.base.media.container import (
    MAX_PIXELS,
    TIME_SLACK_US,
    Decoded,
    OpenVideo,
    decoded_from,
    open_video,
)
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.probe import VideoProbe, probe_open
from s2v.datapipe.base.media.scan import end_tolerance_us, scan

__all__ = ["Backend", "frames_at", "scan"]

Backend = Literal["auto", "decord", "pyav"]

_SEEK_AHEAD_US: Final = 5_000_000  # without an index: a seek pays over a gap longer than this


def frames_at(
    path: str | PathLike[str],
    pts_us: Sequence[int],
    *,
    backend: Backend = "auto",
    max_pixels: int = MAX_PIXELS,
) -> list[tuple[int, np.ndarray]]:
    """Full-size displayed frames at, or last before, the given times.

    Args:
        path: local video file.
        pts_us: times in microseconds, in any order, repeats allowed. A time before the first
            frame gives the first frame.
        backend: ``auto`` takes decord when it is installed and exact for this file, and PyAV
            otherwise and after a decord error; the other two force one.
        max_pixels: pixel budget of one coded frame.

    Returns:
        One ``(actual_pts_us, rgb)`` per asked time, in the asked order; ``rgb`` is uint8
        ``(height, width, 3)`` of the displayed size.

    Raises:
        MediaError: ``truncated`` when a time is declared but its frame is not there;
            ``corrupt`` when the frame is damaged. decord patches damage without saying so: ask
            only for times outside the ``damaged`` spans of a scan's report.
        ValueError: a negative time, or one behind the declared end.
    """
    if not pts_us:
        return []
    with open_video(path, max_pixels) as video:
        facts = probe_open(video, Path(path).stat().st_size)
        latest = facts.duration_us + end_tolerance_us(facts)
        if min(pts_us) < 0 or max(pts_us) > latest:
            raise ValueError(
                f"{path}: times {min(pts_us)}..{max(pts_us)} us, film is {facts.duration_us} us"
            )
        if backend == "decord" or (backend == "auto" and decord_backend.fits(facts, pts_us)):
            found = decord_backend.frames_at(video, pts_us, required=backend == "decord")
            if found is not None:
                display = Display(facts)
                return [(time, display.already_turned(rgb)) for time, rgb in found]
        return list(_pyav_frames(video, facts, pts_us))


def _pyav_frames(
    video: OpenVideo, facts: VideoProbe, pts_us: Sequence[int]
) -> list[tuple[int, np.ndarray]]:
    """Decode on through the sorted times, seeking over gaps longer than a GOP or so."""
    display = Display(facts)
    found: dict[int, tuple[int, np.ndarray]] = {}
    stream: Iterator[Decoded] = iter(())
    held: Decoded | None = None  # the newest frame at or before the wanted time
    ahead: Decoded | None = None  # the frame behind it, decoded already
    for time in sorted(set(pts_us)):
        if ahead is None or _worth_a_seek(video, ahead.pts_us, time):
            stream = decoded_from(video, time, facts.frame_us)
            held, ahead = None, next(stream, None)
        while ahead is not None and ahead.pts_us <= time + TIME_SLACK_US:
            held, ahead = ahead, next(stream, None)
        chosen = held or ahead
        if chosen is None or (ahead is None and _is_past_end(facts, chosen, time)):
            there = "none" if chosen is None else f"the last is at {chosen.pts_us} us"
            raise MediaError(
                MediaErrorKind.TRUNCATED,
                video.path,
                f"no frame at {time} us, {there}; {facts.duration_us} us are declared",
            )
        if chosen.damaged:
            raise MediaError(
                MediaErrorKind.CORRUPT, video.path, f"the frame at {chosen.pts_us} us is damaged"
            )
        found[time] = (chosen.pts_us, display.turn(chosen.frame))
    return [found[time] for time in pts_us]


def _worth_a_seek(video: OpenVideo, position: int, time: int) -> bool:
    """Whether an entry point lies between the decoder's position and the wanted time."""
    if video.demuxer == "mov":
        entry = video.entry_us(time)
        return entry is not None and entry > position
    return time - position > _SEEK_AHEAD_US


def _is_past_end(facts: VideoProbe, last: Decoded, time: int) -> bool:
    """Whether ``time`` lies well behind the end of the last frame there is."""
    step = facts.frame_us
    if last.frame.duration:
        step = max(step, round(last.frame.duration * last.frame.time_base * 1_000_000))
    return time > last.pts_us + step + end_tolerance_us(facts)


class Display:
    """Turns coded frames into RGB of the displayed size and orientation."""

    def __init__(self, facts: VideoProbe) -> None:
        self._facts = facts
        self._reformatter = VideoReformatter()

    def turn(self, frame: Any) -> np.ndarray:
        """A PyAV frame as displayed RGB."""
        facts = self._facts
        rgb = self._reformatter.reformat(
            frame,
            facts.coded_width,  # a stream that changes size on the way keeps the first one
            facts.coded_height,
            "rgb24",
            # At equal size this is libswscale's direct conversion, decord's too.
            interpolation=Interpolation.BICUBIC,
            threads=1,
        ).to_ndarray()
        return self.already_turned(facts.orientation.apply(rgb))

    def already_turned(self, rgb: np.ndarray) -> np.ndarray:
        """An RGB frame in display orientation, with its pixels made square."""
        size = (self._facts.width, self._facts.height)
        if (rgb.shape[1], rgb.shape[0]) == size:
            return rgb
        return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC))
