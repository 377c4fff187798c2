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
        pad: grey pixels (right and left, above and below) that had to be put around the image
            before the face was found; box and points are those of the image without them.
    """

    box: npt.NDArray[np.float32]
    points: npt.NDArray[np.float32]
    score: float
    pad: tuple[int, int] = (0, 0)

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


class VideoTextEmbedder(Protocol):
    """Puts whole videos and texts into one space."""

    id: str
    frames: int

    def embed_video(self, frames: Sequence[Image], preprocessing: str) -> Vectors:
        """(D,) float32, L2-normalised, of exactly ``frames`` frames."""

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """(N, D) float32, L2-normalised."""

    def tokens(self, text: str) -> int:
        """Length of a text in tokens, with its two markers, before it is cut."""

    @property
    def context(self) -> int:
        """Tokens that are read; what lies behind is not."""


class ImageScorer(Protocol):
    """Says one number of an image, such as its technical quality or its beauty."""

    id: str

    def score(self, images: Sequence[Image]) -> Vectors:
        """(N,) float32; NaN for an image that it cannot judge."""


class FlowEstimator(Protocol):
    """Dense motion from one frame to the next."""

    id: str

    def flow(self, first: Image, second: Image) -> Vectors:
        """(H, W, 2) float32 pixels, x then y, of the given frames."""


class SubjectSegmenter(Protocol):
    """Finds the salient subject of an image."""

    id: str

    def mask(self, image: Image) -> Mask:
        """(H, W) bool; all false when nothing stands out."""
