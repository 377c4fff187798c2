"""OpenS2V-5M's JSON: which frame a mask belongs to, which clip a pair, and what is refused."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_files import film, frame_number, mask_of, opens2v_entry, opens2v_pair, quarantined
from PIL import Image

from s2v.datapipe.base.media import masks
from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.datapipe.cli import main
from s2v.datapipe.interop.ledger import Ledger
from s2v.datapipe.interop.opens2v import OpenS2V, long_name
from s2v.datapipe.interop.settings import ImportSettings
from s2v.datapipe.interop.videos import Videos
from s2v.datapipe.interop.writing import ShardWriter
from s2v.datapipe.write.verify import verify_shards

SIZE = (160, 120)
BOX = (40, 20, 100, 80)
ONE, TWO = "film_segment1_step1-0-24", "film_segment2_step1-0-24"
WOMAN = ("woman", mask_of(SIZE, BOX))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Videos")
    for name in ("a", "b"):
        film(folder / "total_part1" / "part_001" / name / "video.mp4", box=BOX)
    return folder


def run(
    folder: Path, data: Any, videos: Path, pairs: Any = None, **settings: Any
) -> dict[str, Any]:
    """Write the JSON, import it, and give the counts; the result is below ``folder/out``."""
    file = folder / "total_part1.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    if pairs is not None:
        (folder / "cross").mkdir()
        (folder / "cross" / "film.json").write_text(json.dumps(pairs))
    chosen, ledger = ImportSettings(**settings), Ledger()
    dataset = OpenS2V([file], folder / "cross" if pairs is not None else None, chosen)
    writer = ShardWriter(folder / "out", Videos(videos), chosen, ledger, quiet=True)
    written = writer.write(dataset.samples(ledger))
    return {**ledger.write(folder / "out", {}), "written": written}


def samples(folder: Path, pair_type: str) -> list[Sample]:
    index = ShardIndex.open(folder / "out" / "shards")
    return [s for s in index if s.row["pair_type"] == pair_type]


def picture(sample: Sample, member: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(sample.read(member, verify=True))))


def entry(name: str = "a", objects: Any = (WOMAN,), **changes: Any) -> dict[str, Any]:
    return opens2v_entry(f"part_001/{name}/video.mp4", list(objects), **changes)


def test_with_a_cut_that_begins_late_the_mask_is_of_the_cuts_first_frame_in_the_file(
    tmp_path: Path, videos: Path
) -> None:
    """Users ask: frame numbers count from the file's first frame, not from the cut's."""
    done = run(tmp_path, {ONE: entry(cut=(7, 19))}, videos)
    assert done["counts"]["row"]["written"] == 1
    (sample,) = samples(tmp_path, "in")
    assert frame_number(picture(sample, "ref0.jpg")) == 7
    meta = sample.meta()
    assert (meta.video.frames, meta.source.start_us) == (12, 583_333)
    assert meta.refs[0].from_.pts_us == 583_333
    assert meta.caption.startswith("A woman in a red coat")  # face_cap_qwen goes before cap
    assert meta.scores.aesthetic == 5.07
    assert meta.source.long_video_id == "film"
    verify_shards(tmp_path / "out" / "shards")


def test_the_crop_is_x_x_y_y_and_masks_are_of_what_it_leaves(tmp_path: Path, videos: Path) -> None:
    crop = (20, 140, 10, 110)  # 120 x 100 pixels
    woman = ("woman", mask_of((120, 100), (20, 10, 80, 70)))
    run(tmp_path, {ONE: entry(objects=[woman], crop=crop)}, videos)
    (sample,) = samples(tmp_path, "in")
    mask = picture(sample, "ref0.mask.png").astype(bool)
    red = np.abs(picture(sample, "ref0.jpg").astype(int) - (220, 30, 30)).max(axis=2) < 60
    assert mask.sum() == 3600
    assert masks.iou(mask, red) > 0.93
    assert (sample.row["width"], sample.row["height"]) == (120, 100)


def test_a_pair_teaches_each_clip_with_the_object_of_the_other(
    tmp_path: Path, videos: Path
) -> None:
    data = {ONE: entry("a"), TWO: entry("b", cut=(4, 20))}
    pairs = [opens2v_pair(f"total_part1/{ONE}", f"total_part1/{TWO}", ("woman", "woman"), 0.8)]
    done = run(tmp_path, data, videos, pairs, pair_types=["cross"])
    assert done["counts"] == {
        "reference": {"in": 2, "written": 2, "left_out": {}},
        "row": {"in": 2, "written": 2, "left_out": {}},
    }
    by_frames = {s.row["frames"]: s for s in samples(tmp_path, "cross")}
    assert frame_number(picture(by_frames[24], "ref0.jpg")) == 4  # of the other clip
    assert frame_number(picture(by_frames[16], "ref0.jpg")) == 0
    meta = by_frames[24].meta()
    assert meta.refs[0].from_.source != meta.source.video_id
    assert meta.refs[0].scores.similarity == 0.8
    assert meta.refs[0].verdicts.same_identity == "not asked"
    assert {s.row["split"] for s in by_frames.values()} == {"train"}


BAD_PAIRS = {
    "a near copy": (opens2v_pair(ONE, TWO, ("woman", "woman"), 0.995), "near copy"),
    "with a clip of another part": (
        opens2v_pair(ONE, "total_part9/x", ("woman", "woman"), 0.8),
        "partner unknown",
    ),
    "of an object that is not there": (
        opens2v_pair(ONE, TWO, ("woman", "umbrella"), 0.8),
        "partner unknown",
    ),
    "of one of two dogs": (
        opens2v_pair(ONE, TWO, ("dog", "woman"), 0.8),
        "object not named uniquely",
    ),
    "with itself": (opens2v_pair(ONE, ONE, ("woman", "woman"), 0.8), "from the target itself"),
    "without a similarity": (
        {**opens2v_pair(ONE, TWO, ("woman", "woman"), 0), "image_similarity": "high"},
        "unreadable reference",
    ),
    "that is no object": (7, "unreadable reference"),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_a_bad_pair_is_filed_both_ways_and_the_good_one_used(
    tmp_path: Path, videos: Path, case: str
) -> None:
    bad, reason = BAD_PAIRS[case]
    dogs = [("dog", mask_of(SIZE, (0, 0, 40, 30))), ("dog", mask_of(SIZE, (110, 80, 160, 120)))]
    data = {ONE: entry("a", [WOMAN, *dogs]), TWO: entry("b")}
    pairs = [opens2v_pair(ONE, TWO, ("woman", "woman"), 0.7), bad]
    done = run(tmp_path, data, videos, pairs, pair_types=["cross"])
    counts = done["counts"]["reference"]
    assert (counts["in"], counts["written"], counts["left_out"]) == (4, 2, {reason: 2})


BAD_OBJECTS = {
    "a mask of another size": (("dog", mask_of((80, 60), (0, 0, 40, 40))), "mask of another size"),
    "a mask turned on its side": (
        ("dog", {**mask_of(SIZE, BOX), "size": [160, 120]}),
        "mask of another size",
    ),
    "runs that do not fill the frame": (
        ("dog", {"size": [120, 160], "counts": "0"}),
        "mask unreadable",
    ),
    "runs of other characters": (
        ("dog", {"size": [120, 160], "counts": "\u00e9\u00e9"}),
        "mask unreadable",
    ),
    "a run of ages": (
        ("dog", {"size": [120, 160], "counts": "oooooooooooo0"}),
        "mask unreadable",
    ),
    "runs as numbers": (("dog", {"size": [120, 160], "counts": [5, 5]}), "unreadable reference"),
    "an empty mask": (("dog", mask_of(SIZE, (0, 0, 0, 0))), "mask empty"),
    "no mask": (("dog", {}), "unreadable reference"),
    "a speck": (("dog", mask_of(SIZE, (0, 0, 10, 10))), "too small or too large"),
    "the whole frame": (("dog", mask_of(SIZE, (0, 0, 160, 120))), "too small or too large"),
    "background": (("park", mask_of(SIZE, (0, 0, 60, 60))), "background"),
    "a part of a body": (("human head", mask_of(SIZE, (0, 0, 60, 60))), "no subject"),
    "a word that the caption lacks": (
        ("umbrella", mask_of(SIZE, (0, 0, 60, 60))),
        "phrase not in the caption",
    ),
    "the same woman as a person": (
        ("coat", mask_of(SIZE, (41, 20, 100, 80))),
        "same object under another name",
    ),
    "a second woman": (
        ("woman", mask_of(SIZE, (0, 84, 160, 120))),
        "another reference of this phrase was taken",
    ),
}


@pytest.mark.parametrize("case", BAD_OBJECTS)
def test_a_bad_object_is_filed_and_the_good_one_written(
    tmp_path: Path, videos: Path, case: str
) -> None:
    bad, reason = BAD_OBJECTS[case]
    if case == "a second woman":
        bad = ("woman", mask_of(SIZE, (0, 84, 80, 120)))
    done = run(tmp_path, {ONE: entry(objects=[WOMAN, bad])}, videos)
    assert done["counts"]["reference"] == {"in": 2, "written": 1, "left_out": {reason: 1}}
    (sample,) = samples(tmp_path, "in")
    assert [ref.phrase for ref in sample.meta().refs] == ["woman"]


def without(key: str) -> dict[str, Any]:
    found = entry("b")
    (found["metadata"] if key != "annotation" else found).pop(key)
    return found


def with_metadata(**changes: Any) -> dict[str, Any]:
    found = entry("b")
    found["metadata"] |= changes
    return found


BAD_ROWS = {
    "no object": ([1, 2], "unreadable row"),
    "no annotation": (without("annotation"), "unreadable row"),
    "no path": (without("path"), "unreadable row"),
    "no crop": (without("crop"), "unreadable row"),
    "no caption": (with_metadata(face_cap_qwen=None, cap=[]), "no caption"),
    "a path up and out": (with_metadata(path="../../secret/video.mp4"), "video not found"),
    "a path from the root": (with_metadata(path="/etc/passwd"), "video not found"),
    "a video that is not there": (with_metadata(path="part_001/c/video.mp4"), "video not found"),
    "two videos of that name": (with_metadata(path="video.mp4"), "video not found"),
    "a cut behind the end": (with_metadata(face_cut=[0, 99]), "span outside the video"),
    "an empty cut": (with_metadata(face_cut=[5, 5]), "span outside the video"),
    "a cut of halves": (with_metadata(face_cut=[0.5, 9.5]), "unreadable row"),
    "a crop outside": (with_metadata(crop=[0, 400, 0, 120]), "no usable reference"),
    "a crop of ages": (with_metadata(crop=[0, 10**9, 0, 10**9]), "crop outside the frame"),
    "a crop turned round": (with_metadata(crop=[160, 0, 0, 120]), "crop outside the frame"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_entry_is_filed_and_the_others_are_written(
    tmp_path: Path, videos: Path, case: str
) -> None:
    bad, reason = BAD_ROWS[case]
    done = run(tmp_path, {ONE: entry(), TWO: bad}, videos)
    assert done["counts"]["row"] == {"in": 2, "written": 1, "left_out": {reason: 1}}
    assert quarantined(tmp_path / "out")[TWO] == reason


def test_two_entries_of_one_clip_give_one_sample(tmp_path: Path, videos: Path) -> None:
    done = run(tmp_path, {ONE: entry("a"), TWO: entry("a")}, videos)
    assert done["counts"]["row"]["left_out"] == {"sample twice": 1}
    assert done["written"]["samples"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "'[' where a file that holds one JSON object at its top has '{'"),
        ('{"a": {}, "a": {}}', "entry 'a' is there twice"),
        ('{"a": {"b": "', "entry 'a': not JSON: Unterminated string"),
        ('{"a": {}} {"b": {}}', "'{' behind the end of the object"),
        ('{"a": ' + "[" * 200_000 + "}", "entry 'a'"),
        ('{"a": 1' + "0" * 5000 + "}", "entry 'a'"),
        ("", "the end of the file where"),
    ],
)
def test_a_json_that_is_none_is_one_line_that_names_it(
    tmp_path: Path, videos: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "total_part1.json"
    file.write_text(text)
    code = main(
        ["import", "opens2v", "--files", str(file), "--videos", str(videos), "--out",
         str(tmp_path / "out"), "--quiet"]
    )  # fmt: skip
    error = capsys.readouterr().err
    assert code == 1
    assert message in error
    assert "total_part1.json" in error
    assert error.count("\n") == 1


def test_clusters_in_place_of_pairs_are_refused_with_what_to_give(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, pairs = tmp_path / "total_part1.json", tmp_path / "cluster_videos.json"
    file.write_text(json.dumps({ONE: entry()}))
    pairs.write_text(json.dumps({"film": [ONE, TWO]}))
    arguments = ["--videos", str(videos), "--out", str(tmp_path / "out"), "--quiet"]
    code = main(["import", "opens2v", "--files", str(file), "--pairs", str(pairs), *arguments])
    assert code == 1
    assert "is no list of pairs; give the folder of cross-frame" in capsys.readouterr().err


def test_the_long_video_is_named_as_the_datasets_own_clusters_are() -> None:
    assert long_name("gm1252760410-365677148_part2_step1-0-95") == "gm1252760410-365677148"
    assert long_name("abc_segment3_part2") == "abc"
    assert long_name("alone") == "alone"


@pytest.mark.parametrize("seed", range(4))
def test_counts_add_up_for_any_mixture_of_good_and_bad(
    tmp_path: Path, videos: Path, seed: int
) -> None:
    """``import.json`` is not written when they do not."""
    random_ = random.Random(seed)
    objects = [bad for bad, _ in BAD_OBJECTS.values()] + [WOMAN] * 3
    objects += [("dog", mask_of(SIZE, (0, 0, 60, 50)))] * 2
    data: dict[str, Any] = {ONE: entry()}
    for n in range(9):
        chosen = random_.choices(objects, k=random_.randrange(8))
        cut = (random_.randrange(5), 12 + random_.randrange(12))
        bad = random_.choice(list(BAD_ROWS.values()))[0]
        good = entry(random_.choice("ab"), chosen, cut=cut)
        data[f"film{n % 2}_segment{n}"] = bad if random_.random() < 0.3 else good
    keys = [*data, "gone"]
    pairs = [bad for bad, _ in BAD_PAIRS.values()]
    for _ in range(40):
        names = (random_.choice(["woman", "dog"]), random_.choice(["woman", "dog", "cup"]))
        cur, aft = f"total_part1/{random_.choice(keys)}", random_.choice(keys)
        pairs.append(opens2v_pair(cur, aft, names, random_.choice([0.7, 0.8, 0.99])))
    done = run(tmp_path, data, videos, pairs, max_references=random_.choice([1, 2, 6]))
    assert done["counts"]["row"]["in"] == 10
    assert len(quarantined(tmp_path / "out")) > 10
    verify_shards(tmp_path / "out" / "shards")
