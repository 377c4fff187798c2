"""The stages detect, check and segment on stored frames: what lands in which row, and what not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_tables import HEIGHT, WIDTH, World

from s2v.datapipe.base import records
from s2v.datapipe.base.media import masks
from s2v.datapipe.base.reasons import SEVERAL_BOXES
from s2v.datapipe.config import Settings
from s2v.datapipe.engine.stage import Unit
from s2v.datapipe.measure.check import CheckStage
from s2v.datapipe.measure.detect import DetectStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.measure.segment import SegmentSettings, SegmentStage
from s2v.datapipe.pipeline import BY_CLIPS, HOLDS, UPSTREAM
from s2v.datapipe.roles import AnswerError, Box, Check, Grounding, Image, Mask, Phrase, Segment

GATES = GateSettings()
LEFT, RIGHT = (10.0, 20.0, 110.0, 170.0), (200.0, 20.0, 300.0, 170.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two clips of one film with two subjects each, frames on disk."""
    made = World()
    made.source("film", seconds=60)
    for start in (0, 20):
        clip = made.clip("film", start, start + 6)
        made.subject(clip, "rabbit")
        made.subject(clip, "car", bank="thing")
    made.store_frames(tmp_path)
    made.finish()
    return made


def unit(world: World, run: Path) -> Unit:
    clips = sorted(row["clip_id"] for row in world.rows["clips"])
    return Unit("u", "clip_id", clips, world.rows, run)


@dataclass
class Model:
    """A role's model that says what the test tells it to, and keeps what it was asked."""

    says: Callable[..., Any]
    asked: list[Any] = field(default_factory=list)
    model_id: str = "told-1"
    prompt_sha256: str = "f" * 64
    loads: int = 0

    def load(self) -> None:
        self.loads += 1

    def ground(self, images: Sequence[Image], phrases: Sequence[Phrase]) -> list[list[Grounding]]:
        self.asked.append(([image.shape for image in images], [p.text for p in phrases]))
        return [self.says() for _ in images]

    def check(self, image: Image, box: Box, phrase: Phrase) -> Check:
        self.asked.append((image.shape, box, phrase.text))
        return self.says(box)  # type: ignore[no-any-return]  # the test's own answer

    def segment(self, image: Image, boxes: Sequence[Box], banks: Sequence[str]) -> list[Segment]:
        self.asked.append((image.shape, list(boxes), list(banks)))
        return [self.says(box) for box in boxes]


def detected(world: World, run: Path, *hits: Grounding) -> list[dict[str, Any]]:
    stage = DetectStage(Model(lambda: list(hits)), GATES)
    rows = stage.run(unit(world, run))["detections"]
    assert records.table("detections", rows).num_rows == len(rows)
    return [row for row in rows if row["frame_id"] == rows[0]["frame_id"]]


def test_every_usable_phrase_is_asked_on_every_sampled_frame(world: World, tmp_path: Path) -> None:
    world.rows["phrases"][1]["reason"] = "plural"
    model = Model(lambda: [Grounding(0, LEFT, 0.91234567)])
    made = unit(world, tmp_path)
    rows = DetectStage(model, GATES).run(made)["detections"]
    assert [texts for _, texts in model.asked] == [
        ["the rabbit number 0"],
        ["the rabbit number 0", "the car number 1"],
    ]
    assert all(shapes == [(HEIGHT, WIDTH, 3)] * 3 for shapes, _ in model.asked)
    assert len(rows) == 6
    assert {row["frame_id"] for row in rows} == {f["frame_id"] for f in world.rows["frames"]}
    assert len({row["detection_id"] for row in rows}) == 6
    assert rows[0]["score"] == 0.9123
    assert rows[0]["area_share"] == round(100 * 150 / (WIDTH * HEIGHT), 4)
    assert not made.quarantine


def test_boxes_are_cut_to_the_frame_and_those_without_a_pixel_go(
    world: World, tmp_path: Path
) -> None:
    beyond = (-50.0, 100.0, WIDTH + 9.0, HEIGHT + 50.0)
    rows = detected(
        world,
        tmp_path,
        Grounding(0, beyond, 0.8),
        Grounding(1, (WIDTH + 1.0, 5.0, WIDTH + 90.0, 60.0), 0.9),
    )
    assert [row["box"] for row in rows] == [[0.0, 100.0, WIDTH, HEIGHT]]


def test_a_phrase_on_two_regions_is_ambiguous_and_one_found_twice_is_not(
    world: World, tmp_path: Path
) -> None:
    near = (11.0, 20.0, 110.0, 171.0)
    twice = detected(world, tmp_path, Grounding(0, LEFT, 0.9), Grounding(0, near, 0.7))
    assert [row["reason"] for row in twice] == [None, "same region again"]
    several = detected(world, tmp_path, Grounding(0, LEFT, 0.9), Grounding(0, RIGHT, 0.7))
    assert [row["reason"] for row in several] == [SEVERAL_BOXES, SEVERAL_BOXES]


def test_of_two_phrases_on_one_region_the_surer_keeps_it(world: World, tmp_path: Path) -> None:
    rows = detected(world, tmp_path, Grounding(1, LEFT, 0.6), Grounding(0, LEFT, 0.9))
    assert [(row["subject_id"][-2:], row["reason"]) for row in rows] == [
        ("s0", None),
        ("s1", "box taken by another phrase"),
    ]


