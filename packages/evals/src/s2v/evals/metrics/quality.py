"""Clarity and beauty: the mean opinion of a video's frames.

VBench's imaging quality (MUSIQ over all frames, reported in hundredths) and aesthetic quality
(LAION's linear head, in tenths) are Phantom's "clarity" and "aesthetic" in 0 to 100; OpenS2V's
aesthetics is another head on other frames. Two heads give two numbers, so each is a protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from s2v.evals.encoders import ImageScorer
from s2v.evals.frames import Sampler
from s2v.evals.metrics.base import (
    Case,
    Measurement,
    MetricSpec,
    Peer,
    not_applicable,
    scored,
)


class FrameQuality:
    """Mean score of sampled frames, times a factor.

    Args:
        spec: of the protocol.
        scorer: makes the scorer at first use.
        sampler: which frames.
        frames: how many are asked for.
        factor: from the scorer's unit to the protocol's.
    """

    def __init__(
        self,
        spec: MetricSpec,
        scorer: Callable[[], ImageScorer],
        sampler: Sampler,
        frames: int = 1,
        *,
        factor: float = 1.0,
    ) -> None:
        self.spec = spec
        self._scorer = scorer
        self._sampler = sampler
        self._frames = frames
        self._factor = factor

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """The sampler's frames."""
        return self._sampler(len(times_us), self._frames)

    def measure(self, case: Case) -> Measurement:
        """Score one video; not applicable when its frames are too small for the scorer."""
        scorer = self._scorer()
        found = [float(scorer.score([case.frames[i]])[0]) for i in self.plan(case.times_us)]
        if any(np.isnan(found)):
            return not_applicable("frames_too_small")
        values = np.array(found) * self._factor
        return scored(float(values.mean()), {"worst": self._worst(values)})

    def _worst(self, values: np.ndarray) -> float:
        return float(values.max() if self.spec.direction == "lower" else values.min())

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """None: the real clips are what to hold it against."""
        return [None] * len(peers)
