"""The sequential pass: every frame once, at its own time, and no broken file passes for a film."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from media_corpus import FRAME_US, FRAMES, SECONDS, Corpus

from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.images import resize
from s2v.datapipe.base.media.scan import Scan, scan

EVEN = ["whole.mp4", "ten.mp4", "odd.mp4", "wide.mp4", "turned90.mp4", "web.webm", "film.mkv",
        "old.avi", "tv.ts", "disc.mpg", "flash.flv", "late.mkv", "phone.mp4",
        "web8.webm"]  # fmt: skip


def drain(frames: Scan) -> tuple[list[int], MediaError | None]:
    """Times of all frames that came, and the error that came after them."""
    times: list[int] = []
    try:
        times.extend(pts_us for pts_us, _ in frames)
    except MediaError as error:
        return times, error
    return times, None


@pytest.mark.parametrize("name", EVEN)
def test_every_frame_comes_once_at_its_time(corpus: Corpus, name: str) -> None:
    frames = scan(corpus[name], short_side=60)
    times, error = drain(frames)
    assert error is None
    assert len(times) == FRAMES
    assert times == pytest.approx([i * FRAME_US for i in range(FRAMES)], abs=1000)
    assert frames.report is not None
    assert frames.report.frames == FRAMES
    assert frames.report.damaged == ()
    assert frames.report.decoded_end_us == pytest.approx(SECONDS * 1e6, abs=2000)


@pytest.mark.parametrize(
    "name",
    ["whole.mp4", "web.webm", "tv.ts", "disc.mpg", "old.avi", "edit.mp4", "uneven.mp4"],
)
def test_windows_of_a_film_neither_lose_nor_repeat_a_frame(corpus: Corpus, name: str) -> None:
    whole, error = drain(scan(corpus[name], short_side=30))
    assert error is None
    end = max(whole) + 1
    cuts = [0, 290_000, 700_000, 1_000_000, end]
    parts = []
    for start, stop in pairwise(cuts):
        times, error = drain(scan(corpus[name], start, stop, short_side=30))
        assert error is None
        assert all(start <= time < stop for time in times)
        parts += times
    assert parts == whole


def test_an_open_gop_entered_in_the_middle_is_not_called_damaged(corpus: Corpus) -> None:
    whole, _ = drain(scan(corpus["open.mkv"], short_side=30))
    assert len(whole) == 4 * 24
    for start in range(0, 3_900_000, 130_000):
        stop = start + 500_000
        frames = scan(corpus["open.mkv"], start, stop, short_side=30, max_damaged_share=0)
        times, error = drain(frames)
        assert error is None, start
        assert times == [time for time in whole if start <= time < stop]


def test_uneven_frames_keep_their_own_times(corpus: Corpus) -> None:
    times, error = drain(scan(corpus["uneven.mp4"]))
    assert error is None
    kept = [i for i in range(FRAMES) if i < 12 or i % 5 == 0]
    assert times == pytest.approx([i * FRAME_US for i in kept], abs=1000)


def test_a_film_trimmed_by_an_edit_list_is_not_called_truncated(corpus: Corpus) -> None:
    frames = scan(corpus["edit.mp4"])
    times, error = drain(frames)
    assert error is None
    assert times[0] == 0
    assert len(times) == pytest.approx((SECONDS - 0.7) * 24, abs=2)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("whole.mp4", (60, 80, 3)),
        ("turned90.mp4", (80, 60, 3)),
        ("wide.mp4", (60, 106, 3)),
        ("odd.mp4", (60, 80, 3)),
    ],
)
def test_small_frames_are_the_big_ones_made_small(
    corpus: Corpus, name: str, shape: tuple[int, ...]
) -> None:
    time, small = next(iter(scan(corpus[name], 500_000, short_side=60)))
    assert small.shape == shape
    assert small.dtype == np.uint8
    [(same_time, full)] = frames_at(corpus[name], [time], backend="pyav")
    assert same_time == time
    reference = resize(full, (shape[1], shape[0]))
    # The big one has its colours from the nearest chroma sample, the small one from averages.
    assert np.abs(small.astype(int) - reference).mean() < 10
    assert np.abs(small[::-1].astype(int) - reference).mean() > 50


def test_a_small_film_is_not_enlarged(corpus: Corpus) -> None:
    _, frame = next(iter(scan(corpus["whole.mp4"], short_side=480)))
    assert frame.shape == (120, 160, 3)


@pytest.mark.parametrize("name", ["half.mp4", "half.webm", "lying.mkv"])
def test_a_film_that_stops_early_is_an_error_after_its_last_frame(
    corpus: Corpus, name: str
) -> None:
    frames = scan(corpus[name])
    times, error = drain(frames)
    assert times, "the good part is still delivered"
    assert error is not None
    assert error.kind is MediaErrorKind.TRUNCATED
    assert not error.transient
    assert frames.report is not None
    assert frames.report.decoded_end_us < frames.report.end_us


def test_a_window_in_the_missing_part_is_an_error_and_not_an_empty_clip(corpus: Corpus) -> None:
    times, error = drain(scan(corpus["half.mp4"], 1_500_000, 1_900_000))
    assert times == []
    assert error is not None
    assert error.kind is MediaErrorKind.TRUNCATED


def test_a_window_in_the_whole_part_of_a_cut_file_is_good(corpus: Corpus) -> None:
    times, error = drain(scan(corpus["half.mp4"], 0, 500_000))
    assert error is None
    assert len(times) == 12


def test_damage_all_over_is_corrupt(corpus: Corpus) -> None:
    times, error = drain(scan(corpus["flipped.mp4"]))
    assert times
    assert error is not None
    assert error.kind is MediaErrorKind.CORRUPT


def test_one_damaged_picture_is_located_and_the_rest_kept(corpus: Corpus) -> None:
    frames = scan(corpus["speck.mp4"], max_damaged_share=0.5)
    times, error = drain(frames)
    assert error is None
    assert len(times) >= FRAMES - 12
    assert frames.report is not None
    assert frames.report.damaged_frames >= 1
    [(first, last)] = frames.report.damaged
    assert 24 * FRAME_US <= first <= 30 * FRAME_US, "what lies before is whole"
    assert 34.9 * FRAME_US <= last <= 37 * FRAME_US, "what refers to it is not, to the key frame"
    assert drain(scan(corpus["speck.mp4"], 0, 1_000_000, max_damaged_share=0))[1] is None
    assert drain(scan(corpus["speck.mp4"], 1_600_000, max_damaged_share=0))[1] is None
    _, strict = drain(scan(corpus["speck.mp4"], max_damaged_share=0.01))
    assert strict is not None
    assert strict.kind is MediaErrorKind.CORRUPT


def test_frames_lost_in_between_are_corrupt_though_the_end_is_there(corpus: Corpus) -> None:
    times, error = drain(scan(corpus["hole.mkv"]))
    assert len(times) == FRAMES - 12
    assert error is not None
    assert error.kind is MediaErrorKind.CORRUPT
    assert "missing in between" in error.message


def test_a_window_that_cannot_be_is_refused(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="empty window"):
        scan(corpus["whole.mp4"], 5, 5)
    with pytest.raises(ValueError, match="the film ends at"):
        next(scan(corpus["whole.mp4"], 3_000_000))


def test_the_same_scan_gives_the_same_pixels(corpus: Corpus) -> None:
    first, second = (
        [(time, frame.tobytes()) for time, frame in scan(corpus["ten.mp4"], 0, 300_000)]
        for _ in range(2)
    )
    assert first == second


def test_a_scan_left_early_lets_go_of_its_file(corpus: Corpus) -> None:
    def open_files() -> int:
        paths = [p.readlink() for p in Path("/proc/self/fd").iterdir() if p.is_symlink()]
        return sum(path == corpus["whole.mp4"] for path in paths)

    before = open_files()
    frames = scan(corpus["whole.mp4"])
    next(frames)
    assert open_files() == before + 1
    frames.close()
    assert open_files() == before
