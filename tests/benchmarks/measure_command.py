"""CPU seconds of all processes, wall time and peak memory of a command; Linux only.

    python tests/benchmarks/measure_command.py --json docs/demo-cost.json -- make demo

Ray's processes leave their parent, so a shell's ``time`` misses them. This process adopts
every orphan below it (``PR_SET_CHILD_SUBREAPER``) and reaps it, and the kernel then counts its
CPU time. Memory is the sum of proportional set sizes, sampled every few seconds.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
MEGABYTE = 1024 * 1024
SAMPLE_EVERY_S = 4.0  # reading the maps of thirty processes takes a tenth of a second


def descendants(root: int) -> list[int]:
    """All processes below ``root``."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found, frontier = [], {root}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found += frontier
    return found


def pss_bytes(pids: list[int]) -> int:
    """Sum of the proportional set sizes."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def measure(command: list[str]) -> dict[str, float | int]:
    """Run ``command``; wait for it and for every process that it leaves behind."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_EVERY_S):
            peak = max(peak, pss_bytes(descendants(os.getpid())))

    watcher = threading.Thread(target=watch, daemon=True)
    began = time.monotonic()
    child = subprocess.Popen(command)
    watcher.start()
    code = child.wait()
    wall = time.monotonic() - began
    deadline = time.monotonic() + 30  # Ray's daemons notice that their driver left
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.2)
        except ChildProcessError:
            break
    done.set()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "exit": code,
        "wall_s": round(wall, 1),
        "user_s": round(used.ru_utime, 1),
        "sys_s": round(used.ru_stime, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_pss_mb": round(peak / MEGABYTE),
    }


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    figures = measure(command)
    print(json.dumps(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return int(figures["exit"])


if __name__ == "__main__":
    sys.exit(main())
