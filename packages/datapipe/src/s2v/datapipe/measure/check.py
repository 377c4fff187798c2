"""A second model's word on each box: complete, specific, what the phrase says (Phantom-Data, 3).

Phantom-Data rechecks what its detector found with a model that has seen none of it: is the whole
object there, is it a thing one could recognise again (not trees or rocks), and is it what the
phrase says? Asked about the boxes that would be segmented, and no others, as each is a call. Of a
product it is asked as well whether it shows a recognisable logo or text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.detect import as_phrase
from s2v.datapipe.measure.frame_stage import Frames, ModelStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.measure.segment import SegmentSettings, chosen
from s2v.datapipe.roles import SubjectChecker


class CheckStage(ModelStage):
    """One row per box that was asked about; none at all without a checker."""

    name: ClassVar[str] = "check"
    version = 2  # products are asked about their mark
    reads = ("clips", "frames", "overlays", "phrases", "detections", "quality")
    writes = ("checks",)

    def __init__(
        self, checker: SubjectChecker | None, settings: SegmentSettings, gates: GateSettings
    ) -> None:
        if checker is not None:
            super().__init__(checker, gates)
        self.checker = checker
        self.settings = settings
        self.gates = gates

    def identity(self) -> Mapping[str, Any]:
        """Model id, digest of the prompt, and which boxes are asked about."""
        if self.checker is None:
            return {"model": None}
        return {
            "model": self.checker.model_id,
            "prompt": self.checker.prompt_sha256,
            **self.settings.model_dump(),
        }

    def setup(self) -> None:
        """Load the checker, if there is one."""
        if self.checker is not None:
            super().setup()

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """Ask about the boxes worth a mask, clip by clip."""
        checker = self.checker
        if checker is None:
            return {"checks": []}
        frames = Frames(unit)
        phrases = {row["subject_id"]: as_phrase(row) for row in unit.rows("phrases")}
        boxes = unit.by_id("detections")

        def work(clip: str) -> list[Row]:
            rows = []
            for box in sorted(chosen(boxes[clip], self.settings), key=lambda r: r["detection_id"]):
                image = frames.image(frames.row(box["frame_id"]))
                said = checker.check(image, tuple(box["box"]), phrases[box["subject_id"]])
                score = said.match_score
                rows.append(
                    {
                        "detection_id": box["detection_id"],
                        "clip_id": clip,
                        "checker": checker.model_id,
                        "prompt_sha256": checker.prompt_sha256,
                        "complete": said.complete,
                        "specific": said.specific,
                        "matches": said.matches,
                        "match_score": None if score is None else round(score, 4),
                        "mark": said.mark,
                    }
                )
            return rows

        return {"checks": self.each(unit, boxes, work)}
