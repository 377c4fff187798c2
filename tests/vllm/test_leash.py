"""Nothing that a run starts outlives it, whichever way the run, the leash or the program ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_server import alive

from s2v.datapipe.backends.vlm.leash import Leashed, processes_below

# A program with a child of its own and one that left its session, as servers have them. With
# "deaf" none of them minds SIGTERM.
PROGRAM = """
import signal, subprocess, sys, time
from pathlib import Path
deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN);" if "deaf" in sys.argv else ""
child = f"import signal, time; {deaf} time.sleep(300)"
pids = [subprocess.Popen([sys.executable, "-c", child], start_new_session=away).pid
        for away in (False, True)]
if deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path(sys.argv[1] + ".new").write_text(" ".join(map(str, pids)))
Path(sys.argv[1] + ".new").rename(sys.argv[1])
if "end" in sys.argv:
    sys.exit(7)
time.sleep(300)
"""

OWNER = """
import sys, time
from s2v.datapipe.backends.vlm.leash import Leashed
leashed = Leashed([sys.executable, "-c", sys.argv[1], sys.argv[2]], sys.stderr.buffer)
print(leashed.pid, flush=True)
time.sleep(300)
"""


def wait_for(what: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)
    return what()


def grandchildren(file: Path) -> list[int]:
    assert wait_for(file.exists), "the program did not start"
    return [int(pid) for pid in file.read_text().split()]


@pytest.mark.parametrize("manner", ["", "deaf"])
def test_stop_ends_the_program_and_all_it_started(tmp_path: Path, manner: str) -> None:
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "pids"), manner]
        leashed = Leashed(command, log, grace_s=0.5)
    pids = [*grandchildren(tmp_path / "pids"), *processes_below(leashed.pid)]
    assert len(set(pids)) == 3
    assert leashed.exit_code() is None
    assert leashed.stop() == 128 + (signal.SIGKILL if manner else signal.SIGTERM)
    assert not [pid for pid in pids if alive(pid)]
    assert leashed.stop() == leashed.exit_code()


def test_what_a_program_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        leashed = Leashed([sys.executable, "-c", PROGRAM, str(tmp_path / "pids"), "end"], log)
    assert wait_for(lambda: leashed.exit_code() is not None)
    assert leashed.exit_code() == 7
    assert not [pid for pid in grandchildren(tmp_path / "pids") if alive(pid)]


@pytest.mark.parametrize("victim", ["owner", "leash"])
def test_a_kill_that_cannot_be_caught_leaves_nothing(tmp_path: Path, victim: str) -> None:
    """The owner's kill is a crashed run; the leash's is what Ray does to an actor's children."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, PROGRAM, str(tmp_path / "pids")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert owner.stdout is not None
        leash = int(owner.stdout.readline())
        inner, outer = grandchildren(tmp_path / "pids")
        program = next(pid for pid in processes_below(leash) if pid not in {inner, outer})
        os.kill(owner.pid if victim == "owner" else leash, signal.SIGKILL)
        assert wait_for(lambda: not alive(program)), "the program outlived its owner"
        if victim == "owner":
            assert wait_for(lambda: not any(map(alive, (leash, inner, outer))))
    finally:
        owner.kill()
        owner.wait()
        for pid in grandchildren(tmp_path / "pids"):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_program_that_is_not_there_says_so_in_the_log(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        leashed = Leashed([str(tmp_path / "none")], log)
    assert wait_for(lambda: leashed.exit_code() is not None)
    assert leashed.stop() != 0
    assert "No such file or directory" in (tmp_path / "log").read_text()
