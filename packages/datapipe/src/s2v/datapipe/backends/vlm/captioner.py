"""Captions by a vision-language model (Phantom, section 3.1, step 4)."""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import Field

from s2v.datapipe.backends.vlm import options, prompting
from s2v.datapipe.backends.vlm.asking import Asker, Strict, parsed
from s2v.datapipe.backends.vlm.pictures import jpeg_url, shrink
from s2v.datapipe.backends.vlm.role import ServedRole
from s2v.datapipe.backends.vlm.text import WrongAnswerError, plain
from s2v.datapipe.roles import Caption, ClipView

_SLOT: Final = prompting.Slot("caption")
_REFUSES: Final = re.compile(
    r"(?:(?:i'?m|i am)\s+)?(?:so )?sorry\b|i apologi[sz]e|i (?:can(?:no|')t|am unable)|as an ai\b",
    re.IGNORECASE,
)


class CaptionOptions(options.PictureOptions):
    """Options of the captioner."""

    max_chars: int = Field(default=1200, ge=40, le=2000, description="of a caption")


class _Answer(Strict):
    caption: str


class VlmCaptioner(ServedRole):
    """One request per clip, with all of its sampled frames in order of time."""

    def __init__(self, settings: CaptionOptions, where: str) -> None:
        self._settings = settings
        pictures = {"side": settings.image_side, "quality": settings.jpeg_quality}
        prompt = prompting.load(_SLOT, settings.prompt, where)
        shape = {**pictures, "chars": settings.max_chars}
        super().__init__(Asker(settings, prompt, where, shape))

    def caption(self, view: ClipView) -> Caption:
        """Caption one clip.

        Raises:
            AnswerError, RoleUnavailableError: as in the role.
        """
        side, quality = self._settings.image_side, self._settings.jpeg_quality
        pictures = [jpeg_url(shrink(frame, side), quality) for frame in view.frames]
        text, attempts = self._asker.ask({}, pictures, self._read)
        return Caption(text, attempts=attempts)

    def _read(self, answer: str) -> str:
        text = plain(parsed(_Answer, answer).caption, "caption", self._settings.max_chars)
        if _REFUSES.match(text):
            raise WrongAnswerError("it is a refusal and no caption")
        return text


def captioner(given: dict[str, Any], where: str, shared: dict[str, Any]) -> VlmCaptioner:
    """Factory of the registry."""
    return VlmCaptioner(options.read(CaptionOptions, given, where), where)
