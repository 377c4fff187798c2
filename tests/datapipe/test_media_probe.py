"""What a file says about itself, and which files are turned away before a decoder sees them."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from media_corpus import FRAMES, HEIGHT, SECONDS, WIDTH, Corpus

from s2v.datapipe.base.media import ffmpeg
from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.orientation import Orientation
from s2v.datapipe.base.media.probe import probe


def test_a_plain_film_is_described_as_it_was_made(corpus: Corpus) -> None:
    facts = probe(corpus["whole.mp4"])
    assert (facts.width, facts.height) == (WIDTH, HEIGHT)
    assert facts.avg_fps == 24
    assert facts.duration_us == SECONDS * 1_000_000
    assert facts.declared_frames == FRAMES
    assert (facts.codec, facts.pix_fmt, facts.rotation, facts.sar) == ("h264", "yuv420p", 0, 1)
    assert facts.has_audio
    assert not facts.vfr
    assert facts.bytes == corpus["whole.mp4"].stat().st_size
    assert facts.missing_bytes == 0


@pytest.mark.parametrize(
    ("name", "size", "codec"),
    [
        ("ten.mp4", (160, 120), "h264"),
        ("odd.mp4", (161, 121), "h264"),
        ("wide.mp4", (213, 120), "h264"),
        ("turned90.mp4", (120, 160), "h264"),
        ("turned180.mp4", (160, 120), "h264"),
        ("mirrored90.mp4", (120, 160), "h264"),
        ("web.webm", (160, 120), "vp9"),
        ("old.avi", (160, 120), "mpeg4"),
        ("tv.ts", (160, 120), "h264"),
        ("disc.mpg", (160, 120), "mpeg2video"),
        ("flash.flv", (160, 120), "h264"),
    ],
)
def test_the_size_is_the_displayed_one_in_every_container(
    corpus: Corpus, name: str, size: tuple[int, int], codec: str
) -> None:
    facts = probe(corpus[name])
    assert (facts.width, facts.height) == size
    assert facts.codec == codec
    assert facts.duration_us == pytest.approx(SECONDS * 1e6, abs=90_000)
    assert facts.avg_fps == pytest.approx(24, rel=0.01)


def test_uneven_frames_are_noticed_and_even_ones_are_not(corpus: Corpus) -> None:
    assert probe(corpus["uneven.mp4"]).vfr
    for name in ("whole.mp4", "web.webm", "film.mkv", "edit.mp4", "tv.ts", "one.mp4"):
        assert not probe(corpus[name]).vfr, name


def test_one_frame_is_a_film_too(corpus: Corpus) -> None:
    facts = probe(corpus["one.mp4"])
    assert facts.declared_frames == 1
    assert facts.frame_us > 0


def test_sound_that_begins_first_is_known(corpus: Corpus) -> None:
    assert probe(corpus["late.mkv"]).start_offset_us == pytest.approx(500_000, abs=25_000)


def test_an_interrupted_download_is_warned_about_before_decoding(corpus: Corpus) -> None:
    half = corpus["half.mp4"]
    expected = corpus["whole.mp4"].stat().st_size - half.stat().st_size
    assert probe(half).missing_bytes == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("junk.mp4", MediaErrorKind.NOT_MEDIA),
        ("empty.mp4", MediaErrorKind.EMPTY),
        ("picture.mp4", MediaErrorKind.UNSUPPORTED),
        ("moving.gif", MediaErrorKind.UNSUPPORTED),
        ("playlist.mp4", MediaErrorKind.UNSUPPORTED),
        ("script.mp4", MediaErrorKind.UNSUPPORTED),
        ("sound.mp4", MediaErrorKind.NO_VIDEO),
        ("sound.wav", MediaErrorKind.NO_VIDEO),
        ("cover.m4a.mp4", MediaErrorKind.NO_VIDEO),
        ("headless.mp4", MediaErrorKind.TRUNCATED),
    ],
)
def test_what_is_no_usable_film_is_refused_with_its_reason(
    corpus: Corpus, name: str, kind: MediaErrorKind
) -> None:
    with pytest.raises(MediaError) as caught:
        probe(corpus[name])
    assert caught.value.kind is kind
    assert not caught.value.transient
    assert str(corpus[name]) in str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["http://127.0.0.1:9/x.mp4", "concat:/etc/passwd", "subfile,,start,0,,:/etc/passwd", "nowhere"],
)
def test_a_url_or_protocol_trick_is_only_a_missing_file(path: str) -> None:
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.kind is MediaErrorKind.MISSING


def test_a_frame_beyond_the_pixel_budget_is_refused_before_it_is_decoded(corpus: Corpus) -> None:
    with pytest.raises(MediaError) as caught:
        probe(corpus["whole.mp4"], max_pixels=WIDTH * HEIGHT - 1)
    assert caught.value.kind is MediaErrorKind.TOO_LARGE
    probe(corpus["whole.mp4"], max_pixels=WIDTH * HEIGHT)


def test_an_error_keeps_its_kind_on_the_way_between_processes() -> None:
    error = MediaError(MediaErrorKind.TRUNCATED, Path("a.mp4"), "ends early")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own object
    assert (copy.kind, copy.path, copy.message) == (error.kind, "a.mp4", "ends early")
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    "name",
    ["turned90.mp4", "turned180.mp4", "turned270.mp4", "mirrored.mp4", "mirrored90.mp4"],
)
def test_frames_stand_as_ffmpeg_itself_would_show_them(
    corpus: Corpus, tmp_path: Path, name: str
) -> None:
    [(_, ours)] = frames_at(corpus[name], [0])
    shown = tmp_path / "shown.rgb"
    corpus.ffmpeg(
        "-i", corpus[name], "-frames:v", "1", "-pix_fmt", "rgb24", "-f", "rawvideo", shown
    )
    theirs = np.fromfile(shown, np.uint8).reshape(ours.shape)
    assert np.abs(ours.astype(int) - theirs).mean() < 3
    # The pattern is not symmetric: any other turn is far away.
    for other in (ours[::-1], ours[:, ::-1], ours[::-1, ::-1]):
        assert np.abs(other.astype(int) - theirs).mean() > 20


def test_rotation_counts_clockwise() -> None:
    corner = np.zeros((2, 3), np.uint8)
    corner[0, 0] = 1  # top left
    quarter = 1 << 16
    clockwise = Orientation.from_matrix(
        struct.pack("9i", 0, quarter, 0, -quarter, 0, 0, 0, 0, 1 << 30)
    )
    assert clockwise.rotation == 90
    assert clockwise.apply(corner)[0, -1] == 1  # top right
    assert clockwise.apply(corner).shape == (3, 2)


def test_no_ffmpeg_but_the_packaged_one_is_ever_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    impostor = tmp_path / "ffmpeg"
    impostor.write_text("#!/bin/sh\necho impostor\n")
    impostor.chmod(0o755)
    command = "from s2v.datapipe.base.media import ffmpeg as f; print(f.executable(), f.version())"
    found = subprocess.run(
        [sys.executable, "-c", command],
        env={"PATH": str(tmp_path), "IMAGEIO_FFMPEG_EXE": str(impostor)},
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout.decode()
    assert "imageio_ffmpeg" in found
    assert ffmpeg.version() in found
