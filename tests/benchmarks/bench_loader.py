"""The trainer's loader beside others': balance, order, resume, speed, and large indexes.

    make bench-loader

Everything by turns. The tables go into docs/benchmarks.md and docs/data-plan.md.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # scripts, no package

import bench_loader_balance
import bench_loader_index
import bench_loader_resume
import bench_loader_speed
from generated import machine, replace_generated
from peer_environments import PINS

DOCS = Path(__file__).parents[2] / "docs"
PARTS = ("balance", "index", "speed", "resume")


def balance(options: argparse.Namespace, _: Path) -> str:
    """Imbalance of steps beside buckets of equal tokens."""
    return (
        f"{20_000:,} drawn clips, log-normal durations (median 4 s, sigma 0.7), a tenth "
        f"photographs, one to four references; Phantom-Wan-1.3B at 480p in seven lengths, both "
        f"ways up; 300 steps.\n\n{bench_loader_balance.measure()}"
    )


def index(options: argparse.Namespace, scratch: Path) -> str:
    """Opening indexes."""
    return f"{machine()}.\n\n{bench_loader_index.table(bench_loader_index.measure(scratch))}"


def speed(options: argparse.Namespace, scratch: Path) -> str:
    """Samples per second."""
    found = bench_loader_speed.measure(options.clips, options.rounds, scratch)
    return (
        f"{options.clips} samples of about 0.4 MB, one to three references, batches of "
        f"{bench_loader_speed.BATCH}; {options.rounds} rounds by turns after one to warm the page "
        "cache; both parse the JSON and decode every reference. webdataset reads its shards in "
        f"order, unshuffled; ours in drawn order. {machine()}; Python "
        f"{platform.python_version()}, webdataset {version('webdataset')}.\n\n"
        f"{bench_loader_speed.table(found)}"
    )


def resume(options: argparse.Namespace, scratch: Path) -> str:
    """Order and latency after a restart."""
    found = bench_loader_resume.measure(options.samples, options.repetitions, scratch)
    pins = {pin for name in ("energon", "streaming", "torchdata") for pin in PINS[name]}
    return (
        f"{options.samples:,} samples of 2 kB in shards of 500, batches of 8, one epoch of "
        f"{options.samples // 8:,} batches; the {bench_loader_resume.AFTER} batches after the "
        "restart are compared with those of a loader that was not stopped. Seconds from making "
        "the loader to its first batch, two workers, a new process each time, libraries loaded "
        f"before; median of {options.repetitions} by turns (least–most). {machine()}; "
        f"{', '.join(sorted(pins))}.\n\n{bench_loader_resume.table(found)}"
    )


def main() -> int:
    """Measure, print, and put the tables into the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--samples", type=int, default=20_000, help="of resume")
    parser.add_argument("--repetitions", type=int, default=3, help="of resume")
    parser.add_argument("--clips", type=int, default=400, help="of speed")
    parser.add_argument("--rounds", type=int, default=7, help="of speed")
    parser.add_argument("--print", action="store_true", help="leave the pages as they are")
    options = parser.parse_args()
    pages = {
        "balance": ("data-plan.md", "balance", balance),
        "index": ("data-plan.md", "index", index),
        "speed": ("benchmarks.md", "loader-speed", speed),
        "resume": ("benchmarks.md", "loader-resume", resume),
    }
    for part in options.only:
        page, name, measure = pages[part]
        with tempfile.TemporaryDirectory(prefix="s2v-loader-") as scratch:
            text = measure(options, Path(scratch))
        print(text, flush=True)
        if not options.print:
            replace_generated(DOCS / page, name, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
