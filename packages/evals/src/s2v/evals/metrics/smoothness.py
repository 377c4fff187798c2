"""Smoothness, flicker and structure, from flow alone.

VBench's motion smoothness drops every other frame and asks an interpolation network (AMT,
CC BY-NC, scaled by the free memory of the GPU) to guess it. Here Farneback's flow guesses it, and
nothing depends on the machine. Phantom's radar has four scores of its own, among them "structure
breakdown", that nobody described; the structure here is a declared proxy: the share of the picture
whose motion can be followed forth and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.embedded.net import one_cv_thread
from s2v.evals.encoders import Image
from s2v.evals.frames import linspace_inclusive
from s2v.evals.metrics.base import Case, Measurement, MetricSpec, Peer, not_applicable, scored
from s2v.evals.metrics.motion import (
    Flow,
    PairedFlow,
    farneback,
    flow_once,
    rescaled,
    strongest,
)

TRIPLETS: Final = 6
# VBench, static filter: pixels per frame at a short side of 256, strongest 2 %.
STATIC_PIXELS: Final = 3.0
STATIC_SHARE: Final = 0.02
# Sundaram, Brox, Keutzer 2010, equation 5.
LOOSE: Final = 0.01
FIXED: Final = 0.5

Pixels = npt.NDArray[np.float32]


def likeness(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """``(255 - mean absolute difference) / 255``: 1 for equal pictures, 0 for black and white."""
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return float((255 - np.abs(difference).mean()) / 255)


def moved(image: npt.NDArray[np.generic], flow: Flow, share: float) -> Pixels:
    """The image read at each place plus ``share`` of the flow there; edges are repeated."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    with one_cv_thread():
        found = cv2.remap(
            image.astype(np.float32),
            x + share * flow[..., 0],
            y + share * flow[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return np.asarray(found, np.float32)


def between(first: Image, last: Image) -> Pixels:
    """What lies halfway: both carried to the middle along the flow from first to last, averaged."""
    flow = farneback(first, last)
    a, b = rescaled(first), rescaled(last)
    return np.asarray((moved(a, flow, -0.5) + moved(b, flow, 0.5)) / 2, np.float32)


def returned(forth: Flow, back: Flow) -> npt.NDArray[np.bool_]:
    """(H, W): whether going forth and then back ends where it began (Sundaram et al. 2010).

    The two flows may miss each other by half a pixel and a hundredth of their squared lengths.
    """
    there = np.stack([moved(back[..., k], forth, 1.0) for k in (0, 1)], axis=-1)
    miss = ((forth + there) ** 2).sum(axis=-1)
    allowed = LOOSE * ((forth**2).sum(axis=-1) + (there**2).sum(axis=-1)) + FIXED
    return np.asarray(miss <= allowed, np.bool_)


class _Triplets:
    """What smoothness and flicker share: six frames with their neighbours."""

    def __init__(self, spec: MetricSpec) -> None:
        self.spec = spec

    def _middles(self, n: int) -> list[int]:
        return [i + 1 for i in linspace_inclusive(n - 2, TRIPLETS)] if n >= 3 else []

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """The frames and their neighbours; none of a video of one or two."""
        return sorted({j for i in self._middles(len(times_us)) for j in (i - 1, i, i + 1)})

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """None: a frozen video is perfectly smooth."""
        return [None] * len(peers)


class Smoothness(_Triplets):
    """Mean likeness of frames to what their neighbours let expect."""

    def measure(self, case: Case) -> Measurement:
        """Score one video; not applicable to fewer than three frames."""
        middles = self._middles(len(case.times_us))
        if not middles:
            return not_applicable("fewer_than_3_frames")
        each = [
            likeness(between(case.frames[i - 1], case.frames[i + 1]), rescaled(case.frames[i]))
            for i in middles
        ]
        return scored(float(np.mean(each)), {"worst": min(each)})


class Flicker(_Triplets):
    """Mean likeness of neighbouring frames of a video in which nothing moves."""

    def measure(self, case: Case) -> Measurement:
        """Score one video; not applicable where something moves: motion is not flicker."""
        middles = self._middles(len(case.times_us))
        if not middles:
            return not_applicable("fewer_than_3_frames")
        flows = [flow_once(case, i, i + 1) for i in middles]
        strong = float(np.mean([strongest(flow, STATIC_SHARE) for flow in flows]))
        if strong > STATIC_PIXELS * min(flows[0].shape[:2]) / 256:
            return not_applicable("something_moves")
        each = [likeness(case.frames[i], case.frames[i + 1]) for i in middles]
        return scored(float(np.mean(each)), {"worst": min(each)})


class Structure(PairedFlow):
    """Mean share of the picture that can be followed forth and back over an eighth of a second."""

    def measure(self, case: Case) -> Measurement:
        """Score one video; not applicable to a single frame."""
        pairs = self.pairs(case.times_us)
        if not pairs:
            return not_applicable("single_frame")
        each = [
            float(returned(flow_once(case, i, j), flow_once(case, j, i)).mean()) for i, j in pairs
        ]
        return scored(float(np.mean(each)), {"worst": min(each)})
