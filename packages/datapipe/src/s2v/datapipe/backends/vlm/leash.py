"""Keep a program on a leash: when the owner is gone, however it went, so is the program.

A server started by a run must not outlive it: it would hold a GPU until somebody notices. A
process that is killed with SIGKILL cannot clean up, so the program is started by this small
file, run as a process of its own, which holds the reading end of a pipe whose other end only
the owner has. The pipe ends with the owner. Then the program gets SIGTERM, a time of grace, and
SIGKILL together with everything it started, also what left its process group: this process
adopts orphans (``PR_SET_CHILD_SUBREAPER``), so none of them can get away.

    python -I leash.py <pipe's file descriptor> <seconds of grace> <program> <arguments>

It exits as the program did, or with 128 plus the signal that ended it. Only the standard library
is used: the file is run by its path, so that it starts in milliseconds and needs no packages.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

GRACE_S: Final = 10.0
_KILL_S: Final = 30.0
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


class Leashed:
    """A program that ends with this process at the latest.

    Args:
        command: program and arguments; no shell is involved.
        log: where its output and errors go.
        environment: its whole environment; this process's by default.
        grace_s: seconds between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: IO[bytes],
        environment: Mapping[str, str] | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        theirs, self._pipe = os.pipe()
        self._grace_s = grace_s
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", __file__, str(theirs), str(grace_s), *command],
                pass_fds=(theirs,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the owner, who then stops in order
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(theirs)

    @property
    def pid(self) -> int:
        """The leash's process id; the program is its child."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """How the program ended, or None while it runs."""
        return self._process.poll()

    def stop(self) -> int:
        """End the program and all it started, wait for it, and return its exit code."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        return self._process.wait()


def processes_below(pid: int) -> list[int]:
    """Return the living descendants of a process, parents before children."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *processes_below(child)]
    return found


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _hold(pipe: int, grace_s: float, command: Sequence[str]) -> int:
    """Run `command` until it ends or the pipe does; leave nothing behind."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    asked, tell = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(tell, b"."))
    # This process has one thread, so running Python between fork and exec is safe.
    program = subprocess.Popen(command, preexec_fn=_die_with_parent)  # noqa: PLW1509 see above
    poll = select.poll()
    ended = os.pidfd_open(program.pid)
    for fd in (pipe, asked, ended):
        poll.register(fd, select.POLLIN)
    poll.poll()
    if program.poll() is None:
        program.terminate()
        with suppress(subprocess.TimeoutExpired):
            program.wait(grace_s)
    _kill_all_below(program)
    code = program.wait()
    return code if code >= 0 else 128 - code


def _kill_all_below(program: subprocess.Popen[bytes]) -> None:
    """Kill what is left; orphans come up to this process, so in the end none is."""
    deadline = time.monotonic() + _KILL_S
    while left := processes_below(os.getpid()):
        if time.monotonic() > deadline:  # stuck in the kernel, as with a driver that hangs
            sys.exit(f"processes {left} do not even end when killed")
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        program.poll()  # it reaps the program itself, whose exit code is wanted
        for pid in left:
            if pid != program.pid:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(_hold(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
