"""Quality scores beyond the scan: overlaid text and safety, on the middle frame.

Cheap models on one small frame per clip. There is no embedded aesthetic model, so that
column stays null; it is never filled by a stand-in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import cv2
import numpy as np

from s2v.datapipe.engine.stage import Row, Stage, Unit
from s2v.datapipe.measure.frame_stage import Frames
from s2v.datapipe.roles import Image, SafetyScorer, TextRegions

TEXT_SHORT_SIDE = 360  # one small frame per clip is enough to see titles and subtitles


class QualityStage(Stage):
    """Text share and safety score of each clip."""

    name: ClassVar[str] = "quality"
    version = 1
    reads = ("clips", "frames")
    writes = ("quality",)

    def __init__(self, text: TextRegions | None, safety: SafetyScorer | None) -> None:
        self.text = text
        self.safety = safety

    def identity(self) -> Mapping[str, Any]:
        """Model ids, null for a role left empty."""
        models = {"text": self.text, "safety": self.safety}
        return {name: m.model_id if m else None for name, m in models.items()}

    def setup(self) -> None:
        """Load both models."""
        for model in (self.text, self.safety):
            if model is not None:
                model.load()

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """One row per clip."""
        frames = Frames(unit)
        rows: list[Row] = []
        for clip in unit.rows("clips"):
            with unit.guard(clip["clip_id"], self.name):
                image = shrink(frames.image(frames.middle(clip["clip_id"])), TEXT_SHORT_SIDE)
                rows.append(
                    {
                        "clip_id": clip["clip_id"],
                        "text_share": text_share(self.text, image) if self.text else None,
                        "nsfw": round(self.safety.score(image), 4) if self.safety else None,
                        "aesthetic": None,
                    }
                )
        return {"quality": rows}


def text_share(finder: TextRegions, image: Image) -> float:
    """Share of the frame inside boxes of text, 0..1."""
    covered = np.zeros(image.shape[:2], np.bool_)
    for found in finder.regions(image):
        x0, y0, x1, y1 = (round(value) for value in found.box)
        covered[y0:y1, x0:x1] = True
    return round(float(covered.mean()), 4)


def shrink(image: Image, short_side: int) -> Image:
    """Scale down to ``short_side`` pixels; smaller images stay as they are."""
    scale = short_side / min(image.shape[:2])
    if scale >= 1:
        return image
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
