"""The actor: takes a unit through a group of stages, committing after each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from s2v.datapipe import staging
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.engine.attempts import (
    LOAD_TRIES,
    LOADING,
    ROW_TRIES,
    WHOLE,
    WHOLE_TRIES,
    Attempts,
)
from s2v.datapipe.engine.errors import FAULTS, NO_FAILURE, ModelFaultError, StoreError, failure
from s2v.datapipe.engine.finite import refuse_not_finite
from s2v.datapipe.engine.stage import Row, Stage, StageRun, Unit
from s2v.datapipe.engine.unit_rows import UnitRows

__all__ = ["StageRun", "UnitRunner", "cpu_seconds"]

TRIES = 3  # of a unit, on errors that may pass: the machine's, not the file's
FIRST_WAIT_S = 2.0  # before the second try; doubled for each further one
SEEN_WITHIN_S = 90.0  # network file systems remember for up to a minute what was not there


class UnitRunner:
    """Measures one unit per call; callable, so that Ray Data can hold it as an actor.

    Args:
        run: the run folder.
        stages: the stages of this actor, in order.
        retry_quarantine: measure again what is in quarantine.
        before: stages that other actors took the unit through, whose rows are read.
        session: of the driver; what died in an earlier one is tried afresh.
    """

    def __init__(
        self,
        run: str,
        stages: Sequence[StageRun],
        retry_quarantine: bool = False,
        before: Sequence[StageRun] = (),
        session: str = "",
    ) -> None:
        # One thread per actor: two torch or ONNX threads on shared cores are slower than one.
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = "1"
        self.run = Path(run)
        staging.use(self.run)
        self.before, self.stages = list(before), list(stages)
        self.retry_quarantine = retry_quarantine
        self.session = session
        self._ready: set[str] = set()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ray Data entry: ``item`` and ``report`` are JSON, so that Arrow types nothing.

        A fault that is no row's comes back in the report's ``failed``; actors that follow pass a
        failed unit on untouched.
        """
        reports = [
            self._reported(json.loads(item), json.loads(report))
            for item, report in zip(batch["item"], batch["report"], strict=True)
        ]
        return {"item": list(batch["item"]), "report": [json.dumps(r) for r in reports]}

    def _reported(self, item: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
        if report.get("failed", NO_FAILURE) != NO_FAILURE:
            return report
        try:
            done = self.measure(item)
        except FAULTS as error:
            return {
                "unit": item["unit"],
                "stages": report.get("stages", {}),
                "failed": failure(error, self.run),
            }
        stages = {**report.get("stages", {}), **done["stages"]}
        return {"unit": item["unit"], "stages": stages, "failed": NO_FAILURE}

    def measure(self, item: dict[str, Any]) -> dict[str, Any]:
        """Take the unit through the stages; what is committed already is not measured again.

        Raises:
            OSError, MemoryError, MediaError: the machine's fault, to the last try.
            StoreError: a file of the run folder is damaged, or vanished meanwhile.
        """
        rows = UnitRows(self.run, item, retry_quarantine=self.retry_quarantine)
        for run in self.before:
            _wait_until_seen(rows, run)
            rows.passed(run)
        report: dict[str, Any] = {"unit": rows.name, "stages": {}}
        for run in self.stages:
            missing = rows.missing(run)
            seconds = 0.0
            if missing or not rows.committed(run):
                seconds = self._run(run, rows, missing)
                if lost := rows.lost(run):
                    where = rows.store(run).folder
                    raise StoreError(
                        f"{where}: commits of unit {rows.name} do not cover {len(lost)} of "
                        f"its ids (first: {lost[0]}); leave the folder alone while a run is on"
                    )
            rows.passed(run)
            report["stages"][run.stage.name] = {"measured": len(missing), "cpu_seconds": seconds}
        return report

    def _run(self, run: StageRun, rows: UnitRows, missing: list[str]) -> float:
        stage, began = run.stage, cpu_seconds()
        store = rows.store(run)
        attempts = Attempts(store.folder / f".{rows.name}.attempts.tmp", self.session)
        try:
            if stage.name not in self._ready and missing:
                self._load(run, attempts)
            ready, clock = cpu_seconds(), time.monotonic()
            unit = rows.unit(missing, stage.reads if missing else ())
            with run.naming_its_models():
                made = _measured(stage, unit, attempts) if missing else {}
            made = refuse_not_finite(unit, stage.name, made)
        except BaseException:
            attempts.end()
            raise
        out = {name: made.get(name, []) for name in stage.writes}
        out["quarantine"] = unit.quarantine
        ended = cpu_seconds()
        store.commit(
            *(unit.name, unit.key, missing, out),
            cpu_seconds=ended - ready,
            wall_seconds=time.monotonic() - clock,
            setup_seconds=ready - began,
        )
        if missing:
            attempts.end()
        return ended - began

    def _load(self, run: StageRun, attempts: Attempts) -> None:
        """Load the stage's models, once per actor.

        Raises:
            ModelFaultError: they cannot be loaded; names their roles.
        """
        if attempts.deaths[LOADING] >= LOAD_TRIES:
            raise ModelFaultError(
                f"{run.named}: loading it killed its process {LOAD_TRIES} times (out of memory, or "
                "a crash inside a library); lower engine.actors, or give the role memory_gb"
            )
        attempts.begin(LOADING)
        with run.naming_its_models():
            run.stage.setup()
        self._ready.add(run.stage.name)


def _wait_until_seen(rows: UnitRows, run: StageRun) -> None:
    """Give shared storage its time to show what another machine committed a moment ago."""
    deadline, wait = time.monotonic() + SEEN_WITHIN_S, 0.05
    while not rows.commits(run, fresh=True) and time.monotonic() < deadline:
        time.sleep(wait)
        wait = min(2 * wait, 5.0)


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


def _measured(stage: Stage, unit: Unit, attempts: Attempts) -> dict[str, list[Row]]:
    """All rows of the unit at once; row by row where that took the process with it."""
    if attempts.deaths[WHOLE] < WHOLE_TRIES:
        attempts.begin(WHOLE)
        return _with_retries(stage, unit)
    made: dict[str, list[Row]] = {}
    for one in unit.ids:
        if attempts.deaths[one] >= ROW_TRIES:
            unit.refuse(
                one,
                stage.name,
                "worker_died",
                f"the process that measured it died {ROW_TRIES} times at it alone (a crash inside "
                "a library, or out of memory)",
            )
            continue
        attempts.begin(one)
        alone = replace(unit, ids=[one], quarantine=[])
        for table, rows in _with_retries(stage, alone).items():
            made.setdefault(table, []).extend(rows)
        unit.quarantine += alone.quarantine
    return made


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
