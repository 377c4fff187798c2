"""Measure: the driver of the per-clip stages. Only this file joins Ray with the pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from s2v.datapipe import pipeline
from s2v.datapipe.assembling import (
    SOURCE_IN_QUARANTINE,
    apply_crops,
    apply_gates,
    mark_duplicates,
    withdraw,
)
from s2v.datapipe.assembling import rows as _rows
from s2v.datapipe.base import records
from s2v.datapipe.base.media.errors import MediaErrorKind
from s2v.datapipe.base.progress import Step, track
from s2v.datapipe.config import Settings
from s2v.datapipe.engine.execute import execute, start_ray
from s2v.datapipe.engine.stage import Row, StageRun
from s2v.datapipe.engine.store import StageStore, merge
from s2v.datapipe.engine.unit_rows import UnitRows
from s2v.datapipe.engine.units import slices, unit_name
from s2v.datapipe.roles import Roles
from s2v.datapipe.serving import reserved, roles_at_work
from s2v.datapipe.sources import identity_of
from s2v.datapipe.sources.parts import mark_beyond, outside, window_note, windows
from s2v.datapipe.staging import list_run


class NotMeasuredError(RuntimeError):
    """A selection was asked for while units are still to be measured."""


class NothingUsableError(RuntimeError):
    """No source can be used, so there is nothing to measure."""


class QuarantineBudgetError(RuntimeError):
    """So much of a stage's input was quarantined that the cause is hardly the input."""


@dataclass
class Item:
    """A unit of work as it travels to an actor."""

    unit: str
    key: str
    ids: list[str]
    tables: dict[str, list[Row]]

    def plain(self) -> dict[str, Any]:
        """As plain data, for Ray."""
        return {"unit": self.unit, "key": self.key, "ids": self.ids, "tables": self.tables}


@dataclass
class Measured:
    """All tables of a run's measure parts, and what was done this time."""

    tables: dict[str, pa.Table]
    measured: Counter[str] = field(default_factory=Counter)  # ids newly measured per stage
    cpu_seconds: Counter[str] = field(default_factory=Counter)
    fingerprints: dict[str, str] = field(default_factory=dict)


