"""A second model's word on a box (Phantom-Data, section 3: InternVL2.5)."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import cv2
import numpy as np
from pydantic import Field

from s2v.datapipe.backends.vlm import options, prompting
from s2v.datapipe.backends.vlm.asking import Asker, Strict, parsed
from s2v.datapipe.backends.vlm.pictures import jpeg_url, shrink
from s2v.datapipe.backends.vlm.role import ServedRole
from s2v.datapipe.roles import Box, Check, Image, Phrase

_SLOT: Final = prompting.Slot("check", frozenset({"phrase"}))
_PRODUCT: Final = prompting.Slot("check_product", frozenset({"phrase"}))
_RED: Final = (255, 0, 0)


class CheckOptions(options.PictureOptions):
    """Options of the checker; the papers take another model here than for the boxes."""

    max_tokens: int = Field(default=128, ge=1, le=65536)
    product_prompt: str | None = Field(
        default=None, description="a prompt file in place of ours for products"
    )


class _Answer(Strict):
    complete: bool
    specific: bool
    matches: bool
    match: int = Field(ge=0, le=10)


class _ProductAnswer(_Answer):
    mark: bool


class VlmChecker(ServedRole):
    """One request per box: the frame with the box drawn, and what lies inside.

    Products are asked about in words of their own, which ask for a logo or text as well
    (Phantom-Data, step 3: only products with a complete, recognisable one are paired).
    """

    def __init__(self, settings: CheckOptions, where: str) -> None:
        self._settings = settings
        prompt = prompting.load(_SLOT, settings.prompt, where)
        pictures = {"side": settings.image_side, "quality": settings.jpeg_quality}
        super().__init__(Asker(settings, prompt, where, pictures))
        words = prompting.load(_PRODUCT, settings.product_prompt, where, key="product_prompt")
        self._products = Asker(settings, words, where, pictures, self._asker.client)

    @property
    def prompt_sha256(self) -> str:
        """Over both prompts, their schemas, sampling and pictures."""
        both = self._asker.prompt_sha256 + self._products.prompt_sha256
        return hashlib.sha256(both.encode()).hexdigest()

    def check(self, image: Image, box: Box, phrase: Phrase) -> Check:
        """Is the subject whole, specific, and what the phrase says?

        Raises:
            AnswerError, RoleUnavailableError: as in the role.
        """
        side, quality = self._settings.image_side, self._settings.jpeg_quality
        pictures = [
            jpeg_url(shrink(part, side), quality)
            for part in (outlined(image, box), inside(image, box))
        ]
        fields = {"phrase": json.dumps(phrase.text, ensure_ascii=False)}
        if phrase.category == "product":
            whole, _ = self._products.ask(fields, pictures, lambda a: parsed(_ProductAnswer, a))
            return _check(whole, whole.mark)
        said, _ = self._asker.ask(fields, pictures, lambda a: parsed(_Answer, a))
        return _check(said, None)


def _check(said: _Answer, mark: bool | None) -> Check:
    return Check(said.complete, said.specific, said.matches, said.match / 10, mark)


def outlined(image: Image, box: Box) -> Image:
    """A copy of the frame with the box drawn in red, wide enough to survive shrinking."""
    drawn = image.copy()
    wide = max(2, round(max(image.shape[:2]) / 250))
    x0, y0, x1, y1 = _pixels(image, box)
    cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), _RED, wide)
    return drawn


def inside(image: Image, box: Box) -> Image:
    """The pixels of a box, at least one."""
    x0, y0, x1, y1 = _pixels(image, box)
    return np.ascontiguousarray(image[y0:y1, x0:x1])


def _pixels(image: Image, box: Box) -> tuple[int, int, int, int]:
    height, width = image.shape[:2]
    x0, y0 = (min(max(0, int(v)), most - 1) for v, most in ((box[0], width), (box[1], height)))
    x1, y1 = min(width, max(x0 + 1, round(box[2]))), min(height, max(y0 + 1, round(box[3])))
    return x0, y0, x1, y1


def checker(given: dict[str, Any], where: str, shared: dict[str, Any]) -> VlmChecker:
    """Factory of the registry."""
    return VlmChecker(options.read(CheckOptions, given, where), where)
