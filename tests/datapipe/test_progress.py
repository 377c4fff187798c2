"""Progress tells how fast and how long; what was done before must not make it look faster."""

from __future__ import annotations

import io
import time

import pytest

from s2v.datapipe.base import progress


def test_a_resumed_run_shows_the_pace_of_now_and_not_of_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with progress._lines("measure", 1000, out) as step:
        step(900, note="committed before")
        now[0] += 20
        step(10)
    first = out.getvalue().splitlines()[0]
    assert first.startswith("measure: 910/1000 in 20 s (30/min), about 180 s left")


def test_a_log_file_gets_lines_and_not_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.track("cut", 3) as step:
        step(3)
    err = capsys.readouterr().err
    assert err.startswith("cut: 3/3 in 0 s")
    assert "\x1b" not in err


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.track("cut", 3, quiet=True) as step:
        step(3)
    assert not capsys.readouterr().err
