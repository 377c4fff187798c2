"""Pictures lost without an error: no clip may lie over the hole, and no still film may be lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from itertools import pairwise
from pathlib import Path

import av
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from media_corpus import FPS, FRAME_US, Corpus
from shots_measure import X264, measure

from s2v.datapipe.base.media.cut import cut_clip
from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.scan import Scan, ScanReport, scan
from s2v.datapipe.measure.shots import ShotSettings

SECONDS, GOP = 12, 12
GOPS = SECONDS * FPS // GOP
CODECS = {
    "h264": ("-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-sc_threshold", "0"),
    "open": ("-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-x264-params",
             "open-gop=1:scenecut=0"),
    "mpeg2": ("-c:v", "mpeg2video", "-bf", "2", "-sc_threshold", "1000000000"),
    "mpeg4": ("-c:v", "mpeg4", "-bf", "2", "-sc_threshold", "1000000000"),
    "vp9": ("-c:v", "libvpx-vp9", "-cpu-used", "8", "-lag-in-frames", "0", "-keyint_min", "12"),
    "mjpeg": ("-c:v", "mjpeg", "-q:v", "4", "-pix_fmt", "yuvj420p"),
}  # fmt: skip


@pytest.fixture(scope="module")
def film(corpus: Corpus) -> Callable[[str], Path]:
    """Twelve seconds in which the whole picture moves, one key frame in twelve, by codec."""

    def made(codec: str) -> Path:
        path: Path = corpus.folder / f"moving-{codec}.mp4"
        if not path.exists():
            corpus.ffmpeg(
                "-f", "lavfi", "-i", f"testsrc2=s=640x240:r={FPS}:d={SECONDS}", "-vf",
                "crop=160:120:x='240+200*sin(2*PI*n/120)':y='60+60*cos(2*PI*n/48)'",
                "-pix_fmt", "yuv420p", *CODECS[codec], "-g", str(GOP), "-threads", "1", path,
            )  # fmt: skip
        return path

    return made


def without(source: Path, target: Path, lost: Collection[int]) -> Path:
    """A copy of the film's packets, less those of some groups of pictures."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as sink:
        stream = sink.add_stream_from_template(whole.streams.video[0])
        group = -1
        for packet in whole.demux(whole.streams.video[0]):
            group += packet.is_keyframe
            if packet.dts is not None and group not in lost:
                packet.stream = stream
                sink.mux(packet)
    return target


def passed(frames: Scan) -> tuple[list[int], ScanReport]:
    """Times of all frames and the report, whether or not the scan is content."""
    times = []
    with contextlib.suppress(MediaError):
        for time, _ in frames:  # one by one: those before an error count
            times.append(time)
    assert frames.report is not None
    return times, frames.report


def gaps(times: list[int]) -> list[tuple[int, int]]:
    """What no frame covers, from the times alone."""
    step = round(FRAME_US)
    return [(a + step, b) for a, b in pairwise(times) if b - a > 3.5 * step]


def same(found: Collection[tuple[int, int]], expected: Collection[tuple[int, int]]) -> bool:
    return len(found) == len(expected) and all(
        abs(x - y) <= 2000
        for a, b in zip(found, expected, strict=True)
        for x, y in zip(a, b, strict=True)
    )


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(codec="open", suffix="mkv", lost={1, 2})
@given(
    codec=st.sampled_from(["h264", "open"]),
    suffix=st.sampled_from(["mkv", "ts", "mp4", "flv"]),
    lost=st.sets(st.integers(1, GOPS - 2), max_size=3),
)
def test_every_lost_group_of_pictures_is_a_damaged_span_and_nothing_else_is(
    film: Callable[[str], Path], tmp_path: Path, codec: str, suffix: str, lost: set[int]
) -> None:
    times, report = passed(scan(without(film(codec), tmp_path / f"lost.{suffix}", lost)))
    holes = gaps(times)
    runs = [n for n in lost if n - 1 not in lost]
    assert len(holes) == len(runs)
    assert same(report.missing, holes)
    for a, b in holes:
        assert any(start <= a + 2000 and b <= end for start, end in report.damaged)
    # Pictures up to the next entry point were built on the lost ones, and the two that are shown
    # before an open one come in its own packets.
    spoilt = GOP + 2 if codec == "open" else 2
    assert 0 <= report.damaged_frames - GOP * len(lost) + 2 * len(runs) <= (2 + spoilt) * len(runs)


