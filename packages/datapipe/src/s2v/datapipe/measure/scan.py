"""The sequential scan of a window, run in a child process: cuts and whole-clip measures.

Every frame is decoded once, small. What is measured costs together less than a third of decoding
it (docs/shots.md): a change here is a change of what a film costs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.media.scan import Scan
from s2v.datapipe.measure.borders import PER_SECOND as BORDERS_PER_SECOND
from s2v.datapipe.measure.borders import Profiles
from s2v.datapipe.measure.cuts import CutDetector, difference
from s2v.datapipe.measure.gradual import Gradual, find_gradual, typical_fps
from s2v.datapipe.measure.marks import Marks
from s2v.datapipe.measure.sampling import FrameSettings
from s2v.datapipe.measure.stills import StillTaker
from s2v.datapipe.measure.timeline import Lengths

FLOW_PER_SECOND: Final = 4  # frame pairs per second of source whose optical flow is measured
FREEZE_DIFFERENCE: Final = 0.5  # mean absolute grey difference (of 255) under which a frame repeats
BLACK_LUMA: Final = 0.06
PEAK: Final = 95  # percentile
DIGITS: Final = 4
TINY: Final = 64  # side of the squares that perceptual hashes are made of; they look at 32

LEAD_US: Final = 2_000_000
"""Decoded before and after a window for context: a dissolve across a seam is seen by both."""


@dataclass
class FrameScan:
    """What the pass found, per decoded frame of the window."""

    pts_us: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)  # hard ones: index of the new shot's first frame
    gradual: list[Gradual] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)  # index -> why a change is no cut
    luma: list[float] = field(default_factory=list)  # mean, 0..1
    spread: list[float] = field(default_factory=list)  # standard deviation, 0..1
    change: list[float] = field(default_factory=list)  # mean grey difference to the frame before
    flow: dict[int, float] = field(default_factory=dict)  # share of frame height per second
    damaged: list[tuple[int, int]] = field(default_factory=list)  # us; patched or missing
    missing: list[tuple[int, int]] = field(default_factory=list)  # us; those without any picture
    stills: dict[int, bytes] = field(default_factory=dict)  # time -> JPEG at full size
    tiny: npt.NDArray[np.uint8] | None = None  # [T, TINY, TINY] grey, where stills are kept
    borders: Profiles = field(default_factory=Profiles)
    marks: Marks = field(default_factory=Marks)
    small: npt.NDArray[np.uint8] | None = None  # [T, h, w, 3] where a network asked for them
    first: int = 0  # index of the first frame inside the window; those before are context
    last: int = 0  # one past the last one inside

    def summary(self, first: int, last: int) -> dict[str, Any]:
        """The columns of table ``clips`` for frames ``first <= i < last``.

        Flow is measured from a frame to the next one; pairs that cross the clip's end do
        not count. The mean of *magnitudes* is taken: a signed mean would cancel a pan
        there and back.
        """
        inside = [self.flow[i] for i in range(first, last - 1) if i in self.flow]
        luma = np.asarray(self.luma[first:last])
        return {
            "motion": round(float(np.mean(inside)), DIGITS) if inside else None,
            "motion_peak": round(float(np.percentile(inside, PEAK)), DIGITS) if inside else None,
            "luma": round(float(luma.mean()), DIGITS),
            "luma_std": round(float(np.mean(self.spread[first:last])), DIGITS),
            "freeze": self._frozen(first, last),
            "black": round(float(np.mean(luma < BLACK_LUMA)), DIGITS),
        }

    def _frozen(self, first: int, last: int) -> float:
        """Share of the time in which the picture stands still.

        Frames that repeat the one before, and, where frames come unevenly, the time that one
        is shown beyond twice the usual. At an even rate it is the share of repeated frames.
        """
        if last - first < 2:
            return 1.0  # one frame for the whole clip
        shown = np.diff(np.asarray(self.pts_us[first:last], np.float64))
        usual = float(np.median(np.diff(self.pts_us)))
        repeats = np.asarray(self.change[first + 1 : last]) < FREEZE_DIFFERENCE
        waited = np.where(shown > 2 * usual, shown - usual, 0.0)
        still = np.where(repeats, shown, waited)
        return round(float(still.sum() / max(shown.sum(), 1.0)), DIGITS)


def scan_window(
    path: str,
    start_us: int,
    end_us: int,
    settings: dict[str, Any],
    small_size: tuple[int, int] | None = None,
    limits_us: tuple[int, int | None] = (0, None),
    sampling: dict[str, Any] | None = None,
) -> FrameScan:
    """Decode ``[start_us, end_us)`` once at a small size; find cuts and measure frames.

    Args:
        path: local video file.
        start_us, end_us: the window; an end of 0 is the film's.
        settings: of ``ShotSettings``.
        small_size: height and width of frames to return for a network, or None.
        limits_us: of the part of the file that may be used; context is not taken beyond.
        sampling: of ``FrameSettings``: the clips' sampled frames are kept as stills. None: none.

    Raises:
        MediaError: ``truncated`` when fewer frames decode than the container declares.
    """
    cv2.setNumThreads(1)
    from_us = max(limits_us[0], start_us - LEAD_US)
    to_us = end_us + LEAD_US if end_us else None
    if limits_us[1] is not None and to_us is not None:
        to_us = min(to_us, limits_us[1])
    taker = _still_taker((start_us, end_us), settings, sampling)
    frames = Scan(
        Path(path),
        from_us,
        to_us,
        short_side=settings["scan_short_side"],
        draft=True,
        keep=None if taker is None else taker.held,
    )
    watch = _Pass(settings, start_us, end_us, small_size, taker)
    for pts_us, rgb in frames:
        watch.see(pts_us, rgb)
    found = watch.finish()
    if frames.report is not None:
        found.damaged = list(frames.report.damaged)
        found.missing = list(frames.report.missing)
    return found


def _still_taker(
    window: tuple[int, int], settings: dict[str, Any], sampling: dict[str, Any] | None
) -> StillTaker | None:
    if sampling is None:
        return None
    lengths = Lengths.of(settings["trim_frames"], settings["min_seconds"], settings["max_seconds"])
    return StillTaker(window, lengths, FrameSettings(**sampling))


class _Pass:
    """All measures of one pass, frame by frame."""

    def __init__(
        self,
        settings: dict[str, Any],
        start_us: int,
        end_us: int,
        small_size: tuple[int, int] | None,
        taker: StillTaker | None = None,
    ) -> None:
        self.found = FrameScan()
        self._cuts = CutDetector(settings["content_threshold"], settings["adaptive_threshold"])
        self._gradual = settings["gradual"]
        self._window = (start_us, end_us)
        self._taker = taker
        self._small_size = small_size
        self._small: list[npt.NDArray[np.uint8]] = []
        self._thumbs: list[npt.NDArray[np.uint8]] = []
        self._tiny: list[npt.NDArray[np.uint8]] = []
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._before: npt.NDArray[np.uint8] | None = None
        self._next_flow_us = start_us
        self._take_flow = False
        self._next_border_us = start_us

    def see(self, pts_us: int, rgb: npt.NDArray[np.uint8]) -> None:
        """One more frame, uint8 ``[h, w, 3]``."""
        found, index = self.found, len(self.found.pts_us)
        grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
        hsv = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV), np.uint8)
        self._cuts(pts_us, hsv, grey)
        mean, deviation = cv2.meanStdDev(grey)
        found.luma.append(float(mean[0, 0]) / 255)
        found.spread.append(float(deviation[0, 0]) / 255)
        before = self._before
        found.change.append(255.0 if before is None else difference(grey, before))
        if before is not None and self._take_flow:
            seconds = max(pts_us - found.pts_us[-1], 1) / 1e6
            found.flow[index - 1] = self._amplitude(before, grey) / seconds
        inside = pts_us >= self._window[0] and not 0 < self._window[1] <= pts_us
        self._take_flow = inside and pts_us >= self._next_flow_us
        if self._take_flow:
            self._next_flow_us += int(1e6 / FLOW_PER_SECOND)
        if inside and pts_us >= self._next_border_us:
            self._next_border_us += int(1e6 / BORDERS_PER_SECOND)
            found.borders.look(index, grey)
            found.marks.see(grey)
        found.pts_us.append(pts_us)
        self._before = grey
        if self._gradual:
            self._thumbs.append(_thumb(grey))
        if self._small_size is not None:
            size = (self._small_size[1], self._small_size[0])
            shrunk = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
            self._small.append(np.asarray(shrunk, np.uint8))
        if self._taker is not None:
            self._tiny.append(_tiny(grey))
            self._taker.see(found, self._cuts.cuts, self._thumbs)

    def _amplitude(self, before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> float:
        """Mean length of the optical flow, in frame heights."""
        moved = self._flow.calc(before, after, None)  # type: ignore[call-overload]  # stub wants an array, None makes one
        length = cv2.magnitude(moved[..., 0], moved[..., 1])
        return float(cv2.mean(length)[0]) / float(before.shape[0])

    def finish(self) -> FrameScan:
        """What needs all frames."""
        found = self.found
        found.cuts = self._cuts.finish()
        found.refused = self._cuts.refused
        if self._taker is not None:
            found.stills = self._taker.finish(found, found.cuts, self._thumbs)
            found.tiny = np.stack(self._tiny) if self._tiny else None
        if self._thumbs:
            found.gradual = find_gradual(
                np.stack(self._thumbs), found.luma, found.spread, typical_fps(found.pts_us)
            )
            found.cuts = [
                cut
                for cut in found.cuts
                if not any(span.first <= cut <= span.last for span in found.gradual)
            ]
        if self._small:
            found.small = np.stack(self._small)
        start, end = self._window
        times = np.asarray(found.pts_us)
        found.first = int(np.searchsorted(times, start))
        found.last = int(np.searchsorted(times, end)) if end else len(times)
        return found


def _thumb(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """An eighth of each side, averaged."""
    height, width = grey.shape[0] // 8, grey.shape[1] // 8
    whole = grey[: 8 * height, : 8 * width]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _tiny(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.resize(grey, (TINY, TINY), interpolation=cv2.INTER_AREA), np.uint8)
