"""Cuts, fades and dissolves on real footage whose truth is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import shots_truth as truth
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from s2v.datapipe.base import assets
from s2v.datapipe.base.media.scan import scan
from s2v.datapipe.measure import cuts as cuts_module
from s2v.datapipe.measure.cuts import CutDetector, is_movement
from s2v.datapipe.measure.gradual import find_dissolves, find_fades
from s2v.datapipe.measure.scan import FrameScan, scan_window
from s2v.datapipe.measure.shots import ShotSettings

pytestmark = pytest.mark.assets

SETTINGS = ShotSettings().model_dump()

#: One film of every kind of join and trap, of scenes that the benchmark's report set has.
FILM = truth.Case(
    "all",
    "report",
    (
        truth.Piece("bbb-film", 6395),
        truth.Piece("bbb-film", 6500),
        truth.flash("bbb-film", 10850, 24, 3, 0.9),
        truth.Piece("bbb-film", 6840),
        truth.pan("motorcycle", 1.2),
        truth.Piece("man-clip", 0, 30),
        truth.Piece("bbb-film", 7410),
        truth.Piece("bbb-film", 11360),
    ),
    (
        ("dissolve", 12),
        ("cut", 0),
        ("fade black", 12),
        ("cut", 0),
        ("cut", 0),
        ("dissolve", 25),
        ("fade white", 8),
    ),
)


@pytest.fixture(scope="module", autouse=True)
def media() -> None:
    assets.fetch(["bbb-film", *truth.needed_assets()])


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once."""
    return FILM.build(tmp_path_factory.mktemp("truth"))


@pytest.fixture(scope="module")
def found(film: Path) -> FrameScan:
    return scan_window(str(film), 0, 0, SETTINGS)


def test_the_film_is_as_long_as_its_truth_says(found: FrameScan) -> None:
    assert len(found.pts_us) == FILM.frames


def test_every_transition_is_found_and_nothing_else(found: FrameScan) -> None:
    gradual = [(span.first, span.last) for span in found.gradual]
    scores, false = truth.score(FILM, found.cuts, gradual)
    assert {kind: (s.found, s.known) for kind, s in scores.items() if s.known} == {
        "cut": (3, 3),
        "dissolve": (2, 2),
        "fade": (2, 2),
    }
    assert false == [], "neither the flash nor the fast pan is a cut"
    mixed, kept = (sum(getattr(s, what) for s in scores.values()) for what in ("mixed", "kept"))
    assert kept <= 0.05 * mixed


def test_hard_cuts_are_found_on_the_very_frame(found: FrameScan) -> None:
    assert found.cuts == [t.first for t in FILM.transitions() if t.kind == "cut"]


def test_what_is_no_cut_is_remembered_with_its_reason(film: Path) -> None:
    detector, _ = detect(film)
    [(_, first, last), (_, pan, end)] = FILM.traps()
    assert {detector.refused[n] for n in range(first, last) if n in detector.refused} == {"flash"}
    refused = [n for n in detector.refused if pan < n < end]
    assert refused, "PySceneDetect's detectors would cut this pan"


def test_no_gradual_transition_is_seen_where_shots_are_joined_by_cuts(tmp_path: Path) -> None:
    case = truth.Case(
        "cuts",
        "report",
        (truth.Piece("bbb-film", 9170), truth.Piece("bbb-film", 8400), truth.pan("motorcycle", 3)),
        (("cut", 0), ("cut", 0)),
    )
    found = scan_window(str(case.build(tmp_path)), 0, 0, SETTINGS)
    assert found.gradual == []


@pytest.mark.parametrize(("start_s", "end_s"), [(292.0, 300.0), (440.0, 450.0), (194.0, 199.0)])
def test_candidates_are_pyscenedetects_own(start_s: float, end_s: float) -> None:
    film = assets.asset("bbb-film")
    content = ContentDetector(threshold=27.0, min_scene_len=0)
    adaptive = AdaptiveDetector(adaptive_threshold=3.0, min_scene_len=0)
    ours = CutDetector(27.0, 3.0)
    theirs: list[set[int]] = [set(), set()]
    scores = []
    for n, (pts_us, rgb) in enumerate(scan(film, int(start_s * 1e6), int(end_s * 1e6), draft=True)):
        bgr = np.ascontiguousarray(rgb[:, :, ::-1])
        for detector, cuts in zip((content, adaptive), theirs, strict=True):
            cuts |= {c.frame_num for c in detector.process_frame(FrameTimecode(n, 24.0), bgr)}
        scores.append(content._frame_score)
        ours(pts_us, hsv(rgb), grey(rgb))
    ours.finish()
    assert ours.scores == pytest.approx(scores, abs=1e-9)
    united = theirs[0] | theirs[1]
    assert united == {n for n in range(1, len(scores)) if ours.is_candidate(n)}
    assert set(ours.cuts) <= united
    assert united - set(ours.cuts) == set(ours.refused)
    assert len(ours.cuts) >= 1


def test_the_films_own_dissolve_is_found_and_its_title_is_none() -> None:
    # A title fades in at 595 and out by 726; one scene dissolves into the next from 751 to 807.
    start, end = 580, 830
    found = scan_window(
        str(assets.asset("bbb-film")), int(start / 24 * 1e6), int(end / 24 * 1e6), SETTINGS
    )
    [span] = found.gradual
    offset = round(found.pts_us[0] * 24 / 1e6)
    assert span.kind == "dissolve"
    assert (span.first + offset, span.last + offset) == pytest.approx((753, 805), abs=6)


def test_nothing_is_found_in_too_few_frames() -> None:
    thumbs = np.zeros((5, 18, 32), np.uint8)
    assert find_dissolves(thumbs) == []
    assert find_fades(thumbs, np.zeros(5), np.zeros(5), 25) == []


def test_a_blank_between_hard_cuts_is_a_shot_and_no_fade() -> None:
    spread = np.array([0.2] * 20 + [0.0] * 10 + [0.2] * 20)
    luma = np.array([0.4] * 20 + [0.0] * 10 + [0.4] * 20)
    assert find_fades(np.zeros((50, 18, 32), np.uint8), luma, spread, 25) == []


def test_a_long_black_between_fades_stays_a_shot_of_its_own() -> None:
    out = np.linspace(0.2, 0.0, 13)
    spread = np.concatenate([[0.2] * 20, out, [0.0] * 60, out[::-1], [0.2] * 20])
    thumbs = np.zeros((len(spread), 18, 32), np.uint8)
    spans = find_fades(thumbs, spread * 2, spread, 25)
    assert [span.kind for span in spans] == ["fade", "fade"]
    assert spans[1].first - spans[0].last >= 58


def hsv(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV), np.uint8)


def grey(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def detect(film: Path) -> tuple[CutDetector, list[int]]:
    detector = CutDetector(27.0, 3.0)
    times = []
    for pts_us, rgb in scan(film, draft=True):
        detector(pts_us, hsv(rgb), grey(rgb))
        times.append(pts_us)
    detector.finish()
    return detector, times


@pytest.mark.parametrize("shift", [(-3337.0, -1697.5), (300.0, 0.0), (0.0, -144.0)])
def test_a_shift_out_of_the_picture_costs_no_film(
    shift: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV's answer for two unlike pictures of a real film; they were divided by nothing."""

    def phase_correlate(*_: object) -> tuple[tuple[float, float], float]:
        return shift, -1e-5

    monkeypatch.setattr(cuts_module.cv2, "phaseCorrelate", phase_correlate)
    dice = np.random.default_rng(1)
    before, after = dice.integers(0, 255, (2, 144, 256), np.uint8)
    assert not is_movement(before, after)
