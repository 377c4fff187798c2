"""What a run will take: model calls, CPU and GPU hours, storage, and whether the cluster fits.

Nothing is measured but the length of a sample of the sources. Every figure is a rate of an
earlier run times the size of what is still to be done; a model that no rate was measured with
gets its calls counted and its hours left open, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s2v.datapipe import pipeline
from s2v.datapipe.engine.pools import Need, Node, Placement, place, without
from s2v.datapipe.engine.stage import StageRun
from s2v.datapipe.planning.rates import Rates, StageRate
from s2v.datapipe.planning.sizes import Done, Sizes

#: Stage -> what its model is called for: rows of a table, times so many. Tables that a gate
#: stands in front of count by themselves; frames are those of the clips that the stage admits.
CALLS = {
    "overlay": ("frames", 1),
    "quality": ("frames", 1),
    "caption": ("clips", 1),
    "phrases": ("captions", 1),
    "detect": ("frames", 1),
    "check": ("masks", 1),
    "marks": ("marks", 1),
    "segment": ("masks", 1),
    "faces": ("frames", 1),
    "embed": ("embeddings", 2),  # the subject and what surrounds it
}
HOUR = 3600.0


@dataclass(frozen=True)
class StageEstimate:
    """One stage: what it will be asked for, and what that takes; ``None`` where no rate is."""

    stage: str
    model: str | None
    ids: int  # sources or admitted clips, in all
    done: int  # of those measured before
    calls: int | None  # of its model, still to come
    cpu_hours: float | None
    gpu_hours: float | None
    wall_hours: float | None  # of one actor
    bytes: int | None
    why: str = ""  # why a figure is missing

    @property
    def to_do(self) -> int:
        """How many are still to be measured."""
        return self.ids - self.done


@dataclass(frozen=True)
class Servers:
    """The run's own servers; they are up while clips are measured."""

    count: int
    need: Need
    gpu_hours: float | None


