"""Single frames: the right one by its time, the same from either library."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
from media_corpus import FRAME_US, Corpus

from s2v.datapipe.base.media import decode, decord_backend
from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.media.scan import scan

TIMES = [1_400_000, 0, 250_000, 1_958_333, 250_000, 700_000, 1_100_123, 90_000]


@pytest.mark.parametrize(
    "name",
    ["whole.mp4", "odd.mp4", "wide.mp4", "full.mp4", "turned90.mp4", "turned180.mp4",
     "turned270.mp4", "web.webm", "film.mkv", "uneven.mp4",
     "closed.mp4", "web8.webm"],
)  # fmt: skip
def test_decord_and_pyav_give_the_same_frames(corpus: Corpus, name: str) -> None:
    pytest.importorskip("decord")
    assert decord_backend.fits(probe(corpus[name]), TIMES)
    theirs = frames_at(corpus[name], TIMES, backend="decord")
    ours = frames_at(corpus[name], TIMES, backend="pyav")
    assert [time for time, _ in theirs] == [time for time, _ in ours]
    for (_, a), (_, b) in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["ten.mp4", "old.avi", "tv.ts", "disc.mpg", "mirrored90.mp4"])
def test_decord_is_not_trusted_where_it_is_not_exact(corpus: Corpus, name: str) -> None:
    assert not decord_backend.fits(probe(corpus[name]), TIMES)


@pytest.mark.parametrize("name", ["open.mkv", "phone.mp4"])
def test_an_open_gop_sends_a_batch_to_pyav(corpus: Corpus, name: str) -> None:
    """decord gives other pictures behind every second key frame, and under right numbers."""
    path = corpus[name]
    shown = [time for time, _ in scan(path)]
    in_order = dict(frames_at(path, shown, backend="pyav"))
    batch = random.Random(1).sample(shown, 12)
    for time, frame in frames_at(path, batch):
        np.testing.assert_array_equal(frame, in_order[time])
    with pytest.raises(MediaError, match="open groups"):
        frames_at(path, batch, backend="decord")


def test_an_edit_list_sends_a_batch_to_pyav(corpus: Corpus) -> None:
    path = corpus["edit.mp4"]
    times = [time for time, _ in scan(path)][::3]
    assert [time for time, _ in frames_at(path, times)] == times
    with pytest.raises(MediaError, match="decord"):
        frames_at(path, times, backend="decord")


@pytest.mark.parametrize(
    "name",
    ["whole.mp4", "web.webm", "tv.ts", "disc.mpg", "old.avi", "edit.mp4", "late.mkv"],
)
def test_the_frame_is_the_one_that_is_on_screen_at_that_time(corpus: Corpus, name: str) -> None:
    path = corpus[name]
    shown = [time for time, _ in scan(path)]
    asked = [int(i * 77_777) for i in range(16)]
    for wanted, (time, _) in zip(asked, frames_at(path, asked), strict=True):
        assert time == max(t for t in shown if t <= wanted + 500)


def test_in_an_uneven_film_time_counts_and_not_the_frame_number(corpus: Corpus) -> None:
    # Frames 0 to 11, then every fifth: at 0.8 s frame 15 (0.625 s) is still on the screen.
    [(time, frame)] = frames_at(corpus["uneven.mp4"], [800_000])
    assert time == pytest.approx(15 * FRAME_US, abs=1000)
    [(_, same)] = frames_at(corpus["whole.mp4"], [round(15 * FRAME_US)])
    assert np.abs(frame.astype(int) - same).mean() < 6
    [(_, by_number)] = frames_at(corpus["whole.mp4"], [800_000])
    assert np.abs(frame.astype(int) - by_number).mean() > np.abs(frame.astype(int) - same).mean()


def test_order_and_repeats_are_kept(corpus: Corpus) -> None:
    found = frames_at(corpus["whole.mp4"], [1_000_000, 0, 1_000_000], backend="pyav")
    assert [time for time, _ in found] == [1_000_000, 0, 1_000_000]
    np.testing.assert_array_equal(found[0][1], found[2][1])
    assert frames_at(corpus["whole.mp4"], []) == []


def test_without_decord_the_frames_are_the_same(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_it = frames_at(corpus["whole.mp4"], TIMES)
    monkeypatch.setitem(sys.modules, "decord", None)
    monkeypatch.setattr(decord_backend, "fits", lambda facts, times: True)
    without = frames_at(corpus["whole.mp4"], TIMES)
    for (_, a), (_, b) in zip(with_it, without, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ImportError):
        frames_at(corpus["whole.mp4"], TIMES, backend="decord")


def test_where_decord_fails_pyav_serves_the_part_that_is_there(corpus: Corpus) -> None:
    early = [i * 50_000 for i in range(10)]
    found = frames_at(corpus["half.mp4"], early)
    assert len(found) == len(early)
    expected = frames_at(corpus["whole.mp4"], early, backend="pyav")
    for (_, a), (_, b) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_declared_frame_that_is_not_there_is_truncated(corpus: Corpus) -> None:
    with pytest.raises(MediaError) as caught:
        frames_at(corpus["half.mp4"], [200_000, 1_800_000])
    assert caught.value.kind is MediaErrorKind.TRUNCATED


def test_a_patched_frame_is_never_handed_out_by_pyav(corpus: Corpus) -> None:
    with pytest.raises(MediaError) as caught:
        frames_at(corpus["speck.mp4"], [round(30 * FRAME_US) + 1000], backend="pyav")
    assert caught.value.kind is MediaErrorKind.CORRUPT
    with pytest.raises(MediaError):
        frames_at(corpus["speck.mp4"], [round(33 * FRAME_US) + 1000], backend="pyav")
    for time in (500_000, 1_600_000):
        assert frames_at(corpus["speck.mp4"], [time], backend="pyav")


def test_times_outside_the_film_are_refused(corpus: Corpus) -> None:
    for times in ([-1], [3_000_000]):
        with pytest.raises(ValueError, match="film is"):
            frames_at(corpus["whole.mp4"], times)


def test_a_frame_of_a_long_gap_is_found_by_seeking(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    real = decode.decoded_from
    monkeypatch.setattr(
        decode,
        "decoded_from",
        lambda *args: (decoded.append(f[0]) or f for f in real(*args)),
    )
    frames_at(corpus["whole.mp4"], [0, 1_900_000], backend="pyav")
    assert len(decoded) < 20, "the GOPs in between are not decoded"
