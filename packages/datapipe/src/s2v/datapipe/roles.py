"""One Protocol per model role (paper section 3.1; DESIGN section 4).

A stage holds a role. Which model fills it is the configuration's affair: production
models behind GPUs, or the small embedded nets. Both pass the same contract tests.

Shapes: images are RGB uint8 ``[H, W, 3]``, boxes xyxy pixels, masks bool ``[H, W]``,
embeddings L2-normalised float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
Mask = npt.NDArray[np.bool_]
Vectors = npt.NDArray[np.float32]

BANKS = ("person", "creature", "thing")

#: Phantom, supplement 5, figure 11.
CLASSES = ("human", "animal", "clothes", "product", "landmark", "ip_character", "other")

#: What a pair verifier answers to each of its two questions.
Said = Literal["yes", "no", "unsure"]


class WeightsError(RuntimeError):
    """Weights that are missing, truncated or another model's; names the file and the way out."""


class RoleUnavailableError(OSError):
    """A served model that does not answer now: the row is not at fault, so it is retried."""


class AnswerError(ValueError):
    """A model whose answer for this row stays wrong after all attempts: the row is quarantined."""


@dataclass(frozen=True)
class ClipView:
    """What a captioner is shown of a clip; the id travels with the frames to the answer."""

    clip_id: str
    frames: tuple[Image, ...]  # sampled frames in time order, cut to the clip's crop
    times_us: tuple[int, ...]
    motion: float | None = None  # as in table clips


@dataclass(frozen=True)
class Caption:
    """A caption and, where it was composed, the measured facts it rests on."""

    text: str
    facts: dict[str, Any] = field(default_factory=dict)
    attempts: int = 1


@dataclass(frozen=True)
class Phrase:
    """A subject phrase: ``caption[start:end] == text``."""

    text: str
    start: int
    end: int
    noun: str
    bank: str
    reason: str | None = None  # why it can be no subject (plural, vague), else None
    category: str | None = None  # one of CLASSES


@dataclass(frozen=True)
class Grounding:
    """A box for one phrase: index into the phrases asked for, and a score in 0..1."""

    phrase: int
    box: Box
    score: float


@dataclass(frozen=True)
class Segment:
    """A mask of the whole frame, and the segmenter's own score if it has one."""

    mask: Mask
    score: float | None = None


@dataclass(frozen=True)
class Check:
    """A second model's word on a box; ``None`` where it does not say."""

    complete: bool | None = None
    specific: bool | None = None
    matches: bool | None = None
    match_score: float | None = None
    mark: bool | None = None  # a complete, recognisable logo or text; asked of products only


@dataclass(frozen=True)
class Sight:
    """One side of a pair, as a verifier is shown it; its id travels with its pixels."""

    detection_id: str
    image: Image  # the whole sampled frame, cut to the clip's crop
    box: Box
    phrase: str


@dataclass(frozen=True)
class Verdict:
    """A verifier's two answers on one pair, and its reason (Phantom-Data, step 3)."""

    same_identity: Said
    different_context: Said
    note: str
    attempts: int = 1


@dataclass(frozen=True)
class PromptId:
    """Which words a question was put in."""

    name: str  # id and version, as the prompt's file states them
    sha256: str  # over prompt, schema, sampling and pictures


@dataclass(frozen=True)
class Face:
    """A face: box, five landmarks (eyes, nose, mouth corners) and its identity vector."""

    box: Box
    points: npt.NDArray[np.float32]  # [5, 2]
    score: float
    embedding: Vectors  # [d]


@dataclass(frozen=True)
class TextRegion:
    """A box of overlaid or depicted text."""

    box: Box
    score: float


@dataclass(frozen=True)
class TextLine:
    """A line of text that was read: its box, what it says, and how surely."""

    box: Box
    text: str
    score: float


@runtime_checkable
class Model(Protocol):
    """What every role has: an id that changes when its answers may change."""

    @property
    def model_id(self) -> str:
        """Name and weight digests; known without loading the weights."""
        ...

    def load(self) -> None:
        """Load the weights; called once per actor.

        Raises:
            WeightsError: they are missing, truncated or another model's.
            RoleUnavailableError: the server does not answer.
        """
        ...


