"""How much of a mask another mask, or a face, covers.

Published on masks, not on boxes: a coat and the man in it have nearly the same box and quite
different masks; a necklace under a face has a mask that lies within the face's.
"""

from __future__ import annotations

import numpy as np

from s2v.datapipe.base.media import boxes
from s2v.datapipe.base.media import masks as geometry
from s2v.datapipe.pair.rows import Row


def decode(mask: Row) -> np.ndarray:
    """Bool ``[H, W]`` of a row of table ``masks``."""
    size = [mask["rle_height"], mask["rle_width"]]
    return geometry.decode({"size": size, "counts": mask["rle"]})


def face_iou(mask: np.ndarray, face: boxes.Box) -> float:
    """IoU of a mask with a face, in 0..1.

    No model of ours outlines faces; the ellipse inside the face's box stands for its mask.

    Args:
        mask: bool ``[H, W]``.
        face: the face's box, xyxy pixels of the same frame.
    """
    height, width = mask.shape
    x0, y0, x1, y1 = face
    across, down = max((x1 - x0) / 2, 1e-6), max((y1 - y0) / 2, 1e-6)
    left, top, right, bottom = (int(v) for v in boxes.clip(face, width, height))
    right, bottom = min(width, right + 1), min(height, bottom + 1)
    xs = (np.arange(left, right) + 0.5 - (x0 + x1) / 2) / across
    ys = (np.arange(top, bottom) + 0.5 - (y0 + y1) / 2) / down
    ellipse = xs[None, :] ** 2 + ys[:, None] ** 2 <= 1.0
    inner = int(np.count_nonzero(mask[top:bottom, left:right] & ellipse))
    union = int(np.count_nonzero(mask)) + int(np.count_nonzero(ellipse)) - inner
    return inner / union if union else 0.0


def duplicates(rows: list[tuple[Row, Row]], limit: float) -> set[str]:
    """Detections of a frame whose mask a larger one of another subject covers.

    Args:
        rows: detections with their masks, of one frame.
        limit: IoU of the masks above which the smaller goes.

    Returns:
        The ``detection_id`` of those that go.
    """
    lost: set[str] = set()
    kept: list[tuple[Row, Row]] = []
    shapes: dict[str, np.ndarray] = {}

    def pixels(mask: Row) -> np.ndarray:
        if mask["detection_id"] not in shapes:
            shapes[mask["detection_id"]] = decode(mask)
        return shapes[mask["detection_id"]]

    ordered = sorted(
        rows, key=lambda r: (-r[1]["area_share"], -r[0]["score"], r[0]["detection_id"])
    )
    for row, mask in ordered:
        for other, larger in kept:
            # Masks are decoded only where their areas and boxes let them overlap that much.
            if (
                other["subject_id"] != row["subject_id"]
                and mask["area_share"] > 0.99 * limit * larger["area_share"]
                and boxes.iou(row["box"], other["box"]) > 0
                and geometry.iou(pixels(mask), pixels(larger)) > limit
            ):
                lost.add(row["detection_id"])
                break
        else:
            kept.append((row, mask))
    return lost
