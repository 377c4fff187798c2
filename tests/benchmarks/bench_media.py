"""Frames a second of the media room beside its alternatives, on one thread.

    python tests/benchmarks/bench_media.py FILM.mp4 [--frames 480] [--start 60]

CPU time is what counts on a shared machine; wall time is printed beside it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from s2v.datapipe.base.media import isolated
from s2v.datapipe.base.media.cut import cut_clip
from s2v.datapipe.base.media.decode import frames_at, scan
from s2v.datapipe.base.media.probe import probe

SIZE = (256, 144)


def raw_frames(path: str, start_us: int, count: int, thread_type: str = "NONE") -> Iterator[Any]:
    """Plain PyAV, without the guards."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = thread_type
        container.seek(start_us)
        yield from islice(container.decode(stream), count)


def by_swscale(flags: Interpolation) -> Callable[[Any], np.ndarray]:
    """Scale and convert in one step of libswscale."""
    reformatter = VideoReformatter()

    def small(frame: Any) -> np.ndarray:
        return reformatter.reformat(
            frame, *SIZE, "rgb24", interpolation=flags, threads=1
        ).to_ndarray()

    return small


def by_opencv_planes(frame: Any) -> np.ndarray:
    """Shrink the planes, then convert."""
    planes = [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    ]
    y, u, v = (cv2.resize(plane, SIZE, interpolation=cv2.INTER_AREA) for plane in planes)
    return np.asarray(cv2.cvtColor(cv2.merge([y, v, u]), cv2.COLOR_YCrCb2RGB))


def by_opencv(frame: Any) -> np.ndarray:
    """Convert at full size, then shrink."""
    return np.asarray(
        cv2.resize(frame.to_ndarray(format="rgb24"), SIZE, interpolation=cv2.INTER_AREA)
    )


def measure(name: str, frames: Callable[[], int]) -> None:
    """Run once and print frames a second."""
    cpu, wall = time.process_time(), time.perf_counter()
    count = frames()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"| {name} | {count} | {count / cpu:.0f} | {count / wall:.0f} | {1e3 * wall:.0f} |")


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("film")
    parser.add_argument("--frames", type=int, default=480)
    parser.add_argument("--start", type=float, default=60.0)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    film, count, start = options.film, options.frames, int(options.start * 1e6)
    facts = probe(film)
    end = start + count * facts.frame_us
    print(f"{facts.width}x{facts.height} {facts.codec}, {float(facts.avg_fps):g} fps\n")
    print("| what | frames | per CPU-s | per s | ms |\n|---|---|---|---|---|")

    def consume(small: Callable[[Any], Any], threads: str = "NONE") -> Callable[[], int]:
        return lambda: sum(
            1 for frame in raw_frames(film, start, count, threads) if (small(frame), 1)
        )

    exact = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
    measure("decode only, 1 thread", consume(lambda frame: None))
    measure("decode only, all threads", consume(lambda frame: None, "AUTO"))
    for name in ("FAST_BILINEAR", "BILINEAR", "BICUBIC", "AREA"):
        measure(f"swscale {name}", consume(by_swscale(Interpolation[name])))
    measure("swscale AREA, bit-exact", consume(by_swscale(exact)))
    measure("OpenCV on planes", consume(by_opencv_planes))
    measure("full-size RGB, then OpenCV", consume(by_opencv))
    measure("**scan**, short side 144", lambda: sum(1 for _ in scan(film, start, end)))
    measure("scan in a worker process (parent's CPU)",
            lambda: sum(1 for _ in isolated.scan(film, start, end)))  # fmt: skip
    span = end - start
    for number in (3, 32):
        times = [start + i * span // number for i in range(number)]
        for backend in ("pyav", "decord"):
            measure(f"{number} full-size frames, {backend}",
                    lambda t=times, b=backend: len(frames_at(film, t, backend=b)))  # fmt: skip
    isolated.probe(film)
    measure("probe, direct", lambda: sum(1 for _ in range(20) if probe(film)))
    measure("probe, in a kept worker", lambda: sum(1 for _ in range(20) if isolated.probe(film)))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "clip.mp4"
        measure("cut to 480p, 3 s, 1 thread (child's time is not in CPU)",
                lambda: cut_clip(film, start, start + 3_000_000, target).frames)  # fmt: skip


if __name__ == "__main__":
    main()
