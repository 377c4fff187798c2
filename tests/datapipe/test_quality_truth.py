"""The filters on real clips with faults put into them; the whole table is in docs/quality.md.

A short form of ``tests/benchmarks/quality_truth.py``: one clip per fault that must be found, copies
that must be found, and clean clips that must be kept.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import quality_cases
from quality_cases import REPORT, Base, build, clean, faults
from quality_copies import COPIES, Copy, Tables, copied, is_duplicate
from quality_run import Line
from quality_score import Outcome, on_a_film, outcome

pytestmark = pytest.mark.assets

FILM = Base("bbb-film", 9600 / 24)
MAN = Base("man-clip", 0.0)
QUOKKA = Base("quokka", move="right")
FLOWN = Base("astronaut")
FOUND = {
    "subtitles, one line": FILM,
    "subtitles, two lines": MAN,
    "subtitles on a letterbox": QUOKKA,
    "title": FILM,
    "logo, see-through": FLOWN,
    "letterbox": MAN,
    "pillarbox": FILM,
    "frozen": FLOWN,
    "dark": QUOKKA,
    "over-exposed": FILM,
    "blurred": QUOKKA,
    "blocks, MPEG-4": FILM,
    "starved H.264": MAN,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("quality")
    quality_cases.use(made / "layers")
    return made


@pytest.fixture(scope="module")
def line(folder: Path) -> Line:
    return Line(folder / "run")


@pytest.fixture(scope="module")
def judge(folder: Path, line: Line) -> Callable[[Base, str], Outcome]:
    known = {fault.name: fault for fault in (clean(), *faults())}

    def measured(base: Base, fault: str) -> Outcome:
        return outcome(line, base, known[fault], folder)

    return measured


@pytest.mark.parametrize("base", [FILM, MAN, QUOKKA], ids=lambda base: base.name)
def test_a_clean_clip_is_kept_whole(judge: Callable[[Base, str], Outcome], base: Base) -> None:
    found = judge(base, "none")
    assert (found.clips, found.crop) == (1, None)
    # Our own encoder is frugal, and the safety net takes bare cartoon fur for skin.
    assert found.failed <= {"source bit rate", "not safe for work"}


@pytest.mark.parametrize("fault", FOUND)
def test_a_clip_with_this_fault_is_dropped_or_cut(
    judge: Callable[[Base, str], Outcome], fault: str
) -> None:
    found = judge(FOUND[fault], fault)
    assert found.found, (sorted(found.failed), found.crop)
    if found.fault.covered and found.crop is not None:
        assert not found.failed & {"text", "subtitles", "watermark"}, "what is left is clean"


def test_a_logo_over_a_still_scene_is_cut_away_as_other_shots_of_the_film_bear_it(
    folder: Path, line: Line
) -> None:
    logo = next(fault for fault in faults() if fault.name == "logo")
    assert not outcome(line, FILM, logo, folder).found, "three frames of a still scene cannot tell"
    shots = on_a_film(line, REPORT[2:7], logo, folder)
    assert next(shot for shot in shots if shot.base == FILM).found
    assert sum(shot.found for shot in shots) >= len(shots) - 1


@pytest.fixture(scope="module")
def original(folder: Path, line: Line) -> Tables:
    return line.measure([build(FILM, clean(), folder)], last="frames").tables


FOUND_COPIES = [kind for kind in COPIES if kind.name not in {"half a second later", "cut to 90 %"}]


@pytest.mark.parametrize("kind", FOUND_COPIES, ids=lambda kind: kind.name)
def test_the_same_clip_is_not_trained_on_twice_because_a_site_encoded_it_anew(
    folder: Path, line: Line, original: Tables, kind: Copy
) -> None:
    copy = line.measure([copied(FILM, kind, folder)], last="frames").tables
    assert is_duplicate(original, copy)


def test_other_shots_of_one_scene_are_not_lost_as_duplicates(folder: Path, line: Line) -> None:
    one, other = (Base("bbb-film", frame / 24) for frame in (6395, 6500))
    tables = [
        line.measure([build(base, clean(), folder)], last="frames").tables for base in (one, other)
    ]
    assert all(table["clips"] for table in tables)
    assert not is_duplicate(*tables)
