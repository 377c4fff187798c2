"""What a labeller sees of a subject: its crop, and the frame it was cut from with its box."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.base.media.boxes import crop
from s2v.datapipe.base.media.images import resize
from s2v.datapipe.calibrate.candidates import Row
from s2v.datapipe.calibrate.errors import CalibrateError
from s2v.datapipe.calibrate.pool import Run, table
from s2v.datapipe.engine.errors import StoreError
from s2v.datapipe.measure.frames import FrameReader
from s2v.datapipe.pair.detections import source_scale
from s2v.datapipe.roles import Image

MARGIN: Final = 0.05
CROP: Final = (360, 300)  # at most; pixels across and down
FRAME: Final = (300, 180)
_MARK: Final = (255, 214, 0)  # seen on dark and on bright pictures


@dataclass(frozen=True)
class Views:
    """Two pictures of one subject, RGB uint8 ``[h, w, 3]``."""

    crop: Image
    frame: Image


def views(run: Run, subjects: Iterable[str]) -> dict[str, Views]:
    """Pictures of the subjects, cut from the run's stored frames.

    Raises:
        CalibrateError: a frame is missing or damaged.
    """
    wanted = sorted(set(subjects))
    columns = ("subject_id", "frame_id", "box", "area_share")
    rows = {row["subject_id"]: row for row in _rows(run, "subjects", "subject_id", wanted, columns)}
    frames = sorted({row["frame_id"] for row in rows.values() if row["frame_id"]})
    stored = {row["frame_id"]: row for row in _rows(run, "frames", "frame_id", frames)}
    reader = FrameReader(Path(run.folder))
    found = {}
    for subject in wanted:
        row = rows.get(subject)
        if row is None or row["frame_id"] not in stored or row["box"] is None:
            raise CalibrateError(
                f"{run.folder}: subject {subject} of table pairs has no box on a stored frame; "
                "tables pairs and subjects are of different selections: run s2v-data select"
            )
        try:
            found[subject] = _views(reader.image(stored[row["frame_id"]]), row)
        except StoreError as error:
            raise CalibrateError(str(error)) from None
    return found


def _rows(
    run: Run, name: str, column: str, wanted: Sequence[str], columns: Iterable[str] | None = None
) -> list[Row]:
    """Rows of a table whose ``column`` is among ``wanted``; the others are not made."""
    chosen = pc.field(column).isin(pa.array(wanted, pa.string()))
    found: list[Row] = table(run.folder, name, columns, chosen).to_pylist()
    return found


def _views(image: Image, row: Row) -> Views:
    height, width = image.shape[:2]
    scale = source_scale(row["box"], row["area_share"], width, height)
    box = tuple(float(value) * scale for value in row["box"])
    small, at = fitted(image, FRAME)
    marked = np.ascontiguousarray(small.copy())
    x0, y0, x1, y1 = (round(value * at) for value in box)
    cv2.rectangle(marked, (x0, y0), (x1 - 1, y1 - 1), _MARK, 2)
    return Views(fitted(crop(image, box, MARGIN)[0], CROP)[0], np.asarray(marked, np.uint8))


def fitted(image: Image, most: tuple[int, int]) -> tuple[Image, float]:
    """The image shrunk into ``most`` (never enlarged), and the factor."""
    height, width = image.shape[:2]
    scale = min(1.0, most[0] / width, most[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(resize(image, size), np.uint8), scale
