"""Boxes by a vision-language model, as in the paper (Phantom, section 3.1, step 6: Qwen2.5-VL).

Qwen2.5-VL answers in pixels of the picture that its processor made, whose sides are multiples of
28; pictures are sent in such sizes, so that both count the same pixels. Qwen2-VL and Qwen3-VL
answer in thousandths: ``coordinates = "thousandths"``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from s2v.datapipe.backends.vlm import options, prompting
from s2v.datapipe.backends.vlm.asking import Asker, Strict, parsed
from s2v.datapipe.backends.vlm.pictures import jpeg_url, to_grid
from s2v.datapipe.backends.vlm.role import ServedRole
from s2v.datapipe.backends.vlm.text import WrongAnswerError, shown
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.roles import Box, Grounding, Image, Phrase

_SLOT: Final = prompting.Slot("boxes", frozenset({"size", "phrases", "unit"}))
MAX_BOXES: Final = 24
THOUSANDTHS: Final = 1000
#: Coordinates this far outside, as a share of the side, are a slip and cut off; more is nonsense.
SLACK: Final = 0.02


class BoxOptions(options.PictureOptions):
    """Options of the detector."""

    max_tokens: int = Field(default=1024, ge=1, le=65536)
    coordinates: Literal["pixels", "thousandths"] = Field(
        default="pixels", description="what the model's boxes count in"
    )
    grid: int = Field(
        default=28, ge=1, le=128, description="picture sides are multiples of it; Qwen3-VL: 32"
    )


class _Boxed(Strict):
    bbox_2d: Annotated[list[float], Field(min_length=4, max_length=4)]
    label: str


class _Answer(Strict):
    boxes: list[_Boxed] = Field(max_length=MAX_BOXES)


class VlmDetector(ServedRole):
    """One request per frame, for all phrases at once.

    A language model gives no confidence, so every score is 1.
    """

    reading = "boxes-1"

    def __init__(self, settings: BoxOptions, where: str) -> None:
        self._settings = settings
        prompt = prompting.load(_SLOT, settings.prompt, where)
        asked = {
            "side": settings.image_side,
            "quality": settings.jpeg_quality,
            "grid": settings.grid,
            "coordinates": settings.coordinates,
        }
        try:
            with_labels(prompt.schema_, [], 1)
        except (KeyError, TypeError):
            raise SettingsError(
                f"{where}.prompt: the schema of {settings.prompt} has no boxes with a label"
            ) from None
        super().__init__(Asker(settings, prompt, where, asked))

    def ground(self, images: Sequence[Image], phrases: Sequence[Phrase]) -> list[list[Grounding]]:
        """Ground the phrases on every image.

        Raises:
            AnswerError, RoleUnavailableError: as in the other roles.
        """
        return [self._ground(image, phrases) if phrases else [] for image in images]

    def _ground(self, image: Image, phrases: Sequence[Phrase]) -> list[Grounding]:
        sent = to_grid(image, self._settings.image_side, self._settings.grid)
        height, width = sent.shape[:2]
        pixels = self._settings.coordinates == "pixels"
        span = (float(width), float(height)) if pixels else (THOUSANDTHS, THOUSANDTHS)
        names = [phrase.text for phrase in phrases]
        fields = {
            "size": f"{width} pixels wide and {height} pixels high",
            "phrases": json.dumps(names, ensure_ascii=False),
            "unit": "pixels of this picture"
            if pixels
            else "thousandths of its width and height, 0 to 1000",
        }
        schema = with_labels(self._asker.prompt.schema_, names, int(max(span)))
        ours = (image.shape[1], image.shape[0])
        picture = jpeg_url(sent, self._settings.jpeg_quality)
        found, _ = self._asker.ask(
            fields, [picture], lambda answer: read_boxes(answer, names, span, ours), schema
        )
        return found


def with_labels(schema: dict[str, Any], names: Sequence[str], most: int) -> dict[str, Any]:
    """The prompt's schema, in which a label is one of the phrases and no number is too large."""
    made = copy.deepcopy(schema)
    parts = made["properties"]["boxes"]["items"]["properties"]
    parts["label"] = {"enum": sorted(set(names))}
    parts["bbox_2d"]["items"]["maximum"] = most
    return made


def read_boxes(
    answer: str, names: Sequence[str], span: tuple[float, float], ours: tuple[int, int]
) -> list[Grounding]:
    """Turn an answer into boxes in our pixels.

    Args:
        answer: JSON of the prompt's form.
        names: the phrases asked for.
        span: how far the answer's coordinates reach, across and down.
        ours: width and height of our picture, pixels.

    Raises:
        WrongAnswerError: another form, a phrase that was not asked for, or no box at all: corners
            in the wrong order, or far outside.
    """
    index = {name.lower(): n for n, name in reversed(list(enumerate(names)))}
    found = []
    for boxed in parsed(_Answer, answer).boxes:
        phrase = index.get(" ".join(boxed.label.lower().split()))
        if phrase is None:
            raise WrongAnswerError(f"the label {shown(boxed.label)} is none of the phrases")
        found.append(Grounding(phrase, _scaled(boxed.bbox_2d, span, ours), 1.0))
    # Said twice is one box, not an ambiguity.
    return sorted(set(found), key=lambda g: (g.phrase, g.box))


def _scaled(box: Sequence[float], span: tuple[float, float], ours: tuple[int, int]) -> Box:
    for value, reach in zip(box, (*span, *span), strict=True):
        if not -SLACK * reach <= value <= (1 + SLACK) * reach:
            raise WrongAnswerError(f"the box {list(box)} lies outside of {span[0]:g} x {span[1]:g}")
    across, down = ours[0] / span[0], ours[1] / span[1]
    x0, x1 = (min(max(box[n] * across, 0.0), float(ours[0])) for n in (0, 2))
    y0, y1 = (min(max(box[n] * down, 0.0), float(ours[1])) for n in (1, 3))
    if x1 <= x0 or y1 <= y0:
        raise WrongAnswerError(f"the box {list(box)} has no area: x1 < x2 and y1 < y2 must hold")
    return (x0, y0, x1, y1)


def detector(given: dict[str, Any], where: str, shared: dict[str, Any]) -> VlmDetector:
    """Factory of the registry."""
    return VlmDetector(options.read(BoxOptions, given, where), where)
