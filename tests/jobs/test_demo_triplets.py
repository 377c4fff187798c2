"""What the demo promises of its triplets, on the real film, clips and photographs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from s2v.datapipe.base.shards import ShardIndex
from s2v.datapipe.cli import main

pytestmark = [pytest.mark.ray, pytest.mark.assets]

#: Who is who, by hand, for people; characters by the start of their clip in seconds.
PEOPLE = {
    "man-clip": "man", "man-leaves": "man", "man-enters": "man", "man-photo": "man",
    "obama-1": "obama", "obama-2": "obama", "obama-3": "obama",
    "obama-1-animated": "obama", "obama-2-animated": "obama", "obama-3-animated": "obama",
    "biden": "biden", "biden-animated": "biden", "group-photo": "group",
    "astronaut": "astronaut", "street": "cyclist",
}  # fmt: skip
#: Film seconds at which a clip shows one of the small animals, or the bird; else the rabbit.
SQUIRRELS = (118, 149, 163, 180, 186, 192, 199, 204, 209, 213, 378, 396, 399, 408, 436, 444, 581)
OTHERS = {"bird": (15, 381, 385, 390, 588), "rodent": (339,), "fruit": (417,), "butterfly": (78,)}


def character(clip_id: str) -> str:
    """The film's character that a clip shows as its main subject, labelled by eye."""
    second = int(clip_id.removeprefix("bbb-film-").split("-")[0]) // 1000
    for name, starts in {"squirrel": SQUIRRELS, **OTHERS}.items():
        if second in starts:
            return name
    return "rabbit"


def video_of(subject_id: str) -> str:
    return subject_id.rsplit("-", 3)[0]


def samples(demo: Any, pair_type: str) -> list[dict[str, Any]]:
    return [row for row in demo.rows("samples") if row["pair_type"] == pair_type]


