"""The same metrics for a trainer: frames in memory in, scores out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from s2v.evals.encoders.production import Encoders
from s2v.evals.metrics import build
from s2v.evals.metrics.base import Case, RefImage


class Evaluator(Protocol):
    """What a trainer may call after sampling; it knows nothing of metrics."""

    def __call__(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        fps: float,
        prompt: str = "",
        references: Sequence[RefImage] = (),
    ) -> dict[str, float]:
        """Scores of one video.

        Args:
            frames: RGB uint8 (T, H, W, 3).
            fps: frames per second.
            prompt: what it was sampled from.
            references: what it was sampled from.

        Returns:
            ``protocol -> score`` and ``protocol/part -> value``; a metric that does not apply or
            fails is absent, never zero.
        """


def make_evaluator(suite: str = "light", encoders: Encoders | None = None) -> Evaluator:
    """An `Evaluator` over a suite; weights load at its first call.

    Args:
        suite: as for `s2v.evals.metrics.protocols`.
        encoders: by default the embedded ones.

    Raises:
        EvalError: unknown suite or metric.
    """
    metrics = build(suite, encoders)

    def evaluate_frames(
        frames: npt.NDArray[np.uint8],
        *,
        fps: float,
        prompt: str = "",
        references: Sequence[RefImage] = (),
    ) -> dict[str, float]:
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
            raise ValueError(f"expected RGB uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
        if fps <= 0:
            raise ValueError(f"fps {fps}: must be positive")
        case = Case(
            frames=dict(enumerate(frames)),
            times_us=[round(i * 1e6 / fps) for i in range(len(frames))],
            references=tuple(references),
            prompt=prompt,
        )
        scores: dict[str, float] = {}
        for metric in metrics:
            found = metric.measure(case)
            if found.score is not None:
                scores[metric.spec.protocol] = found.score
                scores |= {f"{metric.spec.protocol}/{k}": v for k, v in found.parts.items()}
        return scores

    return evaluate_frames
