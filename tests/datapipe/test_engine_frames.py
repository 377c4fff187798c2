"""Stored frames: damage of the run folder never costs a clip, and no frame counts twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_stages import item
from media_corpus import Corpus

from s2v.datapipe.engine.runner import StageRun, UnitRunner
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.engine.store import StageStore, StoreError
from s2v.datapipe.measure.frame_stage import Frames
from s2v.datapipe.measure.frames import FrameReader, FrameStage, first_of_each
from s2v.datapipe.measure.sampling import FrameSettings
from s2v.datapipe.write.errors import WriteError
from s2v.datapipe.write.frames import FrameStore


def work(path: Path, end_us: int, start_us: int = 0) -> dict[str, Any]:
    clip = {"clip_id": "c", "video_id": "v", "kind": "video"}
    made = item("u", [{**clip, "start_us": start_us, "end_us": end_us}])
    made["tables"]["sources"] = [{"video_id": "v", "path": str(path)}]
    return made


def measured(run: Path, unit: dict[str, Any], fingerprint: str = "f") -> list[Row]:
    UnitRunner(str(run), [StageRun(FrameStage(FrameSettings()), fingerprint)]).measure(unit)
    return StageStore(run, "frames", fingerprint).rows("u")["frames"]


def seen(run: Path, rows: list[Row]) -> Unit:
    return Unit("u", "clip_id", ["c"], {"frames": rows}, run)


@pytest.fixture(scope="module")
def film(corpus: Corpus) -> Path:
    path = corpus.folder / "plain-two-seconds.mp4"
    source = "testsrc=rate=8:size=64x48:duration=2"
    corpus.ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-threads", "1", path)
    return path


@pytest.fixture(scope="module")
def slow(corpus: Corpus) -> Path:
    """Three frames, each five seconds on the screen."""
    path = corpus.folder / "five-seconds-a-frame.mp4"
    source = "testsrc=rate=0.2:size=64x48:duration=15"
    corpus.ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-threads", "1", path)
    return path


@pytest.mark.parametrize("damage", ["missing", "short", "overwritten"])
def test_damaged_frames_cost_no_clip_and_say_what_to_delete(
    tmp_path: Path, film: Path, damage: str
) -> None:
    rows = measured(tmp_path, work(film, 2_000_000))
    assert len(rows) == 3
    tar = tmp_path / rows[-1]["tar"]
    whole = tar.read_bytes()
    if damage == "missing":
        tar.unlink()
    elif damage == "short":
        tar.write_bytes(whole[: rows[-1]["offset"] + 10])
    else:
        tar.write_bytes(bytes(len(whole)))
    unit = seen(tmp_path, rows)
    with pytest.raises(StoreError) as caught, unit.guard("c", "detect"):
        Frames(unit).image(rows[-1])
    assert unit.quarantine == []
    assert f"delete {tmp_path}/measure/frames-*/u.* to make it again" in str(caught.value)
    with pytest.raises(WriteError, match=r"frames-\*/u\.\*"):
        FrameStore(tmp_path).image(rows[-1])

    for commit in (tmp_path / "measure").glob("frames-*/u.*"):  # the advice mends it
        commit.unlink()
    assert measured(tmp_path, work(film, 2_000_000)) == rows
    assert tar.read_bytes() == whole


def test_other_times_or_versions_never_overwrite_the_frames_of_an_older_commit(
    tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = measured(tmp_path, work(film, 2_000_000))
    jpegs = [FrameReader(tmp_path).jpeg(row) for row in old]
    shorter = measured(tmp_path, work(film, 1_000_000), "other-shots")
    monkeypatch.setattr(FrameStage, "version", FrameStage.version + 1)
    newer = measured(tmp_path, work(film, 2_000_000), "newer")
    assert len({rows[0]["tar"] for rows in (old, shorter, newer)}) == 3
    assert [FrameReader(tmp_path).jpeg(row) for row in old] == jpegs


def test_a_frame_still_on_the_screen_is_not_taken_twice(tmp_path: Path, slow: Path) -> None:
    rows = measured(tmp_path, work(slow, 5_000_000))
    assert [(row["position"], row["pts_us"]) for row in rows] == [(0.05, 0)]
    assert Frames(seen(tmp_path, rows)).middle("c") == rows[0]


def test_a_clip_of_two_frames_shows_at_its_middle_what_a_viewer_sees_there(
    tmp_path: Path, slow: Path
) -> None:
    rows = measured(tmp_path, work(slow, 9_000_000))
    assert [row["position"] for row in rows] == [0.05, 0.95]
    assert len({row["frame_id"] for row in rows}) == 2
    assert Frames(seen(tmp_path, rows)).middle("c")["pts_us"] == 0


def test_two_frames_of_one_millisecond_never_share_an_id() -> None:
    found = {0.05: 1_000, 0.5: 1_900, 0.95: 2_000}
    assert first_of_each(found) == [(0.05, 1_000), (0.95, 2_000)]
