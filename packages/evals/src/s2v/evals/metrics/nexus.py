"""NexusScore (OpenS2V, arXiv 2505.20292): is each reference to be seen, cut out and compared.

An image-prompted detector looks for every reference in 32 frames; what it finds is cut out and
compared with the reference and with its name in one embedding space. The published score divides
the mean of the likenesses by the number of frames with a detection: a subject that is visible in
2 frames of 32 is divided by 2, one that is always visible by 32, so flicker is rewarded sixteen
times over. The form without that reward counts every frame, and 0 where the subject is not found.

The published detector (YOLO-World) is GPL-3.0 and the embedder has seven billion parameters:
whoever has them puts them behind `ReferenceDetector` and `ImageTextEmbedder`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from s2v.evals.encoders import Image, ImageTextEmbedder
from s2v.evals.frames import linspace_inclusive
from s2v.evals.metrics.base import (
    Case,
    Measurement,
    MetricSpec,
    Peer,
    not_applicable,
    scored,
)

FRAMES: Final = 32
SURE: Final = 0.6
"""Least confidence of a box that counts."""
NAMED: Final = 0.30
"""Least likeness of the crop to the reference's name."""


@dataclass(frozen=True)
class Box:
    """What the detector found.

    Attributes:
        box: xyxy pixels.
        score: confidence in [0, 1].
    """

    box: tuple[float, float, float, float]
    score: float


class ReferenceDetector(Protocol):
    """Finds what an example picture shows."""

    id: str

    def find(self, frame: Image, example: Image) -> list[Box]:
        """Boxes above the detector's own threshold (0.5 as published)."""


@dataclass(frozen=True)
class Crop:
    """One detection, compared.

    Attributes:
        frame: number of the sampled frame.
        reference: number of the reference.
        score: the detector's.
        named: likeness to the reference's name.
        like: likeness to the reference.
    """

    frame: int
    reference: int
    score: float
    named: float
    like: float


def nexus_score(crops: Sequence[Crop], frames: int, references: int) -> dict[str, float]:
    """All forms of the score for one video.

    Args:
        crops: every detection, also those that do not count.
        frames: sampled.
        references: looked for.

    Returns:
        ``published`` (v1.1: divided by the frames with a detection), ``published_v1.0`` (by the
        pairs of frame and reference with one), ``undivided`` (mean likeness of what counts),
        ``presence`` (best likeness per frame and reference, 0 where there is none) and
        ``seen_rate`` (pairs of frame and reference in which something counts).

    Raises:
        ValueError: no frame or no reference.
    """
    if frames < 1 or references < 1:
        raise ValueError(f"NexusScore of {frames} frames and {references} references")
    kept = [c for c in crops if c.score > SURE and c.named > NAMED and c.like != 0]
    mean = float(np.mean([c.like for c in kept])) if kept else 0.0
    by_frame = len({c.frame for c in crops})
    by_pair = len({(c.frame, c.reference) for c in crops})
    best: dict[tuple[int, int], float] = {}
    for c in kept:
        key = c.frame, c.reference
        best[key] = max(best.get(key, 0.0), c.like)
    return {
        "published": mean / by_frame if by_frame else 0.0,
        "published_v1.0": mean / by_pair if by_pair else 0.0,
        "undivided": mean,
        "presence": sum(best.values()) / (frames * references),
        "seen_rate": len(best) / (frames * references),
    }


class NexusScore:
    """NexusScore of all references but faces, which FaceSim measures.

    Args:
        spec: of the protocol.
        detector: makes the detector at first use.
        embedder: makes the embedder at first use.
        form: which of `nexus_score`'s values is the score; all are parts.
    """

    def __init__(
        self,
        spec: MetricSpec,
        detector: Callable[[], ReferenceDetector],
        embedder: Callable[[], ImageTextEmbedder],
        form: str = "presence",
    ) -> None:
        self.spec = spec
        self._detector = detector
        self._embedder = embedder
        self._form = form

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """32 frames, first to last."""
        return linspace_inclusive(len(times_us), FRAMES)

    def measure(self, case: Case) -> Measurement:
        """Score one video; one in which nothing is found scores 0 and does not vanish."""
        references = [r for r in case.references if not r.is_face]
        if not references:
            return not_applicable("no_reference_but_faces")
        detector, embedder = self._detector(), self._embedder()
        told = embedder.embed_images([r.image for r in references])
        names = embedder.embed_texts([r.phrase for r in references])
        indices = self.plan(case.times_us)
        crops = []
        for n, i in enumerate(indices):
            frame = case.frames[i]
            for k, reference in enumerate(references):
                for found in detector.find(frame, reference.image):
                    cut = _cut(frame, found.box)
                    if cut is None:
                        continue
                    vector = embedder.embed_images([cut])[0]
                    crops.append(
                        Crop(n, k, found.score, float(vector @ names[k]), float(vector @ told[k]))
                    )
        parts = nexus_score(crops, len(indices), len(references))
        return scored(parts[self._form], parts)

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """None: other references would have to be searched for again."""
        return [None] * len(peers)


def _cut(frame: Image, box: tuple[float, float, float, float]) -> Image | None:
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = (round(v) for v in box)
    cut = frame[max(0, y0) : min(height, y1), max(0, x0) : min(width, x1)]
    return np.ascontiguousarray(cut) if cut.size else None
