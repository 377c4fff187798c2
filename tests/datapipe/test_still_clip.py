"""A photograph becomes a video of exactly one frame, upright, even, and the same every time."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2v.datapipe.base.media.container import decoded, open_video
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.media.stills import still_clip


def photograph(width: int, height: int, orientation: int = 1) -> bytes:
    """Left half red, right half blue; JPEG with an orientation tag."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, : width // 2, 0] = rgb[:, width // 2 :, 2] = 220
    image = Image.fromarray(rgb)
    exif = image.getexif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    image.save(data, "JPEG", quality=95, subsampling=0, exif=exif)
    return data.getvalue()


@pytest.mark.parametrize(
    ("size", "short_side", "due"),
    [((120, 90), 64, (86, 64)), ((51, 37), 480, (52, 36)), ((30, 400), 20, (20, 266))],
)
def test_one_frame_of_even_size_is_declared_and_decoded(
    tmp_path: Path, size: tuple[int, int], short_side: int, due: tuple[int, int]
) -> None:
    made = still_clip(photograph(*size), tmp_path / "a.mp4", short_side=short_side, crf=16)
    facts = probe(tmp_path / "a.mp4")
    assert (made.frames, facts.declared_frames) == (1, 1)
    assert (facts.width, facts.height) == (made.width, made.height) == due
    assert facts.avg_fps == 24
    with open_video(tmp_path / "a.mp4") as video:
        (one,) = list(decoded(video, facts.frame_us))
        shown = one.frame.to_ndarray(format="rgb24").astype(int)
    left, right = shown[:, : due[0] // 4].mean((0, 1)), shown[:, -due[0] // 4 :].mean((0, 1))
    assert np.abs(left - (220, 0, 0)).max() < 16
    assert np.abs(right - (0, 0, 220)).max() < 16
    again = still_clip(photograph(*size), tmp_path / "b.mp4", short_side=short_side, crf=16)
    assert again.sha256 == made.sha256


def test_a_turned_photograph_is_upright(tmp_path: Path) -> None:
    made = still_clip(photograph(120, 80, orientation=6), tmp_path / "a.mp4", short_side=40)
    assert (made.width, made.height) == (40, 60)


def test_what_is_no_photograph_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError):
        still_clip(b"\xff\xd8\xff\xe0 not a picture", tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []
