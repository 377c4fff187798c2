"""The actor: takes a unit through a group of stages, committing after each."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.engine.errors import FAULTS, NO_FAILURE, StoreError, failure
from s2v.datapipe.engine.stage import Row, Stage, Unit
from s2v.datapipe.engine.store import StageStore

TRIES = 3  # of a unit, on errors that may pass: the machine's, not the file's
FIRST_WAIT_S = 2.0  # before the second try; doubled for each further one


@dataclass(frozen=True)
class StageRun:
    """A stage with where its commits go."""

    stage: Stage
    fingerprint: str


class UnitRunner:
    """Measures one unit per call; callable, so that Ray Data can hold it as an actor."""

    def __init__(
        self, run: str, stages: Sequence[StageRun], retry_quarantine: bool = False
    ) -> None:
        # One thread per actor: two torch or ONNX threads on shared cores are slower than one.
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = "1"
        self.run = Path(run)
        self.stages = list(stages)
        self.retry_quarantine = retry_quarantine
        self._ready: set[str] = set()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ray Data entry: a batch of one item ``{"item": {...}}``.

        A fault that is no row's comes back in the report's ``failed``.
        """
        done = [self._reported(item) for item in batch["item"]]
        return {"unit": [d["unit"] for d in done], "report": done}

    def _reported(self, item: dict[str, Any]) -> dict[str, Any]:
        try:
            return {**self.measure(item), "failed": NO_FAILURE}
        except FAULTS as error:
            none = {run.stage.name: {"measured": 0, "cpu_seconds": 0.0} for run in self.stages}
            failed = failure(error, self.run)
            return {"unit": str(item["unit"]), "stages": none, "failed": failed}

    def measure(self, item: dict[str, Any]) -> dict[str, Any]:
        """Take the unit through all stages; stages that cover it already are read back.

        Raises:
            OSError, MemoryError, MediaError: the machine's fault, to the last try.
            StoreError: a file of the run folder is damaged, or vanished meanwhile.
        """
        tables: dict[str, list[Row]] = {name: list(rows) for name, rows in item["tables"].items()}
        unit_ids, key, name = list(item["ids"]), str(item["key"]), str(item["unit"])
        report: dict[str, Any] = {"unit": name, "stages": {}}
        for run in self.stages:
            store = StageStore(self.run, run.stage.name, run.fingerprint)
            covered = store.covered(name, reopen_quarantine=self.retry_quarantine)
            ids = _admitted(run.stage, key, unit_ids, tables)
            missing = [i for i in ids if i not in covered]
            seconds = 0.0
            if missing or not store.commits(name):
                seconds = self._run(run.stage, store, Unit(name, key, missing, tables, self.run))
                if lost := sorted(set(ids) - store.covered(name)):
                    raise StoreError(
                        f"{store.folder}: commits of unit {name} do not cover {len(lost)} of its "
                        f"ids (first: {lost[0]}); leave the folder alone while a run is on"
                    )
            for table, rows in store.rows(name).items():
                if table != "quarantine":
                    tables[table] = rows
                else:
                    bad = {row["id"] for row in rows}
                    unit_ids = [i for i in unit_ids if i not in bad]
            report["stages"][run.stage.name] = {"measured": len(missing), "cpu_seconds": seconds}
        return report

    def _run(self, stage: Stage, store: StageStore, unit: Unit) -> float:
        began = cpu_seconds()
        if stage.name not in self._ready and unit.ids:
            stage.setup()
            self._ready.add(stage.name)
        rows = _with_retries(stage, unit) if unit.ids else {}
        out = {name: rows.get(name, []) for name in stage.writes}
        out["quarantine"] = unit.quarantine
        seconds = cpu_seconds() - began
        store.commit(unit.name, unit.key, unit.ids, out, seconds)
        return seconds


def cpu_seconds() -> float:
    """CPU time of this process, of its ended children and of its living ones (Linux).

    Decoding happens in a child that lives on, which ``time.process_time`` leaves out.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    spent = os.times()
    total = spent.user + spent.system + spent.children_user + spent.children_system
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                fields = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
                total += (int(fields[11]) + int(fields[12])) / ticks
        except OSError:
            continue  # a thread or child that ended just now
    return total


def _with_retries(stage: Stage, unit: Unit) -> dict[str, list[Row]]:
    for attempt in range(1, TRIES + 1):
        unit.quarantine.clear()
        try:
            return stage.run(unit)
        except (MediaError, OSError, MemoryError) as error:
            lasting = isinstance(error, MediaError) and not error.transient
            if attempt == TRIES or lasting:
                raise
            time.sleep(FIRST_WAIT_S * 2.0 ** (attempt - 1))
    raise AssertionError("unreachable")


def _admitted(stage: Stage, key: str, ids: list[str], tables: dict[str, list[Row]]) -> list[str]:
    if key != "clip_id":
        return ids
    quality = {row["clip_id"]: row for row in tables.get("quality", [])}
    clips = {row["clip_id"]: row for row in tables.get("clips", [])}
    return [i for i in ids if stage.gate({**quality.get(i, {}), **clips.get(i, {})}) is None]
