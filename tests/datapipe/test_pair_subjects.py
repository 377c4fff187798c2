"""What is dropped says by which rule; takedowns are honoured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from s2v.datapipe.base.exclusions import Exclusion, ExclusionError, read_exclusions
from s2v.datapipe.pair.select import Selection, select

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_selection import DEFAULT, accepted, changed, rows
from synthetic_tables import World, film_world
from synthetic_vectors import hash_of


@pytest.fixture(scope="module")
def world() -> World:
    return film_world()


@pytest.mark.parametrize(
    ("table", "match", "values", "reason"),
    [
        ("clips", {"clip_id": "shop-00001000-00007000"}, {"motion": 0.0}, "clip: static"),
        ("clips", {"clip_id": "shop-00001000-00007000"}, {"motion": 9.0}, "clip: too much motion"),
        ("clips", {"clip_id": "shop-00001000-00007000"}, {"luma": 0.01}, "clip: too dark"),
        ("clips", {"clip_id": "shop-00001000-00007000"}, {"black": 0.9}, "clip: black"),
        ("clips", {"clip_id": "shop-00001000-00007000"}, {"freeze": 0.99}, "clip: frozen"),
        ("quality", {"clip_id": "shop-00001000-00007000"}, {"text_share": 0.2}, "clip: text"),
        (
            "quality",
            {"clip_id": "shop-00001000-00007000"},
            {"nsfw": None},
            "clip: not measured: nsfw",
        ),
        ("phrases", {"clip_id": "shop-00001000-00007000"}, {"reason": "vague"}, "phrase: vague"),
        (
            "detections",
            {"clip_id": "shop-00001000-00007000"},
            {"area_share": 0.03},
            "box: too small a share",
        ),
        (
            "masks",
            {"clip_id": "shop-00001000-00007000"},
            {"area_share": 0.01},
            "mask: too small a share",
        ),
        (
            "masks",
            {"clip_id": "shop-00001000-00007000"},
            {"box_fill": 1.0},
            "mask: is the whole box",
        ),
        (
            "embeddings",
            {"clip_id": "shop-00001000-00007000"},
            {"subject": None},
            "embedding: not measured",
        ),
    ],
)
def test_a_dropped_subject_keeps_its_row_and_the_first_rule_it_failed(
    table: str, match: dict[str, Any], values: dict[str, Any], reason: str
) -> None:
    world = film_world()
    for row in world.rows[table]:
        if match.items() <= row.items():
            row.update(values)
    selection = select(world.tables(), DEFAULT)
    subject = next(
        r for r in rows(selection, "subjects") if r["clip_id"] == "shop-00001000-00007000"
    )
    assert subject["reason"] == reason
    assert subject["identity_id"] is None
    assert not [s for s in rows(selection, "samples") if s["clip_id"].startswith("shop")]


def test_a_phrase_grounded_to_several_boxes_is_dropped() -> None:
    world = film_world()
    twin = dict(next(r for r in world.rows["detections"] if r["clip_id"].startswith("shop")))
    twin |= {"detection_id": twin["detection_id"] + "9", "box": [200.0, 20.0, 290.0, 170.0]}
    world.rows["detections"].append(twin)
    subjects = rows(select(world.tables(), DEFAULT), "subjects")
    assert next(r for r in subjects if r["clip_id"].startswith("shop"))["reason"] == (
        "phrase: several boxes"
    )
    loose = changed(phrase={"several_boxes": "drop_frame"})
    subjects = rows(select(world.tables(), loose), "subjects")
    row = next(r for r in subjects if r["clip_id"].startswith("shop"))
    assert row["reason"] is None
    assert row["frame_id"] != twin["frame_id"]


def test_two_phrases_on_one_box_leave_the_surer() -> None:
    world = film_world()
    clip = "film-00021000-00027000"
    world.subject(clip, "squirrel")
    for row in world.rows["detections"]:
        if row["subject_id"] == f"{clip}-s1":
            row |= {"box": [11.0, 20.0, 101.0, 170.0], "score": 0.6}
    reasons = {
        r["subject_id"]: r["reason"] for r in rows(select(world.tables(), DEFAULT), "subjects")
    }
    assert reasons[f"{clip}-s0"] is None
    assert reasons[f"{clip}-s1"] == "box: overlaps another"


def test_a_person_gets_no_face_from_outside_its_box() -> None:
    world = film_world()
    for row in world.rows["faces"]:
        if row["clip_id"].startswith("outdoors"):
            row |= {"box": [200.0, 30.0, 240.0, 80.0], "detection_id": None}
    selection = select(world.tables(), DEFAULT)
    photo = next(r for r in rows(selection, "subjects") if r["clip_id"].startswith("outdoors"))
    assert photo["reason"] is None
    assert photo["face"] is None
    assert not any("outdoors" in a + b for a, b in accepted(selection))


def test_exclusions_take_out_sources_clips_identities_and_single_samples(world: World) -> None:
    before = select(world.tables(), DEFAULT)
    sample = next(s for s in rows(before, "samples") if s["pair_type"] == "cross")
    jin = next(r for r in rows(before, "subjects") if r["clip_id"].startswith("indoors"))

    def excluded(key_type: Any, key: str) -> Selection:
        one = Exclusion(key_type=key_type, key=key, reason="asked", by="test", when="2026-01-01")
        return select(world.tables(), DEFAULT, [one])

    after = excluded("video_id", "outdoors")
    assert "clip: excluded: asked" in {r["reason"] for r in rows(after, "clips")}
    used = {r["reference_subject_id"] for s in rows(after, "samples") for r in s["references"]}
    assert not any(subject.startswith("outdoors") for subject in used)

    after = excluded("identity_id", jin["identity_id"])
    assert not any(s["clip_id"].startswith(("indoors", "outdoors")) for s in rows(after, "samples"))

    after = excluded("sample_id", sample["sample_id"])
    assert after.excluded_samples == {sample["sample_id"]: "asked"}
    remaining = {s["sample_id"] for s in rows(after, "samples")}
    assert remaining == {s["sample_id"] for s in rows(before, "samples")} - {sample["sample_id"]}


def test_an_unreadable_takedown_stops_the_selection(tmp_path: Path) -> None:
    line = {"key_type": "clip_id", "key": "x", "reason": "r", "by": "b", "when": "w"}
    path = tmp_path / "exclude.jsonl"
    path.write_text(json.dumps(line) + "\n\n" + json.dumps(line | {"key_type": "clip"}) + "\n")
    with pytest.raises(ExclusionError, match=r"exclude.jsonl:3: key_type"):
        read_exclusions(path)


def test_unknown_settings_and_crossed_bounds_are_errors() -> None:
    with pytest.raises(ValueError, match="min_secnds"):
        changed(clip={"min_secnds": 3})
    with pytest.raises(ValueError, match="must be below upper"):
        changed(pair={"thing": {"lower": 0.9, "upper": 0.8, "across_sources": "no"}})


def test_a_wrong_hash_or_unnormalised_vector_is_named() -> None:
    world = film_world()
    world.rows["frames"][0]["phash"] = hash_of("x")[:8]
    with pytest.raises(ValueError, match="8 hex digits"):
        select(world.tables(), DEFAULT)
    world = film_world()
    row = world.rows["embeddings"][0]
    row["subject"] = [2 * x for x in row["subject"]]
    with pytest.raises(ValueError, match=rf"{row['detection_id']}.*length 2.0"):
        select(world.tables(), DEFAULT)
