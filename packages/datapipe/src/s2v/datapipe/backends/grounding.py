"""Phrases to tokens and back to boxes, for the detectors of the Grounding DINO family.

These nets read one text, ``a red car . a dog .``, and score every box against every *token*.
The usual way back, joining the words of high score and comparing the string with the phrases,
gives labels such as ``red dog`` that are no phrase at all. Here each phrase is tokenised by
itself, so its token span is known by construction, and a box's score for a phrase is the largest
over that span. A box belongs to the one phrase that scores best.

Frames are run in groups of one size: padded to a common size, an image's features would depend on
its neighbours in the batch. A clip's frames all have one size, so nothing is lost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.backends.torch_nets import Precision, widen
from s2v.datapipe.base.media import boxes as geometry
from s2v.datapipe.roles import Box, Grounding, Image, Phrase

Floats = npt.NDArray[np.float32]

#: [CLS], [SEP], full stop and question mark of BERT's uncased vocabulary. Both code bases cut the
#: text into phrases at exactly these ids; with another vocabulary phrases would run together.
CLS, SEP, STOP, QUESTION = 101, 102, 1012, 1029
SEPARATORS: Final = {"[CLS]": CLS, "[SEP]": SEP, ".": STOP, "?": QUESTION}

_LEAST_PIXELS = 1.0  # square pixels inside the image


class GroundingOptions(BaseModel):
    """Options that both Grounding DINO backends have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:0, ...")
    dtype: Precision = Field(default="float32", description="float16 on GPUs; changes scores")
    batch: int = Field(default=4, ge=1, description="images per forward pass")
    box_threshold: float = Field(default=0.25, ge=0, le=1, description="best token; OpenS2V")
    text_threshold: float = Field(
        default=0.25, ge=0, le=1, description="best token of the phrase; OpenS2V"
    )
    phrases_per_pass: int | None = Field(
        default=None,
        ge=1,
        description="phrases in one text; else as many as fit. 1: no phrase sways another",
    )
    same_region: float = Field(
        default=0.8, gt=0, le=1, description="IoU over which boxes of one phrase are one region"
    )

    def identity(self) -> str:
        """The options that answers depend on, for the model's id."""
        told = self.model_dump(exclude={"device", "batch"}, mode="json")
        told = {key: told[key] for key in sorted(GroundingOptions.model_fields) if key in told}
        return ",".join(f"{key}={value}" for key, value in told.items())


