"""Measure: the driver of the per-clip stages. Only this file joins Ray with the pipeline."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe import pipeline
from s2v.datapipe.assembling import (
    SOURCE_IN_QUARANTINE,
    apply_crops,
    apply_gates,
    mark_duplicates,
    withdraw,
)
from s2v.datapipe.assembling import rows as _rows
from s2v.datapipe.base import atomic, records
from s2v.datapipe.base.media.errors import MediaErrorKind
from s2v.datapipe.base.progress import track
from s2v.datapipe.base.stored import StoredTable, write_parts
from s2v.datapipe.config import Settings
from s2v.datapipe.engine.execute import cluster, run_phase, start_ray
from s2v.datapipe.engine.pools import Placement, place
from s2v.datapipe.engine.preflight import load_once
from s2v.datapipe.engine.stage import Row, StageRun
from s2v.datapipe.engine.store import StageStore, StoreError, merge
from s2v.datapipe.engine.unit_rows import UnitRows
from s2v.datapipe.engine.units import slices, unit_name
from s2v.datapipe.measure.caption import given_caption
from s2v.datapipe.pair.rows import group
from s2v.datapipe.roles import Roles
from s2v.datapipe.serving import Servers, check_servers, own, reserved, untried
from s2v.datapipe.sources import identity_of
from s2v.datapipe.sources.parts import mark_beyond, outside, window_note, windows
from s2v.datapipe.staging import list_run
from s2v.datapipe.views import stamp, standing
from s2v.datapipe.write.takedown import settle
from s2v.datapipe.write.tombstones import Tombstones

#: Tables that are put together on disk, as they may be larger than any memory, and their stage.
SPOOLED = {"masks": "segment", "embeddings": "embed"}


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
    seen: dict[str, list[int]] = field(default_factory=dict)  # stage -> generations there before

    def plain(self) -> dict[str, Any]:
        """As plain data, for Ray."""
        return dict(vars(self))


@dataclass
class Measured:
    """All tables of a run's measure parts, and what was done this time."""

    tables: dict[str, pa.Table]
    measured: Counter[str] = field(default_factory=Counter)  # ids newly measured per stage
    cpu_seconds: Counter[str] = field(default_factory=Counter)
    fingerprints: dict[str, str] = field(default_factory=dict)
    digest: str = ""  # of everything that the tables are made of
    stamp: str = ""  # the same, told without opening a commit
    sound: bool = False  # checked when they were made, and not made since