@runtime_checkable
class Served(Protocol):
    """A model behind a server, which is worth asking for several rows at once."""

    @property
    def concurrency(self) -> int:
        """Rows in flight per actor."""
        ...


class Captioner(Model, Protocol):
    """Clip -> caption that names each subject with its appearance."""

    @property
    def prompt_sha256(self) -> str:
        """Digest of the prompt or grammar."""
        ...

    def caption(self, view: ClipView) -> Caption:
        """Caption one clip.

        Raises:
            AnswerError, RoleUnavailableError: see there.
        """
        ...


class PhraseExtractor(Model, Protocol):
    """Caption -> subject phrases, each a substring of the caption."""

    def phrases(self, caption: str) -> list[Phrase]:
        """Find the subjects; those that can be none carry a reason.

        Raises:
            AnswerError, RoleUnavailableError: see there.
        """
        ...


class Detector(Model, Protocol):
    """Phrases -> boxes on the frames of one clip."""

    def ground(self, images: Sequence[Image], phrases: Sequence[Phrase]) -> list[list[Grounding]]:
        """Ground the phrases on every image; several boxes for one phrase are all returned."""
        ...


class SubjectChecker(Model, Protocol):
    """A second opinion on a box (Phantom-Data, section 3: InternVL2.5)."""

    @property
    def prompt_sha256(self) -> str:
        """Digest of the prompt or rules."""
        ...

    def check(self, image: Image, box: Box, phrase: Phrase) -> Check:
        """Is the subject whole, specific, and what the phrase says?

        Raises:
            AnswerError, RoleUnavailableError: see there.
        """
        ...


class PairVerifier(Model, Protocol):
    """Is it the same subject, and is it elsewhere? (Phantom-Data, step 3)."""

    @property
    def prompts(self) -> Mapping[str, PromptId]:
        """The prompt of every class of :data:`CLASSES`."""
        ...

    def verify(self, first: Sight, second: Sight, class_: str) -> Verdict:
        """Judge a pair; a pair has no direction, so it is asked about once.

        Args:
            first, second: what is compared.
            class_: one of :data:`CLASSES`, which says what must agree.

        Raises:
            AnswerError, RoleUnavailableError: see there.
        """
        ...


class Segmenter(Model, Protocol):
    """Boxes -> masks."""

    def segment(self, image: Image, boxes: Sequence[Box], banks: Sequence[str]) -> list[Segment]:
        """Masks ``[H, W]`` of the whole frame, one per box, in order."""
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
    """Text in the picture, overlaid or depicted."""

    def regions(self, image: Image) -> list[TextRegion]:
        """All boxes of text."""
        ...


class TextReader(Model, Protocol):
    """What is written on a thing."""

    def read(self, image: Image) -> list[TextLine]:
        """All lines that could be read; printable text of one line each."""
        ...


class SafetyScorer(Model, Protocol):
    """Not-safe-for-work score."""

    def score(self, image: Image) -> float:
        """0 (safe) to 1."""
        ...


class AestheticScorer(Model, Protocol):
    """Aesthetic score, about 1 to 10 (LAION's head on CLIP)."""

    def score(self, images: Sequence[Image]) -> list[float]:
        """One score per image."""
        ...


class ShotScorer(Model, Protocol):
    """A network that sees where one shot becomes another, gradually too."""

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames it wants."""
        ...

    def score(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probability of a transition at every frame: uint8 ``[T, h, w, 3]`` to ``[T]``."""
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
    text_reader: TextReader | None = None
    safety: SafetyScorer | None = None
    checker: SubjectChecker | None = None
    verifier: PairVerifier | None = None
    aesthetics: AestheticScorer | None = None
    shots: ShotScorer | None = None

    def ids(self) -> dict[str, str | None]:
        """Model id per role, for ``run.json``."""
        return {
            name: None if model is None else model.model_id
            for name, model in sorted(vars(self).items())
        }


#: Roles that may stay empty.
OPTIONAL = frozenset(
    {"text_regions", "text_reader", "safety", "checker", "verifier", "aesthetics", "shots"}
)
