"""What is written on a product: the embedded word on its logo or text.

Phantom-Data (step 3) keeps of the non-living "only instances with a complete, recognisable brand
logo": without one, two cups of one make cannot be told from two pictures of one cup. A logo that
is no text is not seen here; the checker is asked about it (:mod:`.check`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from s2v.datapipe.base import ids
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.frame_stage import Frames, ModelStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.measure.segment import SegmentSettings, chosen
from s2v.datapipe.pair.classes import class_of, word_table
from s2v.datapipe.roles import Image, TextLine, TextReader

#: Only these are looked at: the others need no mark, and cost nothing.
MARKED_CLASSES = frozenset({"product"})


class MarkStage(ModelStage):
    """One row per product's box that would be segmented; none for any other class."""

    name: ClassVar[str] = "marks"
    version = 1
    reads = ("clips", "frames", "overlays", "phrases", "detections", "quality")
    writes = ("marks",)

    def __init__(
        self, reader: TextReader | None, settings: SegmentSettings, gates: GateSettings
    ) -> None:
        if reader is not None:
            super().__init__(reader, gates)
        self.reader = reader
        self.settings = settings
        self.gates = gates
        self._loaded = False

    def identity(self) -> Mapping[str, Any]:
        """Model id, and which boxes are read: the words that say what a product is among them."""
        if self.reader is None:
            return {"model": None}
        words = ids.stable_hash(f"{word}={name}" for word, name in sorted(word_table().items()))
        return {"model": self.reader.model_id, "words": words, **self.settings.model_dump()}

    def setup(self) -> None:
        """Nothing: the reader is loaded for the first product, which a run may never meet."""

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """Read every product, clip by clip."""
        reader = self.reader
        if reader is None:
            return {"marks": []}
        frames = Frames(unit)
        wanted = {r["subject_id"] for r in unit.rows("phrases") if _marked(r)}
        boxes = {
            clip: mine
            for clip, rows in unit.by_id("detections").items()
            if (mine := [row for row in rows if row["subject_id"] in wanted])
        }

        if boxes and not self._loaded:
            reader.load()
            self._loaded = True

        def work(clip: str) -> list[Row]:
            rows = []
            for box in sorted(chosen(boxes[clip], self.settings), key=lambda r: r["detection_id"]):
                crop = _inside(frames.image(frames.row(box["frame_id"])), box["box"])
                lines = reader.read(crop)
                most = max(lines, key=_says, default=None)
                rows.append(
                    {
                        "detection_id": box["detection_id"],
                        "clip_id": clip,
                        "reader": reader.model_id,
                        "text_share": _share(crop, lines),
                        "text": None if most is None else most.text,
                        "text_score": None if most is None else round(most.score, 4),
                    }
                )
            return rows

        return {"marks": self.each(unit, boxes, work)}


def _marked(phrase: Row) -> bool:
    """As the selection names classes; whether a source is drawn changes nothing about things."""
    said = (phrase[name] for name in ("noun", "phrase", "bank", "class"))
    return class_of(*said)[0] in MARKED_CLASSES


def _says(line: TextLine) -> tuple[float, str]:
    """How much a line says, and how surely: letters times score."""
    return sum(one.isalnum() for one in line.text) * line.score, line.text


def _share(crop: Image, lines: list[TextLine]) -> float:
    covered = np.zeros(crop.shape[:2], np.bool_)
    for line in lines:
        x0, y0, x1, y1 = (round(value) for value in line.box)
        covered[y0:y1, x0:x1] = True
    return round(float(covered.mean()), 4)


def _inside(image: Image, box: list[float]) -> Image:
    height, width = image.shape[:2]
    x0, y0 = (min(max(0, int(v)), most - 1) for v, most in ((box[0], width), (box[1], height)))
    x1, y1 = min(width, max(x0 + 1, round(box[2]))), min(height, max(y0 + 1, round(box[3])))
    return np.ascontiguousarray(image[y0:y1, x0:x1])
