"""What the selection makes of faces and people: rules, policies, joint vectors, identities."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from synthetic_selection import DEFAULT, accepted, changed, rows
from synthetic_tables import World, film_world
from synthetic_vectors import around, hash_of

from s2v.datapipe.pair.conservation import check
from s2v.datapipe.pair.faces import joint_vectors
from s2v.datapipe.pair.policy import statements
from s2v.datapipe.pair.select import Selection, select
from s2v.datapipe.pair.settings import SelectSettings


def world_with(table: str, prefix: str, **values: object) -> World:
    """The film world with values changed in the rows of clips or videos of one name."""
    world = film_world()
    for row in world.rows[table]:
        if str(row.get("clip_id") or row["video_id"]).startswith(prefix):
            row.update(values)
    return world


def face_reasons(selection: Selection, prefix: str) -> set[str | None]:
    return {r["reason"] for r in rows(selection, "faces") if r["frame_id"].startswith(prefix)}


def of(selection: Selection, table: str, prefix: str) -> list[dict[str, Any]]:
    return [row for row in rows(selection, table) if row["clip_id"].startswith(prefix)]


@pytest.mark.parametrize(
    ("values", "rule", "reason"),
    [
        ({"score": 0.6}, {}, "face: low score"),
        ({"box": [35.0, 30.0, 50.0, 80.0]}, {}, "face: too few pixels"),
        ({"yaw": -70.0}, {}, "face: turned away: yaw"),
        ({"pitch": 50.0}, {}, "face: turned away: pitch"),
        ({"roll": 80.0}, {}, "face: turned away: roll"),
        ({"yaw": None}, {}, "face: not measured: yaw"),
        ({"sharpness": 3.0}, {}, "face: blurred"),
        ({"sharpness": None}, {}, "face: not measured: sharpness"),
        ({"embedding": None}, {}, "face: not measured: embedding"),
        ({}, {"min_area_share": 0.04}, "face: too small a share"),
        ({}, {"max_area_share": 0.02}, "face: too large a share"),
    ],
)
def test_a_face_that_cannot_say_who_it_is_is_not_used_and_says_why(
    values: dict[str, Any], rule: dict[str, Any], reason: str
) -> None:
    world = world_with("faces", "outdoors", **values)
    settings = changed(face=rule)
    selection = select(world.tables(), settings)
    assert face_reasons(selection, "outdoors") == {reason}
    (photo,) = of(selection, "subjects", "outdoors")
    assert photo["reason"] is None, "the person stays, without a face"
    columns = ("face", "face_embedder", "face_phash", "face_yaw", "face_score")
    assert [photo[name] for name in columns] == [None] * 5
    assert not any("outdoors" in a + b for a, b in accepted(selection))
    ledgers = {line.table: line for line in check(world.tables(), selection, settings).ledgers}
    faces = len(world.rows["faces"])
    assert ledgers["faces"].entered == faces
    assert ledgers["faces"].dropped[reason] >= 1
    assert ledgers["faces"].missing() == 0


def test_rules_that_are_off_ask_for_nothing() -> None:
    world = world_with("faces", "outdoors", yaw=None, pitch=None, roll=None, sharpness=None)
    off = dict.fromkeys(("max_yaw", "max_pitch", "max_roll", "min_sharpness"))
    selection = select(world.tables(), changed(face=off))
    assert face_reasons(selection, "outdoors") == {None}


def test_a_face_given_to_the_surer_of_two_boxes_of_one_person_serves_both() -> None:
    world = film_world()
    for row in world.rows["faces"]:
        if row["clip_id"].startswith("outdoors"):
            row["detection_id"] = "outdoors-twin"
    twin = dict(next(r for r in world.rows["detections"] if r["clip_id"].startswith("outdoors")))
    other = twin | {"detection_id": "outdoors-twin", "score": 0.05}  # dropped by its score
    world.rows["detections"].append(other)
    (photo,) = of(select(world.tables(), DEFAULT), "subjects", "outdoors")
    assert photo["face"] is not None
    other["box"] = [200.0, 20.0, 290.0, 170.0]  # another person's box: its face is its own
    (photo,) = of(select(world.tables(), DEFAULT), "subjects", "outdoors")
    assert photo["face"] is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"count_stable": 0.3333}, "people: their number changes"),
        ({"same_person": 0.5}, "people: another person on some frames"),
    ],
)
def test_people_who_come_and_go_are_dropped_and_animals_stay(
    values: dict[str, Any], reason: str
) -> None:
    world = world_with("people", "indoors", **values)
    selection = select(world.tables(), DEFAULT)
    assert {r["reason"] for r in of(selection, "subjects", "indoors")} == {reason}
    assert not of(selection, "samples", "indoors")
    assert {r["reason"] for r in of(selection, "clips", "indoors")} == {None}
    world = world_with("people", "film", **values)
    assert None in {r["reason"] for r in of(select(world.tables(), DEFAULT), "subjects", "film")}
    loose = changed(people={"min_count_stable": None, "min_same_person": None})
    world = world_with("people", "indoors", **values)
    kept = of(select(world.tables(), loose), "subjects", "indoors")
    assert {r["reason"] for r in kept} == {None}


def test_two_people_may_change_places_and_backs_have_no_face() -> None:
    for values in ({"persons": 2, "same_person": 0.0}, {"same_person": None}):
        selection = select(world_with("people", "indoors", **values).tables(), DEFAULT)
        assert {r["reason"] for r in of(selection, "subjects", "indoors")} == {None}


def test_a_clip_whose_people_were_not_counted_does_not_pass() -> None:
    world = film_world()
    world.rows["people"] = []
    selection = select(world.tables(), DEFAULT)
    reasons = {r["reason"] for r in of(selection, "subjects", "indoors")}
    assert reasons == {"people: not measured: count_stable"}
    assert of(selection, "subjects", "outdoors")[0]["reason"] is None  # a photograph


def test_minors_are_dropped_where_the_source_says_possible() -> None:
    world = world_with("sources", "indoors", minors="possible")
    selection = select(world.tables(), DEFAULT)
    assert {r["reason"] for r in of(selection, "clips", "indoors")} == {"clip: minors possible"}
    assert not any("indoors" in a + b for a, b in accepted(selection))
    everything = changed(people={"minors": "any"})
    assert {r["reason"] for r in of(select(world.tables(), everything), "clips", "indoors")} == {
        None
    }


def test_silence_on_minors_passes_unless_a_statement_is_asked_for() -> None:
    world = world_with("sources", "indoors", minors="unverified")
    for row in world.rows["sources"]:
        if row["video_id"] == "outdoors":
            row["minors"] = "none"
    assert {r["reason"] for r in of(select(world.tables(), DEFAULT), "clips", "indoors")} == {None}
    strict = select(world.tables(), changed(people={"minors": "stated none"}))
    assert {r["reason"] for r in of(strict, "clips", "indoors")} == {"clip: minors not ruled out"}
    assert {r["reason"] for r in of(strict, "clips", "outdoors")} == {None}


def test_a_source_without_faces_loses_clips_with_a_face_and_all_its_people() -> None:
    world = world_with("sources", "indoors", face_policy="no faces")
    first, second = sorted({r["clip_id"] for r in world.rows["faces"] if "indoors" in r["clip_id"]})
    # On the second clip nobody shows a face; on the first only an unsure one.
    world.rows["faces"] = [r for r in world.rows["faces"] if r["clip_id"] != second]
    for row in world.rows["faces"]:
        if row["clip_id"] == first:
            row["score"] = 0.3
    selection = select(world.tables(), DEFAULT)
    assert of(selection, "clips", first)[0]["reason"] == "clip: face policy"
    assert of(selection, "clips", second)[0]["reason"] is None
    assert {r["reason"] for r in of(selection, "subjects", second)} == {"people: face policy"}
    assert not of(selection, "samples", "indoors")


def test_only_stated_permission_passes_when_it_is_asked_for() -> None:
    world = world_with("sources", "outdoors", face_policy="allowed")
    selection = select(world.tables(), changed(people={"face_policy": "stated allowed"}))
    assert {r["reason"] for r in of(selection, "clips", "indoors")} == {"clip: face policy"}
    assert {r["reason"] for r in of(selection, "clips", "outdoors")} == {None}
    # Clips without a face stay: nobody is on them.
    assert {r["reason"] for r in of(selection, "clips", "shop")} == {None}


def test_what_sources_state_can_be_counted() -> None:
    sources = [
        {"minors": "none", "face_policy": None, "consent": "given"},
        {"minors": None, "face_policy": "no faces", "consent": "unverified"},
        {"minors": "unverified", "face_policy": "unverified", "consent": "given"},
    ]
    assert statements(sources) == {
        "minors": {"none": 1, "unverified": 2},
        "face_policy": {"no faces": 1, "unverified": 2},
        "consent": {"given": 2, "unverified": 1},
    }


def test_a_near_copy_of_a_face_is_no_pair_though_clothes_and_cosine_differ() -> None:
    world = film_world()
    alike = hash_of("one portrait")
    for row in world.rows["faces"]:
        if row["clip_id"].startswith(("indoors-00001", "outdoors")):
            row["phash"] = alike
        if row["clip_id"].startswith("outdoors"):
            row["phash"] = f"{int(alike, 16) ^ 0b11:016x}"
    before = accepted(select(film_world().tables(), DEFAULT))
    selection = select(world.tables(), DEFAULT)
    pair = next(
        p
        for p in rows(selection, "pairs")
        if p["target_clip_id"].startswith("indoors-00001")
        and p["reference_clip_id"].startswith("outdoors")
    )
    key = (pair["target_subject_id"], pair["reference_subject_id"])
    assert key in before
    assert pair["rules"] == ["near_copy_face"]
    assert pair["face_phash_distance"] == 2
    apart = changed(pair={"face_bits": 1})
    assert key in accepted(select(world.tables(), apart))


def test_the_cosine_of_joint_vectors_is_the_weighted_cosine_of_their_parts() -> None:
    rng = np.random.default_rng(5)
    for weight in (0.0, 0.3, 0.5, 1.0):
        body, face = rng.standard_normal((2, 2, 40))
        body[0] *= 17  # lengths must not matter
        a, b = joint_vectors(body.astype(np.float32), face.astype(np.float32), weight)
        wanted = (1 - weight) * cosine(*body) + weight * cosine(*face)
        assert float(a @ b) == pytest.approx(wanted, abs=1e-5)
        assert np.linalg.norm(a) == pytest.approx(1, abs=1e-5)
    zero = np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="length zero"):
        joint_vectors(zero, zero + 1, 0.5)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_people_who_show_a_face_are_searched_by_body_and_face_and_nobody_else_is() -> None:
    world = party()
    pairs = rows(select(world.tables(), changed(face={"face_weight": 0.7})), "pairs")
    assert {r["search"] for r in pairs} == {"joint"}
    for row in pairs:
        wanted = 0.3 * row["similarity"] + 0.7 * row["face_similarity"]
        assert row["joint_similarity"] == pytest.approx(wanted, abs=2e-6)
    hidden = next(r for r in world.rows["phrases"] if r["noun"] == "ann")["clip_id"]
    world.rows["faces"] = [r for r in world.rows["faces"] if r["clip_id"] != hidden]
    found = rows(select(world.tables(), DEFAULT), "pairs")
    for row in found:
        faceless = hidden in (row["target_clip_id"], row["reference_clip_id"])
        assert row["search"] == ("own" if faceless else "joint")
        assert (row["joint_similarity"] is None) == faceless
    assert {r["search"] for r in found} == {"own", "joint"}
    creatures = rows(select(film_world().tables(), DEFAULT), "pairs")
    assert {r["search"] for r in creatures if r["bank"] == "creature"} == {"own", "copy"}


def test_the_joint_search_finds_the_same_face_among_many_uniforms() -> None:
    """By the body alone the man himself would be behind all the others in the same clothes."""
    world = World()
    world.source("parade", seconds=900)
    for n in range(12):
        clip = world.clip("parade", 60 * n + 1, 60 * n + 7)
        name = "ann" if n in (0, 11) else f"other {n}"
        world.subject(clip, name, "person", face=0.9, look=f"{name} {n}")
    for row in world.rows["embeddings"]:
        seconds = int(row["clip_id"].split("-")[1]) // 60_000
        row["subject"] = around("uniform", 0.8 if seconds == 11 else 0.999, row["detection_id"])
    first, last = "parade-00001000-00007000-s0", "parade-00661000-00667000-s0"
    few = {"candidates": 1, "overfetch": 2}
    found = select(world.tables(), changed(retrieval=few))
    assert accepted(found) == {(first, last), (last, first)}
    by_body = select(world.tables(), changed(retrieval=few, face={"face_weight": 0.0}))
    assert (first, last) not in accepted(by_body)


def party(*, closeness: float = 0.84) -> World:
    """A long video: Ann and Bob in the same uniform, three clips each, and once side by side."""
    world = World()
    world.source("party", seconds=200)
    for n in range(6):
        clip = world.clip("party", 20 * n + 1, 20 * n + 7)
        name = ("ann", "bob")[n % 2]
        world.subject(clip, name, "person", face=closeness, look=f"{name} {n}")
    both = world.clip("party", 150, 156)
    for name in ("ann", "bob"):
        world.subject(both, name, "person", face=closeness, look=f"{name} both")
    for row in world.rows["embeddings"]:  # the uniform: all bodies nearly one
        row["subject"] = around("uniform", 0.999, row["detection_id"])
    return world


def identities(selection: Selection, world: World) -> dict[str, set[str]]:
    """Identity ids by name."""
    names = {r["subject_id"]: r["noun"] for r in world.rows["phrases"]}
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows(selection, "subjects"):
        if row["identity_id"] is not None:
            found[names[row["subject_id"]]].add(row["identity_id"])
    return found


BODIES_ALIKE = changed(pair={"person": DEFAULT.pair.person.model_dump() | {"upper": 1.01}})


def test_within_a_long_video_people_are_who_their_faces_say_not_their_clothes() -> None:
    world = party()
    selection = select(world.tables(), BODIES_ALIKE)
    found = identities(selection, world)
    assert {name: len(ids) for name, ids in found.items()} == {"ann": 1, "bob": 1}
    assert found["ann"] != found["bob"]


@pytest.mark.parametrize(("bank", "identities_wanted"), [("person", 8), ("creature", 2)])
def test_without_faces_the_same_clothes_make_nobody_the_same_person(
    bank: str, identities_wanted: int
) -> None:
    """Animals that look alike within a long video are one; people in uniform are not."""
    world = party()
    world.rows["faces"] = []
    for row in world.rows["phrases"]:
        row |= {"bank": bank, "noun": "one"}
    loose = {
        name: getattr(DEFAULT.pair, name).model_dump() | {"upper": 1.01, "require_face": False}
        for name in ("person", "creature")
    }
    # No pair is accepted: only likeness could link.
    selection = select(world.tables(), changed(pair={**loose, "min_gap_seconds": 1000.0}))
    pairs = rows(selection, "pairs")
    assert pairs
    assert min(p["similarity"] for p in pairs) > DEFAULT.pair.strong
    assert not any(p["accepted"] for p in pairs)
    kept = [r for r in rows(selection, "subjects") if r["reason"] is None]
    assert len(kept) == 8
    assert len({r["identity_id"] for r in kept}) == identities_wanted


def test_an_identity_keeps_its_id_when_other_sources_come_and_rows_come_in_another_order() -> None:
    before = identities(select(party().tables(), BODIES_ALIKE), party())
    world = party()
    world.source("aaa", seconds=20)
    world.subject(world.clip("aaa", 1, 7), "zoe", "person", face=0.84)
    world.source("zzz", seconds=20)
    world.subject(world.clip("zzz", 1, 7), "ann", "person", face=0.84, look="elsewhere")
    after = identities(select(world.tables(shuffle=3), BODIES_ALIKE), world)
    assert after["ann"] == before["ann"], "the same person in another film is the same identity"
    assert after["bob"] == before["bob"]
    assert not after["zoe"] & (after["ann"] | after["bob"])


def test_the_link_threshold_is_the_faces_lower_bound() -> None:
    world = party(closeness=0.62)  # two faces of one person at about 0.38
    apart = identities(select(world.tables(), BODIES_ALIKE), world)
    assert len(apart["ann"]) > 1
    data = BODIES_ALIKE.model_dump(by_alias=True)
    data["face"] |= {"lower": 0.2, "different": 0.1}
    together = select(world.tables(), SelectSettings.model_validate(data))
    assert {len(ids) for ids in identities(together, world).values()} == {1}