@dataclass(frozen=True)
class Prompt:
    """One text: its token ids, and where each phrase lies in them (index, start, end)."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int, int], ...]


def clean(phrase: str) -> str:
    """A phrase without the characters that would end it early."""
    return " ".join(phrase.lower().replace(".", " ").replace("?", " ").split())


def prompts(
    phrases: Sequence[str],
    tokens: Callable[[str], list[int]],
    limit: int,
    per_pass: int | None = None,
) -> list[Prompt]:
    """Pack phrases into texts of at most ``limit`` tokens, in order.

    Args:
        phrases: as they stand in the caption.
        tokens: token ids of a text, without special tokens.
        limit: of the net; a single phrase longer than it is cut.
        per_pass: at most so many phrases in one text.

    Returns:
        Texts ``[CLS] phrase . phrase . [SEP]``; phrases without tokens are in none.
    """
    packed: list[Prompt] = []
    ids: list[int] = [CLS]
    spans: list[tuple[int, int, int]] = []

    def close() -> None:
        nonlocal ids, spans
        if spans:
            packed.append(Prompt((*ids, SEP), tuple(spans)))
        ids, spans = [CLS], []

    for index, phrase in enumerate(phrases):
        own = [token for token in tokens(clean(phrase)) if token not in SEPARATORS.values()]
        own = own[: limit - 3]
        if not own:
            continue
        if len(ids) + len(own) + 2 > limit or (per_pass is not None and len(spans) >= per_pass):
            close()
        spans.append((index, len(ids), len(ids) + len(own)))
        ids += [*own, STOP]
    close()
    return packed


def assign(
    scores: Floats,
    boxes: Floats,
    prompt: Prompt,
    shown: tuple[int, int],
    size: tuple[int, int],
    options: GroundingOptions,
) -> list[Grounding]:
    """Turn a net's queries into boxes of phrases.

    Args:
        scores: sigmoid scores ``[queries, tokens]``.
        boxes: centre x, centre y, width, height in 0..1 of the image shown, ``[queries, 4]``.
        prompt: the text asked.
        shown: height and width of the image that the net was shown, before its own resizing.
        size: height and width of the image itself, at most ``shown``.
        options: thresholds.

    Returns:
        Groundings by phrase, best first; score to 4 digits, box to 2.
    """
    fits = np.stack([scores[:, start:end].max(axis=1) for _, start, end in prompt.spans], axis=1)
    best = fits.argmax(axis=1)
    sure = (scores[:, : len(prompt.ids)].max(axis=1) > options.box_threshold) & (
        fits.max(axis=1) > options.text_threshold
    )
    sure &= np.isfinite(boxes).all(axis=1)
    hits: list[Grounding] = []
    for query in np.flatnonzero(sure):
        box = to_pixels(boxes[query], shown, size)
        if geometry.area(box) >= _LEAST_PIXELS:
            fit = round(float(fits[query, best[query]]), 4)
            hits.append(Grounding(prompt.spans[best[query]][0], box, fit))
    hits.sort(key=lambda hit: (hit.phrase, -hit.score, hit.box))
    kept: list[Grounding] = []
    for hit in hits:
        if all(
            other.phrase != hit.phrase or geometry.iou(other.box, hit.box) <= options.same_region
            for other in kept
        ):
            kept.append(hit)
    return kept


def to_pixels(box: Floats, shown: tuple[int, int], size: tuple[int, int]) -> Box:
    """Centre form in 0..1 of the image shown to xyxy pixels inside the image, 2 digits."""
    x, y, width, height = (float(v) for v in box)
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    scale = (shown[1], shown[0], shown[1], shown[0])
    pixels = [c * s for c, s in zip(corners, scale, strict=True)]
    x0, y0, x1, y1 = geometry.clip(pixels, size[1], size[0])
    return round(x0, 2), round(y0, 2), round(x1, 2), round(y1, 2)


class TokenGrounder(ABC):
    """The part of a detector that all nets of the family share.

    Subclasses load a net, tokenise, and run one text on images of one size.
    """

    text_limit: int = 256

    def __init__(self, options: GroundingOptions) -> None:
        self.options = options

    @abstractmethod
    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""

    @abstractmethod
    def run(self, images: Sequence[Image], ids: Sequence[int]) -> tuple[Floats, Floats]:
        """Run one text on images of one size.

        Returns:
            Sigmoid scores ``[images, queries, tokens]`` and boxes ``[images, queries, 4]`` as
            :func:`assign` takes them.
        """

    def ground(self, images: Sequence[Image], phrases: Sequence[Phrase]) -> list[list[Grounding]]:
        """Boxes of each phrase on each image; see :class:`s2v.datapipe.roles.Detector`."""
        texts = prompts(
            [p.text for p in phrases], self.tokens, self.text_limit, self.options.phrases_per_pass
        )
        found: list[list[Grounding]] = [[] for _ in images]
        by_size: dict[tuple[int, int], list[int]] = {}
        for n, image in enumerate(images):
            by_size.setdefault((image.shape[0], image.shape[1]), []).append(n)
        for size, members in by_size.items():
            for start in range(0, len(members), self.options.batch):
                chosen = members[start : start + self.options.batch]
                shown = [np.array(widen(images[n]), order="C") for n in chosen]
                whole = (shown[0].shape[0], shown[0].shape[1])
                for text in texts:
                    scores, boxes = self.run(shown, text.ids)
                    for n, one, where in zip(chosen, scores, boxes, strict=True):
                        found[n] += assign(one, where, text, whole, size, self.options)
        return found
