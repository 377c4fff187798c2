"""Buckets: every clip gets the size and number of frames that a batch wants, or a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_corpus import Corpus
from pydantic import ValidationError

from s2v.datapipe import cutting
from s2v.datapipe.base.media.buckets import fit, trimmed
from s2v.datapipe.base.media.cut import cut_clip
from s2v.datapipe.base.media.encode import Shape
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.images import encode_jpeg
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.media.stills import still_clip
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
