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
        step(900, note="committed before", before=True)
        now[0] += 20
        step(10)
    first = out.getvalue().splitlines()[0]
    assert first.startswith("measure: 910/1000 in 20 s (30/min), about 3 min left")


def test_steps_that_say_something_count_as_fast_as_silent_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A training notes its loss at every step: it must not seem to stand still."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with progress._lines("train", 100, out) as step:
        for _ in range(10):
            now[0] += 2
            step(1, "loss 0.5000")
    first = out.getvalue().splitlines()[0]
    assert first == "train: 5/100 in 10 s (30/min), about 3 min 10 s left, loss 0.5000"


def test_time_left_runs_down_between_steps_and_a_slow_step_does_not_blow_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = progress.Pace()
    assert pace.left(5) is None
    now[0] = 60
    pace.step(1)
    assert pace.left(5) == 300
    now[0] += 45
    assert pace.left(5) == 255
    now[0] += 1000
    assert pace.left(5) == 0
    assert pace.quiet() == 1045


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min"), (260, "4 min 20 s"), (7260, "2 h 1 min"), (190_000, "2 d 4 h")],
)
def test_durations_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_long_silence_is_broken_so_that_work_does_not_look_like_a_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "SILENT_S", 0.08)
    out = io.StringIO()
    with progress._lines("measure clips", 9, out):
        time.sleep(0.4)
    assert "measure clips: 0/9 in 0 s, at work, the last step 0 s ago" in out.getvalue()


def test_a_loop_that_fails_says_no_last_line() -> None:
    out = io.StringIO()
    with pytest.raises(ZeroDivisionError), progress._lines("cut", 3, out):
        raise ZeroDivisionError
    assert not out.getvalue()


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
