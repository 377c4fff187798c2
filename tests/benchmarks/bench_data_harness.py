"""Runs pieces of work by turns and tells what each cost."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
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
        return statistics.median(getattr(cost, what) for cost in self.costs)

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
    """Run a command; its cost, and its standard output.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    began = time.monotonic()
    with subprocess.Popen(
        list(command), env=env, cwd=cwd, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        output = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - began
    if process.returncode:
        raise RuntimeError(
            f"{' '.join(command)[:200]}: exit {process.returncode}: {output[-2000:]}"
        )
    cost = Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
    return cost, output


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
