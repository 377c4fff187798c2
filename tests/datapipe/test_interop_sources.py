"""Other curators' clips become sources that the listing takes; every row is accounted for."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from foreign_files import curator_meta, film, quarantined, v2d_shard

from s2v.datapipe import staging
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.cli import main
from s2v.datapipe.sources import SourceSpec, list_sources

ONE = "d2d0b3d1-0000-5000-8000-000000000001"
TWO = "d2d0b3d1-0000-5000-8000-000000000002"
THREE = "d2d0b3d1-0000-5000-8000-000000000003"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return film(tmp_path_factory.mktemp("clip") / "clip.mp4").read_bytes()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2V_SOURCE_CACHE", str(tmp_path / "cache"))


def curated(folder: Path, clip: bytes, metas: dict[str, Any], clips: list[str]) -> Path:
    (folder / "clips").mkdir(parents=True)
    (folder / "metas" / "v0").mkdir(parents=True)
    for n, uuid in enumerate(clips):
        (folder / "clips" / f"{uuid}.mp4").write_bytes(clip + bytes(8) + bytes([n]))
    for name, meta in metas.items():
        text = meta if isinstance(meta, str) else json.dumps(meta)
        (folder / "metas" / "v0" / f"{name}.json").write_text(text)
    return folder


def take(kind: str, folder: Path, out: Path, *more: str) -> dict[str, Any]:
    assert main(["import", kind, str(folder), "--out", str(out), *more]) == 0
    found: dict[str, Any] = json.loads((out.parent / f"{out.name}.import/import.json").read_text())
    return found


def listed(manifest: Path) -> dict[str, dict[str, Any]]:
    rows = list_sources([SourceSpec(manifest=str(manifest), licence="CC BY 4.0")])
    return {row["video_id"]: row for row in rows}


def test_a_curators_clips_are_listed_with_caption_and_long_video(
    tmp_path: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    metas = {
        ONE: curator_meta(ONE, [(0, 23, "A street.")]),
        TWO: curator_meta(TWO, [], duration_span=[6.0, 8.0]),
    }
    folder = curated(tmp_path / "nemo", clip, metas, [ONE, TWO])
    done = take("curator", folder, tmp_path / "m" / "nemo.jsonl")
    assert done["counts"] == {"row": {"in": 2, "written": 2, "left_out": {}}}
    rows = listed(tmp_path / "m" / "nemo.jsonl")
    assert rows[ONE]["given_caption"] == "A street."
    assert (rows[ONE]["offset_us"], rows[TWO]["offset_us"]) == (4_000_000, 6_000_000)
    assert rows[ONE]["long_video_id"] == rows[TWO]["long_video_id"]
    assert rows[ONE]["licence"] == "CC BY 4.0"
    assert Path(staging.local_path(rows[ONE])).read_bytes().startswith(clip)
    assert "/data/videos" not in (tmp_path / "m" / "nemo.jsonl").read_text()
    assert str(tmp_path) not in (tmp_path / "m" / "nemo.jsonl").read_text()
    assert "written: 2" in capsys.readouterr().out


def test_each_captioned_window_is_a_part_of_its_clip(tmp_path: Path, clip: bytes) -> None:
    windows = [(0, 11, "A man enters."), (12, 23, "He leaves.")]
    folder = curated(tmp_path / "nemo", clip, {ONE: curator_meta(ONE, windows)}, [ONE])
    done = take("curator", folder, tmp_path / "nemo.jsonl")
    assert done["counts"]["row"]["written"] == 2
    rows = sorted(listed(tmp_path / "nemo.jsonl").values(), key=lambda row: int(row["from_us"]))
    # Both frames of a window are inside it: 12 of 12 a second are one second.
    assert [(r["from_us"], r["to_us"]) for r in rows] == [(0, 1_000_000), (1_000_000, 2_000_000)]
    assert [r["given_caption"] for r in rows] == ["A man enters.", "He leaves."]


def test_the_enhanced_caption_goes_before_others_and_a_key_before_all(
    tmp_path: Path, clip: bytes
) -> None:
    meta = curator_meta(ONE, [(0, 23, "plain")])
    meta["windows"][0] |= {"qwen_lm_enhanced_caption": "rich", "phi_caption": "other"}
    folder = curated(tmp_path / "nemo", clip, {ONE: meta}, [ONE])
    take("curator", folder, tmp_path / "a.jsonl")
    assert listed(tmp_path / "a.jsonl")[ONE]["given_caption"] == "rich"
    take("curator", folder, tmp_path / "b.jsonl", "--caption", "phi_caption")
    assert listed(tmp_path / "b.jsonl")[ONE]["given_caption"] == "other"


BAD_METAS = {
    "of no clip": (curator_meta(THREE, []), "video not found"),
    "marked invalid": (curator_meta(TWO, [], valid=False), "left out by its curator"),
    "not JSON": ("{", "unreadable row"),
    "a list": ([], "unreadable row"),
    "huge": ('"' + "x" * (17 << 20), "unreadable row"),
    "up and out": (curator_meta("../../etc", []), "unreadable row"),
    "of no span": (curator_meta(TWO, [], duration_span=[5]), "unreadable row"),
    "of a span turned round": (curator_meta(TWO, [], duration_span=[5, 4]), "unreadable row"),
    "twice": (curator_meta(ONE, []), "id twice"),
    "with a caption of numbers": (
        curator_meta(TWO, []) | {"windows": [{"start_frame": 0, "end_frame": 3, "a_caption": 5}]},
        "unreadable row",
    ),
    "with a window turned round": (curator_meta(TWO, [(9, 3, "x")]), "unreadable row"),
    "with windows of no rate": (
        curator_meta(TWO, [(0, 3, "x"), (4, 7, "y")], framerate=0),
        "unreadable row",
    ),
}


@pytest.mark.parametrize("case", BAD_METAS)
def test_a_bad_meta_is_filed_and_the_good_one_listed(
    tmp_path: Path, clip: bytes, case: str
) -> None:
    bad, reason = BAD_METAS[case]
    metas = {ONE: curator_meta(ONE, []), "zz-bad": bad}
    folder = curated(tmp_path / "nemo", clip, metas, [ONE, TWO])
    done = take("curator", folder, tmp_path / "nemo.jsonl")
    counts = done["counts"]["row"]
    assert counts["written"] == 1
    assert counts["left_out"] == {reason: counts["in"] - 1}
    assert listed(tmp_path / "nemo.jsonl").keys() == {ONE}
    assert reason in quarantined(tmp_path / "nemo.jsonl.import").values()


def test_cosmos_lines_are_read_like_its_single_files(tmp_path: Path, clip: bytes) -> None:
    folder = curated(tmp_path / "cosmos", clip, {}, [ONE, TWO])
    lines = tmp_path / "cosmos" / "metas_jsonl" / "v0"
    lines.mkdir(parents=True)
    good = [curator_meta(ONE, [(0, 23, "One.")]), curator_meta(TWO, [])]
    text = "\n".join(json.dumps(m) for m in good) + "\nnot json\n\n"
    (lines / "video_0.jsonl").write_text(text)
    done = take("curator", folder, tmp_path / "cosmos.jsonl")
    assert done["counts"]["row"] == {"in": 3, "written": 2, "left_out": {"unreadable row": 1}}


def test_a_folder_of_another_kind_is_refused_with_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, message in (
        ("curator", "give the output_path of the pipeline"),
        ("video2dataset", "holds no .tar; give the output_folder"),
    ):
        assert main(["import", kind, str(tmp_path), "--out", str(tmp_path / "m.jsonl")]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "00000.tar").write_bytes(b"x" * 600)
    arguments = ["import", "video2dataset", str(tmp_path), "--out"]
    assert main([*arguments, str(tmp_path / "m.jsonl")]) == 1
    assert "no clip can be used: {'unreadable row': 1}" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "m.csv")]) == 1
    assert "a manifest is written as .jsonl" in capsys.readouterr().err


def test_videos_of_a_shard_are_read_from_their_tar(tmp_path: Path, clip: bytes) -> None:
    url = "https://host.example/watch?v=1"
    shard = [
        {"key": "000000000_00000", "video": clip, "caption": "First.", "url": url,
         "clips": [["0:00:03.000", "0:00:05.000"]]},
        {"key": "000000000_00001", "video": clip + b"\0", "caption": "Second.", "url": url,
         "clips": [["0:00:07.500", "0:00:09.500"]]},
        {"key": "000000001", "caption": "Gone.", "status": "failed_to_download",
         "error": "ERROR: [youtube]: private"},
    ]  # fmt: skip
    v2d_shard(tmp_path / "v2d", 0, shard)
    done = take("video2dataset", tmp_path / "v2d", tmp_path / "v2d.jsonl")
    assert done["counts"]["row"] == {"in": 3, "written": 2, "left_out": {"not downloaded": 1}}
    filed = (tmp_path / "v2d.jsonl.import" / "quarantine.jsonl").read_text()
    assert "failed_to_download: ERROR: [youtube]: private" in filed
    rows = listed(tmp_path / "v2d.jsonl")
    first, second = rows["000000000_00000"], rows["000000000_00001"]
    assert first["long_video_id"] == second["long_video_id"]
    assert (first["offset_us"], second["offset_us"]) == (3_000_000, 7_500_000)
    assert (first["given_caption"], first["url"]) == ("First.", url)
    local = staging.local_path(first)
    assert Path(local).read_bytes() == clip
    assert probe(local).declared_frames == 24


BAD_SAMPLES = {
    "failed": ({"status": "failed_to_subsample"}, "not downloaded"),
    "with json of another kind": ({"json": b"[1]"}, "unreadable row"),
    "with json that is none": ({"json": b"{"}, "unreadable row"),
    "with clips of words": ({"clips": [["now", "then"]]}, "unreadable row"),
    "with a caption over all bounds": ({"caption": "x" * (2 << 20)}, "unreadable row"),
}


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_a_bad_sample_of_a_shard_is_filed_and_the_good_one_listed(
    tmp_path: Path, clip: bytes, case: str
) -> None:
    bad, reason = BAD_SAMPLES[case]
    good = {"key": "000000000", "video": clip, "caption": "Good."}
    v2d_shard(tmp_path / "v2d", 0, [good, {"key": "000000001", "video": clip, **bad}])
    done = take("video2dataset", tmp_path / "v2d", tmp_path / "v2d.jsonl")
    assert done["counts"]["row"] == {"in": 2, "written": 1, "left_out": {reason: 1}}
    assert listed(tmp_path / "v2d.jsonl").keys() == {"000000000"}


def test_a_shard_that_breaks_off_costs_itself_alone(tmp_path: Path, clip: bytes) -> None:
    v2d_shard(tmp_path / "v2d", 0, [{"key": "000000000", "video": clip}])
    broken = v2d_shard(tmp_path / "v2d", 1, [{"key": "000010000", "video": clip}])
    broken.write_bytes(broken.read_bytes()[:2000])
    done = take("video2dataset", tmp_path / "v2d", tmp_path / "v2d.jsonl")
    assert done["counts"]["row"] == {"in": 2, "written": 1, "left_out": {"unreadable row": 1}}


def test_names_in_a_tar_lead_nowhere(tmp_path: Path, clip: bytes) -> None:
    folder = tmp_path / "v2d"
    folder.mkdir()
    (tmp_path / "clip.mp4").write_bytes(clip)
    with tarfile.open(folder / "00000.tar", "w") as tar:
        tar.add(tmp_path / "clip.mp4", "000000000.mp4")
        tar.add(tmp_path / "clip.mp4", "../../up.mp4")
        tar.add(tmp_path / "clip.mp4", "a#b.mp4")
        link = tarfile.TarInfo("000000002.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    done = take("video2dataset", folder, tmp_path / "v2d.jsonl")
    assert done["counts"]["row"] == {"in": 3, "written": 1, "left_out": {"unreadable row": 2}}


def test_the_same_folder_gives_the_same_manifest(tmp_path: Path, clip: bytes) -> None:
    metas = {u: curator_meta(u, [(0, 23, "x")]) for u in (TWO, ONE)}
    for name in ("a", "b"):
        curated(tmp_path / name / "nemo", clip, metas, [ONE, TWO])
        take("curator", tmp_path / name / "nemo", tmp_path / name / "m.jsonl")
    first, second = ((tmp_path / name / "m.jsonl").read_bytes() for name in ("a", "b"))
    assert first == second
