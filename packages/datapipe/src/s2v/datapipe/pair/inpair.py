"""In-paired references: from the target clip's own frames (Phantom, section 3.1, 6)."""

from __future__ import annotations

from s2v.datapipe.pair.rows import Row
from s2v.datapipe.pair.subjects import detection_score


def in_reference(subject: Row, passing: list[Row]) -> Row:
    """The detection a subject's in-paired reference is cut from.

    The one farthest in time from the clip's middle, where training windows lie, so that the
    reference is no frame of the window where the clip allows; ties by score, then id.

    Args:
        subject: a kept row of SUBJECTS.
        passing: its detections that pass all rules, at least one.

    Returns:
        A row of DETECTIONS.
    """
    middle = (subject["start_us"] + subject["end_us"]) // 2
    return min(
        passing,
        key=lambda row: (
            -abs(row["pts_us"] - middle),
            -detection_score(row, None),
            row["detection_id"],
        ),
    )
