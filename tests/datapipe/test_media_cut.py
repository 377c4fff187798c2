"""Clips: exactly the asked span, the same bytes every time, and no clip at all from a hole."""

from __future__ import annotations

import hashlib
import io
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from media_corpus import FRAME_US, Corpus
from PIL import Image

from s2v.datapipe.base.media import ffmpeg
from s2v.datapipe.base.media.cut import CutResult, animate_still, cut_clip, preview_clip
from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.images import resize
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.media.scan import scan


def pictures(path: str | Path) -> list[np.ndarray]:
    return [frame for _, frame in scan(path)]


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize(
    "name",
    ["whole.mp4", "ten.mp4", "odd.mp4", "wide.mp4", "turned90.mp4", "web.webm", "tv.ts",
     "disc.mpg", "old.avi", "edit.mp4", "late.mkv"],
)  # fmt: skip
def test_a_clip_holds_exactly_the_frames_of_its_span(
    corpus: Corpus, tmp_path: Path, name: str
) -> None:
    path = corpus[name]
    shown = [time for time, _ in scan(path)]
    start, end = shown[7], shown[19]
    made = cut_clip(path, start, end, tmp_path / "clip.mp4", crf=12)
    facts = probe(made.path)
    assert made.frames == facts.declared_frames == 12
    assert (facts.codec, facts.pix_fmt, facts.rotation, facts.sar) == ("h264", "yuv420p", 0, 1)
    assert (facts.width % 2, facts.height % 2) == (0, 0)
    assert abs(facts.width - probe(path).width) <= 1
    assert abs(facts.height - probe(path).height) <= 1
    assert not facts.has_audio
    assert made.sha256 == hashlib.sha256(Path(made.path).read_bytes()).hexdigest()
    assert made.bytes == Path(made.path).stat().st_size
    first, before = frames_at(path, [shown[7], shown[6]], backend="pyav")
    last, after = frames_at(path, [shown[18], shown[19]], backend="pyav")
    clip = pictures(made.path)
    size = (made.width, made.height)
    assert far(clip[0], resize(first[1], size)) < far(clip[0], resize(before[1], size))
    assert far(clip[-1], resize(last[1], size)) < far(clip[-1], resize(after[1], size))


def test_open_gops_can_be_cut_anywhere(corpus: Corpus, tmp_path: Path) -> None:
    path = corpus["open.mkv"]
    shown = [time for time, _ in scan(path)]
    for first in range(0, 90, 12):
        made = cut_clip(path, shown[first], shown[first + 5], tmp_path / "clip.mp4", crf=12)
        assert made.frames == 5
        near, next_to_it = frames_at(path, [shown[first], shown[first + 1]])
        clip = pictures(made.path)
        assert far(clip[0], near[1]) < far(clip[0], next_to_it[1])


def test_the_same_cut_has_the_same_bytes(corpus: Corpus, tmp_path: Path) -> None:
    cuts = [
        cut_clip(corpus["whole.mp4"], 500_000, 1_500_000, tmp_path / name, short_side=64, fps=16)
        for name in ("a.mp4", "b.mp4")
    ]
    assert cuts[0].sha256 == cuts[1].sha256
    assert cuts[0].frames == 16
    assert (cuts[0].width, cuts[0].height) == (86, 64)
    assert cuts[0].fps == 16


def test_the_index_comes_first_so_that_a_clip_can_be_streamed(
    corpus: Corpus, tmp_path: Path
) -> None:
    made = cut_clip(corpus["whole.mp4"], 0, 500_000, tmp_path / "clip.mp4")
    data = Path(made.path).read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")


def test_uneven_frames_become_even_and_stay_in_time(corpus: Corpus, tmp_path: Path) -> None:
    made = cut_clip(corpus["uneven.mp4"], 0, 1_800_000, tmp_path / "clip.mp4", fps=24, crf=12)
    assert made.frames == 43
    clip = pictures(made.path)
    for index in (3, 17, 19, 31, 42):
        [(_, shown)] = frames_at(corpus["uneven.mp4"], [round(index * FRAME_US)])
        assert far(clip[index], shown) < 10, index


def test_a_ntsc_rate_stays_exact(corpus: Corpus, tmp_path: Path) -> None:
    rate = Fraction(24000, 1001)
    made = cut_clip(corpus["whole.mp4"], 0, 1_000_000, tmp_path / "clip.mp4", fps=24000 / 1001)
    assert made.fps == rate
    assert probe(made.path).avg_fps == rate


