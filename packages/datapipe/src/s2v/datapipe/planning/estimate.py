"""What a run will take: model calls, CPU and GPU hours, storage, and whether the cluster fits.

Nothing is measured but the length of a sample of the sources. Every figure is a rate of an
earlier run times the size of this one; a model that no rate was measured with gets its calls
counted and its hours left open, never guessed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2v.datapipe import pipeline
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.sandbox import run_isolated
from s2v.datapipe.engine.pools import Node, Placement, place
from s2v.datapipe.engine.stage import Row, StageRun
from s2v.datapipe.engine.store import StageStore
from s2v.datapipe.measure.probe import TIMEOUT_S, probe_source
from s2v.datapipe.planning.rates import Rates, StageRate
from s2v.datapipe.staging import local_path

#: Stage -> what its model is called for: a table's rows per clip, times so many.
CALLS = {
    "caption": ("clips", 1),
    "phrases": ("captions", 1),
    "overlay": ("frames", 1),
    "quality": ("frames", 1),
    "detect": ("frames", 1),
    "check": ("masks", 1),
    "segment": ("masks", 1),
    "faces": ("frames", 1),
    "embed": ("embeddings", 2),  # the subject and what surrounds it
}
PROBED = 50  # sources whose length is looked up; the rest is taken to be like them
HOUR = 3600.0


@dataclass(frozen=True)
class Sizes:
    """How much there is to do."""

    videos: int
    images: int
    seconds: float  # of all videos
    known: int  # videos whose length was looked up or measured before
    unreadable: int  # of those looked up

    @property
    def hours(self) -> float:
        """Hours of video."""
        return self.seconds / HOUR


@dataclass(frozen=True)
class StageEstimate:
    """One stage: what it will be asked for, and what that takes; ``None`` where no rate is."""

    stage: str
    model: str | None
    ids: int  # sources or clips, in all
    done: int  # of those committed before
    calls: int | None  # of its model, in all
    cpu_hours: float | None  # still to come
    gpu_hours: float | None
    bytes: int | None
    why: str = ""  # why a figure is missing


@dataclass(frozen=True)
class Estimate:
    """A run's cost before it starts."""

    sizes: Sizes
    clips: int
    stages: tuple[StageEstimate, ...]
    placement: Placement
    hours: float | None  # of wall clock, on the cluster planned for
    bytes: Mapping[str, int]
    rates: str

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "sources": {
                "videos": self.sizes.videos,
                "images": self.sizes.images,
                "hours": round(self.sizes.hours, 3),
                "lengths known": self.sizes.known,
                "unreadable of those": self.sizes.unreadable,
            },
            "clips": self.clips,
            "stages": [
                {
                    "stage": s.stage,
                    "model": s.model,
                    "ids": s.ids,
                    "done": s.done,
                    "model calls": s.calls,
                    "CPU hours": _round(s.cpu_hours),
                    "GPU hours": _round(s.gpu_hours),
                    "bytes": s.bytes,
                    "missing": s.why or None,
                }
                for s in self.stages
            ],
            "placement": self.placement.describe(),
            "wall hours": _round(self.hours),
            "bytes": dict(self.bytes),
            "rates of": self.rates,
        }


