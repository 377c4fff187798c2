"""Phantom-Data's files as users have them: of another kind, taken down, named by a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_files import phantom_pairs
from phantom_import import BIG, GONE, A, B, films, good, run
from written_run import hashes

from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.datapipe.cli import main
from s2v.datapipe.interop.errors import InteropError
from s2v.datapipe.interop.videos import Videos
from s2v.datapipe.write.verify import verify_shards


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films(tmp_path_factory.mktemp("koala"))


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
