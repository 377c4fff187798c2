"""Two verdicts on a pair: the same subject, and in another context (Phantom-Data, step 3).

What must agree depends on the class: a person's face, and the clothes of a full figure; a
product's colour, packaging and text. Each class therefore has a prompt file of its own, and a
changed file asks the pairs of its class again and no others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field, field_validator

from s2v.datapipe.backends.vlm import options, prompting
from s2v.datapipe.backends.vlm.asking import Asker, Strict, parsed
from s2v.datapipe.backends.vlm.checker import inside, outlined
from s2v.datapipe.backends.vlm.pictures import jpeg_url, shrink
from s2v.datapipe.backends.vlm.role import ServedRole
from s2v.datapipe.backends.vlm.text import plain
from s2v.datapipe.roles import CLASSES, PromptId, Said, Sight, Verdict

FIELDS: Final = frozenset({"first", "second"})
#: Of the reason that goes with the verdicts; our schemas ask for less.
MAX_NOTE: Final = 300


class VerifyOptions(options.PictureOptions):
    """Options of the pair verifier."""

    max_tokens: int = Field(default=256, ge=1, le=65536)
    prompts: dict[str, str] = Field(
        default_factory=dict, description="class -> a prompt file in place of ours for that class"
    )

    @field_validator("prompts")
    @classmethod
    def _of_classes(cls, given: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(given) - set(CLASSES)):
            raise ValueError(f"no class {unknown[0]!r}; classes are {', '.join(CLASSES)}")
        return given


class _Answer(Strict):
    note: str
    same_identity: Said
    different_context: Said


class VlmVerifier(ServedRole):
    """One request per pair: of each side the frame with the box drawn, and what lies inside.

    The crops say who it is, the frames where; a crop alone shows too little of the place.
    """

    def __init__(self, settings: VerifyOptions, where: str) -> None:
        self._settings = settings
        pictures = {"side": settings.image_side, "quality": settings.jpeg_quality}
        self._askers: dict[str, Asker] = {}
        client = None
        for name in CLASSES:
            slot = prompting.Slot(f"verify_{name}", FIELDS)
            own, key = settings.prompt, "prompt"
            if name in settings.prompts:
                own, key = settings.prompts[name], f"prompts.{name}"
            prompt = prompting.load(slot, own, where, key)
            asker = self._askers[name] = Asker(settings, prompt, where, pictures, client)
            client = asker.client
        super().__init__(self._askers["other"])
        self._prompts = {
            name: PromptId(asker.prompt_name, asker.prompt_sha256)
            for name, asker in self._askers.items()
        }

    @property
    def prompts(self) -> Mapping[str, PromptId]:
        """The prompt of every class."""
        return self._prompts

    def verify(self, first: Sight, second: Sight, class_: str) -> Verdict:
        """Judge a pair with the prompt of its class.

        Raises:
            AnswerError, RoleUnavailableError: as in the role.
        """
        side, quality = self._settings.image_side, self._settings.jpeg_quality
        pictures = [
            jpeg_url(shrink(part, side), quality)
            for sight in (first, second)
            for part in (outlined(sight.image, sight.box), inside(sight.image, sight.box))
        ]
        fields = {
            "first": json.dumps(first.phrase, ensure_ascii=False),
            "second": json.dumps(second.phrase, ensure_ascii=False),
        }
        said, attempts = self._askers[class_].ask(fields, pictures, _read)
        return Verdict(said.same_identity, said.different_context, said.note, attempts)


def _read(answer: str) -> _Answer:
    said = parsed(_Answer, answer)
    return said.model_copy(update={"note": plain(said.note, "note", MAX_NOTE)})


def verifier(given: dict[str, Any], where: str, shared: dict[str, Any]) -> VlmVerifier:
    """Factory of the registry."""
    return VlmVerifier(options.read(VerifyOptions, given, where), where)
