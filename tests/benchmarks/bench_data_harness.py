"""Runs pieces of work by turns and tells what each cost."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure_command import PR_SET_CHILD_SUBREAPER, Group

HERE = Path(__file__).parent
ORPHANS_S = 30  # how long to wait for them
OURS = HERE / "bench_data_ours.py"


@dataclass(frozen=True)
class Cost:
    """What one run of a command took.

    Attributes:
        wall_s: from start to end.
        cpu_s: user and system time of it and of all it waited for.
        rss_mb: the most memory one of these processes had at a time.
        result: what the work says it did.
    """

    wall_s: float
    cpu_s: float
    rss_mb: float
    result: Any = None


@dataclass
class Entry:
    """One tool at one task.

    Attributes:
        name: for the table.
        work: does it once in a fresh folder and says what it cost and made.
        costs: of the runs that count.
    """

    name: str
    work: Callable[[Path], Cost]
    costs: list[Cost] = field(default_factory=list)

    def median(self, what: str) -> float:
        """Median of ``wall_s``, ``cpu_s`` or ``rss_mb``."""
        return float(statistics.median(getattr(cost, what) for cost in self.costs))

    def spread(self, what: str) -> str:
        """Least and most."""
        values = [getattr(cost, what) for cost in self.costs]
        return f"{min(values):.2f}–{max(values):.2f}"

    @property
    def result(self) -> Any:
        """What the last run made."""
        return self.costs[-1].result


def by_turns(entries: Sequence[Entry], repetitions: int, folder: Path) -> None:
    """Run all once to warm up, then A B B A A B ...; every run has a folder of its own.

    A machine that slows down then slows all of them down alike.
    """
    for number in range(repetitions + 1):
        for entry in entries if number % 2 == 0 else reversed(entries):
            place = folder / f"{entries.index(entry)}-{number}"
            place.mkdir(parents=True)
            cost = entry.work(place)
            print(f"  {entry.name}: {cost.cpu_s:.2f} CPU-s, {cost.wall_s:.2f} s", file=sys.stderr)
            if number:
                entry.costs.append(cost)


def measured(
    command: Sequence[str], *, env: dict[str, str] | None = None, cwd: Path | None = None
) -> tuple[Cost, str]:
    """Run a command and whatever it leaves behind to its end; its cost, and its output.

    Process time is the kernel's count for a control group of its own, where one can be made:
    some tools work in processes that nobody waits for. Elsewhere this process adopts those.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with _adopting() as orphans, tempfile.TemporaryFile() as said:
        group = Group()
        mine = _own_cpu()
        began = time.monotonic()
        process = subprocess.Popen(
            list(command), env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - began
        largest = orphans(used.ru_maxrss)
        said.seek(0)
        output = said.read().decode(errors="replace")
    counted = group.cpu_seconds()
    group.leave()
    if process.returncode:
        shown = " ".join(command)[:200]
        raise RuntimeError(f"{shown}: exit {process.returncode}: {output[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    reaped = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cpu = reaped if counted is None else counted - (_own_cpu() - mine)
    return Cost(wall, cpu, largest / 1024), output


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def _adopting() -> Iterator[Callable[[int], int]]:
    """Be the parent of what children leave behind; gives a function that waits for all of it.

    It takes and returns the largest resident set of any process, kB. Children that were there
    before are none of its business.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    others = _children()

    def wait(largest: int) -> int:
        deadline = time.monotonic() + ORPHANS_S
        while time.monotonic() < deadline and (left := _children() - others):
            for pid in left:
                with suppress(ChildProcessError):
                    _, _, used = os.wait4(pid, os.WNOHANG)
                    largest = max(largest, used.ru_maxrss)
            time.sleep(0.02)
        return largest

    try:
        yield wait
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # a thread that ended just now
            found |= {int(pid) for pid in task.read_text().split()}
    return found


def ours(*arguments: str) -> Cost:
    """A piece of our work in a process of its own; its result is read from its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    cost, output = measured([sys.executable, str(OURS), *arguments], env=environment)
    return Cost(cost.wall_s, cost.cpu_s, cost.rss_mb, json.loads(output.strip().splitlines()[-1]))


def ours_in_a_group(*arguments: str) -> Cost:
    """As :func:`ours`, for work on Ray, whose processes nobody waits for."""
    command = [sys.executable, str(HERE / "measure_command.py"), "--", sys.executable, str(OURS)]
    _, output = measured([*command, *arguments])
    lines = [line for line in output.strip().splitlines() if line.startswith("{")]
    figures, result = json.loads(lines[-1]), json.loads(lines[-2])
    result["counted by"] = figures["counted_by"]
    return Cost(result["seconds"], figures["cpu_s"], figures["peak_pss_mb"], result)
