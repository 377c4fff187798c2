"""Motion: how much moves, and does anything move at all.

OpenS2V's MotionAmplitude averages the *signed* flow over time and space, so that a zoom, a
diagonal, or a pan and return cancel to nothing; VBench's dynamic degree is a yes or no per
video at a threshold that follows the frame size. Ours: mean length of the flow, in frame heights
per second, so that neither size nor frame rate changes it; and VBench's yes or no, with
Farneback's flow in place of RAFT.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from s2v.evals.encoders import Image
from s2v.evals.frames import near_pairs
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
    height, width = first.shape[:2]
    scale = SHORT_SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    grey = [
        cv2.cvtColor(cv2.resize(frame, size, interpolation=way), cv2.COLOR_RGB2GRAY)
        for frame in (first, second)
    ]
    flow = np.zeros((*grey[0].shape[:2], 2), dtype=np.float32)
    cv2.calcOpticalFlowFarneback(grey[0], grey[1], flow, 0.5, 3, 15, 3, 5, 1.2, 0)
    return flow


def speed(flow: Flow, seconds: float) -> float:
    """Mean flow length in frame heights per second.

    Raises:
        ValueError: seconds not positive.
    """
    if seconds <= 0:
        raise ValueError(f"frames {seconds} s apart")
    return float(np.linalg.norm(flow, axis=-1).mean() / flow.shape[0] / seconds)


def strongest(flow: Flow) -> float:
    """Mean length of the strongest 5 % of the flow, pixels."""
    lengths = np.sort(np.linalg.norm(flow, axis=-1).reshape(-1))
    return float(lengths[-max(1, int(lengths.size * TOP_SHARE)) :].mean())


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


class _Flow:
    """What the two motion metrics share: the flow of eight pairs."""

    def __init__(self, spec: MetricSpec) -> None:
        self.spec = spec

    def _pairs(self, times_us: Sequence[int]) -> list[tuple[int, int]]:
        return near_pairs(list(times_us), PAIRS, GAP_US)

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Both frames of eight pairs about 125 ms apart; the only frame of a still."""
        return sorted({i for pair in self._pairs(times_us) for i in pair})

    def _flows(self, case: Case) -> list[tuple[Flow, float]]:
        """(flow, seconds) of each pair."""
        return [
            (
                case.once(
                    ("farneback", i, j), lambda i=i, j=j: farneback(case.frames[i], case.frames[j])
                ),
                (case.times_us[j] - case.times_us[i]) / 1e6,
            )
            for i, j in self._pairs(case.times_us)
        ]

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """None: motion has no chance level; the real clips are what to hold it against."""
        return [None] * len(peers)


class MotionMagnitude(_Flow):
    """Mean flow length in frame heights per second."""

    def measure(self, case: Case) -> Measurement:
        """Score one video; not applicable to a single frame."""
        flows = self._flows(case)
        if not flows:
            return not_applicable("single_frame")
        return scored(float(np.mean([speed(flow, seconds) for flow, seconds in flows])))


class DynamicRate(_Flow):
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
