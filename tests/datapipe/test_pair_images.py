"""Photographs as targets, captions that came with them, and where in-paired references lie."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.engine.stage import Unit
from s2v.datapipe.measure.caption import CaptionSettings, CaptionStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.pair.conservation import check
from s2v.datapipe.pair.inpair import distances, in_references
from s2v.datapipe.pair.sample_rules import SampleRules
from s2v.datapipe.pair.select import Selection, select
from s2v.datapipe.roles import Caption, ClipView

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_selection import DEFAULT, changed, rows
from synthetic_tables import World, film_world


def bank_of_pairs() -> World:
    """Pictures as an image bank gives them: those of one subject share a ``long_video_id``.

    ``toy``: two pictures of one toy, and a third that is the first, cut anew. ``cat``: two
    pictures of a cat. ``apart``: a cat that looks the same, of another pair.
    """
    world = World()
    for name, key in (("toy-a", "toy"), ("toy-b", "toy"), ("toy-c", "toy"), ("cat-a", "cat"),
                      ("cat-b", "cat"), ("apart", "apart")):  # fmt: skip
        world.source(name, key, kind="image")
        clip = world.clip(name, 0, 0)
        if key == "toy":
            crop = "same" if name != "toy-b" else None
            world.subject(clip, "toy", "thing", noun="toy", closeness=0.94, crop=crop)
        else:
            world.subject(clip, "cat", "creature", closeness=0.94, background=name)
    return world


def image_pairs(selection: Selection) -> set[tuple[str, str]]:
    return {
        (s["video_id"], ref["reference_subject_id"].rsplit("-", 3)[0])
        for s in rows(selection, "samples")
        if s["pair_type"] == "image"
        for ref in s["references"]
    }


def test_pictures_of_one_pair_teach_each_other_and_near_copies_do_not() -> None:
    world = bank_of_pairs()
    selection = select(world.tables(), DEFAULT)
    check(world.tables(), selection, DEFAULT)
    found = image_pairs(selection)
    # The living pair inside their pair only; the toy's near copy is refused on both sides.
    assert {pair for pair in found if "cat" in pair[0]} == {("cat-a", "cat-b"), ("cat-b", "cat-a")}
    toys = {pair for pair in found if "toy" in pair[0]}
    assert toys
    assert not toys & {("toy-a", "toy-c"), ("toy-c", "toy-a")}
    assert not any("apart" in pair for pair in found)
    for sample in rows(selection, "samples"):
        assert sample["pair_type"] == "image"
        assert sample["shard"].startswith("image-")
        assert all(ref["distance_us"] is None for ref in sample["references"])


def test_photographs_are_no_targets_unless_the_settings_ask_for_it() -> None:
    assert not SampleRules().image_samples
    selection = select(bank_of_pairs().tables(), changed(sample={"image_samples": False}))
    assert selection.samples.num_rows == 0
    told = {q["pair_type"]: q["made"] for q in rows(selection, "quotas") if q["of"] == "total"}
    assert told == {"in": 0, "cross": 0, "image": 0}


def test_a_photograph_is_paired_with_a_verified_face_of_a_film() -> None:
    selection = select(film_world().tables(), DEFAULT)
    found = image_pairs(selection)
    assert {target for target, _ in found} == {"outdoors"}
    assert {reference for _, reference in found} <= {"indoors"}


def test_quotas_on_images_are_topped_up_from_images() -> None:
    quota = {"image": {"scenarios": {"single-animal": {"max": 1}, "single-product": {"min": 9}}}}
    selection = select(bank_of_pairs().tables(), changed(quota=quota))
    told = {
        q["name"]: q
        for q in rows(selection, "quotas")
        if (q["pair_type"], q["of"]) == ("image", "scenario")
    }
    assert (told["single-animal"]["made"], told["single-animal"]["kept"]) == (2, 1)
    assert told["single-product"]["missing"] == 9 - told["single-product"]["kept"]


# Captions that came with the source.


class Counting:
    """A captioner that remembers whom it was asked about."""

    model_id, prompt_sha256 = "counting", "0" * 64

    def __init__(self) -> None:
        self.asked: list[str] = []

    def load(self) -> None:
        pass

    def caption(self, view: ClipView) -> Caption:
        self.asked.append(view.clip_id)
        return Caption("A thing in a scene.")


def captioned(use: str, given: dict[str, str | None]) -> tuple[dict[str, Any], list[str]]:
    model = Counting()
    stage = CaptionStage(model, GateSettings(), CaptionSettings.model_validate({"use_given": use}))
    world = film_world()
    clips = [r for r in world.rows["clips"] if r["video_id"] in given]
    ids = sorted(r["clip_id"] for r in clips)
    tables = {
        "clips": clips,
        "sources": [{"video_id": v, "given_caption": text} for v, text in given.items()],
        "frames": [],
        "overlays": [],
        "quality": [],
    }
    unit = Unit("u", "clip_id", ids, tables, Path())
    found = {r["clip_id"]: r for r in stage.run(unit)["captions"]}
    return found, sorted({row["id"] for row in unit.quarantine})


def test_a_given_caption_is_used_word_for_word_and_says_whose_it_is() -> None:
    found, lacking = captioned("images", {"outdoors": " A man\n on a  hill. ", "shop": "A cup."})
    assert [r["caption"] for r in found.values()] == ["A man on a hill."]
    assert [r["captioner"] for r in found.values()] == ["given"]
    # The video's given caption is not for clips: the captioner is asked (it has no frame here).
    assert [clip[:4] for clip in lacking] == ["shop"]
    every, _ = captioned("all", {"outdoors": "A man.", "shop": "A cup."})
    assert sorted(r["caption"] for r in every.values()) == ["A cup.", "A man."]


@pytest.mark.parametrize("text", [None, "", "   ", "x" * 2001, "a\x00b"])
def test_what_is_no_caption_is_left_to_the_captioner(text: str | None) -> None:
    found, lacking = captioned("all", {"outdoors": text})
    assert found == {}
    assert len(lacking) == 1


def test_without_given_captions_what_was_measured_before_stays_measured() -> None:
    """A changed fingerprint would throw away every caption of every run."""
    plain = CaptionStage(Counting(), GateSettings())
    assert plain.identity() == {"model": "counting", "prompt": "0" * 64}
    given = CaptionStage(Counting(), GateSettings(), CaptionSettings(use_given="images"))
    assert given.fingerprint({}) != plain.fingerprint({})


# Where in-paired references lie.


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    start=st.integers(0, 10**8),
    length=st.integers(2_000_000, 60_000_000),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    window=st.sampled_from(["middle", "start"]),
    seconds=st.floats(0, 30),
)
def test_the_reference_is_the_farthest_there_is_from_the_trained_span(
    start: int, length: int, shares: list[float], window: str, seconds: float
) -> None:
    rules = SampleRules.model_validate({"window": window, "window_seconds": seconds})
    pts = np.array(sorted(start + int(share * length) for share in shares), np.int64)
    of = np.zeros(len(pts), np.int64)
    outside, middle = distances(pts, of + start, of + start + length, rules)
    span = min(round(seconds * 1e6), length)
    begin = start if window == "start" else (2 * start + length) // 2 - span // 2
    for when, away in zip(pts.tolist(), outside.tolist(), strict=True):
        assert away == max(0, begin - when, when - (begin + span))
    (chosen,) = in_references(of, middle, np.ones(len(pts)))
    assert outside[chosen] >= outside.max() - 1  # half a span is rounded to a microsecond
    assert middle[chosen] == middle.max()  # inside whole: as far from its middle as can be


def test_a_reference_says_how_far_it_lies_from_the_trained_span() -> None:
    """A clip of 20 s, trained on its first five: the frame at 95 % lies 14 s behind them."""
    world = World()
    world.source("film", seconds=200)
    for begin in (0, 100):
        world.subject(world.clip("film", begin, begin + 20), "rabbit", look=f"at {begin}")
    rules: dict[str, Any] = {"sample": {"window": "start"}, "clip": {"max_seconds": 30}}
    samples = rows(select(world.tables(), changed(**rules)), "samples")
    in_pairs = [r for s in samples if s["pair_type"] == "in" for r in s["references"]]
    assert [r["distance_us"] for r in in_pairs] == [14_000_000, 14_000_000]
    cross = {s["clip_id"]: s["references"][0]["distance_us"] for s in samples
             if s["pair_type"] == "cross"}  # fmt: skip
    assert min(cross.values()) > 80_000_000  # in the same file, minutes away
    middle = rows(select(world.tables(), changed(clip={"max_seconds": 30})), "samples")
    assert {
        r["distance_us"] for s in middle if s["pair_type"] == "in" for r in s["references"]
    } == {6_500_000}


def test_equally_far_frames_are_told_apart_by_their_picture() -> None:
    of = np.array([0, 0, 1, 1, 1])
    middle = np.array([9, 9, 5, 9, 9])
    quality = np.array([0.2, 0.9, 1.0, 0.4, 0.4])
    assert in_references(of, middle, quality).tolist() == [1, 3]
    assert in_references(of[:0], middle[:0], quality[:0]).tolist() == []