@pytest.mark.parametrize(
    ("codec", "lost"),
    [("mpeg2", {9}), ("mpeg4", {9}), ("vp9", {9}), ("mjpeg", set(range(100, 112)))],
)
def test_it_is_seen_in_whatever_the_film_is_coded(
    film: Callable[[str], Path], tmp_path: Path, codec: str, lost: set[int]
) -> None:
    path = without(film(codec), tmp_path / "lost.mkv", lost)
    times, report = passed(scan(path))
    assert len(report.missing) == 1
    assert same(report.missing, gaps(times))


def test_a_window_that_ends_or_begins_inside_a_hole_knows_of_its_part(
    film: Callable[[str], Path], tmp_path: Path
) -> None:
    path = without(film("h264"), tmp_path / "lost.mkv", {8, 9, 10, 11})  # 4 to 6 s
    for window, part in [
        ((0, 5_000_000), (4_000_000, 5_000_000)),
        ((5_000_000, 9_000_000), (5_000_000, 6_000_000)),
        ((4_500_000, 5_500_000), (4_500_000, 5_500_000)),
        ((0, 3_900_000), None),
        ((6_100_000, 9_000_000), None),
    ]:
        _, report = passed(scan(path, *window))
        assert same(report.missing, [part] if part else []), window
        missing = (part[1] - part[0]) / FRAME_US if part else 0
        assert report.damaged_frames == pytest.approx(missing, abs=1)