def cross_references(demo: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    pairs = {(p["target_subject_id"], p["reference_subject_id"]): p for p in demo.rows("pairs")}
    return [
        (row, pairs[ref["subject_id"], ref["reference_subject_id"]])
        for row in samples(demo, "cross")
        for ref in row["references"]
    ]


def test_at_least_thirty_in_pairs_from_distinct_clips(demo: Any) -> None:
    clips = [row["clip_id"] for row in samples(demo, "in")]
    assert len(clips) >= 30
    assert len(set(clips)) == len(clips)


def test_at_least_ten_cross_pairs_lie_ten_seconds_apart_or_across_sources(demo: Any) -> None:
    found = cross_references(demo)
    assert len({row["clip_id"] for row, _ in found}) >= 10
    for _, pair in found:
        assert pair["target_clip_id"] != pair["reference_clip_id"]
        assert pair["gap_us"] is None or pair["gap_us"] >= 10_000_000


def test_the_films_characters_are_cross_paired_with_themselves_only(demo: Any) -> None:
    found = [p for _, p in cross_references(demo) if p["bank"] == "creature"]
    assert len(found) >= 8
    for pair in found:
        target, reference = pair["target_clip_id"], pair["reference_clip_id"]
        assert character(target) == character(reference), (target, reference)


def test_the_mans_photograph_is_paired_with_his_clip(demo: Any) -> None:
    found = {(video_of(p["target_subject_id"]), video_of(p["reference_subject_id"]))
             for _, p in cross_references(demo)}  # fmt: skip
    assert any(t in {"man-clip", "man-leaves", "man-enters"} and r == "man-photo" for t, r in found)


def test_no_two_different_people_are_ever_paired(demo: Any) -> None:
    for pair in demo.rows("pairs"):
        if pair["accepted"] and pair["bank"] == "person":
            target = video_of(pair["target_subject_id"])
            reference = video_of(pair["reference_subject_id"])
            assert PEOPLE[target] == PEOPLE[reference], (target, reference)


def test_every_copy_of_a_film_shot_is_refused_as_a_near_copy(demo: Any) -> None:
    files = {"bbb-film", "bbb-trailer", "bbb-shot"}
    across = [
        p
        for p in demo.rows("pairs")
        if {video_of(p["target_subject_id"]), video_of(p["reference_subject_id"])} <= files
        and video_of(p["target_subject_id"]) != video_of(p["reference_subject_id"])
    ]
    same_shot = [p for p in across if p["frame_phash_distance"] <= 10]
    assert same_shot, "the trailer and the single shot must meet their film"
    for pair in same_shot:
        assert not pair["accepted"]
        assert {"near_copy_frame", "duplicate_clip"} & set(pair["rules"])


def test_a_portrait_and_its_own_animation_are_a_near_copy(demo: Any) -> None:
    for pair in demo.rows("pairs"):
        names = {video_of(pair["target_subject_id"]), video_of(pair["reference_subject_id"])}
        if names in ({"obama-1", "obama-1-animated"}, {"obama-3", "obama-3-animated"}):
            assert not pair["accepted"], pair


def test_damaged_files_end_in_quarantine_with_their_reason(demo: Any) -> None:
    rows = {row["id"]: row for row in demo.rows("quarantine")}
    assert rows["half-a-street"]["error"] == "truncated"
    assert "declared" in rows["half-a-street"]["message"]
    assert rows["notes"]["error"] == "not_media"
    assert all(row["retry"] for row in rows.values())
    damaged = {"half-a-street", "notes"}
    assert not any(row["video_id"] in damaged for row in demo.rows("clips"))


def test_captions_never_name_a_cartoon_character_as_a_person(demo: Any) -> None:
    for row in demo.rows("phrases"):
        if row["clip_id"].startswith("bbb-"):
            assert row["bank"] != "person", row


def test_every_phrase_stands_in_its_caption_where_it_says(demo: Any) -> None:
    captions = {row["clip_id"]: row["caption"] for row in demo.rows("captions")}
    for row in demo.rows("phrases"):
        assert captions[row["clip_id"]][row["start"] : row["end"]] == row["phrase"]


def test_every_moment_of_every_readable_source_is_accounted_for(demo: Any) -> None:
    duration = {r["video_id"]: r["duration_us"] for r in demo.rows("probe") if r["duration_us"]}
    bad = {row["id"] for row in demo.rows("quarantine")}
    spans: dict[str, list[tuple[int, int]]] = {}
    for row in demo.rows("spans"):
        assert (row["clip_id"] is None) == (row["reason"] is not None)
        spans.setdefault(row["video_id"], []).append((row["start_us"], row["end_us"]))
    for video, end in duration.items():
        if video in bad:
            continue
        cut = sorted(spans[video])
        assert cut[0][0] == 0
        assert cut[-1][1] == end
        assert all(a[1] == b[0] for a, b in pairwise(cut))


def test_shards_hold_what_was_selected_and_every_byte_is_as_indexed(demo: Any) -> None:
    index = ShardIndex.open(demo.folder / "shards")
    chosen = {row["sample_id"] for row in demo.rows("samples")}
    assert {sample.id for sample in index} == chosen
    for sample in index:
        meta = sample.meta()
        for n, ref in enumerate(meta.refs):
            assert meta.caption[ref.span[0] : ref.span[1]] == ref.phrase
            assert sample.read(f"ref{n}.jpg", verify=True)[:2] == b"\xff\xd8"
            sample.read(f"ref{n}.mask.png", verify=True)
        sample.read("mp4", verify=True)
        assert sample.read("txt").decode() == meta.caption


def test_the_films_credit_travels_with_every_sample_cut_from_it(demo: Any) -> None:
    for sample in ShardIndex.open(demo.folder / "shards"):
        source = sample.meta().source
        if source.long_video_id == "big_buck_bunny":
            assert "Blender Foundation" in (source.credit or "")
            assert source.licence


def test_the_stock_readers_open_the_demos_shards_as_they_are(
    demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets
    import webdataset
    import wids

    folder = demo.folder / "shards"
    keys = {sample.id for sample in ShardIndex.open(folder)}
    tars = sorted(str(path) for path in folder.glob("*.tar"))
    assert {s["__key__"] for s in webdataset.WebDataset(tars, shardshuffle=False)} == keys
    by_number = wids.ShardListDataset(
        str(folder / "wids.json"), keep=True, transformations=[], cache_dir=str(tmp_path / "wids")
    )
    assert {by_number[n]["__key__"] for n in range(len(by_number))} == keys
    splits = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "hf"))
    parts = {sample.id: sample.row["part"] for sample in ShardIndex.open(folder)}
    assert {key: name for name, rows in splits.items() for key in rows["__key__"]} == parts


def test_stats_and_verify_answer_on_the_finished_run(
    demo: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(demo.folder)]) == 0
    assert main(["stats", str(demo.folder), "--json"]) == 0
    assert "quarantine" in capsys.readouterr().out
