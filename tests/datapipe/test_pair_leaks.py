"""Splits do not leak on random corpora, and people of an evaluation set stay out."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.pair.conservation import check
from s2v.datapipe.pair.sample_rules import SplitSettings
from s2v.datapipe.pair.select import select
from s2v.datapipe.pair.split import heldout_clips, split_of_sources
from s2v.datapipe.pair.unseen import TestFaces, TestFacesError, read_test_faces

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_selection import DEFAULT, changed, rows
from synthetic_tables import FACE_EMBEDDER, World, film_world
from synthetic_vectors import around

SOURCES = [f"film-{n}" for n in range(12)]
EDGES = st.lists(st.tuples(st.sampled_from(SOURCES), st.sampled_from(SOURCES)), max_size=16)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(edges=EDGES, share=st.floats(0, 0.9), salt=st.text(max_size=3))
def test_no_edge_of_any_graph_leads_from_train_to_test(
    edges: list[tuple[str, str]], share: float, salt: str
) -> None:
    rules = SplitSettings(test_share=share, salt=salt)
    found = split_of_sources(SOURCES, edges, rules)
    assert set(found) == set(SOURCES)
    assert all(found[a] == found[b] for a, b in edges)
    assert found == split_of_sources(reversed(SOURCES), edges[::-1], rules)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(edges=EDGES, one=st.sampled_from(SOURCES), share=st.floats(0.1, 0.9))
def test_a_new_link_moves_only_the_groups_that_it_joins(
    edges: list[tuple[str, str]], one: str, share: float
) -> None:
    """A corpus that grows keeps its split, save where two groups turn out to be one."""
    rules = SplitSettings(test_share=share)
    before = split_of_sources(SOURCES, edges, rules)
    joined = split_of_sources(SOURCES, [*edges, (one, SOURCES[0])], rules)
    group = {one, SOURCES[0]}
    while more := {s for edge in edges if group & set(edge) for s in edge} - group:
        group |= more
    assert {s for s in SOURCES if before[s] != joined[s]} <= group


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    starts=st.lists(st.integers(0, 590), min_size=2, max_size=20, unique=True),
    links=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=8),
    share=st.floats(0, 0.9),
)
def test_near_copied_frames_and_one_scene_are_never_on_both_sides_of_the_hold(
    starts: list[int], links: list[tuple[int, int]], share: float
) -> None:
    clips = [
        {
            "clip_id": f"clip-{n}",
            "video_id": f"film-{n % 3}",
            "kind": "video",
            "start_us": start * 1_000_000,
            "end_us": (start + 6) * 1_000_000,
        }
        for n, start in enumerate(starts)
    ]
    alike = [(f"clip-{a}", f"clip-{b}") for a, b in links if a < len(clips) and b < len(clips)]
    held = heldout_clips(clips, alike, SplitSettings(heldout_share=share))
    assert all(held[a] == held[b] for a, b in alike)
    scenes = defaultdict(set)
    for clip in clips:
        scenes[clip["video_id"], (clip["start_us"] + 3_000_000) // 30_000_000].add(
            held[clip["clip_id"]]
        )
    assert all(len(sides) == 1 for sides in scenes.values())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cuts=st.lists(st.sampled_from(["cut", "length", "window"]), min_size=2, max_size=12),
       share=st.floats(0.1, 0.9), salt=st.text(max_size=2))  # fmt: skip
def test_a_shot_that_was_cut_into_clips_is_not_half_held_out(
    cuts: list[str], share: float, salt: str
) -> None:
    """The last frame of one and the first of the next are neighbours: one teaches the other."""
    clips = [
        {
            "clip_id": f"clip-{n:02d}",
            "video_id": "film",
            "kind": "video",
            "start_us": 9_000_000 * n,
            "end_us": 9_000_000 * (n + 1),
            "starts_with": before,
            "ends_with": after,
        }
        for n, (before, after) in enumerate(pairwise(["source", *cuts]))
    ]
    rules = SplitSettings(heldout_share=share, salt=salt, scene_seconds=10)
    held = heldout_clips(reversed(clips), [], rules)
    for one, other in pairwise(clips):
        if other["starts_with"] != "cut":
            assert held[one["clip_id"]] == held[other["clip_id"]]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_corpora_share_no_identity_source_or_frame_between_splits(
    data: st.DataObject,
) -> None:
    world = World()
    shots: list[str] = []
    for n in range(data.draw(st.integers(2, 6), label="films")):
        world.source(
            f"film{n}", data.draw(st.sampled_from([None, "saga"]), label="long"), seconds=60
        )
        for start in (1, 31):
            shot = data.draw(st.sampled_from([None, *shots]), label="shot")
            clip = world.clip(f"film{n}", start, start + 6, shot=shot)
            shots.append(shot or clip)
            who = data.draw(st.sampled_from(["ann", "bob", "cat"]), label="who")
            person = who != "cat"
            world.subject(
                clip, who, "person" if person else "creature", face=0.84 if person else None,
                closeness=0.7 if person else 0.9,
            )  # fmt: skip
    salt = data.draw(st.sampled_from("abcdef"), label="salt")
    rules = changed(split={"test_share": 0.5, "heldout_share": 0.4, "salt": salt})
    selection = select(world.tables(), rules)
    check(world.tables(), selection, rules)
    identity = {r["subject_id"]: r["identity_id"] for r in rows(selection, "subjects")}
    phash = defaultdict(set)
    for frame in world.rows["frames"]:
        phash[frame["clip_id"]].add(frame["phash"])
    sides: dict[str, set[str]] = defaultdict(set)
    hold: dict[str, set[bool]] = defaultdict(set)
    for sample in rows(selection, "samples"):
        clips = {sample["clip_id"]}
        for ref in sample["references"]:
            for end in (ref["subject_id"], ref["reference_subject_id"]):
                sides[f"identity {identity[end]}"].add(sample["split"])
                clips.add(end.rsplit("-", 1)[0])
        sides[f"source {sample['long_video_id']}"].add(sample["split"])
        for clip in clips:
            for frame in phash[clip]:
                sides[f"frame {frame}"].add(sample["split"])
        if sample["split"] == "train":
            for frame in phash[sample["clip_id"]]:
                hold[frame].add(sample["heldout"])
    assert all(len(both) == 1 for both in sides.values())
    assert all(len(both) == 1 for both in hold.values())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_chains_through_photographs_copies_and_pairs_end_on_one_side(data: st.DataObject) -> None:
    """What a sample shows, its references' sources too, never lies on both sides of the split.

    Sources are joined in a chain by whatever joins them: a person by the face, a cup by its look, a
    photograph that both ends use, a shot that one of them copies.
    """
    world = World()
    count = data.draw(st.integers(3, 6), label="sources")
    before: tuple[str, str] | None = None  # who is shared with the next, and the clip they are in
    for n in range(count):
        photo = data.draw(st.booleans(), label="photo")
        world.source(f"s{n}", kind="image" if photo else "video", seconds=0 if photo else 40)
        copied = before[1] if before and data.draw(st.integers(0, 3), label="copied") == 0 else None
        clip = world.clip(f"s{n}", 0 if photo else 5, 0.04 if photo else 11, shot=copied)
        if before:
            _shared(world, clip, before[0])
        who = data.draw(st.sampled_from(["ann", "cup", "nobody"]), label="next by")
        who = f"{who} {n}"
        if not who.startswith("nobody"):
            _shared(world, clip, who)
        before = (who, clip)
    salt = data.draw(st.sampled_from("abcdef"), label="salt")
    selection = select(world.tables(), changed(split={"test_share": 0.5, "salt": salt}))
    check(world.tables(), selection, changed(split={"test_share": 0.5, "salt": salt}))
    subject = {r["subject_id"]: r for r in rows(selection, "subjects")}
    looks = {r["clip_id"]: r["phash"] for r in world.rows["frames"]}
    sides: dict[str, set[str]] = defaultdict(set)
    for sample in rows(selection, "samples"):
        for ref in sample["references"]:
            for end in (ref["subject_id"], ref["reference_subject_id"]):
                shown = subject[end]
                for key in ("identity_id", "long_video_id", "video_id"):
                    sides[f"{key} {shown[key]}"].add(sample["split"])
                sides[f"frame {looks[shown['clip_id']]}"].add(sample["split"])
    assert all(len(both) == 1 for both in sides.values()), sides


def _shared(world: World, clip: str, who: str) -> None:
    if who.startswith("ann"):
        world.subject(clip, who, "person", face=0.84, closeness=0.7)
    elif who.startswith("cup"):
        world.subject(clip, who, "thing", noun="cup", closeness=0.93)


# Concat-ID's guard.


def jin(cosine: float) -> TestFaces:
    """A test face at a cosine to the corpus's Jin, whose faces lie at 0.84 to his base."""
    faces = [r for r in film_world().rows["faces"] if r["clip_id"].startswith("outdoors")]
    face = np.asarray(faces[0]["embedding"], np.float64)
    other = np.asarray(around("somebody else", 0.99, "x"), np.float64)[: len(face)]
    other -= (other @ face) * face
    other /= np.linalg.norm(other)
    made = cosine * face + math.sqrt(1 - cosine**2) * other
    return TestFaces(FACE_EMBEDDER, made[None].astype(np.float32), 0.45)


