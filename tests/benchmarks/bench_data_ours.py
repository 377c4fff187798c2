"""Our side of the comparison: one piece of work per process, as the pipeline does it.

    python tests/benchmarks/bench_data_ours.py shots FILE

Prints its result as JSON on the last line. A process of its own, so that starting Python and
loading libraries counts for us as it does for the others.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def shots(path: str) -> dict[str, Any]:
    """What stage ``shots`` does with a window: cuts, motion, brightness, borders, damage."""
    from s2v.datapipe.base.media.sandbox import run_isolated
    from s2v.datapipe.measure.scan import scan_window
    from s2v.datapipe.measure.shots import ShotSettings

    found = run_isolated(scan_window, (path, 0, 0, ShotSettings().model_dump()), timeout_s=3600)
    flow = list(found.flow.values())
    motion = sum(flow) / max(len(flow), 1)
    return {"cuts": found.cuts, "frames": len(found.pts_us), "motion": motion, "pairs": len(flow)}


def cut(path: str, spans: str, folder: str) -> dict[str, Any]:
    """Cut ``[[start_us, end_us], ...]`` as when shards are written, at full size."""
    from s2v.datapipe.base.media.cut import cut_clip
    from s2v.datapipe.base.media.probe import probe

    facts = probe(path)
    made = []
    for n, (start, end) in enumerate(json.loads(spans)):
        target = Path(folder, f"{n:04d}.mp4")
        cut_clip(
            path, start, end, target,
            short_side=min(facts.width, facts.height), crf=23, preset="veryfast", source=facts,
        )  # fmt: skip
        made.append(str(target))
    return {"clips": made}


def probe_all(listing: str) -> dict[str, Any]:
    """Stage ``probe``'s function over a list of files, contained as in the pipeline."""
    from s2v.datapipe.base.media.sandbox import run_isolated
    from s2v.datapipe.measure.probe import probe_source

    files = Path(listing).read_text().split("\n")
    found = [run_isolated(probe_source, (path, "video"), timeout_s=60) for path in files]
    return {"sizes": [[row["width"], row["height"]] for row in found]}


def decoding(path: str) -> dict[str, Any]:
    """CPU of all decoding that measuring needs, against one plain decode of the same frames.

    Plain: PyAV, one thread, every frame decoded and dropped. Ours: the scan of stage ``shots``
    without its measures and with all of them, the sampled frames that it keeps, and those that
    stage ``frames`` decodes again because the scan kept no picture near enough.
    """
    import av

    from s2v.datapipe.base.media.decode import frames_at
    from s2v.datapipe.base.media.scan import Scan
    from s2v.datapipe.measure.sampling import FrameSettings, moments, taken
    from s2v.datapipe.measure.scan import scan_window
    from s2v.datapipe.measure.shots import ShotSettings
    from s2v.datapipe.measure.timeline import cut_shots

    settings, sampling = ShotSettings(), FrameSettings()

    def plain() -> int:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            return sum(1 for _ in container.decode(stream))

    def scan() -> int:
        return sum(1 for _ in Scan(path, short_side=settings.scan_short_side, draft=True))

    def measures() -> Any:
        return scan_window(path, 0, 0, settings.model_dump())

    def kept() -> Any:
        return scan_window(path, 0, 0, settings.model_dump(), sampling=sampling.model_dump())

    found = kept()
    gradual = [(span.first, span.last) for span in found.gradual]
    edges = [*found.pts_us, found.pts_us[-1] + 1]
    again: list[int] = []
    clips = 0
    for piece in cut_shots(edges, found.cuts, gradual, settings.lengths):
        if piece.reason is None:
            clips += 1
            span = (edges[piece.first], edges[piece.last])
            have = taken(sorted(found.stills), *span, sampling.positions)
            again += [t for share, t in moments(*span, sampling.positions) if share not in have]

    def sampled() -> int:
        return len(frames_at(path, again))

    works = {"plain": plain, "scan": scan, "measures": measures, "kept": kept, "again": sampled}
    return {
        "frames": len(found.pts_us),
        "clips": clips,
        "sampled frames": clips * len(sampling.positions),
        "decoded again": len(again),
        **_cpu(works),
    }


def _cpu(works: dict[str, Callable[[], Any]], turns: int = 3) -> dict[str, float]:
    """CPU seconds of the quietest of several runs of each, by turns."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(turns):
        for name, work in works.items():
            began = time.process_time()
            work()
            spent[name].append(time.process_time() - began)
    return {name: min(seconds) for name, seconds in spent.items()}


def empty_engine(clips: str, stages: str) -> dict[str, Any]:
    """Clips through empty stages of our engine: units, commits of every stage, resume and all."""
    from bench_data_empty import run_engine

    with tempfile.TemporaryDirectory(prefix="s2v-empty-") as folder:
        return run_engine(Path(folder), int(clips), int(stages))


def empty_ray(clips: str, stages: str) -> dict[str, Any]:
    """The same rows through as many ``map_batches`` of Ray Data, which keeps nothing."""
    from bench_data_empty import run_ray_data

    return run_ray_data(int(clips), int(stages), None)


def empty_ray_kept(clips: str, stages: str) -> dict[str, Any]:
    """The same, each stage's rows written to Parquet before the next stage reads them."""
    from bench_data_empty import run_ray_data

    with tempfile.TemporaryDirectory(prefix="s2v-empty-") as folder:
        return run_ray_data(int(clips), int(stages), Path(folder))


WORK: dict[str, Callable[..., dict[str, Any]]] = {
    one.__name__: one
    for one in (shots, cut, probe_all, decoding, empty_engine, empty_ray, empty_ray_kept)
}

if __name__ == "__main__":
    result = WORK[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(result))
