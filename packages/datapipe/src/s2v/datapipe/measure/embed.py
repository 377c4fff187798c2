"""Instance vectors of subjects and of what surrounds them (paper section 3.1, step 7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from s2v.datapipe.base.media import masks
from s2v.datapipe.base.media.boxes import expand
from s2v.datapipe.base.media.phash import perceptual_hash
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.frame_stage import Frames, ModelStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.roles import Image, ImageEmbedder, Mask

MARGIN = 0.1  # of the box, so that the subject keeps its outline
TOGETHER = 16  # masks per call of the embedder; bounds the memory of their full-size backgrounds
BLANK = 127  # grey: neither side of the embedder's input range


class EmbedStage(ModelStage):
    """Two vectors per mask: the subject on grey, and the frame with the subject on grey.

    The first says who it is, the second where it is; a cross pair wants the first alike
    and the second not.
    """

    name: ClassVar[str] = "embed"
    version = 1
    reads = ("clips", "frames", "overlays", "detections", "masks", "quality")
    writes = ("embeddings",)

    def __init__(self, embedder: ImageEmbedder, gates: GateSettings) -> None:
        super().__init__(embedder, gates)
        self.embedder = embedder

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """One row per mask that is not empty."""
        frames = Frames(unit)
        boxes = {row["detection_id"]: row for row in unit.rows("detections")}
        masked = unit.by_id("masks")

        def work(clip: str) -> list[Row]:
            usable = [row for row in masked[clip] if row["reason"] is None]
            return [
                row
                for part in batched(usable, TOGETHER)
                for row in self._embed(frames, [(boxes[m["detection_id"]], m) for m in part])
            ]

        return {"embeddings": self.each(unit, masked, work)}

    def _embed(self, frames: Frames, masked: list[tuple[Row, Row]]) -> Iterator[Row]:
        """Rows of some masks of one clip, asked for together: a GPU wants more than one image."""
        cut = []
        for box, mask_row in masked:
            image = frames.image(frames.row(box["frame_id"]))
            size = [mask_row["rle_height"], mask_row["rle_width"]]
            mask = masks.decode({"size": size, "counts": mask_row["rle"]})
            cut.append(cut_out(image, mask, tuple(box["box"])))
        vectors = self.embedder.embed([picture for pair in cut for picture in pair])
        for n, (box, _) in enumerate(masked):
            yield {
                "detection_id": box["detection_id"],
                "clip_id": box["clip_id"],
                "embedder": self.embedder.model_id,
                "subject": [round(float(v), 6) for v in vectors[2 * n]],
                "background": [round(float(v), 6) for v in vectors[2 * n + 1]],
                "phash": perceptual_hash(cut[n][0]),
            }


def batched(rows: list[Row], size: int) -> Iterator[list[Row]]:
    """Consecutive parts of at most ``size`` rows."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def cut_out(
    image: Image, mask: Mask, box: tuple[float, float, float, float]
) -> tuple[Image, Image]:
    """The subject's crop with all else grey, and the frame with the subject grey."""
    height, width = mask.shape
    x0, y0, x1, y1 = expand(box, MARGIN, width, height)
    grey = np.full_like(image, BLANK)
    subject = np.where(mask[:, :, None], image, grey)[y0:y1, x0:x1]
    background = np.where(mask[:, :, None], grey, image)
    return np.ascontiguousarray(subject), background
