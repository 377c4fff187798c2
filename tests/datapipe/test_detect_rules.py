"""The published rules on boxes and masks: each drops what it should, by its name, and no more."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from synthetic_selection import changed, rows
from synthetic_tables import HEIGHT, WIDTH, World
from synthetic_vectors import around

from s2v.datapipe.base.media import masks
from s2v.datapipe.base.reasons import SEVERAL_BOXES
from s2v.datapipe.pair.overlaps import duplicates, face_iou
from s2v.datapipe.pair.select import select
from s2v.datapipe.pair.settings import SelectSettings

LEFT, RIGHT = [10.0, 20.0, 100.0, 170.0], [200.0, 20.0, 290.0, 170.0]


def world(bank: str = "thing", subjects: int = 1) -> World:
    """One clip with subjects side by side."""
    made = World()
    made.source("film", seconds=60)
    clip = made.clip("film", 0, 6)
    for n in range(subjects):
        made.subject(clip, f"subject{n}", bank=bank)
    return made


def outcome(made: World, settings: SelectSettings | None = None) -> list[str | None]:
    """The reason of every subject, in order; ``None`` where it is kept."""
    selected = select(made.tables(), settings or changed())
    return [row["reason"] for row in rows(selected, "subjects")]


def put(made: World, table: str, **values: Any) -> World:
    for row in made.rows[table]:
        row.update(values)
    return made


def face(made: World, box: list[float], score: float = 0.9) -> World:
    """The same face on every frame."""
    for frame in made.rows["frames"]:
        made.rows["faces"].append(
            {
                "clip_id": frame["clip_id"],
                "frame_id": frame["frame_id"],
                "face": 7,
                "detection_id": None,
                "box": box,
                "points": [0.0] * 10,
                "score": score,
                "embedder": "test-faces",
                "embedding": around("face", 0.9),
            }
        )
    return made


def masked(made: World, subject: int, mask: np.ndarray) -> World:
    """Give a subject this mask on every frame."""
    own = {
        row["detection_id"]: row
        for row in made.rows["detections"]
        if row["subject_id"].endswith(f"s{subject}")
    }
    for row in made.rows["masks"]:
        if row["detection_id"] in own:
            row["rle"] = masks.encode(mask)["counts"]
            row["area_share"] = round(float(mask.mean()), 4)
    return made


def filled(box: list[float]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    x0, y0, x1, y1 = (int(v) for v in box)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([0.0, 0.0, 80.0, 32.0], None),  # 4.2 %
        ([0.0, 0.0, 76.0, 32.0], "box: too small a share"),  # 3.96 %
        ([0.0, 0.0, 320.0, 172.0], None),  # 89.6 %
        ([0.0, 0.0, 320.0, 174.0], "box: too large a share"),  # 90.6 %
    ],
)
def test_a_box_covers_four_to_ninety_percent_of_the_frame(
    box: list[float], reason: str | None
) -> None:
    made = world()
    share = (box[2] - box[0]) * (box[3] - box[1]) / (WIDTH * HEIGHT)
    put(made, "detections", box=box, area_share=round(share, 4))
    assert outcome(made, changed(detection={"min_side": 0})) == [reason]


def test_the_shorter_side_has_128_pixels_of_the_source_not_of_the_stored_frame() -> None:
    made = world()
    assert outcome(made, SelectSettings()) == ["box: too few pixels"]  # 90 pixels wide
    for size, reason in ((1.5, None), (1.4, "box: too few pixels")):
        put(made, "clips", width=round(WIDTH * size), height=round(HEIGHT * size))
        assert outcome(made, SelectSettings()) == [reason]


def test_a_thing_that_is_a_face_is_dropped_and_one_that_only_meets_a_face_is_not() -> None:
    body = [15.0, 22.0, 95.0, 168.0]  # about the mask's ellipse
    assert outcome(face(world(), body)) == ["mask: is a face"]
    assert outcome(face(world(), [40.0, 25.0, 70.0, 60.0])) == [None]
    assert outcome(face(world(), body, score=0.5)) == [None], "an unsure face is no face"
    assert outcome(face(world("creature"), body)) == [None], "a creature has a face of its own"
    strict = changed(mask={"max_face_overlap": 0.05})
    assert outcome(face(world(), [40.0, 25.0, 70.0, 60.0]), strict) == ["mask: is a face"]


def test_the_face_rule_asks_the_mask_and_not_the_box() -> None:
    # A necklace: its box is the face's lower half and neck, its mask a thin line below the face.
    made = face(world(), [30.0, 40.0, 80.0, 120.0])
    put(made, "detections", box=[25.0, 40.0, 85.0, 130.0], area_share=0.09)
    line = np.zeros((HEIGHT, WIDTH), np.bool_)
    line[122:128, 25:85] = True
    masked(made, 0, line)
    tolerant = changed(mask={"min_area_share": 0, "min_box_fill": 0}, detection={"min_side": 20})
    assert outcome(made, tolerant) == [None]


def test_a_face_is_measured_as_an_ellipse() -> None:
    ellipse = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(ellipse, (60, 80), (30, 40), 0, 0, 360, 1, -1)
    drawn = ellipse.astype(np.bool_)
    box = [30.0, 40.0, 90.0, 120.0]
    assert face_iou(drawn, box) > 0.95
    assert face_iou(filled(box), box) == pytest.approx(np.pi / 4, abs=0.02)
    assert face_iou(filled([200.0, 0.0, 300.0, 50.0]), box) == 0.0
    beyond = [-30.0, 40.0, 30.0, 120.0]
    assert face_iou(drawn & filled([0.0, 0.0, 31.0, 180.0]), beyond) < 0.1
    assert face_iou(np.zeros((4, 4), np.bool_), [9.0, 9.0, 12.0, 12.0]) == 0.0


def test_of_two_masks_on_one_thing_the_larger_stays() -> None:
    made = world(subjects=2)
    larger, smaller = filled(LEFT), filled([10.0, 20.0, 100.0, 145.0])  # IoU 0.83
    masked(made, 0, smaller)
    masked(made, 1, larger)
    for row in made.rows["detections"]:
        if row["subject_id"].endswith("s1"):  # boxes meet, but not by 0.8
            row["box"] = [10.0, 20.0, 140.0, 170.0]
    settings = changed(mask={"max_box_fill": 1.01})
    assert outcome(made, settings) == ["mask: overlaps another", None]
    assert outcome(made, changed(mask={"max_box_fill": 1.01, "max_overlap": 0.9})) == [None, None]
    masked(made, 0, filled([10.0, 20.0, 100.0, 125.0]))  # IoU 0.7
    assert outcome(made, settings) == [None, None]


def test_masks_of_one_subject_are_no_duplicates_of_each_other() -> None:
    mask = {**dict.fromkeys(("rle_height", "rle_width"), 8), "area_share": 1.0}
    mask["rle"] = masks.encode(np.ones((8, 8), np.bool_))["counts"]
    row = {"subject_id": "a", "score": 0.5, "box": [0.0, 0.0, 8.0, 8.0]}

    def pair(other: str) -> set[str]:
        both = [
            ({**row, "detection_id": "1"}, {**mask, "detection_id": "1"}),
            ({**row, "detection_id": "2", "subject_id": other}, {**mask, "detection_id": "2"}),
        ]
        return duplicates(both, 0.8)

    assert pair("a") == set()
    assert pair("b") == {"2"}


def test_a_mask_has_a_thirty_second_of_the_frame_at_least() -> None:
    for pixels, reason in ((1921, None), (1919, "mask: too small a share")):
        made = put(world(), "masks", area_share=pixels / (WIDTH * HEIGHT))
        assert outcome(made) == [reason]


@pytest.mark.parametrize(
    ("score", "reason"),
    [(0.9, None), (0.8, "mask: low score"), (None, "mask: not measured: score")],
)
def test_a_threshold_on_the_mask_score_needs_the_score(
    score: float | None, reason: str | None
) -> None:
    made = put(world(), "masks", score=score)
    assert outcome(made) == [None], "off as shipped"
    assert outcome(made, changed(mask={"min_score": 0.88})) == [reason]


def checked(made: World, every: int = 1, **verdict: bool | None) -> World:
    """Rows of checks for every n-th detection."""
    said = {"complete": True, "specific": True, "matches": True, **verdict}
    for row in made.rows["detections"][::every]:
        made.rows["checks"].append(
            {
                "detection_id": row["detection_id"],
                "clip_id": row["clip_id"],
                "checker": "told-1",
                "prompt_sha256": "f" * 64,
                "match_score": None,
                **said,
            }
        )
    return made


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        ({}, None),
        ({"complete": False}, "box: not complete"),
        ({"specific": False}, "box: not specific"),
        ({"matches": False}, "box: not what the phrase says"),
        ({"specific": None}, "box: not measured: specific"),
        ({"complete": False, "matches": False}, "box: not complete"),
    ],
)
def test_what_the_second_model_refuses_is_dropped_and_silence_is_no_consent(
    verdict: dict[str, bool | None], reason: str | None
) -> None:
    made = checked(world(), **verdict)
    assert outcome(made) == [reason]
    off = dict.fromkeys((f"require_{name}" for name in verdict), False)
    assert outcome(made, changed(detection=off)) == [None]


def test_without_a_checker_there_is_no_rule_and_with_one_an_unasked_box_fails() -> None:
    assert outcome(world()) == [None]
    made = checked(world(subjects=2))
    made.rows["checks"] = made.rows["checks"][:3]  # of the first subject's boxes
    assert outcome(made) == [None, "box: not measured: complete"]


def test_a_subject_is_kept_by_the_box_that_passed_the_recheck() -> None:
    made = checked(world(), complete=False)
    made.rows["checks"][2]["complete"] = True
    (kept,) = rows(select(made.tables(), changed()), "subjects")
    assert kept["reason"] is None
    assert kept["detection_id"] == made.rows["checks"][2]["detection_id"]


def test_a_refused_box_takes_no_region_from_the_right_one() -> None:
    made = world(subjects=2)
    put(made, "detections", box=LEFT)
    for row in made.rows["detections"]:
        row["score"] = 0.9 if row["subject_id"].endswith("s0") else 0.6
    assert outcome(made) == [None, "box: overlaps another"]
    checked(made)
    for row, detection in zip(made.rows["checks"], made.rows["detections"], strict=True):
        row["matches"] = detection["subject_id"].endswith("s1")
    assert outcome(made) == ["box: not what the phrase says", None]


def test_the_surest_of_several_boxes_is_taken_only_where_that_is_asked_for() -> None:
    made = put(world(), "detections", reason=SEVERAL_BOXES)
    for row in list(made.rows["detections"]):
        twin = {**row, "detection_id": row["detection_id"] + "9", "box": RIGHT, "score": 0.4}
        made.rows["detections"].append(twin)
        mask = next(m for m in made.rows["masks"] if m["detection_id"] == row["detection_id"])
        made.rows["masks"].append({**mask, "detection_id": twin["detection_id"]})
        vector = next(
            e for e in made.rows["embeddings"] if e["detection_id"] == row["detection_id"]
        )
        made.rows["embeddings"].append({**vector, "detection_id": twin["detection_id"]})
    assert outcome(made) == ["phrase: several boxes"]
    assert outcome(made, changed(phrase={"several_boxes": "drop_frame"})) == [
        f"box: {SEVERAL_BOXES}"
    ]
    best = select(made.tables(), changed(phrase={"several_boxes": "best"}))
    (kept,) = rows(best, "subjects")
    assert kept["reason"] is None
    assert kept["box"] == LEFT


def test_a_phrase_found_on_too_few_frames_is_dropped_where_that_is_asked_for() -> None:
    made = world()
    made.rows["detections"][0]["score"] = 0.1
    assert outcome(made, changed(detection={"min_frames": 2})) == [None]
    assert outcome(made, changed(detection={"min_frames": 3})) == ["box: on too few frames"]
    photograph = World()
    photograph.source("photo", kind="image")
    photograph.subject(photograph.clip("photo", 0, 0), "cup", bank="thing")
    assert outcome(photograph, changed(detection={"min_frames": 3})) == [None]
