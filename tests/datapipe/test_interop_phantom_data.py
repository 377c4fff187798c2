"""Phantom-Data's files: what becomes of every row, from which frame references are cut."""

from __future__ import annotations

import io
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
    target,
)
from PIL import Image
from written_run import hashes

from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.datapipe.cli import main
from s2v.datapipe.interop.errors import InteropError
from s2v.datapipe.interop.ledger import Ledger
from s2v.datapipe.interop.phantom_data import PhantomData
from s2v.datapipe.interop.settings import ImportSettings
from s2v.datapipe.interop.videos import Videos
from s2v.datapipe.interop.writing import ShardWriter
from s2v.datapipe.write.verify import verify_shards

A, B, BIG, GONE = "a1b2_0.0_2.0", "a1b2_10.5_12.5", "c3d4_1.0_3.0", "e5f6_0.0_2.0"
CAPTION = "A woman in a red coat walks past a shop, and a dog follows her."
BOX = (40, 20, 100, 80)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("koala")
    film(folder / f"{A}.mp4", box=BOX)
    film(folder / "deep" / f"{B}.mp4", box=BOX)
    # Larger than the 768 pixels that boxes were measured on.
    film(folder / f"{BIG}.mp4", frames=8, size=(1152, 648), box=(300, 150, 600, 450), fps=4)
    return folder


def run(pairs: Path, videos: Path, out: Path, **settings: Any) -> dict[str, Any]:
    chosen = ImportSettings(**settings)
    ledger = Ledger()
    dataset = PhantomData(pairs, None, chosen)
    writer = ShardWriter(out, Videos(videos), chosen, ledger, quiet=True)
    written = writer.write(dataset.samples(ledger))
    return {**ledger.write(out, {}), "written": written}


def by_type(out: Path, pair_type: str) -> Sample:
    (found,) = [s for s in ShardIndex.open(out / "shards") if s.row["pair_type"] == pair_type]
    return found


def picture(sample: Sample, member: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(sample.read(member, verify=True))))


def row(vid: str, pairs: Any, caption: str = CAPTION) -> dict[str, Any]:
    return {"vid": vid, "caption": caption, "pairs": pairs}


def good(vid: str = A, other: str = B) -> dict[str, Any]:
    return row(
        vid,
        {
            "A woman in a red coat": {
                "obj_from_tgt_video": [target(vid, "0.05", BOX)],
                "refer_result": [[reference(other, "0.5", BOX)]],
            }
        },
    )


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


