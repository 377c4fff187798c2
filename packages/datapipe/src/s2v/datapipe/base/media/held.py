"""Decoded pictures held back while a film runs by, until it is known which of them are wanted.

A clip's sampled frames lie at shares of its length, and its ends are known only when the shot is
over. To decode them again costs as much as the scan did, since nearly every group of pictures
holds one. So the scan's own pictures are kept by reference, which copies nothing, a few a second.

Only pictures that others may refer to are held, never bidirectional ones: those may have been
decoded without deblocking (:mod:`.scan`). A held picture is, bit for bit, what ``frames_at``
gives for its time.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

import numpy as np
from av.video.frame import PictureType

from s2v.datapipe.base.media.decode import Display
from s2v.datapipe.base.media.probe import VideoProbe

SPACING_US: Final = 120_000
"""Least distance of two held pictures, about eight a second."""

MAX_BYTES: Final = 256 << 20
"""Of pictures held at a time: 185 of 1280x720, 82 of 1920x1080 in 8-bit 4:2:0. When there are
more, every other one is let go."""


class HeldFrames:
    """Pictures of a running scan by their time.

    Args:
        start_us, end_us: of the pictures that may be wanted at all; an end of 0 is the film's.
        spacing_us: least distance of two of them.
        max_bytes: of all of them.
    """

    def __init__(
        self,
        start_us: int = 0,
        end_us: int = 0,
        spacing_us: int = SPACING_US,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._window = (start_us, end_us)
        self._least = self._spacing = spacing_us
        self._max_bytes = max_bytes
        self._times: list[int] = []
        self._frames: list[Any] = []
        self._bytes = 0
        self._display: Display | None = None

    def open(self, facts: VideoProbe) -> None:
        """Told once of the film, before its first picture."""
        self._display = Display(facts)

    def see(self, pts_us: int, frame: Any) -> None:
        """One more decoded PyAV frame, whole; it is held when it may become a still."""
        start, end = self._window
        if pts_us < start or 0 < end <= pts_us or frame.pict_type == PictureType.B:
            return
        if self._times and pts_us < self._times[-1] + self._spacing:
            return
        self._times.append(pts_us)
        self._frames.append(frame)
        self._bytes += _size(frame)
        while self._bytes > self._max_bytes and len(self._times) > 1:
            self._thin()

    @property
    def times(self) -> list[int]:
        """Of the pictures held, ascending."""
        return self._times

    def rgb(self, pts_us: int) -> np.ndarray:
        """A held picture, uint8 ``(height, width, 3)``, as ``frames_at`` shows it.

        Raises:
            KeyError: nothing is held of that time.
        """
        place = bisect_left(self._times, pts_us)
        if self._display is None or place == len(self._times) or self._times[place] != pts_us:
            raise KeyError(pts_us)
        return self._display.turn(self._frames[place])

    def drop_before(self, time_us: int) -> None:
        """Let go of what lies before ``time_us``."""
        place = bisect_left(self._times, time_us)
        self._keep(range(place, len(self._times)))
        self._spacing = self._least

    def _thin(self) -> None:
        """Keep pictures at twice the distance."""
        self._spacing *= 2
        kept: list[int] = []
        for place, time in enumerate(self._times):
            if not kept or time >= self._times[kept[-1]] + self._spacing:
                kept.append(place)
        self._keep(kept)

    def _keep(self, places: Any) -> None:
        self._frames = [self._frames[place] for place in places]
        self._times = [self._times[place] for place in places]
        self._bytes = sum(_size(frame) for frame in self._frames)


def nearest(times: list[int], time_us: int, start_us: int, end_us: int) -> int | None:
    """Of sorted ``times`` the one in ``[start_us, end_us)`` nearest to ``time_us``, or None.

    Of two equally near the earlier is taken.
    """
    low, high = bisect_left(times, start_us), bisect_left(times, end_us)
    place = bisect_left(times, time_us, low, high)
    near = times[max(low, place - 1) : min(high, place + 1)]
    return min(near, key=lambda t: (abs(t - time_us), t), default=None)


def _size(frame: Any) -> int:
    return sum(plane.buffer_size for plane in frame.planes)
