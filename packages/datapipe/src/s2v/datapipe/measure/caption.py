"""Caption: subject first, with appearance, behaviour and scene (paper section 3.1, step 4)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.frame_stage import Frames, ModelStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.roles import AnswerError, Captioner, ClipView

#: Far more than any caption has (the text encoders of the trainers see 226 to 512 tokens).
MAX_CHARS: Final = 2000


#: Captioner of a caption that came with the source.
GIVEN: Final = "given"


class CaptionSettings(BaseModel):
    """Whether captions that come with a source are used in place of the captioner's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use_given: Literal["never", "images", "all"] = Field(
        default="never",
        description="captions of a manifest or an image bank: for no source, for photographs (an "
        "image bank's pairs come with them), or for whole videos too",
    )


class CaptionStage(ModelStage):
    """One caption per clip, filed under the clip it was made from.

    A caption that came with the source, where the settings ask for it, is told from others by its
    captioner, ``given``. One that is empty or over-long is none, and the captioner is asked.
    """

    name: ClassVar[str] = "caption"
    version = 1
    reads = ("clips", "frames", "overlays", "quality")
    writes = ("captions",)

    def __init__(
        self,
        captioner: Captioner,
        gates: GateSettings,
        settings: CaptionSettings | None = None,
    ) -> None:
        super().__init__(captioner, gates)
        self.captioner = captioner
        self.settings = settings or CaptionSettings()

    def identity(self) -> Mapping[str, Any]:
        """Model id and prompt digest, and whose given captions are used, if any are."""
        found = {"model": self.captioner.model_id, "prompt": self.captioner.prompt_sha256}
        if self.settings.use_given != "never":
            found["given"] = self.settings.use_given
        return found

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """Caption clip by clip: an answer can only land on the clip it was asked for."""
        frames = Frames(unit)
        motion = {row["clip_id"]: row["motion"] for row in unit.rows("clips")}

        given = self._given(unit)

        def work(clip: str) -> list[Row]:
            if clip in given:
                return [given[clip]]
            rows = frames.of(clip)
            images = tuple(frames.image(row) for row in rows)
            times = tuple(row["pts_us"] for row in rows)
            made = self.captioner.caption(ClipView(clip, images, times, motion[clip]))
            return [
                {
                    "clip_id": clip,
                    "caption": _sound(made.text),
                    "captioner": self.captioner.model_id,
                    "prompt_sha256": self.captioner.prompt_sha256,
                    "facts": json.dumps(made.facts, sort_keys=True),
                    "attempts": made.attempts,
                }
            ]

        return {"captions": self.each(unit, motion, work)}

    def _given(self, unit: Unit) -> dict[str, Row]:
        """Rows of clips whose caption came with their source."""
        wanted = self.settings.use_given
        if wanted == "never":
            return {}
        texts = {row["video_id"]: row["given_caption"] for row in unit.tables["sources"]}
        found: dict[str, Row] = {}
        for clip in unit.rows("clips"):
            text = given_caption(texts.get(clip["video_id"]))
            if text is not None and (wanted == "all" or clip["kind"] == "image"):
                found[clip["clip_id"]] = {
                    "clip_id": clip["clip_id"],
                    "caption": text,
                    "captioner": GIVEN,
                    "prompt_sha256": None,
                    "facts": "{}",
                    "attempts": 0,
                }
        return found


def given_caption(text: str | None) -> str | None:
    """A given caption as one line, ``None`` where it is none that could be used."""
    try:
        return _sound(" ".join((text or "").split()))
    except AnswerError:
        return None


def _sound(text: str) -> str:
    """A caption that fits a table, a text file and a page, whoever made it.

    Raises:
        AnswerError: it is empty, over-long, or more than one printable line.
    """
    if not text.strip():
        raise AnswerError("the caption is empty")
    if len(text) > MAX_CHARS:
        raise AnswerError(f"the caption has {len(text)} characters, more than {MAX_CHARS}")
    if not text.isprintable():
        raise AnswerError(f"the caption is not one line of printable text: {text[:200]!a}")
    return text
