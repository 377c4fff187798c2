"""Black borders: found where they are, on real footage, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from media_corpus import Corpus
from shots_measure import X264, measure

from s2v.datapipe.base import assets
from s2v.datapipe.base.media.scan import scan
from s2v.datapipe.measure.borders import Profiles

pytestmark = pytest.mark.assets

DUSK = "geq=lum='16+(lum(X,Y)-16)*pow(Y/H,6)':cb=128:cr=128"  # darkens upwards, without a line


@pytest.fixture(scope="module", autouse=True)
def media() -> None:
    assets.fetch(["bbb-film", "man-clip"])


def film(corpus: Corpus, path: Path, filters: str, start_s: float = 282.0) -> Path:
    """Two seconds of the film, inside one shot, through ffmpeg's filters."""
    corpus.ffmpeg(
        "-ss", str(start_s), "-i", assets.asset("bbb-film"), "-t", "2",
        "-vf", f"{filters},setsar=1", "-crf", "26", *X264, path,
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("scale=640:272,pad=640:360:0:44", (0, 44, 640, 316)),
        ("scale=480:360,pad=640:360:80:0", (80, 0, 560, 360)),
        ("scale=512:288,pad=640:360:64:36", (64, 36, 576, 324)),
        ("scale=640:300,pad=640:360:0:0", (0, 0, 640, 300)),
    ],
)
def test_the_picture_inside_borders_is_found_and_no_black_row_is_left(
    corpus: Corpus, tmp_path: Path, filters: str, expected: tuple[int, int, int, int]
) -> None:
    [clip], _ = measure(film(corpus, tmp_path / "film.mp4", filters))
    content = clip["content"]
    assert content is not None
    inwards = np.array([1, 1, -1, -1]) * (np.array(content) - expected)
    assert (inwards >= 0).all(), "a black row would stay"
    assert (inwards <= 9).all(), "more than needed is cut off"
    free = np.array(expected) == [0, 0, 640, 360]
    assert (inwards[free] == 0).all(), "a side without a border keeps its edge"


def test_borders_of_a_turned_film_are_in_displayed_pixels(corpus: Corpus, tmp_path: Path) -> None:
    flat = film(corpus, tmp_path / "flat.mp4", "scale=480:360,pad=640:360:80:0")
    turned = tmp_path / "turned.mp4"
    corpus.ffmpeg("-display_rotation", "90", "-i", flat, "-c", "copy", turned)
    [clip], _ = measure(turned)
    assert (clip["width"], clip["height"]) == (360, 640)
    assert clip["content"] == pytest.approx([0, 80, 360, 560], abs=9)


@pytest.mark.parametrize(
    ("name", "filters", "start_s"),
    [
        ("the film as it is", "scale=640:360", 282.0),
        ("a dark picture", "scale=640:360,eq=brightness=-0.45:contrast=0.5", 282.0),
        ("black all over", "scale=640:360,lutyuv=y=16:u=128:v=128", 282.0),
        ("credits on black", "scale=640:360", 500.0),
        ("bright below, black above", f"scale=640:360,{DUSK}", 282.0),
    ],
)
def test_no_border_is_claimed_without_evidence(
    corpus: Corpus, tmp_path: Path, name: str, filters: str, start_s: float
) -> None:
    path = film(corpus, tmp_path / "film.mp4", filters, start_s)
    for clip in measure(path)[0]:
        assert clip["content"] is None, name


def test_a_subtitle_in_a_border_keeps_that_border(corpus: Corpus, tmp_path: Path) -> None:
    filters = "scale=640:272,pad=640:360:0:44,drawbox=x=220:y=330:w=200:h=14:color=white:t=fill"
    [clip], _ = measure(film(corpus, tmp_path / "film.mp4", filters))
    assert clip["content"] is not None
    assert clip["content"][1] >= 44
    assert clip["content"][3] == 360, "what is written there is for the overlay stage to judge"


def test_only_the_clips_own_frames_count(corpus: Corpus, tmp_path: Path) -> None:
    boxed = film(corpus, tmp_path / "boxed.mp4", "scale=640:272,pad=640:360:0:44")
    profiles = Profiles()
    grey = np.full((144, 256), 128, np.uint8)
    for n, (_, rgb) in enumerate(scan(boxed, draft=True)):
        profiles.look(n, np.ascontiguousarray(rgb[:, :, 1]))
    last = profiles.index[-1] + 1
    profiles.look(last, grey)
    assert profiles.content(0, last) is not None
    assert profiles.content(0, last + 1) is None
    assert profiles.content(last + 5, last + 9) is None, "no frame was looked at"
