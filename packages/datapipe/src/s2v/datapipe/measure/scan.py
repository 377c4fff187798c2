"""The sequential scan of a window, run in a child process: cuts and whole-clip measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.media.scan import Scan

FLOW_PER_SECOND = 4  # frame pairs per second of source whose optical flow is measured
FREEZE_DIFFERENCE = 0.5  # mean absolute grey difference (of 255) under which a frame repeats
BLACK_LUMA = 0.06
DIGITS = 4


@dataclass
class FrameScan:
    """What the pass found, per decoded frame of the window."""

    pts_us: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)  # index of the first frame of a new shot
    luma: list[float] = field(default_factory=list)  # mean, 0..1
    spread: list[float] = field(default_factory=list)  # standard deviation, 0..1
    change: list[float] = field(default_factory=list)  # mean grey difference to the frame before
    flow: dict[int, float] = field(default_factory=dict)  # share of frame height per second
    damaged: list[tuple[int, int]] = field(default_factory=list)  # us; patched by the decoder

    def summary(self, first: int, last: int) -> dict[str, float | None]:
        """The columns of table ``clips`` for frames ``first <= i < last``.

        Flow is measured from a frame to the next one; pairs that cross the clip's end do
        not count. The mean of *magnitudes* is taken: a signed mean would cancel a pan
        there and back.
        """
        inside = [self.flow[i] for i in range(first, last - 1) if i in self.flow]
        change = self.change[first + 1 : last]
        luma = np.asarray(self.luma[first:last])
        return {
            "motion": round(float(np.mean(inside)), DIGITS) if inside else None,
            "luma": round(float(luma.mean()), DIGITS),
            "luma_std": round(float(np.mean(self.spread[first:last])), DIGITS),
            "freeze": round(float(np.mean(np.asarray(change) < FREEZE_DIFFERENCE)), DIGITS)
            if change
            else None,
            "black": round(float(np.mean(luma < BLACK_LUMA)), DIGITS),
        }


def scan_window(path: str, start_us: int, end_us: int, settings: dict[str, Any]) -> FrameScan:
    """Decode ``[start_us, end_us)`` once at a small size; find cuts and measure frames.

    Raises:
        MediaError: ``truncated`` when fewer frames decode than the container declares.
    """
    cv2.setNumThreads(1)
    found = FrameScan()
    detectors = _detectors(settings)
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    before: npt.NDArray[np.uint8] | None = None
    next_flow_us = start_us
    take_flow = False
    frames = Scan(Path(path), start_us, end_us or None, short_side=settings["scan_short_side"])
    for n, (pts_us, rgb) in enumerate(frames):
        grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
        found.luma.append(float(grey.mean()) / 255)
        found.spread.append(float(grey.std()) / 255)
        if before is None:
            found.change.append(255.0)
        else:
            found.change.append(float(cv2.absdiff(grey, before).mean()))
            if take_flow:
                seconds = max(pts_us - found.pts_us[-1], 1) / 1e6
                start = np.zeros((*grey.shape, 2), np.float32)
                field_ = flow.calc(before, grey, start)
                amplitude = float(np.linalg.norm(field_, axis=2).mean())
                found.flow[n - 1] = amplitude / grey.shape[0] / seconds
        take_flow = pts_us >= next_flow_us
        if take_flow:
            next_flow_us += int(1e6 / FLOW_PER_SECOND)
        found.pts_us.append(pts_us)
        before = grey
        found.cuts += detectors(n, rgb)
    found.cuts = sorted(set(found.cuts))
    if frames.report is not None:
        found.damaged = list(frames.report.damaged)
    return found


class _detectors:  # noqa: N801  a closure with state, private to this file
    """PySceneDetect's content and adaptive detectors over our own frames; union of cuts.

    They are fed frame numbers at a nominal rate, so variable frame rates do no harm: a
    number is an index into the scan's own time stamps.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        from scenedetect import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector, ContentDetector

        self._timecode = FrameTimecode
        self._all = [
            ContentDetector(threshold=settings["content_threshold"], min_scene_len=8),
            AdaptiveDetector(adaptive_threshold=settings["adaptive_threshold"], min_scene_len=8),
        ]

    def __call__(self, n: int, rgb: npt.NDArray[np.uint8]) -> list[int]:
        bgr = np.ascontiguousarray(rgb[:, :, ::-1])
        time = self._timecode(n, 24.0)
        return [cut.frame_num for d in self._all for cut in d.process_frame(time, bgr)]
