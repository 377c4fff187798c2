"""Whose face is whose, how many people there are, and whether they stay the same.

Phantom reconciles the faces of an own detector with the boxes of the grounded people by overlap
(supplement 4; its threshold is unpublished); HunyuanCustom lets a body box go in which less than
half of the face lies. Concat-ID keeps videos in which the number of people and the face of the
person stay the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from s2v.datapipe.base.media import boxes
from s2v.datapipe.roles import Face

MIN_CONTAINMENT: Final = 0.5  # of the face's area inside the person's box (HunyuanCustom)
SAME_BOX: Final = 0.8  # IoU from which two boxes are one person (Phantom-Data's suppression)
SURE_FACE: Final = 0.65  # a face nobody owns counts as a person from this score up (OpenS2V)
SAME_PERSON: Final = 0.5  # cosine of two frames' main faces (Concat-ID, on ArcFace)
_HEIGHT: Final = 0.1  # what the height of a face in its box weighs beside containment's 1


@dataclass(frozen=True)
class Owner:
    """Whose face it is: the detection, and the share of the face inside its box."""

    detection_id: str
    containment: float


def containment(face: boxes.Box, person: boxes.Box) -> float:
    """Share of the face's area inside the person's box, 0..1."""
    inner = (
        max(face[0], person[0]),
        max(face[1], person[1]),
        min(face[2], person[2]),
        min(face[3], person[3]),
    )
    whole = boxes.area(face)
    return boxes.area(inner) / whole if whole > 0 else 0.0


def distinct(people: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Boxes of different people on one frame: of boxes alike (two phrases, one person) the surest.

    Args:
        people: rows of DETECTIONS of one frame.

    Returns:
        Some of them, by ``detection_id``.
    """
    kept: list[Mapping[str, Any]] = []
    for row in sorted(people, key=lambda r: (-(r["score"] or 0.0), r["detection_id"])):
        if all(boxes.iou(row["box"], other["box"]) <= SAME_BOX for other in kept):
            kept.append(row)
    return sorted(kept, key=lambda row: str(row["detection_id"]))


def owners(faces: Sequence[Face], people: Sequence[Mapping[str, Any]]) -> list[Owner | None]:
    """Give every face at most one person and every person at most one face.

    Of all one-to-one assignments the one with the largest sum of containments is taken, so that a
    large box in front does not take the face of the person behind it. A face lies in the upper
    part of its person's box, which decides between boxes that hold it equally: it weighs a tenth.

    Args:
        faces: of one frame.
        people: rows of DETECTIONS of the same frame.

    Returns:
        One entry per face; ``None`` where no box holds half of it, or others have better claims.
    """
    candidates = distinct(people)
    if not faces or not candidates:
        return [None] * len(faces)
    shares = np.array([[containment(f.box, p["box"]) for p in candidates] for f in faces])
    shares = shares.round(4)
    claims = np.array([[1 - _height(f.box, p["box"]) for p in candidates] for f in faces])
    worth = np.where(shares >= MIN_CONTAINMENT, shares + _HEIGHT * claims, 0.0)
    # Whole numbers: sums are exact, so equal claims are equal on every machine.
    chosen = best_assignment(np.rint(worth * 10_000).astype(np.int64))
    return [
        None if at is None else Owner(candidates[at]["detection_id"], float(shares[n, at]))
        for n, at in enumerate(chosen)
    ]


def _height(face: boxes.Box, person: boxes.Box) -> float:
    """Where the middle of the face lies in the person's box: 0 top, 1 bottom."""
    tall = person[3] - person[1]
    middle = (face[1] + face[3]) / 2
    return min(max((middle - person[1]) / tall, 0.0), 1.0) if tall > 0 else 1.0


def best_assignment(worth: np.ndarray) -> list[int | None]:
    """The one-to-one assignment of the largest total worth (Hungarian method, O(n^2 (n + m))).

    Args:
        worth: int64 ``[n, m]``, none negative; 0 is no match.

    Returns:
        The column of each row, or ``None``; of equal totals always the same one.
    """
    n, m = worth.shape
    cost = np.concatenate([-worth, np.zeros((n, n), np.int64)], axis=1)  # a way out for each row
    rows, columns = [0] * (n + 1), [0] * (n + m + 1)  # potentials
    match = [0] * (n + m + 1)  # column -> row, both from 1
    for row in range(1, n + 1):
        match[0], at = row, 0
        least = [float("inf")] * (n + m + 1)
        came, seen = [0] * (n + m + 1), [False] * (n + m + 1)
        while match[at] != 0:
            seen[at] = True
            here, step, following = match[at], float("inf"), 0
            for column in range(1, n + m + 1):
                if seen[column]:
                    continue
                reduced = int(cost[here - 1, column - 1]) - rows[here] - columns[column]
                if reduced < least[column]:
                    least[column], came[column] = reduced, at
                if least[column] < step:
                    step, following = least[column], column
            for column in range(n + m + 1):
                if seen[column]:
                    rows[match[column]] += int(step)
                    columns[column] -= int(step)
                else:
                    least[column] -= step
            at = following
        while at:
            match[at], at = match[came[at]], came[at]
    found: list[int | None] = [None] * n
    for column in range(1, m + 1):
        if match[column] and worth[match[column] - 1, column - 1] > 0:
            found[match[column] - 1] = column - 1
    return found


def count(faces: Sequence[Face], owned: Sequence[Owner | None], people: int) -> int:
    """People on a frame: their boxes, and the sure faces that are in no person's possession.

    A second face in one person's box is a second person.
    """
    alone = [f for f, owner in zip(faces, owned, strict=True) if owner is None]
    return people + sum(face.score > SURE_FACE for face in alone)


def clip_row(clip: str, counts: Sequence[int], faces: Sequence[Sequence[Face]]) -> dict[str, Any]:
    """A row of PEOPLE.

    Args:
        clip: its id.
        counts: people on each sampled frame, in time order.
        faces: the faces of the same frames, largest first.

    Returns:
        ``persons`` is the most frequent count, the smaller of two as frequent. ``same_person``
        compares the largest faces of frames that follow each other and both have one; null where
        there are no such two.
    """
    tally = Counter(counts)
    persons = min(tally, key=lambda value: (-tally[value], value))
    same = [
        float(a[0].embedding.astype(np.float64) @ b[0].embedding.astype(np.float64)) >= SAME_PERSON
        for a, b in pairwise(faces)
        if a and b
    ]
    return {
        "clip_id": clip,
        "frames": len(counts),
        "persons": persons,
        "count_stable": round(tally[persons] / len(counts), 4),
        "same_person": round(sum(same) / len(same), 4) if same else None,
    }
