"""A written clip shows exactly the part of the picture that was measured, in every kind of file."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from media_corpus import Corpus

from s2v.datapipe.base.media.cut import cut_clip
from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.scan import scan
from s2v.datapipe.cutting import _job

#: Odd size, non-square pixels, every turn, 10 bits, interlace-era codecs, open GOPs.
FILMS = (
    *("whole.mp4", "odd.mp4", "wide.mp4", "ten.mp4", "full.mp4", "old.avi", "disc.mpg"),
    *("turned90.mp4", "turned180.mp4", "turned270.mp4", "mirrored.mp4", "mirrored90.mp4"),
    *("web.webm", "open.mkv", "late.mkv"),
)


def far(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference of grey levels: colour has half the resolution, so says less of the place."""
    one, other = (cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY) for rgb in (a, b))
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize("name", FILMS)
def test_boxes_measured_on_the_crop_lie_on_the_same_pixels_of_the_clip(
    corpus: Corpus, tmp_path: Path, name: str
) -> None:
    path = corpus[name]
    shown = [time for time, _ in scan(path)]
    [(_, frame)] = frames_at(path, [shown[8]])
    height, width = frame.shape[:2]
    crop = (18, 10, (width - 14) // 2 * 2, (height - 22) // 2 * 2)
    made = cut_clip(
        path, shown[8], shown[14], tmp_path / "clip.mp4", crop=crop, crf=4, short_side=4096
    )
    assert (made.width, made.height) == (crop[2] - crop[0], crop[3] - crop[1])
    first = next(rgb for _, rgb in scan(made.path, short_side=4096))

    def part(dx: int, dy: int) -> np.ndarray:
        return frame[crop[1] + dy : crop[3] + dy, crop[0] + dx : crop[2] + dx]

    here = far(first, part(0, 0))
    around = {(x, y): far(first, part(x, y)) for x, y in product((-1, 0, 1), repeat=2) if x or y}
    assert here < 0.5 * min(around.values()), (here, around)
    assert np.abs(first.mean((0, 1)) - part(0, 0).mean((0, 1))).max() < 3, "colours are the frame's"


def test_the_crop_is_scaled_down_as_the_whole_picture_would_be(
    corpus: Corpus, tmp_path: Path
) -> None:
    made = cut_clip(
        corpus["whole.mp4"], 0, 500_000, tmp_path / "clip.mp4", crop=(0, 20, 160, 100),
        short_side=40,
    )  # fmt: skip
    assert (made.width, made.height) == (80, 40)


@pytest.mark.parametrize(
    "crop", [(1, 0, 80, 60), (0, 0, 162, 60), (-2, 0, 80, 60), (0, 0, 0, 60), (0, 0, 80.5, 60)]
)
def test_a_crop_that_cannot_be_cut_exactly_is_refused(
    corpus: Corpus, tmp_path: Path, crop: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match=r"whole\.mp4: crop .* even whole pixels inside .*160x120"):
        cut_clip(corpus["whole.mp4"], 0, 500_000, tmp_path / "clip.mp4", crop=crop)
    assert list(tmp_path.iterdir()) == []


def test_another_crop_is_another_file_and_no_crop_is_the_file_of_old(tmp_path: Path) -> None:
    source = {"sha256": "a" * 64, "etag": None, "path": "film.mp4"}
    clip = {"clip_id": "c", "start_us": 0, "end_us": 9}
    encoding = {"crf": 20}
    crops = [{}, {"crop": None}, {"crop": [0.0, 0.0, 80.0, 60.0]}, {"crop": [0.0, 2.0, 80.0, 60.0]}]
    names = [_job(tmp_path, {**clip, **crop}, source, encoding)["target"] for crop in crops]
    assert names[0] == names[1]
    assert len(set(names)) == 3