def measure_sizes(sources: Sequence[Row], probed: Mapping[str, Row]) -> Sizes:
    """Lengths of the videos: measured before, else of a sample spread over the list."""
    videos = [row for row in sources if row["kind"] == "video" and not row["duplicate_of"]]
    lengths = [
        probed[r["video_id"]]["duration_us"] / 1e6 for r in videos if r["video_id"] in probed
    ]
    rest = [row for row in videos if row["video_id"] not in probed]
    step = max(1, -(-len(rest) // PROBED))
    unreadable = 0
    for row in rest[::step]:
        try:
            lengths.append(_probe(row)["duration_us"] / 1e6)
        except MediaError:
            unreadable += 1
            lengths.append(0.0)
    mean = sum(lengths) / len(lengths) if lengths else 0.0
    return Sizes(
        videos=len(videos),
        images=sum(row["kind"] == "image" for row in sources),
        seconds=mean * len(videos),
        known=len(lengths),
        unreadable=unreadable,
    )


def _probe(source: Row) -> Row:
    return run_isolated(probe_source, (local_path(source), "video"), timeout_s=TIMEOUT_S)  # type: ignore[no-any-return]  # the worker's answer


def estimate(
    folder: Path,
    runs: Mapping[str, StageRun],
    models: Mapping[str, str | None],
    sizes: Sizes,
    rates: Rates,
    nodes: Sequence[Node],
    *,
    unit_clips: int,
    **placing: Any,
) -> Estimate:
    """Multiply rates by sizes, and place the stages on the cluster.

    Args:
        folder: the run folder, for what is done already.
        runs: stages with fingerprints and needs.
        models: stage -> id of its models.
        sizes: how much there is.
        rates: of an earlier run.
        nodes: the cluster planned for.
        unit_clips: clips per unit.
        placing: ``wanted`` and ``mode`` of :func:`s2v.datapipe.engine.pools.place`.

    Raises:
        AdmissionError: the cluster cannot schedule it.
    """
    clips = round(rates.clips * sizes.seconds / rates.source_seconds) if rates.source_seconds else 0
    clips += sizes.images
    rows = []
    for name, run in runs.items():
        ids = clips if name in pipeline.BY_CLIPS else sizes.videos + sizes.images
        done = _done(folder, name, run.fingerprint)
        rows.append(_stage(name, run, models.get(name), ids, done, clips, sizes, rates))
    units = max(1, clips // max(unit_clips, 1))
    placement = place(
        [(n, r.need) for n, r in runs.items() if n in pipeline.BY_CLIPS], nodes, units, **placing
    )
    storage = {
        "frames": round(rates.frame_bytes / max(rates.clips, 1) * clips),
        "tables": sum(row.bytes or 0 for row in rows),
        "clips and shards": round(
            (rates.clip_bytes + rates.shard_bytes) / max(rates.clips, 1) * clips
        ),
    }
    return Estimate(
        sizes, clips, tuple(rows), placement, _wall(rows, placement, nodes), storage,
        rates.conditions,
    )  # fmt: skip


def _stage(
    name: str, run: StageRun, model: str | None, ids: int, done: int, clips: int, sizes: Sizes,
    rates: Rates,
) -> StageEstimate:  # fmt: skip
    calls = None
    if model and name in CALLS:
        table, factor = CALLS[name]
        calls = round(rates.per_clip(table) * factor * clips)
    rate = rates.stages.get(name)
    why = _no_rate(rate, model)
    if rate is None or why:
        return StageEstimate(name, model, ids, done, calls, None, None, None, why)
    if name in pipeline.BY_CLIPS:
        share = clips / max(rate.ids, 1)
    else:  # by the length of the videos: a film takes longer than a clip
        share = sizes.seconds / max(rates.source_seconds, 1e-9)
    left = max(0.0, 1 - done / ids) if ids else 0.0
    gpu = rate.wall_seconds * share * left / HOUR * run.need.gpus if run.need.gpus else 0.0
    return StageEstimate(
        name, model, ids, done, calls,
        cpu_hours=rate.cpu_seconds * share * left / HOUR,
        gpu_hours=gpu,
        bytes=round(rate.bytes * share),
    )  # fmt: skip


def _no_rate(rate: StageRate | None, model: str | None) -> str:
    if rate is None or not rate.ids:
        return "no rate was measured; run some clips, then plan --rates FOLDER"
    if rate.model != model:
        return "the rate is of another model; run some clips, then plan --rates FOLDER"
    return ""


def _done(folder: Path, stage: str, fingerprint: str) -> int:
    commits = StageStore(folder, stage, fingerprint).all_commits()
    return len(set(itertools.chain.from_iterable(c.ids for c in commits)))


def _wall(
    rows: Sequence[StageEstimate], placement: Placement, nodes: Sequence[Node]
) -> float | None:
    """Hours: of a phase its slowest pool, and of the stages before clips all CPUs."""
    hours = {row.stage: max(row.cpu_hours or 0.0, row.gpu_hours or 0.0) for row in rows}
    if any(row.why for row in rows):
        return None
    cpus = sum(node.cpus for node in nodes)
    total = sum(hours[row.stage] / cpus for row in rows if row.stage not in pipeline.BY_CLIPS)
    for phase in placement.phases:
        total += max(sum(hours[s] for s in pool.stages) / pool.actors for pool in phase)
    return total


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
