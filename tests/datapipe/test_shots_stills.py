"""Stills of the scan's own pass: right pictures at the right moments, whatever the scan guessed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_corpus import Corpus
from pydantic import ValidationError
from shots_measure import LOOSE, X264, unit_of

from s2v.datapipe.base import records
from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.held import HeldFrames, nearest
from s2v.datapipe.base.media.images import encode_jpeg
from s2v.datapipe.base.media.phash import hamming, perceptual_hash
from s2v.datapipe.engine.errors import StoreError
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.frames import FrameReader, FrameStage
from s2v.datapipe.measure.sampling import TOLERANCE, FrameSettings, moments, taken
from s2v.datapipe.measure.scan import scan_window
from s2v.datapipe.measure.shots import ShotSettings, ShotStage

SAMPLING = FrameSettings()
KINDS = ["whole.mp4", "ten.mp4", "odd.mp4", "wide.mp4", "full.mp4", "turned90.mp4", "web.webm",
         "open.mkv", "late.mkv", "edit.mp4", "uneven.mp4", "tv.ts", "old.avi"]  # fmt: skip


@pytest.fixture(scope="module")
def joined(corpus: Corpus) -> Path:
    """Four shots with hard cuts between them, 14 s, bidirectional pictures, long groups."""
    path = corpus.folder / "joined-for-stills.mp4"
    shots = ["testsrc2=s=320x180:r=24:d=3", "mandelbrot=s=320x180:r=24", "smptebars=s=320x180:r=24",
             "testsrc2=s=320x180:r=24:d=5"]  # fmt: skip
    inputs = [part for shot in shots for part in ("-f", "lavfi", "-i", shot)]
    graph = (
        "[1:v]trim=duration=4,setpts=PTS-STARTPTS[b];[2:v]trim=duration=2,setpts=PTS-STARTPTS[c];"
        "[3:v]negate[d];[0:v][b][c][d]concat=n=4:v=1"
    )
    corpus.ffmpeg(*inputs, "-filter_complex", graph, *X264, "-g", "240", "-bf", "3", path)
    return path


def clip_unit(run: Path, out: dict[str, list[Row]], path: Path) -> Unit:
    """What stage ``frames`` is given after stage ``shots``."""
    clips = sorted(row["clip_id"] for row in out["clips"])
    tables = {
        "clips": out["clips"],
        "stills": out["stills"],
        "sources": [{"video_id": "v", "path": str(path), "url": None}],
    }
    return Unit("u", "clip_id", clips, tables, run)


def shot(run: Path, path: Path, settings: ShotSettings = LOOSE, **kw: Any) -> dict[str, list[Row]]:
    unit = unit_of(path, **kw.pop("source", {}), windows=kw.pop("windows", None))
    unit.run = run
    out = ShotStage(settings, kw.pop("scorer", None), SAMPLING).run(unit)
    assert unit.quarantine == []
    return out


def framed(run: Path, out: dict[str, list[Row]], path: Path) -> list[Row]:
    unit = clip_unit(run, out, path)
    rows = FrameStage(SAMPLING).run(unit)["frames"]
    assert unit.quarantine == []
    records.table("frames", rows)
    return rows


@pytest.mark.parametrize("name", KINDS)
def test_a_still_is_bit_for_bit_the_frame_that_its_time_names(corpus: Corpus, name: str) -> None:
    path = corpus[name]
    found = scan_window(str(path), 0, 0, LOOSE.model_dump(), sampling=SAMPLING.model_dump())
    assert found.stills
    for time, jpeg in found.stills.items():
        [(actual, rgb)] = frames_at(path, [time])
        assert actual == time
        assert encode_jpeg(rgb, SAMPLING.jpeg_quality) == jpeg


def test_keeping_stills_changes_nothing_of_what_the_scan_measures(joined: Path) -> None:
    with_stills = scan_window(str(joined), 0, 0, LOOSE.model_dump(), sampling=SAMPLING.model_dump())
    without = scan_window(str(joined), 0, 0, LOOSE.model_dump())
    assert with_stills.cuts == without.cuts
    assert with_stills.summary(0, 60) == without.summary(0, 60)
    assert with_stills.pts_us == without.pts_us


def test_a_film_is_decoded_once_and_not_again_for_its_sampled_frames(
    joined: Path, tmp_path: Path
) -> None:
    film = tmp_path / "film.mp4"
    shutil.copy(joined, film)
    out = shot(tmp_path, film)
    assert len(out["clips"]) == 4
    film.unlink()  # nothing is left to decode
    rows = framed(tmp_path, out, film)
    assert len(rows) == 12
    spans = {row["clip_id"]: (row["start_us"], row["end_us"]) for row in out["clips"]}
    for row in rows:
        start, end = spans[row["clip_id"]]
        assert start <= row["pts_us"] < end
        assert abs(row["pts_us"] - start - row["position"] * (end - start)) <= TOLERANCE * (
            end - start
        )
        [(_, rgb)] = frames_at(joined, [row["pts_us"]])
        assert FrameReader(tmp_path).jpeg(row) == encode_jpeg(rgb, SAMPLING.jpeg_quality)


def test_frames_that_the_scan_did_not_keep_are_decoded_and_none_is_missing(
    joined: Path, tmp_path: Path
) -> None:
    out = shot(tmp_path, joined)
    out["stills"] = [row for row in out["stills"] if row["position"] != 0.5]
    rows = framed(tmp_path, out, joined)
    assert len(rows) == 12
    for clip in out["clips"]:
        [middle] = [r for r in rows if (r["clip_id"], r["position"]) == (clip["clip_id"], 0.5)]
        wanted = dict(moments(clip["start_us"], clip["end_us"], (0.5,)))[0.5]
        assert 0 <= wanted - middle["pts_us"] <= 42_000  # the frame on the screen at that moment


class _CutsAtTwoSeconds:
    """A network that sees a cut in the middle of the first shot, which no detector does."""

    model_id = "double"
    frame_size = (27, 48)

    def load(self) -> None:
        return None

    def score(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        scores = np.zeros(len(frames), np.float32)
        scores[36] = 1.0
        return scores


def test_where_a_network_cuts_elsewhere_every_clip_has_its_own_frames(
    joined: Path, tmp_path: Path
) -> None:
    out = shot(tmp_path, joined, scorer=_CutsAtTwoSeconds())
    assert len(out["clips"]) == 5
    rows = framed(tmp_path, out, joined)
    assert len(rows) == 15
    spans = {row["clip_id"]: (row["start_us"], row["end_us"]) for row in out["clips"]}
    assert all(a <= r["pts_us"] < b for r in rows for a, b in [spans[r["clip_id"]]])


def test_windows_of_one_film_give_the_frames_of_their_own_clips(
    joined: Path, tmp_path: Path
) -> None:
    windows = [(0, 6_000_000), (6_000_000, 14_000_000)]
    for number, window in enumerate(windows):
        run = tmp_path / str(number)
        out = shot(run, joined, windows=[window])
        rows = framed(run, out, joined)
        assert len(rows) == 3 * len(out["clips"]) > 0
        assert all(window[0] <= row["pts_us"] < window[1] for row in out["stills"] + rows)


def test_lost_stills_say_which_measurement_to_make_again(joined: Path, tmp_path: Path) -> None:
    out = shot(tmp_path, joined)
    [tar] = {row["tar"] for row in out["stills"]}
    (tmp_path / tar).unlink()
    with pytest.raises(StoreError, match=r"delete .*/measure/shots-\*/u\.\*"):
        framed(tmp_path, out, joined)


def test_a_copy_with_other_groups_of_pictures_has_the_hashes_of_its_original(
    corpus: Corpus, joined: Path, tmp_path: Path
) -> None:
    """Its stills lie elsewhere, a few frames off; its hashes may not."""
    copy = tmp_path / "copy.mp4"
    corpus.ffmpeg("-i", joined, "-c:v", "libx264", "-preset", "ultrafast", "-crf", "30",
                  "-threads", "1", "-g", "30", "-vf", "scale=240:136", copy)  # fmt: skip
    rows = {}
    for name, path in (("film", joined), ("copy", copy)):
        out = shot(tmp_path / name, path)
        found = framed(tmp_path / name, out, path)
        rows[name] = sorted(found, key=lambda row: (row["clip_id"], row["position"]))
    assert len(rows["film"]) == len(rows["copy"]) == 12
    assert [r["pts_us"] for r in rows["film"]] != [r["pts_us"] for r in rows["copy"]]
    for film, other in zip(rows["film"], rows["copy"], strict=True):
        assert hamming(film["phash"], other["phash"]) <= 10
        assert hamming(film["phash_mirror"], other["phash_mirror"]) <= 10


def test_hashes_of_stills_are_those_of_the_frames_decoded_at_their_moment(
    joined: Path, tmp_path: Path
) -> None:
    out = shot(tmp_path, joined)
    rows = framed(tmp_path, out, joined)
    clips = {row["clip_id"]: row for row in out["clips"]}
    for row in rows:
        clip = clips[row["clip_id"]]
        span = (clip["start_us"], clip["end_us"])
        wanted = dict(moments(*span, SAMPLING.positions))[row["position"]]
        [(_, rgb)] = frames_at(joined, [wanted])
        assert hamming(row["phash"], perceptual_hash(rgb)) <= 6
        assert hamming(row["phash_mirror"], perceptual_hash(rgb[:, ::-1])) <= 6


def test_other_positions_or_quality_are_not_served_by_stills_of_the_old_ones() -> None:
    def identity(**changed: Any) -> dict[str, Any]:
        return dict(ShotStage(LOOSE, None, FrameSettings(**changed)).identity())

    assert identity(positions=(0.1, 0.9)) != identity()
    assert identity(jpeg_quality=80) != identity()
    assert identity(max_side=64) == identity()  # of photographs


@pytest.mark.parametrize("positions", [(), (1.0,), (0.5, -0.1), (1.5,)])
def test_positions_outside_the_clip_are_refused_before_a_run(positions: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="positions"):
        FrameSettings(positions=positions)


TIMES = st.lists(st.integers(0, 10_000), unique=True, max_size=40).map(sorted)


@given(TIMES, st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000))
def test_no_nearer_picture_inside_the_clip_is_passed_over(
    times: list[int], wanted: int, start: int, end: int
) -> None:
    inside = [time for time in times if start <= time < end]
    best = min(inside, key=lambda time: (abs(time - wanted), time), default=None)
    assert nearest(times, wanted, start, end) == best


@given(TIMES, st.integers(0, 5_000), st.integers(1, 5_000))
def test_no_still_lies_outside_its_clip_or_far_from_its_position(
    times: list[int], start: int, length: int
) -> None:
    end = start + length
    for share, time in taken(times, start, end, SAMPLING.positions).items():
        assert start <= time < end
        assert time in times
        assert abs(time - (start + int(length * share))) <= TOLERANCE * length


def test_no_two_positions_share_a_picture_so_that_close_ones_lose_no_view() -> None:
    positions = tuple(n / 24 for n in range(24))
    served = taken([0, 400, 1000, 1010, 1900], 0, 2000, positions)
    assert len(set(served.values())) == len(served) == 5
    assert served[0.5] == 1000


def test_the_tar_of_an_older_commit_keeps_its_pictures_when_the_scan_kept_others(
    joined: Path, tmp_path: Path
) -> None:
    """Frames of another windowing come beside those that are there, not in their place."""
    out = shot(tmp_path, joined)
    clips = sorted({row["clip_id"] for row in out["clips"]})[:2]
    assert len(clips) == 2

    def less(lost: str) -> list[dict[str, Any]]:
        stills = [s for s in out["stills"] if (s["clip_id"], s["position"]) != (lost, 0.5)]
        return framed(tmp_path, {**out, "stills": stills}, joined)

    reader = FrameReader(tmp_path)
    first = less(clips[0])
    before = [reader.jpeg(row) for row in first]
    less(clips[1])
    assert [reader.jpeg(row) for row in first] == before


def test_stills_of_a_window_do_not_fill_the_memory(
    joined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stills() -> dict[int, bytes]:
        return scan_window(
            str(joined), 0, 0, LOOSE.model_dump(), sampling=SAMPLING.model_dump()
        ).stills

    whole = stills()
    limit = sum(map(len, whole.values())) // 2
    monkeypatch.setattr("s2v.datapipe.measure.stills.MAX_STILLS_BYTES", limit)
    some = stills()
    assert sum(map(len, some.values())) <= limit + max(map(len, whole.values()))
    assert some.items() <= whole.items()


@dataclass
class _Plane:
    buffer_size: int


@dataclass
class _Frame:
    """Stands for a decoded picture: its type and size."""

    pict_type: int
    planes: list[_Plane] = field(default_factory=lambda: [_Plane(100)])


@given(
    st.lists(st.tuples(st.integers(1, 90), st.sampled_from([1, 2, 3])), max_size=80),
    st.integers(1, 12),
    st.integers(0, 3_000),
)
def test_held_pictures_never_pass_their_memory_and_leave_no_wide_gap(
    steps: list[tuple[int, int]], most: int, start: int
) -> None:
    held = HeldFrames(start, 0, spacing_us=50, max_bytes=100 * most)
    time, offered = 0, []
    for step, kind in steps:
        time += step
        held.see(time, _Frame(kind))
        offered += [time] if kind != 3 and time >= start else []
        assert len(held.times) <= most
        assert set(held.times) <= set(offered)
    if offered:
        assert held.times[0] == offered[0]
    if len(offered) <= most:
        gaps = [min(abs(o - h) for h in held.times) for o in offered]
        assert all(gap < 50 for gap in gaps)
    held.drop_before(time + 1)
    assert held.times == []
