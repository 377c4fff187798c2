"""Consistency: does the subject, and what is behind it, stay the same over time.

VBench's formula: each frame is compared with the one before it and with the first. A frozen video
is perfectly consistent, so read it beside the motion. The mean is over videos, whatever the number
of machines: VBench itself averages over frames on one GPU and over videos on several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from s2v.evals.encoders import Image, ImageEmbedder, SubjectSegmenter
from s2v.evals.frames import every, linspace_inclusive
from s2v.evals.metrics.base import Case, Measurement, MetricSpec, Peer, not_applicable, scored
from s2v.evals.metrics.copying import without_subject
from s2v.evals.metrics.subject import isolate, mask_of

FRAMES: Final = 5
What = Literal["subject", "background"]


def consistency_score(vectors: npt.ArrayLike) -> tuple[float, dict[str, float]]:
    """Mean over frames t >= 1 of half the sum of the clamped cosines to t - 1 and to 0.

    Args:
        vectors: (T, D) of unit length in order of time, T >= 2.

    Returns:
        ``(score, parts)``: ``previous`` and ``first`` are the two means, ``worst`` is the lowest
        frame.

    Raises:
        ValueError: fewer than two frames.
    """
    x = np.asarray(vectors, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"consistency of {x.shape}: at least two frames are compared")
    previous = np.clip((x[1:] * x[:-1]).sum(axis=1), 0, None)
    first = np.clip(x[1:] @ x[0], 0, None)
    each = (previous + first) / 2
    return float(each.mean()), {
        "previous": float(previous.mean()),
        "first": float(first.mean()),
        "worst": float(each.min()),
    }


class FrameConsistency:
    """Of whole frames, all of them: VBench's subject (DINO) and background (CLIP) consistency.

    Args:
        spec: of the protocol.
        embedder: makes the image embedder at first use.
    """

    def __init__(self, spec: MetricSpec, embedder: Callable[[], ImageEmbedder]) -> None:
        self.spec = spec
        self._embedder = embedder

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Every frame."""
        return every(len(times_us))

    def measure(self, case: Case) -> Measurement:
        """Score one video; not applicable to a single frame, which VBench divides by zero."""
        indices = self.plan(case.times_us)
        if len(indices) < 2:
            return not_applicable("single_frame")
        embedder = self._embedder()
        vectors = [
            case.once((embedder.id, i), lambda i=i: embedder.embed([case.frames[i]]))
            for i in indices
        ]
        return scored(*consistency_score(np.concatenate(vectors)))

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """None: a frozen video scores 1, no chance level tells more."""
        return [None] * len(peers)


class PartConsistency:
    """Of the segmented subject, or of what is around it, on five frames.

    Args:
        spec: of the protocol.
        embedder: makes the image embedder at first use.
        segmenter: makes the segmenter at first use.
        what: which of the two.
    """

    def __init__(
        self,
        spec: MetricSpec,
        embedder: Callable[[], ImageEmbedder],
        segmenter: Callable[[], SubjectSegmenter],
        what: What,
    ) -> None:
        self.spec = spec
        self._embedder = embedder
        self._segmenter = segmenter
        self._what = what

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Five frames, first to last: those of the segmented subject similarity."""
        return linspace_inclusive(len(times_us), FRAMES)

    def measure(self, case: Case) -> Measurement:
        """Score one video; not applicable where the part is seen in fewer than two frames."""
        indices = self.plan(case.times_us)
        segmenter, embedder = self._segmenter(), self._embedder()
        cut = [self._cut(case.frames[i], mask_of(case, segmenter, i)) for i in indices]
        seen = [image for image in cut if image is not None]
        if len(seen) < 2:
            return not_applicable("single_frame" if len(indices) < 2 else f"no_{self._what}")
        score, parts = consistency_score(embedder.embed(seen))
        return scored(score, {"seg_rate": len(seen) / len(indices), **parts})

    def _cut(self, frame: Image, mask: npt.NDArray[np.bool_]) -> Image | None:
        return isolate(frame, mask) if self._what == "subject" else without_subject(frame, mask)

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """None, as of whole frames."""
        return [None] * len(peers)
