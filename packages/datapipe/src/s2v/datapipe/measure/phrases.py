"""Subject phrases of a caption (paper section 3.1, step 5; Phantom-Data section 3)."""

from __future__ import annotations

from typing import ClassVar

from s2v.datapipe.base import ids
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.frame_stage import ModelStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.roles import PhraseExtractor


class PhraseStage(ModelStage):
    """Each phrase is a substring of its caption and differs from the clip's others."""

    name: ClassVar[str] = "phrases"
    version = 1
    reads = ("clips", "captions", "quality")
    writes = ("phrases",)

    def __init__(self, extractor: PhraseExtractor, gates: GateSettings) -> None:
        super().__init__(extractor, gates)
        self.extractor = extractor

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """One row per phrase; those that can be no subject carry their reason."""
        captions = {row["clip_id"]: row["caption"] for row in unit.rows("captions")}
        rows = self.each(unit, captions, lambda clip: self._phrases(clip, captions[clip]))
        return {"phrases": rows}

    def _phrases(self, clip: str, caption: str) -> list[Row]:
        found = self.extractor.phrases(caption)
        texts = [phrase.text.lower() for phrase in found]
        rows = []
        for n, phrase in enumerate(found):
            if caption[phrase.start : phrase.end] != phrase.text:
                raise ValueError(
                    f"phrase {phrase.text!r} is not at {phrase.start}:{phrase.end} of the caption"
                )
            twice = texts.count(texts[n]) > 1
            rows.append(
                {
                    "subject_id": ids.subject_id(clip, n),
                    "clip_id": clip,
                    "phrase": phrase.text,
                    "start": phrase.start,
                    "end": phrase.end,
                    "noun": phrase.noun,
                    "bank": phrase.bank,
                    "class": phrase.category,
                    "reason": phrase.reason or ("phrase not distinct" if twice else None),
                }
            )
        return rows
