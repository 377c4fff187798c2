"""Phantom-Data's rows: what becomes of every one, from which frame references are cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_files import (
    film,
    frame_number,
    phantom_clips,
    phantom_pairs,
    quarantined,
    reference,
)
from phantom_import import BIG, BOX, CAPTION, GONE, A, B, by_type, films, good, picture, row, run
from written_run import hashes

from s2v.datapipe.cli import main
from s2v.datapipe.interop.ledger import Ledger
from s2v.datapipe.interop.phantom_data import PhantomData
from s2v.datapipe.interop.settings import ImportSettings
from s2v.datapipe.write.verify import verify_shards


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films(tmp_path_factory.mktemp("koala"))


def test_a_reference_is_cut_from_the_frame_and_box_that_the_row_names(
    tmp_path: Path, videos: Path
) -> None:
    pairs = phantom_pairs(tmp_path / "p.parquet", [good()])
    done = run(pairs, videos, tmp_path / "out", licence="CC BY 4.0")
    assert done["counts"]["reference"] == {"in": 2, "written": 2, "left_out": {}}
    assert done["counts"]["row"] == {"in": 1, "written": 1, "left_out": {}}
    verify_shards(tmp_path / "out" / "shards")
    cross, own = by_type(tmp_path / "out", "cross"), by_type(tmp_path / "out", "in")
    # int(num_frames * frame_idx): 24 frames, half of them is number 12; 0.05 is number 1.
    assert frame_number(picture(cross, "ref0.jpg")) == 12
    assert frame_number(picture(own, "ref0.jpg")) == 1
    ref = cross.meta().refs[0]
    x0, y0, x1, y1 = (round(v) for v in ref.box)
    assert (x1 - x0, y1 - y0) == (60, 60)
    assert (
        np.abs(picture(cross, "ref0.jpg")[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2, 0] - 220.0).max() < 25
    )
    assert picture(cross, "ref0.mask.png").astype(bool).sum() == 3600
    assert CAPTION[slice(*ref.span)] == ref.phrase == "A woman in a red coat"
    assert (ref.noun, ref.class_) == ("woman", "person")
    assert ref.from_.pts_us == 1_000_000
    meta = cross.meta()
    assert ref.from_.clip_id != meta.source.clip_id
    assert ref.from_.source != meta.source.video_id
    assert (meta.source.long_video_id, meta.source.offset_us) == ("a1b2", 0)
    assert (meta.video.frames, meta.scenario, meta.source.licence) == (
        24,
        "single-human",
        "CC BY 4.0",
    )
    assert (ref.verdicts.same_identity, ref.verdicts.verifier) == ("yes", "phantom-data")
    assert own.meta().refs[0].verdicts.same_identity == "not asked"


def test_boxes_are_scaled_up_from_the_768_pixels_they_were_measured_on(
    tmp_path: Path, videos: Path
) -> None:
    pairs = row(A, {"dog": {"refer_result": [[reference(BIG, 0.0, (200, 100, 400, 300))]]}})
    run(phantom_pairs(tmp_path / "p.parquet", [pairs]), videos, tmp_path / "out")
    sample = by_type(tmp_path / "out", "cross")
    x0, y0, x1, y1 = (round(v) for v in sample.meta().refs[0].box)
    assert (x1 - x0, y1 - y0) == (300, 300)
    red = picture(sample, "ref0.jpg")[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4]
    assert np.abs(red.astype(int) - (220, 30, 30)).max() < 30


BAD_REFERENCES = {
    "beyond the right edge": (reference(B, 0.5, (40, 20, 210, 80)), "box outside the frame"),
    "turned inside out": (reference(B, 0.5, (100, 20, 40, 80)), "box outside the frame"),
    "of three numbers": (reference(B, 0.5, (40, 20, 100)), "unreadable reference"),
    "of words": (reference(B, 0.5, ("a", 20, 100, 80)), "unreadable reference"),
    "infinite": (
        {**reference(B, 0.5, BOX), "bbox_loc": [[0, 0, 1e999, 9]]},
        "unreadable reference",
    ),
    "behind the last frame": (reference(B, 1.0, BOX), "frame beyond the clip"),
    "before the first": (reference(B, -0.1, BOX), "frame beyond the clip"),
    "at no moment": (reference(B, "noon", BOX), "unreadable reference"),
    "without a clip": ({"frame_idx": 0.5, "bbox_loc": [list(BOX)]}, "unreadable reference"),
    "in a clip that is not there": (reference(GONE, 0.5, BOX), "video not found"),
    "in the target": (reference(A, 0.5, BOX), "from the target itself"),
    "no object": ("B", "unreadable reference"),
    "up and out": (reference("../../etc/passwd_0.0_1.0", 0.5, BOX), "video not found"),
}


@pytest.mark.parametrize("case", BAD_REFERENCES)
def test_a_bad_reference_is_filed_and_the_next_good_one_taken(
    tmp_path: Path, videos: Path, case: str
) -> None:
    bad, reason = BAD_REFERENCES[case]
    pairs = {"dog": {"refer_result": [[bad, reference(B, 0.25, BOX)], [reference(B, 0.75, BOX)]]}}
    file = phantom_pairs(tmp_path / "p.parquet", [row(A, pairs)])
    done = run(file, videos, tmp_path / "out")
    assert frame_number(picture(by_type(tmp_path / "out", "cross"), "ref0.jpg")) == 6
    counts = done["counts"]["reference"]
    assert (counts["in"], counts["written"]) == (3, 1)
    assert counts["left_out"] == {reason: 1, "another reference of this phrase was taken": 1}


BAD_ROWS = {
    "not JSON": ({"vid": BIG, "caption": CAPTION, "pairs": '{"a": '}, "unreadable row"),
    "a list": ({"vid": BIG, "caption": CAPTION, "pairs": "[1, 2]"}, "unreadable row"),
    "nested beyond reason": (
        {"vid": BIG, "caption": CAPTION, "pairs": "[" * 100_000},
        "unreadable row",
    ),
    "huge": (
        {"vid": BIG, "caption": CAPTION, "pairs": '"' + "x" * (5 << 20) + '"'},
        "unreadable row",
    ),
    "null": ({"vid": BIG, "caption": CAPTION, "pairs": None}, "unreadable row"),
    "without a caption": ({"vid": BIG, "caption": None, "pairs": {}}, "no caption"),
    "without an id": ({"vid": None, "caption": CAPTION, "pairs": {}}, "unreadable row"),
    "twice": (good(), "id twice"),
    "without phrases": ({"vid": BIG, "caption": CAPTION, "pairs": {}}, "no usable reference"),
    "of a clip that is not there": (good(GONE), "video not found"),
    "whose phrase is not in its caption": (
        good(BIG) | {"caption": "A cat."},
        "no usable reference",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_filed_and_the_others_are_written(
    tmp_path: Path, videos: Path, case: str
) -> None:
    bad, reason = BAD_ROWS[case]
    file = phantom_pairs(tmp_path / "p.parquet", [good(), bad])
    done = run(file, videos, tmp_path / "out", pair_types=["cross"])
    assert done["counts"]["row"] == {"in": 2, "written": 1, "left_out": {reason: 1}}
    found = quarantined(tmp_path / "out")
    assert reason in found.values()
    rows = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert any(json.loads(line)["where"] == "p.parquet, row 1" for line in rows)
    verify_shards(tmp_path / "out" / "shards")


def test_a_damaged_video_costs_its_rows_and_no_other(tmp_path: Path, videos: Path) -> None:
    folder = tmp_path / "videos"
    for vid in (A, B):
        found = next(videos.rglob(f"{vid}.mp4"))
        (folder / found.name).parent.mkdir(exist_ok=True)
        (folder / found.name).write_bytes(found.read_bytes())
    (folder / f"{BIG}.mp4").write_bytes((folder / f"{A}.mp4").read_bytes()[:3000])
    file = phantom_pairs(tmp_path / "p.parquet", [good(), good(BIG)])
    done = run(file, folder, tmp_path / "out", pair_types=["cross"])
    assert done["counts"]["row"] == {"in": 2, "written": 1, "left_out": {"video unusable": 1}}


@pytest.mark.parametrize("kind", ["text", "struct", "map", "readme"])
def test_every_spelling_of_the_table_gives_the_same_samples(
    tmp_path: Path, videos: Path, kind: str
) -> None:
    """The README calls the id ``vid`` and the pairs a dictionary; the file has text."""
    pairs = good()["pairs"]
    file = tmp_path / "p.parquet"
    if kind in ("text", "readme"):
        name = "vid" if kind == "readme" else "video_id"
        phantom_pairs(file, [good()], id_column=name)
    else:
        value: Any = [pairs]
        if kind == "map":
            inner = pa.array([pairs]).type.field(0).type
            value = pa.array([list(pairs.items())], pa.map_(pa.string(), inner))
        pq.write_table(
            pa.table({"video_id": [A], "video_caption": [CAPTION], "cross_pair": value}), file
        )
    ledger = Ledger()
    plain = PhantomData(
        phantom_pairs(tmp_path / "plain.parquet", [good()]), None, ImportSettings()
    ).samples(Ledger())
    found = PhantomData(file, None, ImportSettings()).samples(ledger)
    assert [(s.pair_type, s.subjects) for s in found] == [(s.pair_type, s.subjects) for s in plain]
    assert len(found) == 2


def test_clips_are_found_in_whole_videos_by_their_seconds(tmp_path: Path) -> None:
    """Users may have the long video under its YouTube id instead of single clips."""
    film(tmp_path / "videos" / "dQw4w9WgXcQ.mp4", frames=32)
    vid, other = "long_0.5_1.5", "long_1.5_2.5"
    pairs = phantom_pairs(tmp_path / "p.parquet", [good(vid, other)])
    url = "https://www.youtube.com/watch?v=dQw4w9WgXcQ"
    clips = phantom_clips(tmp_path / "c.parquet", {vid: url, other: url})
    out = tmp_path / "out"
    code = main(
        ["import", "phantom-data", "--pairs", str(pairs), "--clips", str(clips), "--videos",
         str(tmp_path / "videos"), "--out", str(out), "--quiet"]
    )  # fmt: skip
    assert code == 0
    sample = by_type(out, "cross")
    # 0.5 of the second from 1.5 s on is 2.0 s: frame 24 of 12 a second.
    assert frame_number(picture(sample, "ref0.jpg")) == 24
    meta = sample.meta()
    assert (meta.source.start_us, meta.source.end_us, meta.video.frames) == (500_000, 1_500_000, 12)
    assert meta.source.url == url
    assert meta.source.video_id == "dQw4w9WgXcQ"


def test_the_same_files_give_the_same_bytes_with_any_number_of_workers(
    tmp_path: Path, videos: Path
) -> None:
    rows = [good(), good(B, A), good(BIG, A), good(GONE)]
    file = phantom_pairs(tmp_path / "p.parquet", rows)
    run(file, videos, tmp_path / "one")
    turned = phantom_pairs(tmp_path / "turned.parquet", rows[::-1])
    run(turned, videos, tmp_path / "other", workers=3)
    assert hashes(tmp_path / "one" / "shards") == hashes(tmp_path / "other" / "shards")
    before = hashes(tmp_path / "one")
    run(file, videos, tmp_path / "one")
    assert hashes(tmp_path / "one") == before


def test_parts_hold_every_row_once_and_no_long_video_twice(tmp_path: Path) -> None:
    rows = [good(f"film{n}_{k}.0_{k}.5") for n in range(20) for k in range(2)]
    file = phantom_pairs(tmp_path / "p.parquet", rows)
    seen: list[set[str]] = []
    for number in range(3):
        settings = ImportSettings(part={"number": number, "of": 3})
        ledger = Ledger()
        samples = PhantomData(file, None, settings).samples(ledger)
        seen.append({s.row for s in samples})
    assert sorted(vid for part in seen for vid in part) == sorted(r["vid"] for r in rows)
    films = [{vid.split("_")[0] for vid in part} for part in seen]
    assert sum(map(len, films)) == 20
    assert min(map(len, films)) > 0
