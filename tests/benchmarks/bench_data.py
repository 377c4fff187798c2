"""Our curation beside PySceneDetect and Data-Juicer on the same work; writes docs/benchmarks.md.

    make bench-data                  five repetitions, about an hour on two idle cores
    make bench-data ARGS=--quick     two, and 1,000 empty clips instead of 10,000

The others run in environments of their own (peers/peer_environments.py), made on first use. By
turns (A B B A), process time and wall time, after a run to warm up. Published are medians with
the least and the most, also where we lose.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import bench_data_tasks as tasks
import pyarrow.parquet as pq
from bench_data_harness import Cost, Entry, by_turns, ours, ours_in_a_group
from bench_data_media import FPS, Film, film, joins
from generated import machine, replace_generated
from peer_environments import peer

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
EMPTY_STAGES = 8
PROBED = 200


class Bench:
    """All tasks with their inputs; each method is one section of the page."""

    def __init__(self, folder: Path, repetitions: int, empty_clips: int) -> None:
        self.folder, self.repetitions, self.empty_clips = folder, repetitions, empty_clips
        self.detect, self.juicer = peer("scenedetect"), peer("data-juicer")
        self.joins, self.film = joins(folder), film(folder)
        self.engine_us = 0.0  # CPU per clip, once measured

    def _run(self, name: str, entries: list[Entry]) -> list[Entry]:
        print(name, file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            by_turns(entries, self.repetitions, Path(place))
        return entries

    def conditions(self) -> str:
        """Machine and versions."""
        pinned = {**self.detect.versions(), **self.juicer.versions()}
        return (
            f"Measured on {machine()}, {self.repetitions} repetitions; s2v-data "
            f"{version('s2v-datapipe')} (PyAV {version('av')}), PySceneDetect "
            f"{pinned['scenedetect']} (OpenCV {pinned['opencv-python']}), Data-Juicer "
            f"{pinned['py-data-juicer']} (PyAV {pinned['av']}), Ray {version('ray')}; one ffmpeg "
            f"for all: imageio-ffmpeg {version('imageio-ffmpeg')}."
        )

    def detecting(self) -> str:
        """B1."""
        columns = "F1 at ±2 frames | missed | false | CPU-s per video-minute"
        lines = []
        for title, one in (("joins", self.joins), ("film", self.film)):
            entries = self._run(f"detecting, {title}", tasks.detecting(one, self.detect))
            lines += [f"**{title}**: {_about(one)}; {len(one.cuts)} cuts ({one.truth}).", ""]
            lines += _table(entries, columns, functools.partial(_cuts, one))
            lines.append("")
        return "\n".join(lines)

    def cutting(self) -> str:
        """B2."""
        one = self.joins
        entries = tasks.cutting(one, self.detect, self.juicer)
        found: dict[str, tuple[int, int]] = {}

        def counted(entry: Entry) -> Callable[[Path], Cost]:
            work = entry.work

            def run(place: Path) -> Cost:
                cost = work(place)
                found[entry.name] = tasks.parity(cost.result["clips"], one)
                return cost

            return run

        for entry in entries:
            entry.work = counted(entry)
        self._run("cutting", entries)
        clips = -(-one.frames // (tasks.CUT_SECONDS * FPS))
        about = f"{_about(one)}, into {clips} clips of {tasks.CUT_SECONDS} s ({one.frames} frames)."
        shown = _table(entries, "clips with the right frames | frames",
                       lambda e: f"{found[e.name][0]} of {clips} | {found[e.name][1]}")  # fmt: skip
        return "\n".join([about, "", *shown])

    def probing(self) -> str:
        """Facts of files."""
        links = self.folder / "probed"
        links.mkdir(exist_ok=True)
        files = [links / f"{n:04d}.mp4" for n in range(PROBED)]
        for n, path in enumerate(files):
            path.unlink(missing_ok=True)
            path.symlink_to((self.joins if n % 2 else self.film).path)
        entries = self._run("probing", tasks.probing(files, self.juicer))
        shown = _table(entries, "files | CPU-ms per file", lambda e: (
            f"{len(e.result['sizes'])} | {1000 * e.median('cpu_s') / PROBED:.1f}"))  # fmt: skip
        return "\n".join([f"{PROBED} files, start of the process included.", "", *shown])

    def moving(self) -> str:
        """Optical flow."""
        entries = self._run("motion", tasks.moving(self.film, self.juicer))
        shown = _table(entries, "mean motion, its own unit", lambda e: f"{e.result['motion']:.3f}")
        return "\n".join([f"{_about(self.film)}.", "", *shown])

    def empty(self) -> str:
        """B9."""
        print("empty stages", file=sys.stderr, flush=True)
        works = {
            "s2v-data: units, a commit per unit and stage": "empty_engine",
            "Ray Data: fused, nothing kept": "empty_ray",
            "Ray Data: Parquet after each stage": "empty_ray_kept",
        }

        def entry(name: str, work: str) -> Entry:
            base: list[Cost] = []

            def run(_: Path) -> Cost:
                if not base:  # starting Ray and its workers, which is no clip's doing
                    base.append(ours_in_a_group(work, "64", str(EMPTY_STAGES)))
                cost = ours_in_a_group(work, str(self.empty_clips), str(EMPTY_STAGES))
                cost.result["start_cpu_s"] = base[0].cpu_s
                return cost

            return Entry(name, run)

        entries = self._run("empty", [entry(name, work) for name, work in works.items()])

        def per_clip(one: Entry) -> str:
            start = one.result["start_cpu_s"]
            cpu = (one.median("cpu_s") - start) / (self.empty_clips - 64)
            if one is entries[0]:
                self.engine_us = 1e6 * cpu
            wall = one.median("wall_s") / self.empty_clips
            shown = f"{1e6 * cpu:.0f}" if cpu > 0 else "lost in the start of Ray"
            return f"{start:.1f} | {1e6 * wall:.0f} | {shown}"

        about = f"{self.empty_clips:,} clips through {EMPTY_STAGES} stages that do nothing."
        counted = entries[0].result["counted by"]
        shown = _table(
            entries, "CPU-s with 64 clips | µs wall per clip | µs CPU per clip", per_clip
        )
        return "\n".join([f"{about} CPU of all of Ray's processes, by {counted}.", "", *shown])

    def decoding(self) -> str:
        """How near measuring comes to one plain decode."""
        lines = ["| | film | joins |", "|---|---|---|"]
        found = [ours("decoding", str(one.path)).result for one in (self.film, self.joins)]
        rows: tuple[tuple[str, Callable[[dict[str, float]], float]], ...] = (
            ("plain decode, CPU-s", lambda r: r["plain"]),
            ("scan: decoded, shrunk, checked", lambda r: r["scan"] / r["plain"]),
            ("scan with all its measures", lambda r: r["measures"] / r["plain"]),
            ("the same, and full-size frames at 5, 50, 95 % of each clip kept",
             lambda r: r["kept"] / r["plain"]),
            ("frames decoded again, since none was kept near enough",
             lambda r: r["again"] / r["plain"]),
            ("**all decoding** (scan, frames kept, frames decoded again)",
             lambda r: (r["scan"] + r["kept"] - r["measures"] + r["again"]) / r["plain"]),
            ("**all decoding and all measures** of stages `shots` and `frames`",
             lambda r: (r["kept"] + r["again"]) / r["plain"]),
        )  # fmt: skip
        for title, value in rows:
            cells = " | ".join(f"{value(r):.2f}" for r in found)
            lines.append(f"| {title} | {cells} |")
        counts = "; ".join(
            f"{r['sampled frames']} sampled frames of {r['clips']} clips, "
            f"{r['decoded again']} decoded again"
            for r in found
        )
        return "\n".join([*lines, "", f"In the order of the columns: {counts}."])

    def share(self, run: Path) -> str:
        """What the engine's own work is beside the stages', from the commits of a run."""
        commits = sorted((run / "measure").glob("*/*.json"))
        seconds, clips, again = 0.0, 0, 0.0
        for path in commits:
            commit = json.loads(path.read_text())
            seconds += commit["cpu_seconds"]
            clips += len(commit["ids"]) * path.parent.name.startswith("frames-")
            again += sum(
                _rewritten(path.parent / part["file"]) for part in commit["parts"].values()
            )
        if not clips:
            return f"No measured clips below {run}: run `make demo` first."
        lines = [
            f"`{run.name}`: {clips} clips, {seconds / clips:.2f} CPU-s of its stages for each "
            "(decoding and embedded models, as its commits say). Reading and writing all parts of "
            f"its {len(commits)} commits again: {again:.2f} CPU-s, {again / seconds:.2%} of that."
        ]
        if self.engine_us:
            share = self.engine_us / 1e6 / (seconds / clips)
            lines.append(
                f"{EMPTY_STAGES} empty stages, commits included, cost {self.engine_us:.0f} µs a "
                f"clip: {share:.2%}. Neither contains the start of Ray, which is in the table."
            )
        return " ".join(lines)


def _rewritten(part: Path) -> float:
    """CPU seconds of reading a committed part and writing it again, as a commit does."""
    began = time.process_time()
    data = part.read_bytes()
    hashlib.sha256(data).hexdigest()
    sink = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(data)), sink, compression="zstd")
    hashlib.sha256(sink.getvalue()).hexdigest()
    return time.process_time() - began


def _about(one: Film) -> str:
    return f"`{one.path.name}`, {one.frames} frames of 1280x720"


def _cuts(one: Film, entry: Entry) -> str:
    score, missed, false = tasks.f1(entry.result["cuts"], one.cuts)
    return f"{score:.3f} | {missed} | {false} | {entry.median('cpu_s') / one.minutes:.2f}"


def _table(entries: Sequence[Entry], more: str, cells: Callable[[Entry], str]) -> list[str]:
    """Rows with costs; the ratio is theirs over ours, so above one we are cheaper."""
    columns = more.count("|") + 1
    head = "| tool | CPU-s (least–most) | wall s | ratio of CPU | peak MB | "
    lines = [f"{head}{more} |", "|---" * (5 + columns) + "|"]
    own = entries[0].median("cpu_s")
    for one in entries:
        lines.append(
            f"| {one.name} | {one.median('cpu_s'):.2f} ({one.spread('cpu_s')}) "
            f"| {one.median('wall_s'):.2f} | {one.median('cpu_s') / own:.2f} "
            f"| {one.median('rss_mb'):.0f} | {cells(one)} |"
        )
    return lines


def main() -> int:
    """Measure, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two repetitions, fewer clips")
    parser.add_argument("--only", nargs="*", default=None, help="sections by name")
    parser.add_argument("--print", action="store_true", help="leave the page as it is")
    parser.add_argument("--keep", type=Path, help="folder for the inputs; else a temporary one")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="for the share")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="s2v-bench-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, 2 if options.quick else 5, 1_000 if options.quick else 10_000)
        sections: dict[str, Callable[[], str]] = {
            "conditions": bench.conditions,
            "detecting": bench.detecting,
            "cutting": bench.cutting,
            "probing": bench.probing,
            "moving": bench.moving,
            "decoding": bench.decoding,
            "empty": bench.empty,
            "share": lambda: bench.share(options.run),
        }
        for name, section in sections.items():
            if options.only is None or name in options.only:
                text = section()
                print(f"\n## {name}\n{text}", flush=True)
                if not options.print:
                    replace_generated(PAGE, name, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