class Measuring:
    """Measures all sources of a run; what is committed already is not measured again."""

    def __init__(
        self,
        settings: Settings,
        roles: Roles,
        *,
        retry_quarantine: bool = False,
        only_committed: bool = False,
        quiet: bool = False,
    ) -> None:
        self.settings = settings
        self.folder = Path(settings.folder)
        self.roles = roles
        self.plan = pipeline.plan(settings, roles)
        self.retry_quarantine = retry_quarantine
        self.only_committed = only_committed
        self.quiet = quiet
        self.result = Measured({}, fingerprints={n: r.fingerprint for n, r in self.plan.items()})

    def run(self) -> Measured:
        """Measure and return all tables.

        Raises:
            SourceError, AdmissionError, QuarantineBudgetError: with one clear line each.
        """
        sources = list_run(
            self.folder, self.settings.sources, self.settings.downloads, quiet=self.quiet
        )
        content = {row["video_id"]: identity_of(row) for row in sources}
        parts = [{"sources": records.table("sources", sources)}]

        by_source = [
            Item(
                unit_name([v := row["video_id"]], [content[v]]), "video_id", [v], {"sources": [row]}
            )
            for row in sources
        ]
        probed = self._group("probe", pipeline.BY_SOURCE, by_source)
        self._check_missing(sources, probed)
        probed = mark_duplicates(probed, sources)
        probe = records.table("probe", mark_beyond(_rows(probed, "probe"), sources))
        parts.append({**probed, "probe": probe})
        probes = {row["video_id"]: row for row in _rows(parts[-1], "probe")}
        usable = [r for r in sources if (p := probes.get(r["video_id"])) and p["reason"] is None]
        if not usable:
            raise NothingUsableError(_why_nothing(sources, parts[-1]))

        shots = self._group("shots", pipeline.BY_WINDOW, self._windows(usable, probes, content))
        unused = records.table("spans", outside(usable, probes))
        parts.append(withdraw(merge([shots, {"spans": unused}]), sources))
        withdrawn = all(r["reason"] == SOURCE_IN_QUARANTINE for r in _rows(parts[-1], "spans"))
        if withdrawn and not parts[-1]["clips"].num_rows:
            raise NothingUsableError(_why_nothing(sources, parts[-1]))

        clips = {row["clip_id"]: row for row in _rows(parts[-1], "clips")}
        parts.append(self._group("clips", pipeline.BY_CLIPS, self._slices(clips, sources, content)))
        tables = merge(parts)
        for name in records.TABLES:
            if name not in {"subjects", "pairs", "samples"}:
                tables.setdefault(name, records.table(name, []))
        self.result.tables = apply_gates(apply_crops(tables), self.settings.gates)
        return self.result

    def _windows(
        self, sources: Iterable[Row], probes: dict[str, Row], content: dict[str, str]
    ) -> list[Item]:
        items = []
        longest = int(self.settings.shots.window_seconds * 1e6)
        for source in sources:
            video = source["video_id"]
            probe = probes[video]
            made_of = content[video] + window_note(source)
            cuts = windows(source, probe["duration_us"], longest)
            for n, (start, end) in enumerate(cuts):
                window = {"video_id": video, "start_us": start, "end_us": end}
                tables = {"sources": [source], "probe": [probe], "windows": [window]}
                name = f"{unit_name([video], [made_of])}-w{n:03d}"
                items.append(Item(name, "video_id", [video], tables))
        # The longest first, so that no actor is left with a whole film at the end.
        items.sort(key=lambda i: (-probes[i.ids[0]]["duration_us"], i.unit))
        return items

    def _slices(
        self, clips: dict[str, Row], sources: list[Row], content: dict[str, str]
    ) -> list[Item]:
        made_of = {clip: content[row["video_id"]] for clip, row in clips.items()}
        by_id = {row["video_id"]: row for row in sources}
        items = []
        for name, members in slices(made_of, self.settings.engine.unit_clips):
            rows = [clips[i] for i in members]
            used = sorted({row["video_id"] for row in rows})
            tables = {"clips": rows, "sources": [by_id[v] for v in used]}
            items.append(Item(name, "clip_id", members, tables))
        return items

    def _group(self, title: str, names: Sequence[str], items: list[Item]) -> dict[str, pa.Table]:
        runs = [self.plan[name] for name in names]
        open_items = [item for item in items if self._open(runs, item)]
        if open_items and self.only_committed:
            raise NotMeasuredError(
                f"{self.folder}: {len(open_items)} of {len(items)} units are not measured with "
                "this configuration; run `s2v-data run` with it first"
            )
        if open_items:
            start_ray(self.settings.engine.cpus)
        with track(f"measure {title}", len(items), quiet=self.quiet) as step:
            step(len(items) - len(open_items), note="committed before")
            if open_items:
                self._execute(names, open_items, step)
        tables = merge(self._store(run).tables(item.unit for item in items) for run in runs)
        self._check_budget(runs, items, tables)
        return tables

    def _execute(self, names: Sequence[str], items: list[Item], step: Step) -> None:
        """Measure; the run's own servers are up while clips are looked at."""
        at_work = roles_at_work(self.settings, self.roles)
        with at_work if names == pipeline.BY_CLIPS else nullcontext(self.roles) as roles:
            plan = pipeline.plan(self.settings, roles)
            reports = execute(
                self.folder,
                [plan[name] for name in names],
                [item.plain() for item in items],
                actors=self.settings.engine.actors,
                mode=self.settings.engine.mode,
                reserved=reserved(self.settings) if names == pipeline.BY_CLIPS else (),
                retry_quarantine=self.retry_quarantine,
            )
            for report in reports:
                step(int(report["last"]))
                for stage, done in report["stages"].items():
                    self.result.measured[stage] += done["measured"]
                    self.result.cpu_seconds[stage] += done["cpu_seconds"]

    def _store(self, run: StageRun) -> StageStore:
        return StageStore(self.folder, run.stage.name, run.fingerprint)

    def _open(self, runs: Sequence[StageRun], item: Item) -> bool:
        """Whether any stage has ids to measure."""
        rows = UnitRows(self.folder, item.plain(), retry_quarantine=self.retry_quarantine)
        for run in runs:
            if rows.missing(run) or not rows.committed(run):
                return True
            rows.passed(run)
        return False

    def _check_missing(self, sources: list[Row], tables: dict[str, pa.Table]) -> None:
        """Stop when so many files are missing that it is rather a mount than the files."""
        gone = [r for r in _rows(tables, "quarantine") if r["error"] == MediaErrorKind.MISSING]
        share, budget = len(gone) / len(sources), self.settings.engine.missing_budget
        if share > budget and len(gone) > 1:
            raise QuarantineBudgetError(
                f"{len(gone)} of {len(sources)} sources are not there, over engine.missing_budget "
                f"= {budget:g}; first: {gone[0]['message']}. Is everything mounted? Run again with "
                "--retry-quarantine, or raise the budget"
            )

    def _check_budget(
        self, runs: Sequence[StageRun], items: list[Item], tables: dict[str, pa.Table]
    ) -> None:
        ids = {one for item in items for one in item.ids}
        for run in runs:
            bad = [r for r in _rows(tables, "quarantine") if r["stage"] == run.stage.name]
            share = len({r["id"] for r in bad}) / max(len(ids), 1)
            budget = self.settings.engine.quarantine_budget
            if share > budget and len(bad) > 1:
                kinds = Counter(r["error"] for r in bad).most_common(3)
                shown = ", ".join(f"{kind}: {n}" for kind, n in kinds)
                raise QuarantineBudgetError(
                    f"stage {run.stage.name}: {len(bad)} of {len(ids)} in quarantine ({shown}), "
                    f"over engine.quarantine_budget = {budget:g}; first: {bad[0]['message']}. Mend "
                    "the cause and run again with --retry-quarantine, or raise the budget"
                )


def _why_nothing(sources: list[Row], tables: dict[str, pa.Table]) -> str:
    """The first reason why no source can be used, and the way out."""
    first = next((row["message"] for row in _rows(tables, "quarantine")), "all are copies")
    return (
        f"none of the {len(sources)} sources can be used; the first: {first}. Mend or replace the "
        "files and run again with --retry-quarantine"
    )
