"""Buckets: every clip gets the size and number of frames that a batch wants, or a reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_corpus import Corpus
from pydantic import ValidationError
from written_run import SETTINGS, WritableRun

from s2v.datapipe import cutting
from s2v.datapipe.base.media.buckets import corner, fit, trimmed
from s2v.datapipe.base.media.container import decoded, open_video
from s2v.datapipe.base.media.cut import animate_still, cut_clip
from s2v.datapipe.base.media.cut_together import Span, cut_together
from s2v.datapipe.base.media.encode import Shape
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.images import encode_jpeg
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.media.stills import still_clip
from s2v.datapipe.pair.select import select
from s2v.datapipe.write.focus import subjects_shown
from s2v.datapipe.write.settings import WriteSettings

BUCKETS = ((480, 832), (832, 480), (624, 624), (240, 416))


@given(st.integers(16, 4000), st.integers(16, 4000), st.floats(1, 2))
def test_a_picture_covers_its_bucket_and_is_not_enlarged_too_much(
    width: int, height: int, most: float
) -> None:
    found = fit(width, height, BUCKETS, most)
    fitting = [b for b in BUCKETS if max(b[1] / width, b[0] / height) <= most]
    if found is None:
        assert fitting == []
        return
    wide, high = found.size
    assert (high, wide) in BUCKETS
    assert found.cover[0] >= wide
    assert found.cover[1] >= high
    assert min(found.cover[0] - wide, found.cover[1] - high) <= 2  # one side fits
    assert max(wide / width, high / height) <= most * 1.000001


def test_the_nearest_aspect_ratio_wins_then_the_largest() -> None:
    assert fit(1280, 720, BUCKETS, 1).size == (832, 480)  # type: ignore[union-attr]
    assert fit(720, 1280, BUCKETS, 1).size == (480, 832)  # type: ignore[union-attr]
    assert fit(1000, 1100, BUCKETS, 1).size == (624, 624)  # type: ignore[union-attr]
    assert fit(640, 360, BUCKETS, 1).size == (416, 240)  # type: ignore[union-attr]
    assert fit(640, 360, BUCKETS, 1.4).size == (832, 480)  # type: ignore[union-attr]
    assert fit(300, 200, BUCKETS, 1) is None


@given(st.integers(1, 1000), st.sampled_from([1, 4, 8]))
def test_frames_are_a_multiple_plus_one_and_few_are_lost(frames: int, step: int) -> None:
    kept = trimmed(frames, step)
    assert kept % step == 1 % step
    assert 0 <= frames - kept < step


@pytest.mark.parametrize("step", [4, 8])
def test_a_cut_clip_has_the_size_and_length_of_its_bucket(
    corpus: Corpus, tmp_path: Path, step: int
) -> None:
    film = corpus["whole.mp4"]
    shape = Shape(buckets=((64, 48), (48, 64)), frame_step=step)
    made = cut_clip(film, 0, 1_900_000, tmp_path / "a.mp4", fps=12, shape=shape)
    plain = cut_clip(film, 0, 1_900_000, tmp_path / "b.mp4", fps=12)
    assert (made.width, made.height) == (64, 48)
    assert made.frames == trimmed(plain.frames, step) < plain.frames
    assert probe(tmp_path / "a.mp4").declared_frames == made.frames


def test_what_sticks_out_is_cut_away_on_both_sides(tmp_path: Path) -> None:
    import numpy as np

    rgb = np.zeros((100, 200, 3), np.uint8)
    rgb[:, 50:150] = 255
    shape = Shape(buckets=((100, 100),))
    made = still_clip(encode_jpeg(rgb), tmp_path / "a.mp4", shape=shape, crf=10)
    assert (made.width, made.height) == (100, 100)
    from s2v.datapipe.base.media.container import decoded, open_video

    with open_video(tmp_path / "a.mp4") as video:
        (one,) = list(decoded(video, 41_667))
        assert one.frame.to_ndarray(format="rgb24")[5:-5, 5:-5].min() > 230


def test_a_picture_too_small_for_every_bucket_is_refused_with_a_way_out(tmp_path: Path) -> None:
    import numpy as np

    jpeg = encode_jpeg(np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(MediaError, match=r"40x40 would be enlarged more than 1 times.*add a small"):
        still_clip(jpeg, tmp_path / "a.mp4", shape=Shape(buckets=((64, 64),)))


def test_settings_reach_the_encoder_and_keep_the_names_of_clips_without_them() -> None:
    assert WriteSettings().encoding().keys() == {"short_side", "fps", "crf", "preset"}
    chosen = WriteSettings(buckets=((480, 832),), frame_step=4).encoding()
    plain = json.loads(json.dumps(chosen))  # as it travels to a worker
    assert cutting._arguments(plain)["shape"] == Shape(((480, 832),), 1.0, 4)
    with pytest.raises(ValidationError, match="even and 16 at least"):
        WriteSettings(buckets=((481, 832),))


@given(
    st.tuples(st.integers(8, 900), st.integers(8, 900)),
    st.tuples(st.integers(0, 400), st.integers(0, 400)),
    st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_bucket_holds_the_subjects_wherever_it_can_and_moves_no_further(
    half: tuple[int, int], more: tuple[int, int], edges: tuple[float, float, float, float]
) -> None:
    size = (2 * half[0], 2 * half[1])
    cover = (size[0] + 2 * more[0], size[1] + 2 * more[1])
    keep = (min(edges[::2]), min(edges[1::2]), max(edges[::2]), max(edges[1::2]))
    there, middle = corner(cover, size, keep), corner(cover, size)
    for n in (0, 1):
        begin, low, high = there[n], keep[n] * cover[n], keep[n + 2] * cover[n]
        assert begin % 2 == 0
        assert 0 <= begin <= cover[n] - size[n]
        if high - low <= size[n] - 2:  # even pixels
            assert begin - 1e-6 <= low
            assert high <= begin + size[n] + 1e-6
        if middle[n] <= low and high <= middle[n] + size[n]:
            assert begin == middle[n]


def test_a_subject_at_the_edge_is_whole_in_a_narrow_bucket(tmp_path: Path) -> None:
    """The same for a photograph, a clip, and neighbours cut in one pass."""
    picture = np.full((240, 426, 3), 90, np.uint8)
    picture[80:160, 330:410] = (250, 20, 20)
    keep = (330 / 426, 80 / 240, 410 / 426, 160 / 240)
    shape = Shape(((240, 240),), 1.0)
    still_clip(encode_jpeg(picture), tmp_path / "photo.mp4", short_side=240, shape=shape, keep=keep)
    animate_still(encode_jpeg(picture), tmp_path / "film.mp4", seconds=4, fps=8, short_side=240)
    film = tmp_path / "film.mp4"
    spans = [Span(n * 1_500_000, (n + 1) * 1_500_000, tmp_path / f"{n}.mp4", None, keep)
             for n in (0, 1)]  # fmt: skip
    cut_together(film, spans, shape=shape)
    for n, span in enumerate(spans):
        alone = tmp_path / f"alone-{n}.mp4"
        cut_clip(film, span.start_us, span.end_us, alone, shape=shape, keep=keep)
        assert alone.read_bytes() == span.dst.read_bytes()
    cut_clip(film, 0, 1_500_000, tmp_path / "middle.mp4", shape=shape)
    reds = {}
    for name in ("photo", "0", "1", "middle"):
        with open_video(tmp_path / f"{name}.mp4") as video:
            frame = next(f.to_ndarray(format="rgb24") for _, f, _ in decoded(video, 125_000))
        assert frame.shape == (240, 240, 3)
        reds[name] = int(((frame[..., 0] > 180) & (frame[..., 1] < 90)).sum())
    assert reds["middle"] < 6400 * 0.3
    assert min(reds["photo"], reds["0"], reds["1"]) > 6400 * 0.9


def test_a_clip_keeps_its_name_where_the_middle_is_right(tmp_path: Path) -> None:
    source = {"video_id": "v", "kind": "video", "path": "v", "sha256": "0", "etag": None}
    clip = {"clip_id": "v-1", "kind": "video", "start_us": 0, "end_us": 1, "width": 426,
            "height": 240}  # fmt: skip
    encoding = WriteSettings(buckets=((240, 240),)).encoding()

    def target(keep: tuple[float, ...] | None) -> str:
        return str(cutting._job(tmp_path, clip, source, encoding, keep)["target"])

    assert target((0.4, 0.1, 0.6, 0.9)) == target(None)
    assert target((0.8, 0.1, 0.99, 0.9)) != target(None)


def test_the_box_to_keep_is_around_all_that_the_samples_of_a_clip_are_about(
    film_run: WritableRun,
) -> None:
    tables = film_run.world.tables()
    selection = select(tables, SETTINGS)
    shown = subjects_shown(tables, selection)
    assert shown
    wanted: dict[str, set[str]] = {}
    for sample in selection.samples.to_pylist():
        for ref in sample["references"]:
            wanted.setdefault(sample["clip_id"], set()).add(ref["subject_id"])
    assert shown.keys() == wanted.keys()
    frames = {row["frame_id"]: row for row in tables["frames"].to_pylist()}
    for row in tables["detections"].to_pylist():
        if row["subject_id"] in wanted.get(row["clip_id"], ()) and row["reason"] is None:
            frame = frames[row["frame_id"]]
            x0, y0, x1, y1 = shown[row["clip_id"]]
            assert x0 <= row["box"][0] / frame["width"] + 0.001
            assert y1 >= min(1.0, row["box"][3] / frame["height"]) - 0.001
            assert 0 <= y0 < y1 <= 1
            assert x0 < x1 <= 1
