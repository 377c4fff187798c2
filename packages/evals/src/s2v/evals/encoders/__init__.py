"""What a metric may ask of a model: one small Protocol per kind.

A metric is decode, sample, preprocess, *encoder*, pure reduction. Only the encoder needs
weights, so everything else is tested exactly, and a production model replaces an embedded one
without touching a metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""RGB, (H, W, 3)."""
Mask = npt.NDArray[np.bool_]
"""(H, W), true on the subject."""
Vectors = npt.NDArray[np.float32]
"""(N, D)."""


@dataclass(frozen=True, eq=False)
class Face:
    """A detected face.

    Attributes:
        box: (4,) float32, xyxy pixels; may reach beyond the image.
        points: (5, 2) float32 pixels: right eye, left eye, nose, right and left mouth corner,
            right and left as the person's own.
        score: the detector's confidence in [0, 1].
    """

    box: npt.NDArray[np.float32]
    points: npt.NDArray[np.float32]
    score: float

    @property
    def area(self) -> float:
        """Box area in square pixels."""
        return float(max(0.0, self.box[2] - self.box[0]) * max(0.0, self.box[3] - self.box[1]))


class FaceDetector(Protocol):
    """Finds faces with five points."""

    id: str

    def detect(self, image: Image) -> list[Face]:
        """All faces of one image, in a deterministic order."""


class FaceEmbedder(Protocol):
    """Turns a detected face into a vector; which distance suits it is the metric's matter."""

    id: str

    def embed(self, image: Image, face: Face) -> Vectors:
        """(D,) float32 of the aligned face."""


class ImageEmbedder(Protocol):
    """Turns images into vectors whose dot product is their similarity."""

    id: str

    def embed(self, images: Sequence[Image]) -> Vectors:
        """(N, D) float32, L2-normalised."""


class ImageTextEmbedder(Protocol):
    """Puts images and texts into one space."""

    id: str

    def embed_images(self, images: Sequence[Image]) -> Vectors:
        """(N, D) float32, L2-normalised."""

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """(N, D) float32, L2-normalised."""


class SubjectSegmenter(Protocol):
    """Finds the salient subject of an image."""

    id: str

    def mask(self, image: Image) -> Mask:
        """(H, W) bool; all false when nothing stands out."""