@pytest.mark.parametrize(
    ("name", "start", "end", "kind"),
    [
        ("half.mp4", 700_000, 1_400_000, MediaErrorKind.TRUNCATED),  # over the edge
        ("half.mp4", 1_500_000, 1_900_000, MediaErrorKind.TRUNCATED),  # behind it
        ("half.webm", 1_500_000, 1_900_000, MediaErrorKind.TRUNCATED),
        ("lying.mkv", 5_000_000, 6_000_000, MediaErrorKind.TRUNCATED),
        ("lying.mkv", 1_500_000, 3_000_000, MediaErrorKind.TRUNCATED),
        ("flipped.mp4", 500_000, 1_900_000, MediaErrorKind.CORRUPT),
        ("speck.mp4", 1_100_000, 1_450_000, MediaErrorKind.CORRUPT),
        ("hole.mkv", 300_000, 1_300_000, MediaErrorKind.CORRUPT),
    ],
)
def test_no_clip_is_written_from_a_part_that_is_not_whole(
    corpus: Corpus, tmp_path: Path, name: str, start: int, end: int, kind: MediaErrorKind
) -> None:
    with pytest.raises(MediaError) as caught:
        cut_clip(corpus[name], start, end, tmp_path / "clip.mp4")
    assert caught.value.kind is kind
    assert not caught.value.transient
    assert list(tmp_path.iterdir()) == [], "neither a clip nor a temporary file"


def test_the_whole_part_of_a_damaged_file_can_be_cut(corpus: Corpus, tmp_path: Path) -> None:
    for name, start, end in [
        ("half.mp4", 0, 700_000),
        ("speck.mp4", 0, 950_000),
        ("speck.mp4", 1_500_000, 2_000_000),
        ("hole.mkv", 1_000_000, 2_000_000),
    ]:
        made = cut_clip(corpus[name], start, end, tmp_path / "clip.mp4")
        assert made.frames == pytest.approx((end - start) / FRAME_US, abs=1)


def test_an_old_clip_stands_until_the_new_one_is_whole(corpus: Corpus, tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"
    good = cut_clip(corpus["whole.mp4"], 0, 500_000, target)
    with pytest.raises(MediaError):
        cut_clip(corpus["half.mp4"], 1_500_000, 1_900_000, target)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == good.sha256


def test_a_span_outside_the_film_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    for start, end in [(0, 0), (-5, 10), (1_000_000, 9_000_000)]:
        with pytest.raises(ValueError, match="span"):
            cut_clip(corpus["whole.mp4"], start, end, tmp_path / "clip.mp4")


def test_an_encoder_that_takes_too_long_is_killed(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        cut_clip(corpus["whole.mp4"], 0, 2_000_000, tmp_path / "clip.mp4", timeout_s=0.01)
    assert caught.value.kind is MediaErrorKind.TIMEOUT
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_the_machines_fault_and_not_the_films(corpus: Corpus) -> None:
    film = str(corpus["whole.mp4"])
    to_full_disk = ["-i", film, "-c", "copy", "-f", "matroska", "-y", "/dev/full"]
    arguments = [ffmpeg.executable(), *ffmpeg.GUARDS, "-loglevel", "level+warning", *to_full_disk]
    with pytest.raises(MediaError) as caught:
        ffmpeg.run_arguments(arguments, film, timeout_s=30)
    assert caught.value.transient


def test_ffmpeg_may_not_follow_a_playlist_to_another_file(corpus: Corpus, tmp_path: Path) -> None:
    playlist = corpus["playlist.mp4"]
    with pytest.raises(MediaError) as caught:
        cut_clip(playlist, 0, 1_000_000, tmp_path / "clip.mp4")
    assert caught.value.kind is MediaErrorKind.UNSUPPORTED


def test_a_preview_is_small_and_short(corpus: Corpus, tmp_path: Path) -> None:
    made = preview_clip(corpus["turned90.mp4"], tmp_path / "p.mp4", height=80, max_seconds=0.5)
    assert (made.width, made.height) == (60, 80)
    assert made.frames == 12


def still(kind: str, folder: Path) -> CutResult:
    rgb = np.zeros((90, 120, 3), np.uint8)
    rgb[:, :60, 0] = 255
    rgb[::10] = 255
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return animate_still(
        buffer.getvalue(), folder / f"{kind}.mp4", seconds=0.5, kind=kind, short_side=90
    )  # type: ignore[arg-type]  # parametrised


@pytest.mark.parametrize("kind", ["zoom_in", "zoom_out", "pan_left", "pan_right"])
def test_an_animated_still_moves_and_says_what_it_is(tmp_path: Path, kind: str) -> None:
    made = still(kind, tmp_path)
    assert made.frames == 12
    clip = pictures(made.path)
    steps = [far(a, b) for a, b in pairwise(clip)]
    assert min(steps) > 0.05, "every frame moves"
    with av.open(made.path) as container:
        assert "animated still" in container.metadata["title"]
    red = [int((frame[:, :, 0].astype(int) - frame[:, :, 1] > 100).sum()) for frame in clip]
    if kind == "pan_left":
        assert red[-1] > red[0], "the camera goes to the red side"
    if kind == "pan_right":
        assert red[-1] < red[0]
    if kind == "zoom_in":
        assert far(clip[0][5], clip[-1][5]) > 1
    assert still(kind, tmp_path).sha256 == made.sha256


def test_a_move_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zoom_in"):
        still("spin", tmp_path)
