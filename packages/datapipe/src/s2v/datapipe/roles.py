"""One Protocol per model role (paper section 3.1; DESIGN section 4).

A stage holds a role. Which model fills it is the configuration's affair: production
models behind GPUs, or the small embedded nets. Both pass the same contract tests.

Shapes: images are RGB uint8 ``[H, W, 3]``, boxes xyxy pixels, masks bool ``[H, W]``,
embeddings L2-normalised float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
Mask = npt.NDArray[np.bool_]
Vectors = npt.NDArray[np.float32]

BANKS = ("person", "creature", "thing")


@dataclass(frozen=True)
class Caption:
    """A caption and, where it was composed, the measured facts it rests on."""

    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Phrase:
    """A subject phrase: ``caption[start:end] == text``."""

    text: str
    start: int
    end: int
    noun: str
    bank: str
    reason: str | None = None  # why it can be no subject (plural, vague), else None


@dataclass(frozen=True)
class Grounding:
    """A box for one phrase: index into the phrases asked for, and a score in 0..1."""

    phrase: int
    box: Box
    score: float


@dataclass(frozen=True)
class Face:
    """A face: box, five landmarks (eyes, nose, mouth corners) and its identity vector."""

    box: Box
    points: npt.NDArray[np.float32]  # [5, 2]
    score: float
    embedding: Vectors  # [d]


@runtime_checkable
class Model(Protocol):
    """What every role has: an id that changes when its answers may change."""

    @property
    def model_id(self) -> str:
        """Name and weight digests; known without loading the weights."""
        ...

    def load(self) -> None:
        """Load the weights; called once per actor."""
        ...


class Captioner(Model, Protocol):
    """Clip -> caption that names each subject with its appearance."""

    @property
    def prompt_sha256(self) -> str:
        """Digest of the prompt or grammar."""
        ...

    def caption(self, frames: Sequence[Image], motion: float | None) -> Caption:
        """Caption a clip by its sampled frames (in time order); motion as in table clips."""
        ...


class PhraseExtractor(Model, Protocol):
    """Caption -> subject phrases, each a substring of the caption."""

    def phrases(self, caption: str) -> list[Phrase]:
        """Find the subjects; those that can be none carry a reason."""
        ...


class Detector(Model, Protocol):
    """Phrases -> boxes on one frame."""

    def ground(self, image: Image, phrases: Sequence[Phrase]) -> list[Grounding]:
        """Ground the phrases; several boxes for one phrase are all returned."""
        ...


class Segmenter(Model, Protocol):
    """Box -> mask."""

    def segment(self, image: Image, box: Box, bank: str) -> Mask:
        """Mask of the subject inside the box, ``[H, W]`` of the whole frame."""
        ...


class FaceRecogniser(Model, Protocol):
    """Faces with landmarks and identity vectors."""

    def faces(self, image: Image) -> list[Face]:
        """All faces, largest first."""
        ...


class ImageEmbedder(Model, Protocol):
    """Images -> instance vectors."""

    def embed(self, images: Sequence[Image]) -> Vectors:
        """``[n, d]``, L2-normalised."""
        ...


class TextRegions(Model, Protocol):
    """Overlaid text."""

    def share(self, image: Image) -> float:
        """Share of the frame inside text boxes, 0..1."""
        ...


class SafetyScorer(Model, Protocol):
    """Not-safe-for-work score."""

    def score(self, image: Image) -> float:
        """0 (safe) to 1."""
        ...


@dataclass
class Roles:
    """The models of a run, one per role; ``None`` leaves the column null."""

    captioner: Captioner
    phrases: PhraseExtractor
    detector: Detector
    segmenter: Segmenter
    faces: FaceRecogniser
    embedder: ImageEmbedder
    text_regions: TextRegions | None = None
    safety: SafetyScorer | None = None

    def ids(self) -> dict[str, str | None]:
        """Model id per role, for ``run.json``."""
        return {
            name: None if model is None else model.model_id
            for name, model in sorted(vars(self).items())
        }
