"""Stills out of the scan's own pass: sampled frames that need no second decoding.

While the film runs, shots that are over are cut into clips as the stage will cut them, and the
held pictures nearest to the sampled positions are kept as JPEG. This is a guess made early: the
stage decides on the whole window, and a network may cut elsewhere. A wrong guess costs the
decoding of a few frames in stage ``frames`` and nothing else.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.media.held import HeldFrames
from s2v.datapipe.base.media.images import encode_jpeg
from s2v.datapipe.measure.gradual import find_gradual, typical_fps
from s2v.datapipe.measure.sampling import FrameSettings, taken
from s2v.datapipe.measure.timeline import Lengths, cut_shots

if TYPE_CHECKING:
    from s2v.datapipe.measure.scan import FrameScan

Thumbs = list[npt.NDArray[np.uint8]]

SETTLED_US: Final = 3_000_000
"""So long after a cut nothing that is found still changes the shot before it: the longest dissolve
that is looked for takes three seconds, half of it on each side."""

STRETCH_US: Final = 8_000_000
"""Shots are worked out together up to this length: looking for dissolves overlaps by
``SETTLED_US`` at both ends of a stretch."""


MAX_STILLS_BYTES: Final = 256 << 20
"""Of all stills of a window: they are sent from process to process as a whole. What is over is
left to stage ``frames``."""


class StillTaker:
    """Takes the stills of shots that are over, while the film runs.

    Args:
        window: first and last moment of what is cut into clips; an end of 0 is the film's.
        lengths: how shots become clips.
        sampling: which frames of a clip are wanted.

    Attributes:
        held: to be shown every frame by the scan.
        stills: time -> JPEG.
    """

    def __init__(self, window: tuple[int, int], lengths: Lengths, sampling: FrameSettings) -> None:
        self.held = HeldFrames(*window)
        self.stills: dict[int, bytes] = {}
        self._window = window
        self._lengths = lengths
        self._sampling = sampling
        self._bytes = 0
        self._from = 0  # index of the first frame that is not settled

    def see(self, found: FrameScan, cuts: Sequence[int], thumbs: Thumbs) -> None:
        """Take what is settled; called at every frame.

        Args:
            found: the measures so far.
            cuts: verified so far.
            thumbs: tiny grey pictures of all frames so far; empty where none are asked for.
        """
        times = found.pts_us
        for cut in reversed(cuts):
            if cut <= self._from or times[cut] - times[self._from] < STRETCH_US:
                return
            if times[-1] - times[cut] >= SETTLED_US:
                self._take(found, cuts, thumbs, cut)
                return

    def finish(self, found: FrameScan, cuts: Sequence[int], thumbs: Thumbs) -> dict[int, bytes]:
        """Take the rest, up to the end of the window."""
        self._take(found, cuts, thumbs, len(found.pts_us) - 1)
        return self.stills

    def _take(self, found: FrameScan, cuts: Sequence[int], thumbs: Thumbs, end: int) -> None:
        """Take the stills up to frame ``end``."""
        times, (start_us, end_us) = found.pts_us, self._window
        first = max(self._from, bisect_left(times, start_us))
        last = min(end, bisect_left(times, end_us)) if end_us else end
        self._from = end
        if last <= first:
            return
        inside = [cut - first for cut in cuts if first < cut < last]
        edges = times[first : last + 1]
        mixed = self._gradual(found, thumbs, first, last)
        for piece in cut_shots(edges, inside, mixed, self._lengths):
            if piece.reason is None:
                self._keep(edges[piece.first], edges[piece.last])
        self.held.drop_before(times[end])

    def _gradual(
        self, found: FrameScan, thumbs: Thumbs, first: int, last: int
    ) -> list[tuple[int, int]]:
        """Gradual transitions of frames ``[first, last)``, counted from ``first``."""
        if not thumbs:
            return []
        fps = typical_fps(found.pts_us)
        margin = round(SETTLED_US / 1e6 * fps)
        low = max(0, first - margin)
        part = slice(low, last + margin)
        spans = find_gradual(np.stack(thumbs[part]), found.luma[part], found.spread[part], fps)
        return [(span.first + low - first, span.last + low - first) for span in spans]

    def _keep(self, start_us: int, end_us: int) -> None:
        times, sampling = self.held.times, self._sampling
        for time in taken(times, start_us, end_us, sampling.positions).values():
            if time in self.stills or self._bytes >= MAX_STILLS_BYTES:
                continue
            self.stills[time] = encode_jpeg(self.held.rgb(time), sampling.jpeg_quality)
            self._bytes += len(self.stills[time])
