"""A photograph becomes a video of exactly one frame, upright, even, and the same every time."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2v.datapipe import cutting
from s2v.datapipe.base.media.container import decoded, open_video
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.media.stills import still_clip
from s2v.datapipe.write.settings import WriteSettings


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


def test_the_cutting_step_makes_a_photograph_a_clip(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(photograph(64, 48))
    source = {"video_id": "a", "kind": "image", "path": str(photo), "etag": None}
    source["sha256"] = hashlib.sha256(photo.read_bytes()).hexdigest()
    clip = {"clip_id": "a-00000000-00000000", "kind": "image", "start_us": 0, "end_us": 0}
    job = cutting._job(tmp_path, clip, source, WriteSettings().encoding())
    (answer,) = cutting._cut_batch({"jobs": json.dumps([job])})
    assert (answer["message"], answer["failed"]["kind"]) == ("", "")
    assert probe(job["target"]).declared_frames == 1
