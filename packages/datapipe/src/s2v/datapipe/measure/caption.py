"""Caption: subject first, with appearance, behaviour and scene (paper section 3.1, step 4)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.frame_stage import Frames, ModelStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.roles import AnswerError, Captioner, ClipView

#: Far more than any caption has (the text encoders of the trainers see 226 to 512 tokens).
MAX_CHARS: Final = 2000


class CaptionStage(ModelStage):
    """One caption per clip, filed under the clip it was made from."""

    name: ClassVar[str] = "caption"
    version = 1
    reads = ("clips", "frames", "overlays", "quality")
    writes = ("captions",)

    def __init__(self, captioner: Captioner, gates: GateSettings) -> None:
        super().__init__(captioner, gates)
        self.captioner = captioner

    def identity(self) -> Mapping[str, Any]:
        """Model id and prompt digest."""
        return {"model": self.captioner.model_id, "prompt": self.captioner.prompt_sha256}

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """Caption clip by clip: an answer can only land on the clip it was asked for."""
        frames = Frames(unit)
        motion = {row["clip_id"]: row["motion"] for row in unit.rows("clips")}

        def work(clip: str) -> list[Row]:
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
