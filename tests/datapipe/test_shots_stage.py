"""The shot stage over real files of every kind: what a user's clips table would get wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from media_corpus import Corpus
from shots_measure import LOOSE, X264, measure, unit_of

from s2v.datapipe.base.media.scan import scan
from s2v.datapipe.measure.probe import probe_source
from s2v.datapipe.measure.shots import ShotSettings, ShotStage, boundaries, not_flashes

ODD = ["whole.mp4", "ten.mp4", "odd.mp4", "wide.mp4", "full.mp4", "turned90.mp4", "web.webm",
       "mirrored90.mp4", "late.mkv", "edit.mp4", "uneven.mp4", "tv.ts", "old.avi"]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_every_kind_of_file_gives_a_clip_that_fits_it(corpus: Corpus, name: str) -> None:
    clips, _ = measure(corpus[name])
    probe = probe_source(str(corpus[name]), "video")
    assert len(clips) == 1
    [clip] = clips
    assert (clip["width"], clip["height"]) == (probe["width"], probe["height"])
    assert clip["end_us"] - clip["start_us"] == probe["duration_us"]
    assert (clip["starts_with"], clip["ends_with"]) == ("source", "source")
    assert clip["motion"] > 0
    assert clip["motion_peak"] >= clip["motion"]
    assert clip["content"] is None


@pytest.mark.parametrize("name", ODD)
def test_draft_frames_show_what_exact_ones_show(corpus: Corpus, name: str) -> None:
    exact = list(scan(corpus[name], 0, 600_000, short_side=60))
    draft = list(scan(corpus[name], 0, 600_000, short_side=60, draft=True))
    assert [time for time, _ in draft] == [time for time, _ in exact]
    for (_, a), (_, b) in zip(exact, draft, strict=True):
        assert a.shape == b.shape
        assert np.abs(a.astype(int) - b).mean() < 12  # chroma siting, and the matrix of HD
        assert np.abs(a.mean(axis=(0, 1)) - b.mean(axis=(0, 1))).max() < 6


@pytest.mark.parametrize("name", ["half.mp4", "half.webm", "lying.mkv", "flipped.mp4", "hole.mkv"])
def test_a_broken_download_gives_no_clip_and_a_reason(corpus: Corpus, name: str) -> None:
    unit = unit_of(corpus[name])
    out = ShotStage(LOOSE).run(unit)
    assert out == {"clips": [], "spans": [], "stills": []}
    [row] = unit.quarantine
    assert row["error"] in {"truncated", "corrupt"}


def test_lengths_of_a_phone_film_are_those_of_its_time_stamps(
    corpus: Corpus, tmp_path: Path
) -> None:
    path = tmp_path / "vfr.mp4"
    # Three seconds at 24 frames a second, a cut, three seconds at 6.
    corpus.ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=320x240:r=24:d=3",
        "-f", "lavfi", "-i", "mandelbrot=s=320x240:r=24", "-filter_complex",
        "[1:v]trim=duration=3,setpts=PTS-STARTPTS,negate[b];[0:v][b]concat=n=2:v=1,"
        "select='lt(n,72)+not(mod(n,4))'",
        "-fps_mode", "vfr", *X264, path,
    )  # fmt: skip
    clips, _ = measure(path, ShotSettings(min_seconds=2.5, max_seconds=4, trim_frames=0))
    assert [c["frames"] for c in clips] == [72, 18]
    lengths = [c["end_us"] - c["start_us"] for c in clips]
    assert lengths == pytest.approx([3_000_000, 2_900_000], abs=10_000)
    assert clips[0]["ends_with"] == clips[1]["starts_with"] == "cut"


def test_a_slide_show_stands_still_though_no_two_frames_are_equal(
    corpus: Corpus, tmp_path: Path
) -> None:
    path = tmp_path / "slides.mp4"
    corpus.ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=160x120:r=24:d=4",
        "-vf", "select='lt(n,8)+not(mod(n,24))'", "-fps_mode", "vfr", *X264, path,
    )  # fmt: skip
    [clip], _ = measure(path)
    assert clip["freeze"] > 0.8
    [lively], _ = measure(corpus["whole.mp4"])
    assert lively["freeze"] < 0.1


def test_a_window_in_which_no_frame_begins_is_a_dropped_span(
    corpus: Corpus, tmp_path: Path
) -> None:
    path = tmp_path / "gap.mp4"
    corpus.ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=160x120:r=24:d=6",
        "-vf", "select='lt(n,24)+gt(n,120)'", "-fps_mode", "vfr", *X264, path,
    )  # fmt: skip
    windows = [(0, 2_000_000), (2_000_000, 4_000_000), (4_000_000, 5_900_000)]
    clips, spans = measure(path, windows=windows)
    assert [s["reason"] for s in spans if s["start_us"] == 2_000_000] == ["no frame begins here"]
    assert len(clips) == 2


def test_a_pan_there_and_back_is_motion_though_nothing_moved_in_the_end(
    corpus: Corpus, tmp_path: Path
) -> None:
    path = tmp_path / "pan.mp4"
    corpus.ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=640x240:r=24:d=1", "-vf",
        "select='eq(n,0)',loop=loop=95:size=1,setpts=N/(24*TB),"
        "crop=320:240:x='160+80*sin(2*PI*n/48)':y=0",
        "-r", "24", *X264, path,
    )  # fmt: skip
    [clip], _ = measure(path)
    # 80 sin(2 pi t / 2 s) pixels: the mean speed is 160 pixels a second, of a height of 240.
    assert clip["motion"] == pytest.approx(160 / 240, rel=0.25)
    assert clip["motion_peak"] == pytest.approx(80 * np.pi / 240, rel=0.25)


def test_a_part_keeps_to_its_limits_and_calls_its_ends_the_sources(corpus: Corpus) -> None:
    clips, _ = measure(
        corpus["open.mkv"], windows=[(500_000, 2_000_000), (2_000_000, 3_500_000)],
        from_us=500_000, to_us=3_500_000,
    )  # fmt: skip
    assert [(c["start_us"], c["end_us"]) for c in clips] == [
        (500_000, 2_000_000),
        (2_000_000, 3_500_000),
    ]
    assert [(c["starts_with"], c["ends_with"]) for c in clips] == [
        ("source", "window"),
        ("window", "source"),
    ]


def test_a_dissolve_across_a_seam_is_seen_from_both_sides(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "seam.mp4"
    corpus.ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=320x240:r=24:d=4",
        "-f", "lavfi", "-i", "mandelbrot=s=320x240:r=24:start_scale=0.5", "-filter_complex",
        "[1:v]trim=duration=4,setpts=PTS-STARTPTS,fps=24,format=yuv420p,settb=1/24[b];"
        "[0:v]format=yuv420p,settb=1/24[a];[a][b]xfade=transition=fade:duration=1:offset=3",
        *X264, path,
    )  # fmt: skip
    _, whole = measure(path)
    _, parts = measure(path, windows=[(0, 3_500_000), (3_500_000, 7_000_000)])
    for spans in (whole, parts):
        mixed = [s for s in spans if s["reason"] == "gradual transition"]
        assert mixed[0]["start_us"] == pytest.approx(3_000_000, abs=170_000)
        assert mixed[-1]["end_us"] == pytest.approx(4_000_000, abs=170_000)
    assert len([s for s in parts if s["reason"] == "gradual transition"]) == 2
    off = ShotSettings(min_seconds=0.5, trim_frames=0, gradual=False)
    assert all(s["reason"] != "gradual transition" for s in measure(path, off)[1])


class Scripted:
    """A network with a known answer: the stage's wiring is tested, not a net."""

    frame_size = (27, 48)
    model_id = "scripted-1"

    def __init__(self, over: dict[int, float]) -> None:
        self.over = over
        self.seen: npt.NDArray[np.uint8] | None = None
        self.loaded = False

    def load(self) -> None:
        self.loaded = True

    def score(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.seen = frames
        scores = np.zeros(len(frames), np.float32)
        for n, value in self.over.items():
            scores[n] = value
        return scores


def test_a_networks_cuts_and_spans_are_united_with_the_detectors(corpus: Corpus) -> None:
    # Whatever the classical detectors saw, frames 23 (a cut) and 60 to 69 count.
    net = Scripted({23: 0.9, **dict.fromkeys(range(60, 70), 0.7), 80: 0.4})
    clips, spans = measure(corpus["open.mkv"], scorer=net)
    assert net.seen is not None
    assert net.seen.shape == (96, 27, 48, 3)
    assert net.seen.std() > 20
    frames = [round(c["start_us"] * 24 / 1e6) for c in clips]
    assert frames == [0, 24, 70]
    [mixed] = [s for s in spans if s["reason"] == "gradual transition"]
    assert mixed["end_us"] - mixed["start_us"] == pytest.approx(10e6 / 24, abs=1000)


def test_a_networks_frames_count_from_the_context_before_a_window(corpus: Corpus) -> None:
    net = Scripted({n: 0.9 for n in range(96) if n == 71})
    clips, _ = measure(corpus["open.mkv"], windows=[(2_500_000, 4_000_000)], scorer=net)
    # The context begins at 0.5 s, so that the net's frame 71 is the film's 83rd, at 3.458 s.
    assert [c["start_us"] for c in clips] == pytest.approx([2_500_000, 84e6 / 24], abs=1000)


def test_another_network_is_another_measurement() -> None:
    plain = ShotStage(LOOSE).identity()
    first = ShotStage(LOOSE, Scripted({})).identity()
    other = Scripted({})
    other.model_id = "scripted-2"
    assert len({str(sorted(i.items(), key=str)) for i in
                (plain, first, ShotStage(LOOSE, other).identity())}) == 3  # fmt: skip
    assert "timeout_per_second" not in plain


def test_runs_of_a_networks_scores_are_spans_and_single_frames_cuts() -> None:
    scores = np.zeros(50, np.float32)
    scores[10] = 0.9
    scores[20:22] = 0.6, 0.8
    scores[30:36] = 0.7
    scores[40] = 0.5
    assert boundaries(scores) == ([11, 22], [(30, 36)])
    assert boundaries(np.zeros(0, np.float32)) == ([], [])


def test_a_networks_word_on_a_flash_is_not_taken() -> None:
    refused = {30: "flash", 60: "movement"}
    assert not_flashes([27, 29, 32, 33, 60, 90], refused) == [27, 33, 60, 90]
