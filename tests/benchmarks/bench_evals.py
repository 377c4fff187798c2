"""One run of many metrics beside one run per metric: decodes, CPU seconds, videos per second.

    python tests/benchmarks/bench_evals.py [--write]

Three real clips of a person beside his photograph, measured by every metric of the suites below.
``together`` is `s2v-eval run` as it is. ``metric by metric`` runs each protocol by itself, which is
what a harness of separate scripts does: it decodes every video once per metric and loads shared
networks again. Numbers of both must be equal. CPU seconds count, for the machine may be busy;
both sides compute on one thread. ``--write`` puts the table into docs/evals.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))

from generated import machine, replace_generated

from s2v.datapipe.base.assets import asset
from s2v.evals import media
from s2v.evals.metrics import protocols
from s2v.evals.run import evaluate

CLIPS = ("man-clip", "man-enters", "man-leaves")
SUITE = "faces,subjectsim.light.mobilenet,subjectsim.light.mobilenet.seg,motion,radar,copy"
DOCS = Path(__file__).parents[2] / "docs/evals.md"


@dataclass
class Cost:
    """What one way took.

    Attributes:
        wall: seconds.
        cpu: seconds of this process.
        checks: decodings to the end before anything is measured, over all videos.
        reads: decodings for measuring.
        frames: that were read for measuring.
        scores: (sample, protocol) -> score.
    """

    wall: float
    cpu: float
    checks: int
    reads: int
    frames: int
    scores: dict[tuple[str, str], float | None]


def manifest(folder: Path, clips: Sequence[str]) -> Path:
    """The clips with the man's photograph."""
    image = media.read_image(asset("man-photo"))
    scale = 480 / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / "man.png"), small[..., ::-1])
    ref = {"path": "man.png", "phrase": "a man", "class": "person", "is_face": True}
    lines = [
        {
            "sample_id": name, "video": str(asset(name)), "prompt": "a man", "refs": [ref],
            "source": "generated", "model": "real", "reference_id": name,
        }
        for name in clips
    ]  # fmt: skip
    file = folder / "manifest.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def run(file: Path, suites: Sequence[str], folder: Path) -> Cost:
    """Each suite by itself, with networks and cache of its own."""
    counted: Counter[str] = Counter()
    times, frames = media.frame_times, media.read_frames

    def checked(path: Path) -> Any:
        counted["checks"] += 1
        return times(path)

    def read(path: Path, at: Sequence[int], indices: Sequence[int]) -> Any:
        counted["reads"] += 1
        counted["frames"] += len(set(indices))
        return frames(path, at, indices)

    media.frame_times, media.read_frames = checked, read
    scores = {}
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        for n, suite in enumerate(suites):
            out = folder / f"{n}"
            evaluate(file, out, suite, progress=False, replicates=10, report=False)
            for row in pq.read_table(out / "per_sample.parquet").to_pylist():
                scores[row["sample_id"], row["protocol"]] = row["score"]
    finally:
        media.frame_times, media.read_frames = times, frames
    return Cost(
        time.perf_counter() - wall,
        time.process_time() - cpu,
        counted["checks"],
        counted["reads"],
        counted["frames"],
        scores,
    )


def lines_of(together: Cost, apart: Cost, clips: Sequence[str]) -> list[str]:
    """The table."""
    n = len(clips)
    rows = [
        f"{len(protocols(SUITE))} protocols, {', '.join(clips)}; {machine()}; one thread.",
        "",
        "| | decoded per video | frames read per video | CPU s per video | videos per CPU minute |",
        "|---|---|---|---|---|",
    ]
    for name, cost in (("together", together), ("metric by metric", apart)):
        rows.append(
            f"| {name} | {cost.checks // n} to check, {cost.reads // n} to measure | "
            f"{cost.frames / n:.0f} | {cost.cpu / n:.1f} | {60 * n / cost.cpu:.1f} |"
        )
    rows += ["", f"The same {len(together.scores)} numbers, {apart.cpu / together.cpu:.1f} times "
             "the work."]  # fmt: skip
    return rows


def main() -> int:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", nargs="+", default=list(CLIPS), help="names of assets")
    parser.add_argument("--write", action="store_true", help="write the table into docs/evals.md")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = manifest(folder, args.clips)
        run(file, ["motion"], folder / "warm")  # imports
        together = run(file, [SUITE], folder / "together")
        apart = run(file, protocols(SUITE), folder / "apart")
    lines = lines_of(together, apart, args.clips)
    print("\n".join(lines))
    if together.scores != apart.scores:
        print("the two ways give different numbers", file=sys.stderr)
        return 1
    if together.reads != len(args.clips):
        print(f"{together.reads} decodings for {len(args.clips)} videos", file=sys.stderr)
        return 1
    if args.write:
        replace_generated(DOCS, "evals", "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
