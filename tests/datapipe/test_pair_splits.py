"""Identities hold one subject, splits do not leak."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from s2v.datapipe.pair.sample_rules import SplitSettings
from s2v.datapipe.pair.select import select
from s2v.datapipe.pair.split import SplitError, unknown_pins

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_selection import DEFAULT, changed, rows
from synthetic_tables import World, film_world


@pytest.fixture(scope="module")
def world() -> World:
    return film_world()


def test_test_and_train_share_no_source_identity_or_shot(world: World) -> None:
    for salt in ("a", "b", "c", "d"):
        selection = select(world.tables(), changed(split={"test_share": 0.5, "salt": salt}))
        identity = {r["subject_id"]: r["identity_id"] for r in rows(selection, "subjects")}
        seen: dict[str, set[str]] = {}
        for sample in rows(selection, "samples"):
            keys = {sample["long_video_id"]}
            for ref in sample["references"]:
                keys |= {identity[ref["subject_id"]], identity[ref["reference_subject_id"]]}
            for key in keys:
                seen.setdefault(key, set()).add(sample["split"])
        assert all(len(splits) == 1 for splits in seen.values())


def test_pinned_sources_keep_their_split_and_contradictions_are_refused(world: World) -> None:
    pinned = changed(split={"test_only": ("indoors",), "train_only": ("bunny",)})
    found = {
        s["long_video_id"]: s["split"] for s in rows(select(world.tables(), pinned), "samples")
    }
    assert found["indoors"] == found["outdoors"] == "test"  # the same man
    assert found["bunny"] == "train"
    torn = changed(split={"test_only": ("indoors",), "train_only": ("outdoors",)})
    with pytest.raises(SplitError, match=r"outdoors.*indoors.*share an identity"):
        select(world.tables(), torn)


def test_training_samples_take_no_pixels_from_heldout_scenes(world: World) -> None:
    seen = set()
    for salt in "abcdef":
        selection = select(world.tables(), changed(split={"heldout_share": 0.3, "salt": salt}))
        samples = rows(selection, "samples")
        held = {s["clip_id"] for s in samples if s["heldout"]}
        seen |= held
        for sample in samples:
            if not sample["heldout"]:
                refs = {r["reference_subject_id"].rsplit("-", 1)[0] for r in sample["references"]}
                assert not refs & held
    assert any(clip.startswith("film") for clip in seen)


def test_scenes_that_share_a_shot_are_held_out_together(world: World) -> None:
    together = {"film-00081000-00087000", "trailer-00010000-00016000"}
    for salt in "abcdefgh":
        selection = select(world.tables(), changed(split={"heldout_share": 0.5, "salt": salt}))
        held = {s["clip_id"]: s["heldout"] for s in rows(selection, "samples")}
        assert len({held[clip] for clip in together}) == 1


def test_twins_in_one_clip_are_two_identities_and_share_no_reference() -> None:
    world = World()
    world.source("film", seconds=100)
    clip = world.clip("film", 1, 7)
    world.subject(clip, "twin", look="left", closeness=0.95)
    world.subject(clip, "twin", look="right", closeness=0.95)
    world.subject(world.clip("film", 41, 47), "twin", look="one of them", closeness=0.95)
    selection = select(world.tables(), DEFAULT)
    identity = {r["subject_id"]: r["identity_id"] for r in rows(selection, "subjects")}
    assert identity[f"{clip}-s0"] != identity[f"{clip}-s1"]
    conflicts = [r for r in rows(selection, "pairs") if r["rules"] == ["identity_conflict"]]
    assert len(conflicts) == 2  # the weaker twin with the other clip, from both sides
    cross = [s for s in rows(selection, "samples") if s["pair_type"] == "cross"]
    assert sorted(len(s["references"]) for s in cross) == [1, 1]


def test_a_chain_of_faces_does_not_make_strangers_one_person() -> None:
    """a~b and b~c at the bound, a and c unlike: b may go with one of them only."""
    world = World()
    clips = []
    for n, video in enumerate(("one", "two", "three")):
        world.source(video, seconds=10)
        clip = world.clip(video, 1, 7)
        world.subject(clip, f"person {n}", "person", face=0.9)
        clips.append(clip)
    angles = {clips[0]: -62.0, clips[1]: 0.0, clips[2]: 61.0}
    for row in world.rows["faces"]:
        angle = math.radians(angles[row["clip_id"]])
        row["embedding"] = [math.cos(angle), math.sin(angle)] + [0.0] * 62
    loose = changed(face={"lower": 0.4, "different": 0.25})
    selection = select(world.tables(), loose)
    identity = {r["clip_id"]: r["identity_id"] for r in rows(selection, "subjects")}
    assert identity[clips[1]] == identity[clips[2]] != identity[clips[0]]


def test_a_mistyped_name_of_a_test_film_is_told_and_not_passed_over() -> None:
    settings = SplitSettings(test_only=("bunny", "bunyn"), train_only=("meadow",))
    assert list(unknown_pins(["bunny", "meadow"], settings)) == [
        "split.test_only: no source has the long_video_id 'bunyn'; did you mean 'bunny'?"
    ]
    assert list(unknown_pins([], SplitSettings(train_only=("x",)))) == [
        "split.train_only: no source has the long_video_id 'x'"
    ]