def test_a_recording_that_begins_between_two_key_frames_has_no_pictures_at_first(
    corpus: Corpus, film: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = tmp_path / "whole.ts"
    corpus.ffmpeg("-i", film("h264"), "-c", "copy", whole)
    with av.open(str(whole)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.dts is not None]
        at = packets[3 * GOP + 3].pos
    data = whole.read_bytes()
    late = tmp_path / "late.ts"
    late.write_bytes(data[: 3 * 188] + data[at:])  # with the tables
    first, _ = next(iter(scan(late)))
    assert first > 250_000
    clips, spans = measure(late)
    assert (spans[0]["start_us"], spans[0]["end_us"]) == (0, first)
    assert spans[0]["reason"] == "missing frames"
    assert clips[0]["start_us"] == first


def test_no_clip_lies_over_the_hole_and_the_others_stay(
    film: Callable[[str], Path], tmp_path: Path
) -> None:
    path = without(film("h264"), tmp_path / "lost.mkv", {9})  # 4.5 to 5 s
    clips, spans = measure(path, ShotSettings(min_seconds=0.5, max_seconds=3, trim_frames=0))
    assert not any(c["start_us"] < 5_000_000 and c["end_us"] > 4_500_000 for c in clips)
    dropped = [s for s in spans if s["clip_id"] is None]
    assert {s["reason"] for s in dropped} == {"missing frames"}
    assert sum(s["end_us"] - s["start_us"] for s in dropped) <= 3_000_000


def test_a_film_whose_index_begins_behind_its_first_key_frame_is_read_and_not_tried_for_ever(
    film: Callable[[str], Path], tmp_path: Path
) -> None:
    """libav's seek fails there with a number that reads as a missing permission."""
    path = tmp_path / "headless.mp4"
    with av.open(str(film("h264"))) as whole, av.open(str(path), "w") as sink:
        stream = sink.add_stream_from_template(whole.streams.video[0])
        packets = [p for p in whole.demux(whole.streams.video[0]) if p.dts is not None]
        for packet in packets[1:]:
            packet.stream = stream
            sink.mux(packet)
    times, report = passed(scan(path))
    assert len(times) == (SECONDS * FPS) - GOP
    assert same(report.missing, [(0, times[0])])
    assert report.damaged_frames == 0, "a short recording is not refused for it"
    assert [time for time, _ in frames_at(path, [6_000_000], backend="pyav")] == [
        max(time for time in times if time <= 6_000_000)
    ]
    assert cut_clip(path, 2_000_000, 4_000_000, tmp_path / "clip.mp4").frames == 48


# What only looks like a hole.


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv", "webm"])
@pytest.mark.parametrize("still_s", [0.3, 2])
def test_a_film_that_stands_still_without_repeats_keeps_its_clips(
    corpus: Corpus, tmp_path: Path, suffix: str, still_s: float
) -> None:
    path = tmp_path / f"still.{suffix}"
    codec = CODECS["vp9"] if suffix == "webm" else X264
    corpus.ffmpeg(
        "-f", "lavfi", "-i", f"testsrc2=s=160x120:r={FPS}:d=8", "-vf",
        f"loop=loop={round(still_s * FPS)}:size=1:start=100,setpts=N/{FPS}/TB,"
        "mpdecimate=hi=64:lo=64",
        "-fps_mode", "vfr", *codec, "-threads", "1", "-an", path,
    )  # fmt: skip
    times, report = passed(scan(path))
    [(_, resumed)] = gaps(times)
    assert resumed > 100 * FRAME_US, "the film was made as meant"
    assert report.missing == report.damaged == ()
    clips, spans = measure(path)
    assert [s["reason"] for s in spans] == [None] * len(clips)
    still = sum(c["freeze"] * (c["end_us"] - c["start_us"]) for c in clips)
    assert still == pytest.approx(still_s * 1e6, abs=300_000)


def some_of(corpus: Corpus, folder: Path, rate: int | str, kept: str) -> Path:
    """Four seconds that declare ``rate``, of which only some pictures are there."""
    path = folder / "some.mkv"
    corpus.ffmpeg(
        "-f", "lavfi", "-i", f"testsrc2=s=160x120:r={rate}:d=4",
        "-vf", f"select='{kept}'", "-fps_mode", "vfr", *X264, path,
    )  # fmt: skip
    return path


@pytest.mark.parametrize("lost", [1, 2])
def test_a_stutter_is_no_hole(corpus: Corpus, tmp_path: Path, lost: int) -> None:
    path = some_of(corpus, tmp_path, FPS, f"not(between(n,40,{39 + lost}))")
    times, report = passed(scan(path))
    assert len(times) == 4 * FPS - lost
    assert report.damaged == ()


def test_three_pictures_lost_at_a_high_rate_are_no_hole(corpus: Corpus, tmp_path: Path) -> None:
    path = some_of(corpus, tmp_path, 60, "not(between(n,40,42))")
    assert passed(scan(path))[1].damaged == ()


@pytest.mark.parametrize(("declared", "every"), [(50, 2), (60, 5), (24, 1)])
def test_a_rate_that_the_header_gets_wrong_makes_no_holes(
    corpus: Corpus, tmp_path: Path, declared: int, every: int
) -> None:
    """Fields counted as pictures, a camera that promises more than it gives."""
    path = some_of(corpus, tmp_path, declared, f"not(mod(n,{every}))")
    assert passed(scan(path))[1].damaged == ()


def test_pulldown_makes_no_holes(corpus: Corpus, tmp_path: Path) -> None:
    """Film at 23.976 in fields of 59.94: waits of two and three by turns."""
    path = some_of(corpus, tmp_path, "60000/1001", "not(mod(n,5))+eq(mod(n,5),2)")
    assert passed(scan(path))[1].damaged == ()


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "webm", "avi"])
@pytest.mark.parametrize("slow_s", [1, 4])
def test_a_slow_passage_costs_no_clip_in_a_container_that_does_not_tell_of_it(
    corpus: Corpus, tmp_path: Path, suffix: str, slow_s: int
) -> None:
    """A telephone in the dark: five pictures a second between two at the full rate."""
    path = tmp_path / f"slow.{suffix}"
    codec = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8")
    corpus.ffmpeg(
        "-f", "lavfi", "-i", f"testsrc2=s=640x240:r={FPS}:d=12", "-vf",
        "crop=160:120:x='240+200*sin(2*PI*n/120)':y='60+60*cos(2*PI*n/48)',"
        f"select='if(between(t,4,{3.99 + slow_s}),not(mod(n,5)),1)'",
        "-fps_mode", "vfr", "-pix_fmt", "yuv420p",
        *(codec if suffix == "webm" else X264), "-g", "48", path,
    )  # fmt: skip
    times, report = passed(scan(path))
    assert len(times) < 12 * FPS - 3 * slow_s * FPS // 5, "the film was made as meant"
    assert report.missing == report.damaged == ()


def test_key_frames_that_alone_survive_are_no_slow_passage(
    film: Callable[[str], Path], tmp_path: Path
) -> None:
    source, target = film("h264"), tmp_path / "survivors.mkv"
    with av.open(str(source)) as whole, av.open(str(target), "w") as sink:
        stream = sink.add_stream_from_template(whole.streams.video[0])
        group = -1
        for packet in whole.demux(whole.streams.video[0]):
            group += packet.is_keyframe
            if packet.dts is not None and (packet.is_keyframe or not 8 <= group < 13):
                packet.stream = stream
                sink.mux(packet)
    assert len(passed(scan(target))[1].missing) >= 5
