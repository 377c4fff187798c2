"""Where the subjects of a clip's samples are in its picture, so that a bucket does not cut them."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from s2v.datapipe.pair.detections import source_scale
from s2v.datapipe.pair.rows import by, read
from s2v.datapipe.pair.select import Selection

Shares = tuple[float, float, float, float]


def subjects_shown(tables: Mapping[str, pa.Table], selection: Selection) -> dict[str, Shares]:
    """The box around every subject that a clip's samples are about, over its sampled frames.

    Args:
        tables: ``clips``, ``frames`` and ``detections``.
        selection: what is to be written.

    Returns:
        By clip ``x0, y0, x1, y1`` as shares of the clip's picture, to a thousandth. A photograph
        with borders is not there: it is written with them, and its boxes count without.
    """
    wanted = {
        ref["subject_id"]
        for sample in read({"samples": selection.samples}, "samples")
        for ref in sample["references"]
    }
    frames = by(read(tables, "frames"), "frame_id")
    photographs = {row["clip_id"] for row in read(tables, "clips") if row["kind"] == "image"}
    found: dict[str, Shares] = {}
    for row in read(tables, "detections"):
        if row["subject_id"] not in wanted or row["reason"] is not None:
            continue
        frame = frames[row["frame_id"]]
        if row["clip_id"] in photographs and frame["crop"] is not None:
            continue
        width, height = frame["width"], frame["height"]
        scale = source_scale(row["box"], row["area_share"], width, height)
        x0, y0, x1, y1 = (scale * edge for edge in row["box"])
        left, top = max(0.0, x0 / width), max(0.0, y0 / height)
        right, bottom = min(1.0, x1 / width), min(1.0, y1 / height)
        old = found.get(row["clip_id"], (left, top, right, bottom))
        found[row["clip_id"]] = (
            round(min(old[0], left), 3),
            round(min(old[1], top), 3),
            round(max(old[2], right), 3),
            round(max(old[3], bottom), 3),
        )
    return found
