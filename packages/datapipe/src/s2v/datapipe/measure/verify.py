"""Asks the verifier about pairs of subjects on stored frames (Phantom-Data, step 3).

Unlike the other stages it works on pairs and not on clips: the selection says which
(:mod:`s2v.datapipe.verifying`). No video is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.frame_stage import ModelStage
from s2v.datapipe.measure.frames import FrameReader
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.roles import PairVerifier, Sight

#: What a unit of questions is keyed by, and the table its actor is given.
KEY, QUESTIONS = "verdict_id", "questions"


class VerifyStage(ModelStage):
    """One row per pair asked about, also where the answer stayed wrong.

    Prompts are no part of the fingerprint: their digest is in every ``verdict_id``, so that a
    changed prompt asks the pairs of its class again and leaves the others' answers in place.
    """

    name: ClassVar[str] = "verify"
    version = 1
    reads = (QUESTIONS,)
    writes = ("verdicts",)

    def __init__(self, verifier: PairVerifier | None) -> None:
        if verifier is not None:
            super().__init__(verifier, GateSettings())
        self.verifier = verifier

    def identity(self) -> Mapping[str, Any]:
        """Model id."""
        return {"model": None if self.verifier is None else self.verifier.model_id}

    def setup(self) -> None:
        """Load the verifier, if there is one."""
        if self.verifier is not None:
            super().setup()

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """Ask about every pair of the unit."""
        verifier = self.verifier
        if verifier is None:
            return {"verdicts": []}
        reader = FrameReader(unit.run)
        asked = {row[KEY]: row for row in unit.rows(QUESTIONS)}

        def work(verdict_id: str) -> list[Row]:
            question = asked[verdict_id]
            first, second = (_sight(reader, question[side]) for side in ("target", "reference"))
            said = verifier.verify(first, second, question["class"])
            return [
                {
                    **verdict_row(question, verifier),
                    "same_identity": said.same_identity,
                    "different_context": said.different_context,
                    "note": said.note,
                    "attempts": said.attempts,
                }
            ]

        rows = self.each(unit, asked, work)
        for bad in unit.quarantine:
            reason = f"quarantined: {bad['error']}"
            rows.append({**verdict_row(asked[bad["id"]], verifier), "reason": reason})
        return {"verdicts": sorted(rows, key=lambda row: str(row[KEY]))}


def verdict_row(question: Row, verifier: PairVerifier) -> Row:
    """A row of table ``verdicts`` without its answers: what was asked of whom."""
    prompt = verifier.prompts[question["class"]]
    target, reference = question["target"], question["reference"]
    return {
        "verdict_id": question["verdict_id"],
        "target_detection_id": target["detection_id"],
        "reference_detection_id": reference["detection_id"],
        "target_subject_id": target["subject_id"],
        "reference_subject_id": reference["subject_id"],
        "class": question["class"],
        "verifier": verifier.model_id,
        "prompt": prompt.name,
        "prompt_sha256": prompt.sha256,
    }


def _sight(reader: FrameReader, side: Row) -> Sight:
    image = reader.image(side["frame"])
    x0, y0, x1, y1 = side["box"]
    return Sight(side["detection_id"], image, (x0, y0, x1, y1), side["phrase"])
