"""CPU seconds of all processes, wall time and peak memory of a command; Linux only.

    python tests/benchmarks/measure_command.py --json docs/demo-cost.json -- make demo

Ray's processes leave their parent, and its raylet does not collect its workers, so a shell's
``time`` misses them. Here the command runs in a control group of its own (needs root), whose
CPU time the kernel counts whole; without one only what can be reaped is counted, and the
result says so. Memory is the sum of proportional set sizes, sampled every few seconds.
"""

from __future__ import annotations

import argparse
import contextlib
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


class Group:
    """A control group around the command, version 1 or 2, where one can be made."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        for root in ("/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup"):
            folder = Path(root, f"s2v-measure-{os.getpid()}")
            try:
                folder.mkdir()
                (folder / "cgroup.procs").write_text(str(os.getpid()))
            except OSError:
                continue
            if (folder / "cpuacct.usage").exists() or (folder / "cpu.stat").exists():
                self.folder = folder
                break

    def cpu_seconds(self) -> float | None:
        """CPU time of all that ever ran in it, this process included."""
        if self.folder is None:
            return None
        if (self.folder / "cpuacct.usage").exists():
            return int((self.folder / "cpuacct.usage").read_text()) / 1e9
        lines = (self.folder / "cpu.stat").read_text().splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith("usage_usec")) / 1e6

    def leave(self) -> None:
        """Go back to the group above and remove this one."""
        if self.folder is not None:
            (self.folder.parent / "cgroup.procs").write_text(str(os.getpid()))
            with contextlib.suppress(OSError):  # a process is still in it
                self.folder.rmdir()


def measure(command: list[str]) -> dict[str, float | int | str]:
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

    group = Group()
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
    cpu = group.cpu_seconds()
    if cpu is not None:
        own = resource.getrusage(resource.RUSAGE_SELF)
        cpu -= own.ru_utime + own.ru_stime
    group.leave()
    return {
        "exit": code,
        "wall_s": round(wall, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime if cpu is None else cpu, 1),
        "counted_by": "reaped processes" if cpu is None else "control group",
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
