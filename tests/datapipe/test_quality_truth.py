"""The filters on real clips with faults put into them; the whole table is in docs/quality.md.

A short form of ``tests/benchmarks/quality_truth.py``: one clip per fault that must be found, and
clean clips that must be kept.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import quality_cases
from quality_cases import Base, clean, faults
from quality_run import Line
from quality_score import Outcome, outcome

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
def judge(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Base, str], Outcome]:
    folder: Path = tmp_path_factory.mktemp("quality")
    quality_cases.use(folder / "layers")
    line = Line(folder / "run")
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
