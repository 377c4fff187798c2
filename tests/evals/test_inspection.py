"""Unusable media must be named before an hour of scoring, and never scored in part."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from s2v.datapipe.base.media.errors import MediaError
from s2v.evals import media
from s2v.evals.inspection import inspect
from s2v.evals.manifest import load_manifest


def problems(study: Any, **options: Any) -> dict[str, str]:
    manifest = load_manifest(study.save())
    usable, found = inspect(manifest, manifest.samples, **options)
    assert len(usable) + len(found) == len(manifest.samples)
    return {p.sample_id: p.kind for p in found}


def test_whole_media_pass_with_every_frame_time(study: Any) -> None:
    manifest = load_manifest(study.manifest)
    usable, found = inspect(manifest, manifest.samples)
    assert found == []
    assert [len(u.times_us) for u in usable] == [10] * 4
    assert usable[0].times_us[:3] == (0, 125_000, 250_000)
    assert len({u.video_sha256 for u in usable}) == 4


def test_each_kind_of_broken_media_is_told_apart(study: Any) -> None:
    videos = study.root / "videos"
    whole = (videos / "a-1.mp4").read_bytes()
    (videos / "a-1.mp4").unlink()
    (videos / "a-2.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "b-1.mp4").write_text("a text file named .mp4")
    (videos / "c-1.mp4").write_bytes(b"")
    assert problems(study) == {
        "a-1": "video_missing",
        "a-2": "video_truncated",
        "b-1": "video_not_media",
        "c-1": "video_empty",
    }


def test_broken_references_and_masks_are_told_apart(study: Any) -> None:
    refs = study.root / "refs"
    PIL.Image.new("L", (10, 10)).save(refs / "small.png")
    PIL.Image.new("RGB", (300, 200)).save(refs / "colour.png")
    (refs / "cut.png").write_bytes((refs / "r.png").read_bytes()[:900])
    ref = study.lines[0]["refs"][0]
    study.lines[0]["refs"] = [{**ref, "path": "refs/absent.png"}]
    study.lines[1]["refs"] = [{**ref, "path": "refs/cut.png"}]
    study.lines[2]["refs"] = [{**ref, "mask": "refs/small.png"}]
    study.lines[3]["refs"] = [{**ref, "mask": "refs/colour.png"}]
    found = problems(study)
    assert found["a-1"] == "reference_missing"
    assert found["a-2"] in ("reference_truncated", "reference_corrupt")
    assert found["b-1"] == "mask_size"
    assert found["c-1"] == "mask_corrupt"


def test_the_same_content_under_two_ids_counts_once(study: Any) -> None:
    shutil.copy(study.root / "videos" / "a-1.mp4", study.root / "videos" / "copy.mp4")
    study.add("z-9", video="videos/copy.mp4", prompt=study.lines[0]["prompt"])
    assert problems(study) == {"z-9": "duplicate"}


def test_one_clip_with_two_prompts_is_no_duplicate(study: Any) -> None:
    study.add("z-9", video="videos/a-1.mp4", prompt="other words")
    assert problems(study) == {}


def test_known_videos_are_not_decoded_again(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert problems(study, cache=tmp_path / "times") == {}
    decoded = []
    monkeypatch.setattr(media, "frame_times", lambda path: decoded.append(path) or (0,))
    assert problems(study, cache=tmp_path / "times") == {}
    assert decoded == []
    next((tmp_path / "times").iterdir()).write_text("damaged")
    problems(study, cache=tmp_path / "times")
    assert len(decoded) == 1


def test_frames_read_by_index_are_those_of_the_video(study: Any, pan: Any) -> None:
    path = study.root / "videos" / "c-1.mp4"
    times = media.frame_times(path)
    picked = media.read_frames(path, times, [9, 0, 4])
    assert sorted(picked) == [0, 4, 9]
    assert picked[0].shape == (96, 160, 3)
    # The clip pans by 6 pixels a frame.
    moved = picked[4][:, : 160 - 24].astype(int) - picked[0][:, 24:].astype(int)
    still = picked[4].astype(int) - picked[0].astype(int)
    assert np.abs(moved).mean() < 4 < np.abs(still).mean()


def test_a_file_exchanged_after_the_check_is_noticed(study: Any) -> None:
    videos = study.root / "videos"
    with pytest.raises(MediaError, match="frame 1 was at 60000 us when the file was checked"):
        media.read_frames(videos / "a-1.mp4", [0, 60_000], [1])
    with pytest.raises(MediaError, match="corrupt"):
        media.read_frames(videos / "a-1.mp4", [0, 99_000_000], [1])


def test_a_single_frame_and_names_in_any_script_are_scored(study: Any, encode_video: Any) -> None:
    image = np.full((32, 48, 3), 90, np.uint8)
    path = encode_video(study.root / "videos" / "ein Häschen 兎.mp4", [image])
    times = media.frame_times(path)
    assert times == (0,)
    assert media.read_frames(path, times, [0])[0].shape == (32, 48, 3)
    assert media.read_frames(path, times, []) == {}
    study.add("z-1", video="videos/ein Häschen 兎.mp4", prompt="hop " * 2000)
    assert problems(study) == {}
