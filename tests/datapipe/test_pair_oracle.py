"""The selection made of arrays says what the plain one says, on worlds full of odd cases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from s2v.datapipe.base import records
from s2v.datapipe.base.exclusions import Exclusion
from s2v.datapipe.pair import chunks
from s2v.datapipe.pair.identity import FaceBank, Links, _Clusters
from s2v.datapipe.pair.pool import Pool
from s2v.datapipe.pair.select import select

sys.path.insert(0, str(Path(__file__).parent))
from oracle_select import Oracle
from synthetic_selection import DEFAULT, changed, rows
from synthetic_tables import World, film_world
from synthetic_vectors import hash_of, rng

COLUMNS = (
    *("target_subject_id", "reference_subject_id", "target_clip_id", "reference_clip_id"),
    *("bank", "search", "similarity", "face_similarity", "background_similarity"),
    *("phash_distance", "face_phash_distance", "frame_phash_distance", "gap_us"),
    *("rank", "rules", "accepted"),
)
LOOSE = {
    "person": DEFAULT.pair.person.model_dump() | {"lower": 0.05, "require_face": False},
    "creature": DEFAULT.pair.creature.model_dump() | {"lower": 0.5, "max_background": 0.6},
    "thing": {
        **{"lower": 0.3, "same_noun": False},
        "classes": {"clothes": {"lower": 0.6, "upper": 0.9}, "landmark": {"upper": 0.8}},
    },
}


def crowd(seed: int) -> World:
    """Films, a trailer, photographs; copies, ties, gaps in what was measured, several a clip."""
    draw = rng("crowd", seed)
    world, shots = World(), []
    world.source("film", "bunny", seconds=500)
    world.source("trailer", "bunny", seconds=100)
    world.source("other", seconds=200)
    world.source("photo", kind="image")
    world.source("snap", kind="image")
    lengths = {"film": 9, "trailer": 3, "other": 4, "photo": 1, "snap": 1}
    for video, count in lengths.items():
        image = video in ("photo", "snap")
        for n in range(count):
            again = bool(shots) and draw.random() < 0.25
            shot = shots[int(draw.integers(len(shots)))] if again else None
            start = 0 if image else int(n * 20 + draw.integers(0, 12))
            clip = world.clip(video, start, 0 if image else start + 5, shot=shot, flip=int(again))
            shots.append(shot or clip)
            for _ in range(int(draw.integers(1, 4))):
                bank = str(draw.choice(["person", "creature", "thing"]))
                who = f"{bank} {draw.integers(3)}"
                world.subject(
                    clip,
                    who,
                    bank,
                    noun=str(draw.choice(["one", "two"])),
                    closeness=float(draw.choice([0.7, 0.9, 0.97])),
                    face=float(draw.choice([0.5, 0.84, 0.97])) if draw.random() < 0.8 else None,
                    background=str(draw.choice(["a", "b", "c"])) if draw.random() < 0.5 else None,
                    crop=str(draw.choice(["x", "y"])) if draw.random() < 0.3 else None,
                    look=str(draw.choice(["same", "else", clip])),
                )
    spoil(world, draw)
    return world


def spoil(world: World, draw: np.random.Generator) -> None:
    """Scores that are missing, flat and mirrored frames, models that changed on the way."""
    for row in world.rows["embeddings"]:
        fate = draw.random()
        row["background"] = None if fate < 0.1 else row["background"]
        row["phash"] = None if 0.1 < fate < 0.15 else row["phash"]
        row["embedder"] = "another" if 0.15 < fate < 0.2 else row["embedder"]
    for row in world.rows["faces"]:
        fate = draw.random()
        row["embedder"] = "other-faces" if fate < 0.1 else row["embedder"]
        row["phash"] = None if 0.1 < fate < 0.2 else row["phash"]
        row["score"] = 0.1 if 0.2 < fate < 0.3 else row["score"]
    for row in world.rows["frames"]:
        fate = draw.random()
        row["blur"] = 1.0 if fate < 0.1 else None if fate < 0.2 else row["blur"]
        row["phash"] = None if 0.2 < fate < 0.25 else row["phash"]
        if 0.25 < fate < 0.35:
            row["phash_mirror"] = hash_of("mirror", int(draw.integers(3)))
    for row in world.rows["detections"]:
        row["score"] = 0.1 if draw.random() < 0.1 else row["score"]
    for row in world.rows["phrases"]:
        row["class"] = str(draw.choice(["clothes", "landmark", "other"]))


def compare(world: World, chosen: Any) -> int:
    """Compare all pairs and identities; how many were accepted."""
    tables = world.tables()
    found = select(tables, chosen)
    duplicate_of = {
        r["clip_id"]: r["duplicate_of"] for r in rows(found, "clips") if r["duplicate_of"]
    }
    subjects = rows(found, "subjects")
    wanted = Oracle(tables, subjects, duplicate_of, chosen)
    told = [{name: row[name] for name in COLUMNS} for row in rows(found, "pairs")]
    truth = [{name: row[name] for name in COLUMNS} for row in wanted.pairs]
    assert told == truth
    assert {
        row["subject_id"]: row["identity_id"] for row in subjects if row["reason"] is None
    } == wanted.identity
    return sum(row["accepted"] for row in truth)


@settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    seed=st.integers(0, 10_000),
    overfetch=st.sampled_from([2, 5, 64]),
    loose=st.booleans(),
    weight=st.sampled_from([0.0, 0.5, 0.8]),
    strong=st.sampled_from([0.7, 0.93]),
)
def test_arrays_say_what_the_plain_way_says(
    seed: int, overfetch: int, loose: bool, weight: float, strong: float
) -> None:
    pair: dict[str, Any] = {"strong": strong, "min_gap_seconds": 6.0} | (LOOSE if loose else {})
    compare(
        crowd(seed),
        changed(
            pair=pair,
            face={"face_weight": weight},
            phrase={"distinct": False},
            retrieval={"candidates": 2, "overfetch": overfetch, "floor_margin": None},
        ),
    )


def test_the_worlds_compared_hold_every_odd_case() -> None:
    """A comparison of empty lists would prove nothing."""
    rules: set[str] = set()
    searches: set[str] = set()
    accepted = 0
    for seed in range(6):
        chosen = changed(pair=LOOSE, phrase={"distinct": False}, retrieval={"floor_margin": None})
        accepted += compare(crowd(seed), chosen)
        for row in rows(select(crowd(seed).tables(), chosen), "pairs"):
            rules |= set(row["rules"])
            searches.add(row["search"])
    assert searches == {"all", "copy", "faces", "joint", "own"}
    assert accepted > 30
    assert rules >= {
        *("min_gap", "duplicate_clip", "above_upper", "near_copy_crop", "near_copy_face"),
        *("near_copy_frame", "background_too_similar", "copy_not_measured", "below_lower"),
        *("face_mismatch", "face_too_similar", "identity_conflict"),
    }


def test_a_class_with_bounds_of_its_own_is_held_to_them_and_two_classes_to_the_stricter() -> None:
    seen = set()
    for seed in range(4):
        chosen = changed(pair=LOOSE, phrase={"distinct": False}, retrieval={"floor_margin": None})
        found = select(crowd(seed).tables(), chosen)
        kind = {row["subject_id"]: row["class"] for row in rows(found, "subjects")}
        for row in rows(found, "pairs"):
            if row["bank"] == "thing":
                ends = [kind[row[f"{end}_subject_id"]] for end in ("target", "reference")]
                lower = 0.6 if "clothes" in ends else 0.3
                upper = 0.8 if "landmark" in ends else 0.9 if "clothes" in ends else 0.95
                assert ("below_lower" in row["rules"]) == (row["similarity"] < lower)
                assert ("above_upper" in row["rules"]) == (row["similarity"] >= upper)
                seen.add((tuple(sorted(ends)), "below_lower" in row["rules"]))
    assert {(("clothes", "other"), True), (("landmark", "other"), False)} <= seen


def test_a_section_of_some_keys_keeps_the_banks_other_rules_and_off_switches_one_off() -> None:
    made = changed(pair={"thing": {"require_mark": False}, "creature": {"max_background": "off"}})
    plain = DEFAULT.pair
    assert made.pair.thing == plain.thing.model_copy(update={"require_mark": False})
    assert made.pair.creature == plain.creature.model_copy(update={"max_background": None})
    assert made.pair.person == plain.person
    assert changed(people={"min_same_person": "off"}).people.min_same_person is None
    for wrong in (
        {"thing": {"lower": "off"}},
        {"thing": {"classes": {"cloth": {"lower": 0.5}}}},
        {"thing": {"classes": {"clothes": {"lower": 0.96}}}},
    ):
        with pytest.raises(ValidationError, match="thing"):
            changed(pair=wrong)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_floor_only_shortens_lists_and_never_changes_what_is_accepted(seed: int) -> None:
    world = crowd(seed)
    loose = {"phrase": {"distinct": False}, "pair": LOOSE}
    whole = select(world.tables(), changed(**loose, retrieval={"floor_margin": None}))
    short = select(world.tables(), changed(**loose, retrieval={"floor_margin": 0.05}))
    keys = ("target_subject_id", "reference_subject_id")
    before, after = (
        {tuple(r[k] for k in keys): r["rules"] for r in rows(one, "pairs")}
        for one in (whole, short)
    )
    assert after.items() <= before.items()
    assert len(after) < len(before)
    assert {p for p in before if not before[p]} == {p for p in after if not after[p]}
    assert short.samples.equals(whole.samples)
    assert short.subjects.equals(whole.subjects)


@pytest.mark.parametrize("clips", [1, 3])
def test_subjects_joined_piece_by_piece_are_those_joined_at_once(
    clips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for world in (film_world(), crowd(3)):
        for shuffled in (None, 5):
            tables = world.tables(shuffle=shuffled)
            listed = [
                Exclusion.model_validate(
                    {"key_type": k, "key": v, "reason": "asked", "by": "me", "when": "now"}
                )
                for k, v in (("video_id", "other"), ("video_id", "office"))
            ]
            at_once = select(tables, DEFAULT, listed)
            with monkeypatch.context() as patch:
                patch.setattr(chunks.pieces, "__defaults__", (clips,))
                in_pieces = select(tables, DEFAULT, listed)
            for name in ("clips", "boxes", "faces", "subjects", "pairs", "samples"):
                assert getattr(in_pieces, name).equals(getattr(at_once, name)), name


def test_a_row_of_an_unknown_clip_is_named_in_whatever_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = film_world()
    world.rows["phrases"][5]["clip_id"] = "zzz-00000000-00001000"
    monkeypatch.setattr(chunks.pieces, "__defaults__", (2,))
    with pytest.raises(ValueError, match="zzz-00000000-00001000"):
        select(world.tables(), DEFAULT)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), clips=st.integers(3, 30), different=st.floats(-0.9, 0.9))
def test_torn_components_are_linked_strongest_first(
    seed: int, clips: int, different: float
) -> None:
    """Many clusters that meet again and again: what was kept apart once stays apart."""
    draw, count = rng("links", seed), 40
    clip = draw.integers(0, clips, count)
    faced = draw.random(count) < 0.6
    angle = draw.uniform(0, 3, count)
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    subjects = [
        {
            "subject_id": f"s{n:03d}",
            "clip_id": f"c{clip[n]:03d}",
            "face_embedder": ("one" if draw.random() < 0.8 else "two") if faced[n] else None,
        }
        for n in range(count)
    ]
    pool = Pool(records.table("subjects", subjects), pa.array([f"c{n:03d}" for n in range(clips)]))
    ends = draw.integers(0, count, (2, 120))
    ends = ends[:, ends[0] != ends[1]]
    strength = np.round(draw.uniform(0, 1, ends.shape[1]), 1)
    links = Links.joined([Links.of(ends[0], ends[1], strength)])
    at = np.flatnonzero(faced)
    found = _Clusters(pool, FaceBank(at, vectors[at], links), different).of(links)

    of = list(range(count))
    exact = np.round(vectors.astype(np.float64) @ vectors.astype(np.float64).T, 6)
    told = zip(-links.strength, links.a.tolist(), links.b.tolist(), strict=True)
    for _, a, b in sorted(told):
        mine, theirs = ([n for n in range(count) if of[n] == of[end]] for end in (a, b))
        torn = any(
            clip[x] == clip[y]
            or (
                faced[x]
                and subjects[x]["face_embedder"] == subjects[y]["face_embedder"]
                and exact[x, y] < different
            )
            for x in mine
            for y in theirs
        )
        if of[a] != of[b] and not torn:
            first = min(of[a], of[b])
            for n in mine + theirs:
                of[n] = first
    assert found.tolist() == of
