"""The selection on a world whose truth is known."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.base import ids, records
from s2v.datapipe.pair.evidence import RULES
from s2v.datapipe.pair.select import Selection, select

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_selection import DEFAULT, accepted, changed, rows, truth
from synthetic_tables import World, film_world


@pytest.fixture(scope="module")
def world() -> World:
    return film_world()


@pytest.fixture(scope="module")
def selection(world: World) -> Selection:
    return select(world.tables(), DEFAULT)


def test_accepted_pairs_show_the_same_subject(world: World, selection: Selection) -> None:
    who, pairs = truth(world), accepted(selection)
    wrong = [(a, b) for a, b in pairs if who[a] != who[b]]
    assert wrong == []
    assert Counter(who[a] for a, _ in pairs).keys() == {"rabbit", "squirrel", "jin", "red cup"}


def test_copies_of_a_film_shot_are_refused_as_near_copies(selection: Selection) -> None:
    shot = {ids.clip_id("film", t * 1_000_000, (t + 6) * 1_000_000) for t in (41, 81)}
    between = [
        r
        for r in rows(selection, "pairs")
        if {r["target_clip_id"][:7], r["reference_clip_id"][:7]} == {"trailer", "film-00"}
        and shot & {r["target_clip_id"], r["reference_clip_id"]}
    ]
    copies = [r for r in between if r["frame_phash_distance"] <= DEFAULT.pair.frame_bits]
    assert len(copies) >= 3  # rabbit and squirrel of the copied shot, rabbit of the other
    assert not any(r["accepted"] for r in copies)
    assert all("near_copy_frame" in r["rules"] for r in copies)
    duplicate = [r for r in copies if "duplicate_clip" in r["rules"]]
    assert {r["target_clip_id"] for r in duplicate} == {"film-00041000-00047000"}


def test_a_duplicate_clip_is_dropped_and_names_its_original(selection: Selection) -> None:
    clips = {r["clip_id"]: r for r in rows(selection, "clips")}
    copy = clips["trailer-00002000-00008000"]
    assert copy["reason"] == "clip: duplicate"
    assert copy["duplicate_of"] == "film-00041000-00047000"
    assert clips[copy["duplicate_of"]]["reason"] is None


def test_a_person_is_paired_with_his_photograph_by_face_only(
    world: World, selection: Selection
) -> None:
    who = truth(world)
    across = [
        r
        for r in rows(selection, "pairs")
        if r["bank"] == "person" and r["target_clip_id"][:5] != r["reference_clip_id"][:5]
    ]
    kept = [r for r in across if r["accepted"]]
    assert {who[r["target_subject_id"]] for r in kept} == {"jin"}
    assert any(r["reference_clip_id"].startswith("outdoors") for r in kept)
    assert all(r["face_similarity"] >= DEFAULT.face.lower for r in kept)
    assert all(r["gap_us"] is None for r in across)


def test_living_subjects_are_not_searched_beyond_their_long_video(selection: Selection) -> None:
    for row in rows(selection, "pairs"):
        if row["bank"] == "creature":
            assert {row["target_clip_id"][:4], row["reference_clip_id"][:4]} <= {"film", "trai"}


def test_every_candidate_states_its_rules(selection: Selection) -> None:
    for row in rows(selection, "pairs"):
        assert row["accepted"] == (row["rules"] == [])
        assert set(row["rules"]) <= set(RULES)


def test_gap_is_asked_only_within_one_file(selection: Selection) -> None:
    for row in rows(selection, "pairs"):
        same_file = (
            row["target_clip_id"].rsplit("-", 2)[0] == (row["reference_clip_id"].rsplit("-", 2)[0])
        )
        assert (row["gap_us"] is not None) == same_file
        if same_file:
            assert ("min_gap" in row["rules"]) == (row["gap_us"] < 10_000_000)


def test_each_clip_gives_at_most_one_sample_per_type_and_one_reference_per_phrase(
    selection: Selection,
) -> None:
    samples = rows(selection, "samples")
    assert len({(s["clip_id"], s["pair_type"]) for s in samples}) == len(samples)
    for sample in samples:
        phrases = [ref["subject_id"] for ref in sample["references"]]
        assert 1 <= len(phrases) == len(set(phrases)) <= 6
        assert all(p.startswith(sample["clip_id"]) for p in phrases)
    assert Counter(s["pair_type"] for s in samples).keys() == {"in", "cross", "image"}


def test_sample_ids_are_of_their_content(selection: Selection) -> None:
    for sample in rows(selection, "samples"):
        detections = [ref["detection_id"] for ref in sample["references"]]
        assert sample["sample_id"] == ids.sample_id(
            sample["pair_type"], sample["clip_id"], detections
        )


def test_in_references_are_far_in_time_from_the_middle_of_their_clip(
    world: World, selection: Selection
) -> None:
    pts = {r["detection_id"]: r["pts_us"] for r in world.rows["detections"]}
    clips = {r["clip_id"]: r for r in world.rows["clips"]}
    for sample in rows(selection, "samples"):
        if sample["pair_type"] == "in":
            clip = clips[sample["clip_id"]]
            length = clip["end_us"] - clip["start_us"]
            middle = clip["start_us"] + length / 2
            for ref in sample["references"]:
                assert abs(pts[ref["detection_id"]] - middle) >= 0.44 * length


def test_scenarios_name_who_is_together(selection: Selection) -> None:
    found = {s["clip_id"]: s["scenario"] for s in rows(selection, "samples")}
    assert found["film-00001000-00007000"] == "multi-animal"
    assert found["film-00021000-00027000"] == "single-animal"
    assert found["indoors-00001000-00006000"] == "single-human"
    assert found["shop-00001000-00007000"] == "single-product"


def test_changed_thresholds_keep_the_ids_of_unchanged_samples(
    world: World, selection: Selection
) -> None:
    stricter = select(world.tables(), changed(face={"lower": 0.99}))
    before = {s["sample_id"]: s for s in rows(selection, "samples")}
    after = {s["sample_id"]: s for s in rows(stricter, "samples")}
    gone = {before[i]["clip_id"][:7] for i in before.keys() - after.keys()}
    assert gone == {"indoors", "outdoor"}
    assert after.keys() < before.keys()


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_order_of_rows_changes_nothing(seed: int) -> None:
    world = film_world()
    one, other = select(world.tables(), DEFAULT), select(world.tables(shuffle=seed), DEFAULT)
    for name in ("clips", "subjects", "pairs", "samples"):
        assert getattr(one, name).equals(getattr(other, name))


def test_faiss_and_numpy_select_the_same(world: World) -> None:
    made = [
        select(world.tables(), changed(retrieval={"backend": backend}))
        for backend in ("faiss", "numpy")
    ]
    assert made[0].pairs.equals(made[1].pairs)
    assert made[0].samples.equals(made[1].samples)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_planted_copies_are_refused_and_strangers_never_paired(data: st.DataObject) -> None:
    """Random films: exact copies, flipped bits, equal crops, equal backgrounds, strangers."""
    world = World()
    world.source("film", seconds=400)
    copies: set[frozenset[str]] = set()
    made: list[str] = []
    shots: dict[str, str] = {}
    places: dict[str, str] = {}
    crops: dict[str, str] = {}
    for n in range(data.draw(st.integers(3, 9), label="shots")):
        who = data.draw(st.sampled_from(["ann", "bob", "cat"]), label="who")
        kind = data.draw(st.sampled_from(["new", "shot", "crop", "place"]), label="kind")
        flip = data.draw(st.integers(0, DEFAULT.pair.frame_bits), label="flip")
        start = 1 + 20 * n
        original = data.draw(st.sampled_from(made), label="of") if made and kind != "new" else None
        shot = shots[original] if original and kind == "shot" else None
        clip = world.clip("film", start, start + 6, shot=shot, flip=flip if shot else 0)
        shots[clip] = shot or clip
        places[clip] = places[original] if original and kind == "place" else clip
        crops[clip] = crops[original] if original and kind == "crop" else clip
        person = who != "cat"
        world.subject(
            clip,
            who,
            "person" if person else "creature",
            face=0.84 if person else None,
            closeness=0.6 if person else 0.9,
            background=places[clip],
            crop=crops[clip],
        )
        alike = (shots, places, crops)
        copies |= {frozenset({clip, old}) for old in made if any(a[clip] == a[old] for a in alike)}
        made.append(clip)
    who_is = truth(world)
    selection = select(world.tables(), DEFAULT)
    for target, reference in accepted(selection):
        assert who_is[target] == who_is[reference]
        clips = frozenset({target.rsplit("-", 1)[0], reference.rsplit("-", 1)[0]})
        assert clips not in copies
    identity = {
        r["subject_id"]: r["identity_id"]
        for r in rows(selection, "subjects")
        if r["identity_id"] is not None
    }
    named = {(identity[s], who_is[s]) for s in identity}
    assert len({i for i, _ in named}) == len(named)  # no identity holds two people


def test_things_alike_but_of_other_nouns_are_not_paired() -> None:
    world = film_world()
    for row in world.rows["phrases"]:
        if row["clip_id"].startswith("home"):
            row["noun"] = "lamp"
    selection = select(world.tables(), DEFAULT)
    assert not any("home" in a + b for a, b in accepted(selection))
    met = [r for r in rows(selection, "pairs") if r["target_clip_id"].startswith("home")]
    assert any(r["rules"] == ["noun_mismatch"] for r in met)


def test_search_ends_after_enough_passing_candidates_or_the_cap() -> None:
    world = World()
    world.source("film", seconds=900)
    for n in range(30):
        clip = world.clip("film", 25 * n + 1, 25 * n + 7)
        world.subject(clip, "rabbit" if n % 2 else "squirrel")
    few = select(world.tables(), changed(retrieval={"candidates": 3, "overfetch": 10}))
    per_target = Counter(r["target_subject_id"] for r in rows(few, "pairs"))
    passing = Counter(a for a, _ in accepted(few))
    assert len(passing) == 30
    assert set(passing.values()) == {3}
    assert max(per_target.values()) <= 10
    # Accepted ones are the most similar that pass: nothing better was skipped.
    full = select(world.tables(), changed(retrieval={"candidates": 30, "overfetch": 30}))
    for target in passing:
        best = sorted(
            (-r["similarity"], r["reference_subject_id"])
            for r in rows(full, "pairs")
            if r["target_subject_id"] == target and r["accepted"]
        )[:3]
        assert {b for a, b in accepted(few) if a == target} == {ref for _, ref in best}


def test_different_faces_are_not_paired_however_alike_their_coats() -> None:
    world = film_world()
    assert not any("street" in a for a, _ in accepted(select(world.tables(), DEFAULT)))
    to_the_end = changed(retrieval={"floor_margin": None})
    street = [
        r
        for r in rows(select(world.tables(), to_the_end), "pairs")
        if r["target_clip_id"].startswith("street") and r["reference_clip_id"].startswith("street")
    ]
    assert street
    assert all("face_mismatch" in r["rules"] for r in street)


def test_a_second_models_no_refuses_the_pair_and_is_written_down(
    world: World, selection: Selection
) -> None:
    best = {row["subject_id"]: row["detection_id"] for row in rows(selection, "subjects")}
    things = {row["subject_id"] for row in rows(selection, "subjects") if row["bank"] == "thing"}
    said = [
        {
            "verdict_id": f"{a} {b}",
            "target_detection_id": best[b],  # a pair has no direction
            "reference_detection_id": best[a],
            "same_identity": "yes",
            "different_context": "no" if a in things else "yes",
        }
        for a, b in sorted({(min(pair), max(pair)) for pair in accepted(selection)})
    ]
    assert said
    judged = select(world.tables(), DEFAULT, verdicts=records.table("verdicts", said))
    refused = [r for r in rows(judged, "pairs") if r["rules"] == ["verifier_different_context"]]
    assert refused
    assert {r["bank"] for r in refused} == {"thing"}
    assert {(r["same_identity"], r["different_context"]) for r in refused} == {("yes", "no")}
    gone = {(r["target_subject_id"], r["reference_subject_id"]) for r in refused}
    assert set(accepted(judged)) == set(accepted(selection)) - gone


def test_a_reference_is_not_used_more_often_than_its_cap(world: World) -> None:
    selection = select(world.tables(), changed(sample={"max_uses": 1}))
    uses = Counter(
        ref["reference_subject_id"]
        for sample in rows(selection, "samples")
        if sample["pair_type"] != "in"
        for ref in sample["references"]
    )
    assert uses
    assert max(uses.values()) == 1


def test_shards_follow_the_source_not_the_selection(world: World, selection: Selection) -> None:
    for sample in rows(selection, "samples"):
        count = DEFAULT.shards.of(sample["pair_type"])
        number = ids.bucket(sample["video_id"], count)
        assert sample["shard"] == f"{sample['pair_type']}-{number:06d}.tar"