def test_detections_do_not_depend_on_the_order_in_which_a_model_gives_them(
    world: World, tmp_path: Path
) -> None:
    hits = [Grounding(0, LEFT, 0.5), Grounding(1, RIGHT, 0.5), Grounding(1, LEFT, 0.4)]
    assert detected(world, tmp_path, *hits) == detected(world, tmp_path, *reversed(hits))


def test_without_a_checker_nothing_is_written_asked_or_loaded(world: World, tmp_path: Path) -> None:
    stage = CheckStage(None, SegmentSettings(), GATES)
    stage.setup()
    assert stage.run(unit(world, tmp_path)) == {"checks": []}
    assert stage.identity() == {"model": None}


def test_the_checker_is_asked_about_the_boxes_that_get_masks_and_no_others(
    world: World, tmp_path: Path
) -> None:
    settings = SegmentSettings(per_subject=1)
    world.rows["detections"][0]["score"] = 0.99
    world.rows["detections"][3]["reason"] = "same region again"
    verdict = Check(complete=True, specific=None, matches=False, match_score=0.123456)
    checker = Model(lambda _: verdict)
    segmenter = Model(lambda _: Segment(np.zeros((HEIGHT, WIDTH), np.bool_)))
    check = CheckStage(checker, settings, GATES)
    check.setup()
    rows = check.run(unit(world, tmp_path))["checks"]
    masked = SegmentStage(segmenter, settings, GATES).run(unit(world, tmp_path))["masks"]
    assert checker.loads == 1
    assert [row["detection_id"] for row in rows] == sorted(row["detection_id"] for row in masked)
    assert len(rows) == 4
    assert world.rows["detections"][0]["detection_id"] in {row["detection_id"] for row in rows}
    said = {(row["complete"], row["specific"], row["matches"], row["match_score"]) for row in rows}
    assert said == {(True, None, False, 0.1235)}
    assert {row["prompt_sha256"] for row in rows} == {"f" * 64}
    assert {text for _, _, text in checker.asked} == {"the rabbit number 0", "the car number 1"}
    assert records.table("checks", rows).num_rows == 4


def test_one_bad_answer_quarantines_its_clip_and_no_other(world: World, tmp_path: Path) -> None:
    first = min(row["clip_id"] for row in world.rows["clips"])
    calls = iter(range(100))

    def say(_: Box) -> Check:
        if next(calls) == 0:
            raise AnswerError("no JSON after 3 attempts")
        return Check(complete=True)

    made = unit(world, tmp_path)
    rows = CheckStage(Model(say), SegmentSettings(), GATES).run(made)["checks"]
    assert [(row["id"], row["error"]) for row in made.quarantine] == [(first, "AnswerError")]
    assert {row["clip_id"] for row in rows} == {c for c in made.ids if c != first}


def test_another_prompt_model_or_choice_of_boxes_measures_anew() -> None:
    def identity(model: Model, **settings: Any) -> Any:
        return CheckStage(model, SegmentSettings(**settings), GATES).identity()

    plain = identity(Model(Check))
    assert identity(Model(Check, prompt_sha256="0" * 64)) != plain
    assert identity(Model(Check, model_id="told-2")) != plain
    assert identity(Model(Check), per_subject=3) != plain


def test_a_mask_keeps_to_its_box_its_phrase_and_its_frame(world: World, tmp_path: Path) -> None:
    def painted(box: Box) -> Segment:
        mask: Mask = np.zeros((HEIGHT, WIDTH), np.bool_)
        mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
        return Segment(mask, 0.91239)

    model = Model(painted)
    rows = SegmentStage(model, SegmentSettings(), GATES).run(unit(world, tmp_path))["masks"]
    boxes = {row["detection_id"]: row for row in world.rows["detections"]}
    assert len(rows) == 2 * 2 * 2, "clips, subjects, two masks each"
    for row in rows:
        size = [row["rle_height"], row["rle_width"]]
        around = masks.bounding_box(masks.decode({"size": size, "counts": row["rle"]}))
        assert around == tuple(int(v) for v in boxes[row["detection_id"]]["box"])
        assert row["score"] == 0.9124
        assert row["box_fill"] == 1.0
    assert all(banks == ["creature", "thing"] for _, _, banks in model.asked), "once per frame"


def test_ambiguous_boxes_are_segmented_only_where_the_selection_wants_the_surest(
    world: World, tmp_path: Path
) -> None:
    for row in world.rows["detections"]:
        row["reason"] = SEVERAL_BOXES
    twin = dict(world.rows["detections"][0])
    twin |= {"detection_id": twin["detection_id"] + "9", "score": 0.3}
    world.rows["detections"].append(twin)
    segmenter = Model(lambda _: Segment(np.zeros((HEIGHT, WIDTH), np.bool_)))
    plain = SegmentStage(segmenter, SegmentSettings(), GATES)
    assert plain.run(unit(world, tmp_path))["masks"] == []
    wanted = SegmentStage(segmenter, SegmentSettings(several_boxes=True, per_subject=3), GATES)
    rows = wanted.run(unit(world, tmp_path))["masks"]
    assert len(rows) == 12, "one box of each subject and frame"
    assert twin["detection_id"] not in {row["detection_id"] for row in rows}


def test_the_recheck_stands_between_detection_and_masks_and_changes_no_mask() -> None:
    order = list(BY_CLIPS)
    assert order.index("detect") < order.index("check") < order.index("segment")
    assert UPSTREAM["check"] == ("detect",)
    assert "check" not in UPSTREAM["segment"], "another checker must not redo the masks"
    assert HOLDS["check"] == ("checker",)
    assert Settings().roles.checker.backend is None