def people(test: TestFaces | None) -> dict[str, set[str | None]]:
    world = film_world()
    selection = select(world.tables(), DEFAULT, test_faces=test)
    check(world.tables(), selection, DEFAULT)
    found = defaultdict(set)
    for row in rows(selection, "subjects"):
        if row["bank"] == "person":
            found[row["video_id"]].add(row["reason"])
    used = {s["long_video_id"] for s in rows(selection, "samples")}
    assert (("indoors" in used), ("outdoors" in used)) == (
        (None in found["indoors"]),
        (None in found["outdoors"]),
    )
    return dict(found)


def test_an_identity_near_a_test_face_is_dropped_whole_and_nobody_else() -> None:
    before, after = people(None), people(jin(0.6))
    assert before["indoors"] == before["outdoors"] == {None}
    told = {"identity: excluded: in the evaluation set"}
    # Only the photograph is near the test face; the clips of the same man go with it.
    assert after["indoors"] == after["outdoors"] == told
    assert {v: after[v] for v in ("street", "crowd")} == {v: before[v] for v in ("street", "crowd")}


def test_a_test_person_in_the_background_takes_the_clip_along() -> None:
    """No phrase names them, so they are no subject; a model trained on the clip has seen them."""
    world = film_world()
    clip = next(r["clip_id"] for r in world.rows["clips"] if r["clip_id"].startswith("film-"))
    frame = next(r for r in world.rows["frames"] if r["clip_id"] == clip)
    template = next(r for r in world.rows["faces"])
    seen = around("face of the evaluation set", 0.99, "x")[: len(template["embedding"])]
    vector = np.asarray(seen, np.float32)
    vector /= np.linalg.norm(vector)
    passer_by = {"clip_id": clip, "frame_id": frame["frame_id"], "face": 7, "detection_id": None}
    world.rows["faces"].append({**template, **passer_by, "embedding": vector.tolist()})
    test = TestFaces(FACE_EMBEDDER, vector[None], 0.45)
    without, with_it = (select(world.tables(), DEFAULT, test_faces=one) for one in (None, test))
    check(world.tables(), with_it, DEFAULT)
    assert clip in {row["clip_id"] for row in rows(without, "samples")}
    for sample in rows(with_it, "samples"):
        shown = {sample["clip_id"]}
        shown |= {r["reference_subject_id"].rsplit("-", 1)[0] for r in sample["references"]}
        assert clip not in shown
    told = {r["clip_id"]: r["reason"] for r in rows(with_it, "subjects")}
    assert told[clip] == "clip: excluded: in the evaluation set"
    changed_clips = {
        r["clip_id"]
        for r, s in zip(rows(without, "subjects"), rows(with_it, "subjects"), strict=True)
        if r["reason"] != s["reason"]
    }
    assert changed_clips == {clip}