def drop_column(path: Path) -> None:
    pq.write_table(pa.table({"video_id": [A], "video_caption": ["x"]}), path)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def other_bytes(path: Path) -> None:
    path.write_bytes(b"vid,video_caption\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_column, "p.parquet: has no column 'cross_pair'; it has video_id, video_caption"),
        (cut_short, "p.parquet: cannot be read as Parquet"),
        (other_bytes, "p.parquet: cannot be read as Parquet"),
        (Path.unlink, "p.parquet: no such file"),
    ],
)
def test_a_file_of_another_kind_is_one_line_that_names_it(
    tmp_path: Path, videos: Path, damage: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = phantom_pairs(tmp_path / "p.parquet", [good()])
    damage(file)
    code = main(
        ["import", "phantom-data", "--pairs", str(file), "--videos", str(videos), "--out",
         str(tmp_path / "out"), "--quiet"]
    )  # fmt: skip
    error = capsys.readouterr().err
    assert code == 1
    assert message in error
    assert error.count("\n") == 1


def test_an_import_of_nothing_fails_and_leaves_an_earlier_one_alone(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(phantom_pairs(tmp_path / "p.parquet", [good()]), videos, out)
    before = hashes(out / "shards")
    bad = phantom_pairs(tmp_path / "bad.parquet", [good(GONE)])
    arguments = ["--pairs", str(bad), "--videos", str(videos), "--out", str(out), "--quiet"]
    assert main(["import", "phantom-data", *arguments]) == 1
    assert "no sample could be made: {'video not found': 1}" in capsys.readouterr().err
    assert hashes(out / "shards") == before


def test_videos_may_be_named_by_a_table(tmp_path: Path, videos: Path) -> None:
    table = tmp_path / "files.csv"
    found = {vid: next(videos.rglob(f"{vid}.mp4")) for vid in (A, B)}
    table.write_text("name,file\n" + "".join(f"{vid},{path}\n" for vid, path in found.items()))
    file = phantom_pairs(tmp_path / "p.parquet", [good()])
    assert run(file, table, tmp_path / "out")["written"]["samples"] == 2
    with pytest.raises(InteropError, match=r"needs a name and a file"):
        Videos(_written(tmp_path / "bad.csv", "vid,path\na,b\n"))
    with pytest.raises(InteropError, match="no folder of videos, and no table"):
        Videos(tmp_path / "nothing")


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_takedown_holds_for_targets_and_references_of_an_import(
    tmp_path: Path, videos: Path
) -> None:
    file = phantom_pairs(tmp_path / "p.parquet", [good(), good(BIG)])
    run(file, videos, tmp_path / "first")
    taken = {s.row["video_id"]: s for s in ShardIndex.open(tmp_path / "first" / "shards")}
    reference_video = next(iter(taken.values())).meta().refs[0].from_.source
    sample = by_type_of(tmp_path / "first", "in", BIG)
    lines = [("video_id", reference_video), ("sample_id", sample.id)]
    entries = [
        json.dumps({"key_type": k, "key": v, "reason": "asked", "by": "x", "when": "2026-01-01"})
        for k, v in lines
    ]
    (tmp_path / "gone.jsonl").write_text("\n".join(entries))
    chosen = [str(tmp_path / "gone.jsonl")]
    done = run(file, videos, tmp_path / "second", exclusions=chosen)
    index = ShardIndex.open(tmp_path / "second" / "shards")
    left = {s.id for s in index}
    assert sample.id not in left
    assert all(r.from_.source != reference_video for s in index for r in s.meta().refs)
    assert done["counts"]["reference"]["left_out"]["excluded"] >= 2


def by_type_of(out: Path, pair_type: str, name: str) -> Sample:
    (found,) = [
        s
        for s in ShardIndex.open(out / "shards")
        if s.row["pair_type"] == pair_type and s.row["long_video_id"] == name.partition("_")[0]
    ]
    return found


def test_shards_are_as_many_as_their_samples_need(tmp_path: Path, videos: Path) -> None:
    rows = [good(), good(BIG, A)]
    file = phantom_pairs(tmp_path / "p.parquet", rows)
    done = run(file, videos, tmp_path / "out", samples_per_shard=1, pair_types=["cross"])
    shards = {
        s.row["long_video_id"]: s.row["shard"] for s in ShardIndex.open(tmp_path / "out/shards")
    }
    assert done["written"]["samples"] == 2
    assert set(shards.values()) <= {"cross-000000.tar", "cross-000001.tar"}
    verify_shards(tmp_path / "out" / "shards")


def test_clips_of_an_import_are_brought_to_buckets(tmp_path: Path, videos: Path) -> None:
    file = phantom_pairs(tmp_path / "p.parquet", [good()])
    run(file, videos, tmp_path / "out", write={"buckets": [[64, 64]], "frame_step": 4})
    for sample in ShardIndex.open(tmp_path / "out" / "shards"):
        assert (sample.row["height"], sample.row["width"]) == (64, 64)
        assert sample.row["frames"] % 4 == 1
    verify_shards(tmp_path / "out" / "shards", deep=True)


def test_half_a_character_costs_its_row_and_no_other(tmp_path: Path, videos: Path) -> None:
    """JSON may write down surrogates that no file name, hash or shard can hold."""
    bad = good()
    key = "A woman in a red coat"
    bad["pairs"]["\ud83d woman"] = bad["pairs"].pop(key)
    worse = good(BIG, A)
    worse["pairs"][key]["refer_result"][0][0]["vid"] = "\ud83d_0.0_2.0"
    file = phantom_pairs(tmp_path / "p.parquet", [bad, worse])
    done = run(file, videos, tmp_path / "out")
    assert done["written"]["samples"] == 1
    assert (tmp_path / "out" / "quarantine.jsonl").read_bytes().isascii()