class Measuring:
    """Measures all sources of a run; what is committed already is not measured again.

    Args:
        settings: the configuration.
        roles: as the configuration fills them.
        servers: the run's own, of whoever holds them: they stay up after the last clip. ``None``:
            they end with it.
        retry_quarantine: measure quarantined rows again.
        only_committed: refuse to measure anything.
        quiet: no progress.
    """

    def __init__(
        self,
        settings: Settings,
        roles: Roles,
        servers: Servers | None = None,
        *,
        retry_quarantine: bool = False,
        only_committed: bool = False,
        quiet: bool = False,
    ) -> None:
        self.settings = settings
        self.folder = Path(settings.folder)
        self.roles = roles
        self.servers = servers
        self.plan = pipeline.plan(settings, roles)
        self.retry_quarantine = retry_quarantine
        self.only_committed = only_committed
        self.quiet = quiet
        self.result = Measured({}, fingerprints={n: r.fingerprint for n, r in self.plan.items()})
        self._admitted = False
        self._digest = hashlib.sha256()
        self._erased = Tombstones()

    def run(self) -> Measured:
        """Measure and return all tables; nothing is opened while nothing has changed.

        Raises:
            SourceError, AdmissionError, QuarantineBudgetError: with one clear line each.
        """
        sources = list_run(
            self.folder, self.settings.sources, self.settings.downloads, quiet=self.quiet
        )
        # Before anything is believed to stand: a takedown that was killed is finished first.
        self._erased = settle(self.folder, sources, self._made_of)
        listed_any = bool(sources)
        sources = [row for row in sources if row["video_id"] not in self._erased.sources]
        found = None if self.retry_quarantine else standing(self.folder, self._stamp(sources))
        if found is not None:
            self.result.tables, self.result.digest = found.tables, found.digest
            self.result.sound = found.sound
        elif listed_any and not sources:
            self._nothing()
        else:
            self._measure(sources)
        self.result.stamp = self._stamp(sources)
        return self.result

    def _stamp(self, sources: list[Row]) -> str:
        return stamp(self.folder, self.settings.model_dump(mode="json"), self.plan, sources)

    def _measure(self, sources: list[Row]) -> None:
        content = {row["video_id"]: identity_of(row) for row in sources}
        parts = [{"sources": records.table("sources", sources)}]

        by_source = [
            Item(
                unit_name([v := row["video_id"]], [content[v]]), "video_id", [v], {"sources": [row]}
            )
            for row in sources
        ]
        probed = self._group("probe", pipeline.BY_SOURCE, by_source)
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
        stills = group(_rows(parts[-1], "stills"), "clip_id")
        items = self._slices(clips, stills, sources)
        parts.append(self._group("clips", pipeline.BY_CLIPS, items))
        tables = merge(parts)
        for name in records.TABLES:
            if name not in {"subjects", "pairs", "samples", *SPOOLED}:
                tables.setdefault(name, records.table(name, []))
        tables = apply_gates(apply_crops(tables), self.settings.gates)
        stopped = tables["quality"].filter(pc.is_valid(tables["quality"]["gate"]))["clip_id"]
        for name, stage in SPOOLED.items():
            tables[name] = self._spooled(name, stage, items, stopped.combine_chunks())
        self.result.tables = tables
        listed = json.dumps([sources, self.settings.gates.model_dump(mode="json")], sort_keys=True)
        self._digest.update(listed.encode())
        self.result.digest = self._digest.hexdigest()

    def _spooled(self, name: str, stage: str, items: list[Item], stopped: pa.Array) -> StoredTable:
        """A table put together on disk, a unit at a time, without what a gate stops."""
        path = self.folder / "select" / f"spooled-{name}.parquet"
        parts = self._listed(self.plan[stage]).parts((item.unit for item in items), name)
        with atomic.replacing(path) as temporary:
            write_parts(
                (p.filter(pc.invert(pc.is_in(p["clip_id"], value_set=stopped))) for p in parts),
                *(temporary, records.TABLES[name]),
            )
        return StoredTable(path)

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

    def _made_of(self, source: Row) -> str:
        """What units of its clips are named by."""
        content: str = identity_of(source)
        if self.settings.caption.use_given != "never":  # then a corrected caption is new content
            content += given_caption(source["given_caption"]) or ""
        return content

    def _nothing(self) -> None:
        """Every source was taken down: tables without rows, so that the shards are emptied."""
        derived = {"subjects", "pairs", "samples"}
        names = (name for name in records.TABLES if name not in derived)
        self.result.tables = {name: records.table(name, []) for name in names}
        self._digest.update(b"nothing")
        self.result.digest = self._digest.hexdigest()

    def _slices(
        self,
        clips: dict[str, Row],
        stills: dict[str, list[Row]],
        sources: list[Row],
    ) -> list[Item]:
        by_id = {row["video_id"]: row for row in sources}
        made_of = {clip: self._made_of(by_id[row["video_id"]]) for clip, row in clips.items()}
        items = []
        for name, members in slices(
            made_of, self.settings.engine.unit_clips, self._erased.clips.keys()
        ):
            rows = [clips[i] for i in members]
            used = sorted({row["video_id"] for row in rows})
            kept = [still for clip in members for still in stills.get(clip, [])]
            tables = {"clips": rows, "stills": kept, "sources": [by_id[v] for v in used]}
            items.append(Item(name, "clip_id", members, tables))
        return items

    def _group(self, title: str, names: Sequence[str], items: list[Item]) -> dict[str, pa.Table]:
        runs = [self.plan[name] for name in names]
        open_items, first = self._open(runs, items)
        if open_items and self.only_committed:
            raise NotMeasuredError(
                f"{self.folder}: {len(open_items)} of {len(items)} units are not measured with "
                "this configuration; run `s2v-data run` with it first"
            )
        if open_items:
            self._admit(names[first])
            self._execute(title, runs, first, items, open_items)
        tables = []
        ids: dict[str, set[str]] = {}
        for run in runs:
            store = self._listed(run)
            _all_seen(store, items)
            found, ids[run.stage.name] = store.tables_and_ids((i.unit for i in items), SPOOLED)
            self._digest.update(store.digest(item.unit for item in items).encode())
            tables.append(found)
        merged = merge(tables)
        if names == pipeline.BY_SOURCE:
            self._check_missing(items, merged)
        self._check_budget(ids, merged)
        return merged

    def _open(self, runs: Sequence[StageRun], items: Sequence[Item]) -> tuple[list[Item], int]:
        """Items of which some stage has ids to measure, and the first such stage's place."""
        stores = {run.stage.name: self._listed(run) for run in runs}
        found, first = [], len(runs)
        for item in items:
            rows = UnitRows(
                self.folder, item.plain(), retry_quarantine=self.retry_quarantine, stores=stores
            )
            for n, run in enumerate(runs):
                if rows.missing(run) or not rows.committed(run):
                    item.seen = {
                        name: store.generations(item.unit) for name, store in stores.items()
                    }
                    found.append(item)
                    first = min(first, n)
                    break
                rows.passed(run)
        return found, first

    def _admit(self, first: str) -> None:
        """Refuse a run that would stop or hang later: once, before the first unit.

        Args:
            first: the stage that there is work for; those before it have none.

        Raises:
            AdmissionError, ServerStartError, WeightsError, ModelFaultError, UnitFailedError.
        """
        start_ray(self.settings.engine.cpus)
        if self._admitted:
            return
        self._admitted = True
        order = list(self.plan)
        left = [self.plan[name] for name in order[order.index(first) :]]
        for names in (pipeline.BY_SOURCE, pipeline.BY_WINDOW, pipeline.BY_CLIPS):
            if group := [one for one in left if one.stage.name in names]:
                self._place(group, units=1)
        if self._servers(left):
            check_servers(self.settings)
        roles = untried(self.settings)
        tried = [one for one in left if roles & set(one.roles)]
        if tried:
            with track("load models once", len(tried), quiet=self.quiet) as step:
                for _ in load_once(self.folder, tried):
                    step()

    def _servers(self, runs: Sequence[StageRun]) -> bool:
        """Whether any of the stages asks the run's own servers."""
        return any(own(self.settings) & set(run.roles) for run in runs)

    def _place(self, runs: Sequence[StageRun], units: int) -> Placement:
        return place(
            [(run.stage.name, run.need) for run in runs],
            cluster(),
            units,
            wanted=self.settings.engine.actors,
            mode=self.settings.engine.mode,
            reserved=reserved(self.settings) if self._servers(runs) else (),
        )

    def _execute(
        self, title: str, runs: list[StageRun], first: int, items: list[Item], todo: list[Item]
    ) -> None:
        """Measure; the run's own servers are up while clips are looked at."""
        placement = self._place(runs[first:], len(todo))
        if self._servers(runs[first:]):
            held = Servers(self.settings) if self.servers is None else nullcontext(self.servers)
            with held as servers:
                plan = pipeline.plan(self.settings, servers.roles())  # the same, but its addresses
                at_work = [plan[run.stage.name] for run in runs]
                self._phases(title, placement, at_work, first, len(items), todo)
        else:
            self._phases(title, placement, runs, first, len(items), todo)

    def _phases(
        self,
        title: str,
        placement: Placement,
        runs: list[StageRun],
        first: int,
        total: int,
        todo: list[Item],
    ) -> None:
        done = runs[:first]
        plain = [item.plain() for item in todo]
        for n, phase in enumerate(placement.phases, start=1):
            inside = {name for pool in phase for name in pool.stages}
            stages = [run for run in runs if run.stage.name in inside]
            several = f" {n}/{len(placement.phases)}" if len(placement.phases) > 1 else ""
            with track(f"measure {title}{several}", total, quiet=self.quiet) as step:
                step(total - len(todo), note="committed before", before=True)
                for report in run_phase(
                    self.folder, phase, stages, plain,
                    before=done, retry_quarantine=self.retry_quarantine,
                ):  # fmt: skip
                    step()
                    for stage, made in report["stages"].items():
                        self.result.measured[stage] += made["measured"]
                        self.result.cpu_seconds[stage] += made["cpu_seconds"]
            done = [*done, *stages]

    def _listed(self, run: StageRun) -> StageStore:
        return StageStore.listed(self.folder, run.stage.name, run.fingerprint)

    def _check_missing(self, items: list[Item], tables: dict[str, pa.Table]) -> None:
        """Stop when so many files are missing that it is rather a mount than the files."""
        gone = [r for r in _rows(tables, "quarantine") if r["error"] == MediaErrorKind.MISSING]
        share, budget = len(gone) / len(items), self.settings.engine.missing_budget
        if share > budget and len(gone) > 1:
            raise QuarantineBudgetError(
                f"{len(gone)} of {len(items)} sources are not there, over engine.missing_budget "
                f"= {budget:g}; first: {gone[0]['message']}. Is everything mounted? Run again with "
                "--retry-quarantine, or raise the budget"
            )

    def _check_budget(self, ids: dict[str, set[str]], tables: dict[str, pa.Table]) -> None:
        """Stop when much of what a stage was given is in quarantine; a gated clip was not."""
        quarantine = _rows(tables, "quarantine")
        for stage, measured in ids.items():
            bad = [row for row in quarantine if row["stage"] == stage]
            lost = {row["id"] for row in bad}
            budget = self.settings.engine.quarantine_budget
            if len(lost) > 1 and len(lost) > budget * len(measured):
                kinds = Counter(r["error"] for r in bad).most_common(3)
                shown = ", ".join(f"{kind}: {n}" for kind, n in kinds)
                raise QuarantineBudgetError(
                    f"stage {stage}: {len(lost)} of {len(measured)} in quarantine ({shown}), "
                    f"over engine.quarantine_budget = {budget:g}; first: {bad[0]['message']}. Mend "
                    "the cause and run again with --retry-quarantine, or raise the budget"
                )


def _all_seen(store: StageStore, items: Sequence[Item]) -> None:
    """What actors said they committed must be there for the driver to read.

    Raises:
        StoreError: on a cluster whose machines do not share the run folder.
    """
    lost = [item.unit for item in items if not store.committed(item.unit)]
    if lost:
        raise StoreError(
            f"{store.folder}: {len(lost)} of {len(items)} units have no commit here (first: "
            f"{lost[0]}) though they were measured; the run folder must lie on storage that all "
            "machines share, and be left alone while a run is on"
        )


def _why_nothing(sources: list[Row], tables: dict[str, pa.Table]) -> str:
    """The first reason why no source can be used, and the way out."""
    first = next((row["message"] for row in _rows(tables, "quarantine")), "all are copies")
    return (
        f"none of the {len(sources)} sources can be used; the first: {first}. Mend or replace the "
        "files and run again with --retry-quarantine"
    )
