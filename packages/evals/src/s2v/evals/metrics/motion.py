"""Motion: how much moves, and does anything move at all.

OpenS2V's MotionAmplitude averages the *signed* flow over time and space, so that a zoom, a
diagonal, or a pan and return cancel to nothing; VBench's dynamic degree is a yes or no per
video at a threshold that follows the frame size. Ours: mean length of the flow, in frame heights
per second, so that neither size nor frame rate changes it; and VBench's yes or no, with
Farneback's flow in place of RAFT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.embedded.net import one_cv_thread
from s2v.evals.encoders import FlowEstimator, Image
from s2v.evals.frames import every, near_pairs
from s2v.evals.metrics.base import Case, Measurement, MetricSpec, Peer, not_applicable, scored

PAIRS = 8
# VBench compares frames about an eighth of a second apart.
GAP_US = 125_000
SHORT_SIDE = 256
# VBench, dynamic degree: pixels per pair at a short side of 256, strongest 5 %, 4 pairs of 16.
MOVING_PIXELS = 6.0
TOP_SHARE = 0.05
MOVING_PAIRS = 4 / 16

Flow = npt.NDArray[np.float32]
"""(H, W, 2) pixels, x then y."""


def farneback(first: Image, second: Image) -> Flow:
    """Dense flow at a short side of 256.

    Farneback's parameters are OpenS2V's (pyramid 0.5, 3 levels, window 15, 3 iterations,
    neighbourhood 5, sigma 1.2).

    Args:
        first: RGB uint8 (H, W, 3).
        second: of the same size.

    Returns:
        Flow of the rescaled frames, in their pixels.
    """
    return flow_of(*(cv2.cvtColor(rescaled(f), cv2.COLOR_RGB2GRAY) for f in (first, second)))


def rescaled(frame: Image) -> Image:
    """The frame at a short side of 256."""
    height, width = frame.shape[:2]
    scale = SHORT_SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    with one_cv_thread():
        return np.asarray(cv2.resize(frame, size, interpolation=way), np.uint8)


def flow_of(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> Flow:
    """Farneback's flow of two grey (H, W) pictures with OpenS2V's parameters."""
    flow = np.zeros((*first.shape[:2], 2), dtype=np.float32)
    with one_cv_thread():
        cv2.calcOpticalFlowFarneback(first, second, flow, 0.5, 3, 15, 3, 5, 1.2, 0)
    return flow


def flow_once(case: Case, i: int, j: int) -> Flow:
    """`farneback` between two frames of a case, computed once however many metrics ask."""
    found: Flow = case.once(("farneback", i, j), lambda: farneback(case.frames[i], case.frames[j]))
    return found


def speed(flow: Flow, seconds: float) -> float:
    """Mean flow length in frame heights per second.

    Raises:
        ValueError: seconds not positive.
    """
    if seconds <= 0:
        raise ValueError(f"frames {seconds} s apart")
    return float(np.linalg.norm(flow, axis=-1).mean() / flow.shape[0] / seconds)


def strongest(flow: Flow, share: float = TOP_SHARE) -> float:
    """Mean length of the strongest 5 % (or another share) of the flow, pixels."""
    lengths = np.sort(np.linalg.norm(flow, axis=-1).reshape(-1))
    return float(lengths[-max(1, int(lengths.size * share)) :].mean())


def is_dynamic(strong: Sequence[float], short_side: int, per_gap: Sequence[float]) -> bool:
    """VBench's rule: enough pairs whose strongest motion passes the threshold.

    Args:
        strong: `strongest` of each pair.
        short_side: of the frames the flow was computed on, pixels.
        per_gap: distance of each pair in units of the nominal 125 ms; slower sampling is
            allowed proportionally more motion.
    """
    threshold = MOVING_PIXELS * short_side / 256
    moving = sum(s > threshold * gap for s, gap in zip(strong, per_gap, strict=True))
    return moving >= max(1, round(MOVING_PAIRS * len(strong)))


class PairedFlow:
    """What metrics of motion share: eight pairs of frames an eighth of a second apart."""

    def __init__(self, spec: MetricSpec) -> None:
        self.spec = spec

    def pairs(self, times_us: Sequence[int]) -> list[tuple[int, int]]:
        """Frame indices of the pairs; none of a single frame."""
        return near_pairs(list(times_us), PAIRS, GAP_US)

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Both frames of eight pairs about 125 ms apart; none of a still."""
        return sorted({i for pair in self.pairs(times_us) for i in pair})

    def _flows(self, case: Case) -> list[tuple[Flow, float]]:
        """(flow, seconds) of each pair."""
        return [
            (flow_once(case, i, j), (case.times_us[j] - case.times_us[i]) / 1e6)
            for i, j in self.pairs(case.times_us)
        ]

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """None: motion has no chance level; the real clips are what to hold it against."""
        return [None] * len(peers)


