"""The same work for each tool: detecting, cutting, probing, motion. One function per task."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av

sys.path.append(str(Path(__file__).parent / "peers"))  # scripts, no package

from bench_data_harness import Cost, Entry, measured, ours
from bench_data_media import FPS, Film
from peer_environments import Peer
from peer_tools import data_juicer_command, scene_cuts

TOLERANCE = 2  # frames
MIN_SCENE = "8"  # frames, as in our own detectors
CUT_SECONDS = 3
ENCODING = "-c:v libx264 -preset veryfast -crf 23 -threads 1 -an"


def detecting(film: Film, detect: Peer) -> list[Entry]:
    """B1: shot boundaries of a film."""

    def peers(*detectors: str) -> Any:
        def work(folder: Path) -> Cost:
            command = [str(detect.home / "bin/scenedetect"), "-i", str(film.path), "-m", MIN_SCENE]
            command += ["-o", str(folder), *detectors, "list-scenes", "-q"]
            cost, _ = measured(command, env=detect.environment(), cwd=folder)
            found = scene_cuts(folder / f"{film.path.stem}-Scenes.csv")
            return Cost(cost.wall_s, cost.cpu_s, cost.rss_mb, {"cuts": found})

        return work

    return [
        Entry("s2v-data, stage `shots`", lambda _: ours("shots", str(film.path))),
        Entry("PySceneDetect, content", peers("detect-content")),
        Entry("PySceneDetect, adaptive", peers("detect-adaptive")),
        Entry("PySceneDetect, both", peers("detect-content", "detect-adaptive")),
    ]


def f1(found: Sequence[int], truth: Sequence[int]) -> tuple[float, int, int]:
    """F1 within two frames, each boundary matched at most once; missed; false."""
    free = sorted(found)
    hits = 0
    for cut in sorted(truth):
        near = [x for x in free if abs(x - cut) <= TOLERANCE]
        if near:
            free.remove(min(near, key=lambda x: abs(x - cut)))
            hits += 1
    missed, false = len(truth) - hits, len(free)
    return 2 * hits / max(1, 2 * hits + missed + false), missed, false


def cutting(film: Film, detect: Peer, juicer: Peer) -> list[Entry]:
    """B2: the same spans of three seconds, re-encoded the same way, frame by frame."""
    step = CUT_SECONDS * FPS
    firsts = list(range(0, film.frames, step))
    edges = [*firsts, film.frames]
    spans = [[_us(a), _us(b)] for a, b in zip(firsts, edges[1:], strict=True)]

    def own(folder: Path) -> Cost:
        return ours("cut", str(film.path), json.dumps(spans), str(folder))

    def split(folder: Path) -> Cost:
        listing = folder / "cuts.csv"
        with listing.open("w", newline="") as handle:
            csv.writer(handle).writerows([["Start Frame"], *([first + 1] for first in firsts)])
        command = [str(detect.home / "bin/scenedetect"), "-i", str(film.path), "-o", str(folder)]
        command += ["load-scenes", "-i", str(listing), "split-video", "-q"]
        command += ["-a", f"-map 0:v:0 {ENCODING}"]
        cost, _ = measured(command, env=detect.environment(), cwd=folder)
        made = sorted(map(str, folder.glob("*.mp4")))
        return Cost(cost.wall_s, cost.cpu_s, cost.rss_mb, {"clips": made})

    def stride(folder: Path) -> Cost:
        options = {
            "split_duration": CUT_SECONDS, "keep_original_sample": False, "batch_size": 1,
            "ffmpeg_extra_args": ENCODING, "save_dir": str(folder / "clips"),
        }  # fmt: skip
        command = data_juicer_command(
            juicer, [film.path], folder, "video_split_by_duration_mapper", options
        )
        cost, _ = measured(command, env=juicer.environment(), cwd=folder)
        made = sorted((folder / "clips").glob("*.mp4"), key=lambda p: int(p.stem.split("_")[-1]))
        return Cost(cost.wall_s, cost.cpu_s, cost.rss_mb, {"clips": [str(p) for p in made]})

    return [
        Entry("s2v-data, `cut_clip`", own),
        Entry("PySceneDetect, split-video", split),
        Entry("Data-Juicer, by duration", stride),
    ]


def parity(clips: Sequence[str], film: Film) -> tuple[int, int]:
    """Clips with the frames they should have, within one; and frames in all."""
    step = CUT_SECONDS * FPS
    due = [min(step, film.frames - first) for first in range(0, film.frames, step)]
    counts = [_frames(path) for path in clips]
    right = sum(abs(a - b) <= 1 for a, b in zip(counts, due, strict=False))
    return right, sum(counts)


def probing(files: Sequence[Path], juicer: Peer) -> list[Entry]:
    """What the files say of themselves: size and duration of each."""

    def own(folder: Path) -> Cost:
        listing = folder / "files"
        listing.write_text("\n".join(map(str, files)))
        return ours("probe_all", str(listing))

    def filters(folder: Path) -> Cost:
        command = data_juicer_command(juicer, files, folder, "video_resolution_filter", {})
        cost, _ = measured(command, env=juicer.environment(), cwd=folder)
        rows = (folder / "out.jsonl").read_text().splitlines()
        return Cost(cost.wall_s, cost.cpu_s, cost.rss_mb, {"sizes": rows})

    return [
        Entry("s2v-data, stage `probe`", own),
        Entry("Data-Juicer, resolution filter", filters),
    ]


def moving(film: Film, juicer: Peer) -> list[Entry]:
    """Optical flow four times a second at a short side of 144."""

    def filters(folder: Path) -> Cost:
        options = {"sampling_fps": 4, "size": 144, "min_score": 0.0}
        command = data_juicer_command(
            juicer, [film.path], folder, "video_motion_score_filter", options
        )
        cost, _ = measured(command, env=juicer.environment(), cwd=folder)
        stats = json.loads((folder / "out_stats.jsonl").read_text().splitlines()[0])
        motion = stats["__dj__stats__"]["video_motion_score"][0]
        return Cost(cost.wall_s, cost.cpu_s, cost.rss_mb, {"motion": motion})

    return [
        Entry("s2v-data, all of stage `shots`", lambda _: ours("shots", str(film.path))),
        Entry("Data-Juicer, motion filter", filters),
    ]


def _us(frame: int) -> int:
    return round(frame * 1_000_000 / FPS)


def _frames(path: str) -> int:
    with av.open(path) as container:
        return sum(1 for _ in container.decode(container.streams.video[0]))
