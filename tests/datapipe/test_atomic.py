"""Files are there whole or not at all, and what killed writers left is cleared away."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from s2v.datapipe.base import atomic


def aged(path: Path, seconds: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_what_a_killed_writer_left_is_swept_and_nothing_else_is(tmp_path: Path) -> None:
    old = aged(tmp_path / "measure" / "caption-f" / ".u.000.json.12-ab.tmp", 7200)
    young = aged(tmp_path / "clips" / ".a.mp4.13-cd.tmp", 60)
    kept = [aged(tmp_path / name, 7200) for name in ("a.tmp", ".hidden", "shards/x.tar")]
    outside = aged(tmp_path.parent / f"{tmp_path.name}-elsewhere" / ".b.tmp", 7200)
    (tmp_path / "linked").symlink_to(outside.parent)
    assert atomic.sweep(tmp_path) == 1
    assert not old.exists()
    assert young.exists()
    assert outside.exists()
    assert all(path.exists() for path in kept)


def test_a_machine_whose_clock_runs_ahead_sweeps_no_living_writers_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    young = aged(tmp_path / ".a.mp4.13-cd.tmp", 60)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    assert atomic.sweep(tmp_path) == 0
    assert young.exists()


def test_two_writers_of_one_file_never_share_a_temporary_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with atomic.replacing(path) as one, atomic.replacing(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one", "the last to end wins, whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = aged(tmp_path / "a.json", 0)

    def fail() -> None:
        with atomic.replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "x"
    assert list(tmp_path.iterdir()) == [path]


def test_a_shallow_sweep_leaves_writers_below_alone(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    for folder in (tmp_path, below):
        (folder / ".x.1.tmp").write_text("half")
    assert atomic.sweep(tmp_path, older_than_s=-1, deep=False) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["below"]
    assert len(list(below.iterdir())) == 1