@dataclass(frozen=True)
class Estimate:
    """A run's cost before it starts, or before it goes on."""

    sizes: Sizes
    clips: int
    stages: tuple[StageEstimate, ...]
    placement: Placement
    servers: Servers | None
    hours: float | None  # of wall clock, on the cluster planned for
    bytes: Mapping[str, int]  # still to be written
    rates: str

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``; keys stay as they are from version to version."""
        return {
            "sources": {
                "videos": self.sizes.videos,
                "images": self.sizes.images,
                "hours": round(self.sizes.hours, 3),
                "lengths_known": self.sizes.known,
                "unreadable": self.sizes.unreadable,
            },
            "clips": self.clips,
            "stages": [
                {
                    "stage": s.stage,
                    "model": s.model,
                    "ids": s.ids,
                    "done": s.done,
                    "to_do": s.to_do,
                    "model_calls": s.calls,
                    "cpu_hours": _round(s.cpu_hours),
                    "gpu_hours": _round(s.gpu_hours),
                    "bytes": s.bytes,
                    "missing": s.why or None,
                }
                for s in self.stages
            ],
            "phases": [
                [
                    {
                        "stages": list(pool.stages),
                        "actors": pool.actors,
                        "cpus": pool.need.cpus,
                        "gpus": pool.need.gpus,
                        "memory_gb": pool.need.memory_gb,
                    }
                    for pool in phase
                ]
                for phase in self.placement.phases
            ],
            "servers": self.servers
            and {
                "count": self.servers.count,
                "cpus": self.servers.need.cpus,
                "gpus": self.servers.need.gpus,
                "gpu_hours": _round(self.servers.gpu_hours),
            },
            "wall_hours": _round(self.hours),
            "bytes": dict(self.bytes),
            "rates_of": self.rates,
        }


def admit(
    runs: Mapping[str, StageRun],
    nodes: Sequence[Node],
    *,
    reserved: Sequence[Need] = (),
    **placing: Any,
) -> None:
    """Refuse what the cluster cannot schedule, before the sources are looked at.

    Raises:
        AdmissionError: with the numbers.
    """
    for names in (pipeline.BY_SOURCE, pipeline.BY_WINDOW):
        place([(n, runs[n].need) for n in names], nodes, 1, **placing)
    by_clips = [(n, runs[n].need) for n in pipeline.BY_CLIPS]
    by_pairs = [(n, runs[n].need) for n in pipeline.BY_PAIRS]
    for group in (by_clips, by_pairs):
        place(group, nodes, 1, reserved=reserved, **placing)


def estimate(
    runs: Mapping[str, StageRun],
    models: Mapping[str, str | None],
    sizes: Sizes,
    rates: Rates,
    nodes: Sequence[Node],
    *,
    done: Done = Done.NOTHING,
    unit_clips: int,
    reserved: Sequence[Need] = (),
    **placing: Any,
) -> Estimate:
    """Multiply rates by sizes, and place the stages on the cluster.

    Args:
        runs: stages with fingerprints and needs.
        models: stage -> id of its models.
        sizes: how much there is.
        rates: of an earlier run.
        nodes: the cluster planned for.
        done: what the run folder holds already.
        unit_clips: clips per unit.
        reserved: what each of the run's own servers is booked with.
        placing: ``wanted`` and ``mode`` of :func:`s2v.datapipe.engine.pools.place`.

    Raises:
        AdmissionError: the cluster cannot schedule it.
    """
    left_seconds = sizes.seconds * done.share_of_videos_left(sizes)
    clips = done.clips + round(rates.clips_per_second * left_seconds)
    clips += max(0, sizes.images - done.images)
    rows = tuple(
        _estimate(run, models.get(name), sizes, clips, done, rates)
        for name, run in runs.items()
        if models.get(name) or name not in pipeline.BY_PAIRS
    )
    units = max(1, clips // max(unit_clips, 1))
    by_clips = [(n, r.need) for n, r in runs.items() if n in pipeline.BY_CLIPS]
    placement = place(by_clips, nodes, units, reserved=reserved, **placing)
    before, measuring = _wall(rows, placement, nodes, reserved)
    asking = _asking(rows, runs, nodes, max(unit_clips, 1), reserved=reserved, **placing)
    new = max(0, clips - done.decided("frames"))
    return Estimate(
        sizes,
        clips,
        rows,
        placement,
        _servers(reserved, measuring),
        None if None in (parts := (before, measuring, asking)) else sum(p or 0.0 for p in parts),
        {
            "frames": round(rates.frame_bytes / max(rates.clips, 1) * new),
            "tables": sum(row.bytes or 0 for row in rows),
            "clips_and_shards": round(
                (rates.clip_bytes + rates.shard_bytes) / max(rates.clips, 1) * new
            ),
        },
        rates.conditions,
    )


def _estimate(
    run: StageRun, model: str | None, sizes: Sizes, clips: int, done: Done, rates: Rates
) -> StageEstimate:
    if run.stage.name in pipeline.BY_CLIPS:
        return _by_clips(run, model, clips, done, rates)
    if run.stage.name in pipeline.BY_PAIRS:
        return _by_pairs(run, model, clips, done, rates)
    return _by_source(run, model, sizes, done, rates)


def _by_pairs(
    run: StageRun, model: str | None, clips: int, done: Done, rates: Rates
) -> StageEstimate:
    """Pairs that pass the rules, taken to grow as the clips do; one call each."""
    name = run.stage.name
    ready = done.ids(name)
    pairs = max(ready, round(rates.passed_rules / max(rates.clips, 1) * clips))
    left = pairs - ready
    rate = rates.stages.get(name)
    if (why := _no_rate(rate, model)) or rate is None:
        return StageEstimate(name, model, pairs, ready, left, None, None, None, None, why)
    wall = rate.wall_seconds / rate.ids * left / HOUR
    return StageEstimate(
        name, model, pairs, ready, left,
        cpu_hours=rate.cpu_seconds / rate.ids * left / HOUR,
        gpu_hours=wall * run.need.gpus,
        wall_hours=wall,
        bytes=round(rate.bytes / rate.ids * left),
    )  # fmt: skip


def _by_source(
    run: StageRun, model: str | None, sizes: Sizes, done: Done, rates: Rates
) -> StageEstimate:
    """Probe and shots: videos cost by their length, photographs by their number."""
    name = run.stage.name
    total = sizes.videos + sizes.images
    ready = min(done.ids(name), total)
    left = 1 - ready / total if total else 0.0
    rate = rates.stages.get(name)
    if (why := _no_rate(rate, model)) or rate is None:
        return StageEstimate(name, model, total, ready, None, None, None, None, None, why)
    seconds, images = sizes.seconds * left, sizes.images * left
    cpu = rate.of_videos.cpu_seconds / max(rates.source_seconds, 1e-9) * seconds
    cpu += rate.of_images.cpu_seconds / max(rate.of_images.ids, 1) * images
    wall = rate.of_videos.wall_seconds / max(rates.source_seconds, 1e-9) * seconds
    wall += rate.of_images.wall_seconds / max(rate.of_images.ids, 1) * images
    return StageEstimate(
        name, model, total, ready, None,
        cpu_hours=cpu / HOUR,
        gpu_hours=wall / HOUR * run.need.gpus,
        wall_hours=wall / HOUR,
        bytes=round(rate.bytes / max(rate.ids, 1) * total * left),
    )  # fmt: skip


def _by_clips(
    run: StageRun, model: str | None, clips: int, done: Done, rates: Rates
) -> StageEstimate:
    """Stages after shots: by the number of clips, of which gates admit a share."""
    name = run.stage.name
    decided = min(done.decided(name), clips)
    left = clips - decided
    admitted = rates.admitted(name)
    share = done.ids(name) / decided if decided else admitted
    ready = min(done.ids(name), clips)
    ids = ready + round(share * left)
    calls = None
    if model and name in CALLS:
        table, times = CALLS[name]
        per_clip = share if table == "clips" else rates.per_clip(table)
        per_clip *= share if table == "frames" else 1
        calls = round(per_clip * times * left)
    rate = rates.stages.get(name)
    if (why := _no_rate(rate, model)) or rate is None:
        return StageEstimate(name, model, ids, ready, calls, None, None, None, None, why)
    # A rate is of the clips of its run; another share of admitted clips costs accordingly.
    scale = left / max(rates.clips, 1) * (share / admitted if admitted else 1.0)
    wall = rate.wall_seconds * scale / HOUR
    return StageEstimate(
        name, model, ids, ready, calls,
        cpu_hours=rate.cpu_seconds * scale / HOUR,
        gpu_hours=wall * run.need.gpus,
        wall_hours=wall,
        bytes=round(rate.bytes * scale),
    )  # fmt: skip


def _no_rate(rate: StageRate | None, model: str | None) -> str:
    if rate is None or not rate.ids:
        return "no rate was measured"
    if rate.model != model:
        return "the rate is of another model"
    return ""


def _wall(
    rows: Sequence[StageEstimate],
    placement: Placement,
    nodes: Sequence[Node],
    reserved: Sequence[Need],
) -> tuple[float | None, float | None]:
    """Hours of the stages before clips on all CPUs, and of the phases: each its slowest pool."""
    by_stage = {row.stage: row for row in rows}
    before = [row for row in rows if row.stage in (*pipeline.BY_SOURCE, *pipeline.BY_WINDOW)]
    cpus = sum(node.cpus for node in nodes)
    left = sum(node.cpus for node in without(nodes, reserved))
    first = None if any(row.why for row in before) else sum(_cpu(row) for row in before) / cpus
    measuring = 0.0
    for phase in placement.phases:
        inside = [by_stage[name] for pool in phase for name in pool.stages]
        if any(row.why for row in inside):
            return first, None
        slowest = max(
            sum(_actor_hours(by_stage[name], pool.need) for name in pool.stages) / pool.actors
            for pool in phase
        )
        measuring += max(slowest, sum(_cpu(row) for row in inside) / left)
    return first, measuring


def _asking(
    rows: Sequence[StageEstimate],
    runs: Mapping[str, StageRun],
    nodes: Sequence[Node],
    unit_pairs: int,
    **placing: Any,
) -> float | None:
    """Hours of the stages on pairs, after all others; none where there is no verifier."""
    hours = 0.0
    for row in rows:
        if row.stage in pipeline.BY_PAIRS:
            if row.why:
                return None
            need = runs[row.stage].need
            units = max(1, row.to_do // unit_pairs)
            (phase,) = place([(row.stage, need)], nodes, units, **placing).phases
            hours += _actor_hours(row, need) / phase[0].actors
    return hours


def _cpu(row: StageEstimate) -> float:
    return row.cpu_hours or 0.0


def _actor_hours(row: StageEstimate, need: Need) -> float:
    """What one actor is busy or waiting for: a GPU and a server are waited for."""
    waits = need.gpus or need.served
    return max(_cpu(row), row.wall_hours or 0.0) if waits else _cpu(row)


def _servers(reserved: Sequence[Need], hours: float | None) -> Servers | None:
    if not reserved:
        return None
    gpus = sum(need.gpus for need in reserved)
    return Servers(len(reserved), reserved[0], None if hours is None else hours * gpus)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