def test_a_face_at_the_bound_stays() -> None:
    assert people(jin(0.44)) == people(None)


def test_test_faces_of_another_model_are_an_error_and_not_a_guard_that_guards_nothing() -> None:
    other = TestFaces("arcface", jin(0.9).vectors, 0.45)
    with pytest.raises(TestFacesError, match=r"'arcface'.*'test-faces'.*embed the evaluation set"):
        select(film_world().tables(), DEFAULT, test_faces=other)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_both_kinds_of_files_are_read(tmp_path: Path, suffix: str) -> None:
    face = jin(0.6)
    path = tmp_path / f"faces{suffix}"
    if suffix == ".npz":
        np.savez(path, embedding=face.vectors, embedder=np.array(FACE_EMBEDDER))
    else:
        columns = {"embedder": [FACE_EMBEDDER], "embedding": face.vectors.tolist()}
        pq.write_table(pa.table(columns), path)
    found = read_test_faces(path, 0.45)
    assert found.embedder == FACE_EMBEDDER
    assert np.array_equal(found.vectors, face.vectors)


def test_files_that_cannot_be_meant_are_named_with_the_way_out(tmp_path: Path) -> None:
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, embedding=np.array([{"a": 1}], object), embedder="x")
    long = tmp_path / "long.npz"
    np.savez(long, embedding=np.full((2, 4), 1.0), embedder="x")
    flat = tmp_path / "flat.npz"
    np.savez(flat, embedding=np.zeros(4), embedder="x")
    lacking = tmp_path / "lacking.npz"
    np.savez(lacking, embedding=np.eye(4))
    junk = tmp_path / "junk.npz"
    junk.write_bytes(b"no zip")
    mixed = tmp_path / "mixed.parquet"
    pq.write_table(pa.table({"embedder": ["a", "b"], "embedding": [[1.0], [1.0]]}), mixed)
    wanted = {
        pickled: "pickle",
        long: "length 2.0000",
        flat: r"shape \[4\]",
        lacking: "'embedder'",
        junk: "unreadable",
        mixed: r"\['a', 'b'\]",
        tmp_path / "faces.pkl": ".npz or .parquet",
        tmp_path / "none.npz": "no such file",
    }
    for path, message in wanted.items():
        with pytest.raises(TestFacesError, match=message) as caught:
            read_test_faces(path, 0.45)
        assert str(caught.value).startswith(str(path))