class MotionMagnitude(PairedFlow):
    """Mean flow length in frame heights per second."""

    def measure(self, case: Case) -> Measurement:
        """Score one video; not applicable to a single frame."""
        flows = self._flows(case)
        if not flows:
            return not_applicable("single_frame")
        return scored(float(np.mean([speed(flow, seconds) for flow, seconds in flows])))


class DynamicRate(PairedFlow):
    """Whether the video moves: 0 or 1; their mean over videos is the rate."""

    def measure(self, case: Case) -> Measurement:
        """Score one video; not applicable to a single frame."""
        flows = self._flows(case)
        if not flows:
            return not_applicable("single_frame")
        strong = [strongest(flow) for flow, _ in flows]
        gaps = [seconds * 1e6 / GAP_US for _, seconds in flows]
        side = min(flows[0][0].shape[:2])
        return scored(
            float(is_dynamic(strong, side, gaps)), {"strongest": float(np.mean(strong)) / side}
        )


class SignedAmplitude:
    """OpenS2V's MotionAmplitude: the signed mean flow of all frames, and its absolute value.

    A zoom, a diagonal or a pan and return cancel to nothing. It is kept to the letter, for its
    leaderboard's sake, down to the swapped colour weights of the grey frames; ``magnitude`` beside
    it is the mean length of the same flow, pixels per frame.
    """

    def __init__(self, spec: MetricSpec) -> None:
        self.spec = spec

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Every frame."""
        return every(len(times_us))

    def measure(self, case: Case) -> Measurement:
        """Score one video; not applicable to a single frame."""
        n = len(case.times_us)
        if n < 2:
            return not_applicable("single_frame")
        grey = [cv2.cvtColor(case.frames[i], cv2.COLOR_BGR2GRAY) for i in range(n)]
        flows = [flow_of(first, second) for first, second in pairwise(grey)]
        score, magnitude = signed_amplitude(flows)
        return scored(score, {"magnitude": magnitude})

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """None, as of all motion."""
        return [None] * len(peers)


def signed_amplitude(flows: Sequence[Flow]) -> tuple[float, float]:
    """OpenS2V's reduction: each map at width 16, signed mean over everything, absolute, at most 1.

    Args:
        flows: of consecutive frames, at least one.

    Returns:
        ``(amplitude, mean length of the flow in pixels per frame)``.
    """
    height, width = flows[0].shape[:2]
    size = (16, max(1, int(height * 16 / width)))
    small = [cv2.resize(flow, size, interpolation=cv2.INTER_AREA) for flow in flows]
    lengths = [float(np.linalg.norm(flow, axis=-1).mean()) for flow in flows]
    return min(1.0, abs(float(np.mean(small)))), float(np.mean(lengths))


class DynamicDegree:
    """VBench's dynamic degree: 0 or 1, on frames about an eighth of a second apart.

    Args:
        spec: of the protocol.
        estimator: makes the flow estimator at first use.
    """

    def __init__(self, spec: MetricSpec, estimator: Callable[[], FlowEstimator]) -> None:
        self.spec = spec
        self._estimator = estimator

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Every so many frames, at about 8 a second; the rate is that of the whole video."""
        n = len(times_us)
        fps = (n - 1) * 1e6 / (times_us[-1] - times_us[0]) if n > 1 else 8.0
        return list(range(0, n, max(1, round(fps / 8))))

    def measure(self, case: Case) -> Measurement:
        """Score one video; not applicable where only one frame is sampled."""
        indices = self.plan(case.times_us)
        if len(indices) < 2:
            return not_applicable("single_frame")
        estimator = self._estimator()
        strong = [
            strongest(np.asarray(estimator.flow(case.frames[i], case.frames[j]), np.float32))
            for i, j in pairwise(indices)
        ]
        side = min(case.frames[indices[0]].shape[:2])
        threshold, needed = MOVING_PIXELS * side / 256, round(MOVING_PAIRS * len(indices))
        moving = sum(value > threshold for value in strong)
        return scored(float(moving >= needed), {"strongest": float(np.mean(strong)) / side})

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """None, as of all motion."""
        return [None] * len(peers)
