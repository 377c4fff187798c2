"""Stages that do nothing, to see what carrying clips through them costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from s2v.datapipe.engine.execute import execute, start_ray
from s2v.datapipe.engine.stage import Row, Stage, StageRun, Unit
from s2v.datapipe.engine.units import slices

CPUS = 2


class EmptyStage(Stage):
    """Writes one row of table ``quality`` per clip and measures nothing."""

    name: ClassVar[str] = "empty"
    version = 1
    reads = ("clips",)
    writes = ("quality",)

    def __init__(self, number: int) -> None:
        self.number = number

    def identity(self) -> Mapping[str, Any]:
        """Its place."""
        return {"number": self.number}

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """A row per clip."""
        return {"quality": [{"clip_id": clip} for clip in unit.ids]}


def _stage(number: int) -> Stage:
    """Stages are filed under their name, so each needs one of its own."""
    kind = type(f"EmptyStage{number}", (EmptyStage,), {"name": f"empty{number}"})
    made: Stage = kind(number)
    return made


def run_engine(folder: Path, clips: int, stages: int) -> dict[str, Any]:
    """Our engine; the seconds are those behind the start of Ray."""
    ids = [f"v{n:07d}-00000000-00002000" for n in range(clips)]
    rows = {one: {"clip_id": one, "video_id": one.split("-", maxsplit=1)[0]} for one in ids}
    items = [
        {"unit": name, "key": "clip_id", "ids": members,
         "tables": {"clips": [rows[i] for i in members]}}
        for name, members in slices(dict.fromkeys(ids, ""), 64)
    ]  # fmt: skip
    runs = [StageRun(stage, stage.fingerprint({})) for stage in map(_stage, range(stages))]
    start_ray(CPUS)
    began = time.monotonic()
    finished = sum(1 for _ in execute(folder, runs, items))
    return {"units": finished, "seconds": time.monotonic() - began}


def _touch(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "score": np.zeros(len(batch["clip_id"]))}


def run_ray_data(clips: int, stages: int, keep: Path | None) -> dict[str, Any]:
    """Plain Ray Data, batches of 64, on as many blocks as our engine has units."""
    import ray

    start_ray(CPUS)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    began = time.monotonic()
    rows = [{"clip_id": f"v{n:07d}-00000000-00002000"} for n in range(clips)]
    data: ray.data.Dataset = ray.data.from_items(rows, override_num_blocks=max(1, clips // 64))
    for number in range(stages):
        data = data.map_batches(_touch, batch_size=64)
        if keep is not None:
            data.write_parquet(str(keep / str(number)))
            data = ray.data.read_parquet(str(keep / str(number)))
    return {"rows": data.count() if keep else data.materialize().count(),
            "seconds": time.monotonic() - began}  # fmt: skip
