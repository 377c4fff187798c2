"""A user's configuration keeps what it says when bounds are written into it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from s2v.datapipe.base.settings import load
from s2v.datapipe.calibrate.errors import CalibrateError
from s2v.datapipe.calibrate.toml_edit import write_bounds
from s2v.datapipe.config import Settings
from s2v.datapipe.pair.settings import PairRules

SECTION = ("select", "pair", "creature")
BOUNDS = {"lower": 0.81, "upper": 0.94}
MINE = """\
# mine
folder = "runs/x"   # kept

[select.pair.creature]
# why this one
upper = 0.93  # as measured
across_sources = "no"

[write]
title = "[select.pair.creature]"
"""


def config(folder: Path, text: str) -> Path:
    path = folder / "my.toml"
    path.write_text(text)
    return path


def test_everything_else_stays_and_the_evidence_stands_above(tmp_path: Path) -> None:
    path = config(tmp_path, MINE)
    changed = write_bounds(path, SECTION, BOUNDS, ["200 labels", "two\nlines"], replace=True)
    assert changed == {"lower": (None, 0.81), "upper": (0.93, 0.94)}
    text = path.read_text()
    expected = tomllib.loads(MINE)
    expected["select"]["pair"]["creature"].update(BOUNDS)
    assert tomllib.loads(text) == expected
    for kept in ("# mine", "# kept", "# why this one", "# as measured"):
        assert kept in text
    assert "# calibrated: 200 labels\n# calibrated: two lines\n" in text


def test_writing_twice_leaves_one_piece_of_evidence(tmp_path: Path) -> None:
    path = config(tmp_path, MINE)
    write_bounds(path, SECTION, BOUNDS, ["first"], replace=True)
    write_bounds(path, SECTION, BOUNDS, ["second"])  # the same values need no leave
    assert path.read_text().count("# calibrated: ") == 1
    assert "second" in path.read_text()


def test_long_evidence_is_wrapped_and_goes_as_a_whole(tmp_path: Path) -> None:
    path = config(tmp_path, MINE)
    write_bounds(path, SECTION, BOUNDS, ["word " * 80], replace=True)
    assert max(map(len, path.read_text().splitlines())) <= 100
    write_bounds(path, SECTION, BOUNDS, ["short"])
    assert "word" not in path.read_text()


def test_a_section_that_is_not_there_is_added(tmp_path: Path) -> None:
    path = config(tmp_path, 'folder = "x"\n')
    write_bounds(path, SECTION, BOUNDS, ["e"])
    assert tomllib.loads(path.read_text())["select"]["pair"]["creature"] == BOUNDS


def test_another_value_is_not_overwritten_unasked(tmp_path: Path) -> None:
    path = config(tmp_path, MINE)
    with pytest.raises(CalibrateError, match=r"upper = 0\.93 already; give --replace"):
        write_bounds(path, SECTION, BOUNDS, ["e"])
    assert path.read_text() == MINE


@pytest.mark.parametrize(
    "text",
    [
        "[select.pair]\ncreature = { lower = 0.7, upper = 0.9 }\n",
        "select.pair.creature.upper = 0.9\n",
        "[select]\npair = 3\n",
        '[select.pair.creature]\nnote = """\nupper = 1\n"""\n',
    ],
)
def test_what_cannot_be_edited_safely_is_left_alone(tmp_path: Path, text: str) -> None:
    path = config(tmp_path, text)
    with pytest.raises(CalibrateError, match="by hand"):
        write_bounds(path, SECTION, BOUNDS, ["e"], replace=True)
    assert path.read_text() == text


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrateError, match=r"my\.toml: not a readable TOML"):
        write_bounds(config(tmp_path, "a = = 1"), SECTION, BOUNDS, [])
    with pytest.raises(CalibrateError, match=r"gone\.toml: no such file"):
        write_bounds(tmp_path / "gone.toml", SECTION, BOUNDS, [])


def test_ends_of_lines_mode_and_a_link_stay_as_they_were(tmp_path: Path) -> None:
    real = tmp_path / "shared.toml"
    real.write_bytes(MINE.replace("\n", "\r\n").encode())
    real.chmod(0o640)
    path = tmp_path / "my.toml"
    path.symlink_to(real)
    write_bounds(path, SECTION, BOUNDS, ["e"], replace=True)
    assert path.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert real.read_bytes().count(b"\r\n") == real.read_bytes().count(b"\n")
    assert tomllib.loads(real.read_text())["select"]["pair"]["creature"]["upper"] == 0.94


def test_a_letter_that_only_python_takes_for_an_end_of_line_ends_none(tmp_path: Path) -> None:
    note = 'folder = "a\u2028b"  # c\u0085d\n'
    path = config(tmp_path, note)
    write_bounds(path, SECTION, BOUNDS, ["e"])
    assert path.read_bytes().decode().startswith(note)


def test_what_is_written_is_a_configuration_that_loads_and_keeps_the_banks_other_rules(
    tmp_path: Path,
) -> None:
    path = config(tmp_path, 'folder = "x"\n')
    write_bounds(path, SECTION, BOUNDS, ["e"])
    write_bounds(path, (*SECTION, "classes", "animal"), {"lower": 0.7, "upper": 0.9}, ["e"])
    found = load(Settings, path).select.pair.creature
    assert (found.lower, found.upper) == (0.81, 0.94)
    assert found.bounds("animal") == (0.7, 0.9)
    assert found.bounds("ip_character") == (0.81, 0.94)
    assert found.max_background == PairRules().creature.max_background
    assert found.across_sources == "no"
