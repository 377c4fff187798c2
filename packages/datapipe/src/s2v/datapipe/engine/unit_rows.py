"""What of a unit is still to be measured, asked of the commits before rows are read.

The driver asks it to see which units are open, the actor to see what is missing; both get the
same answer, because there is one function.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s2v.datapipe.engine.errors import StoreError
from s2v.datapipe.engine.stage import Row, Stage, StageRun, Unit
from s2v.datapipe.engine.store import Commit, StageStore, covered


class UnitRows:
    """A unit on its way through the stages: its ids, and the rows it has so far.

    Args:
        run: the run folder.
        item: unit, key, ids and tables; ``seen`` are the generations of each stage that were
            there when the driver listed them.
        retry_quarantine: what is in quarantine is missing.
        stores: stage -> its listed store, on the driver.
    """

    def __init__(
        self,
        run: Path,
        item: Mapping[str, Any],
        *,
        retry_quarantine: bool = False,
        stores: Mapping[str, StageStore] | None = None,
    ) -> None:
        self.run = run
        self.name, self.key = str(item["unit"]), str(item["key"])
        self.ids = list(item["ids"])
        self.tables: dict[str, list[Row]] = {n: list(rows) for n, rows in item["tables"].items()}
        self.retry_quarantine = retry_quarantine
        self._seen: Mapping[str, list[int]] | None = item.get("seen")
        self._stores = dict(stores or {})
        self._commits: dict[str, list[Commit]] = {}
        self._passed: list[StageStore] = []

    def store(self, run: StageRun) -> StageStore:
        """Where the stage's commits of this unit lie."""
        name = run.stage.name
        if name not in self._stores:
            seen = None if self._seen is None else {self.name: self._seen.get(name, [])}
            self._stores[name] = StageStore(self.run, name, run.fingerprint, seen=seen)
        return self._stores[name]

    def commits(self, run: StageRun, *, fresh: bool = False) -> list[Commit]:
        """The stage's commits of this unit; read once, unless asked ``fresh``."""
        name = run.stage.name
        if fresh or name not in self._commits:
            self._commits[name] = self.store(run).commits(self.name)
        return self._commits[name]

    def missing(self, run: StageRun) -> list[str]:
        """Admitted ids that the stage is to measure, in order.

        Rows are read only if some id is not covered, which a gate may have stopped.
        """
        return self._uncovered(run, self.commits(run), reopen=self.retry_quarantine)

    def lost(self, run: StageRun) -> list[str]:
        """Admitted ids that no commit covers after the stage ran: there should be none."""
        return self._uncovered(run, self.commits(run, fresh=True), reopen=False)

    def _uncovered(self, run: StageRun, commits: list[Commit], *, reopen: bool) -> list[str]:
        done = covered(commits, reopen_quarantine=reopen)
        open_ids = [one for one in self.ids if one not in done]
        return self._admitted(run.stage, open_ids) if open_ids else []

    def committed(self, run: StageRun) -> bool:
        """Whether the stage has any commit of the unit; one without ids counts."""
        return bool(self.commits(run))

    def passed(self, run: StageRun) -> None:
        """Go on behind a stage: what it quarantined, no later stage sees.

        Raises:
            StoreError: there is no commit of it; what follows would take its rows for none.
        """
        commits = self.commits(run)
        if not commits:
            raise StoreError(
                f"{self.store(run).folder}: no commit of unit {self.name} is to be seen on "
                f"{socket.gethostname()}; the run folder must lie on storage that all machines "
                "share, and be left alone while a run is on"
            )
        bad = quarantined(commits)
        self.ids = [one for one in self.ids if one not in bad]
        self._passed.append(self.store(run))

    def unit(self, ids: Sequence[str], tables: Sequence[str]) -> Unit:
        """The unit as a stage sees it, with the rows of ``tables`` read."""
        self._read(tables)
        return Unit(self.name, self.key, list(ids), self.tables, self.run)

    def _admitted(self, stage: Stage, ids: list[str]) -> list[str]:
        if self.key != "clip_id" or type(stage).gate is Stage.gate:
            return ids
        self._read(("clips", "quality", "overlays"))
        joined: dict[str, Row] = {}
        for table in ("overlays", "quality", "clips"):  # of equal columns the clip's own counts
            for row in self.tables.get(table, []):
                joined[row["clip_id"]] = {**joined.get(row["clip_id"], {}), **row}
        return [one for one in ids if stage.gate(joined.get(one, {})) is None]

    def _read(self, tables: Sequence[str]) -> None:
        """Take the rows of ``tables`` over from the stages passed."""
        wanted = [name for name in tables if name not in self.tables]
        for store in self._passed:
            if wanted:
                self.tables.update(store.rows(self.name, only=wanted))


def quarantined(commits: Sequence[Commit]) -> set[str]:
    """Ids whose newest commit put them into quarantine."""
    bad: set[str] = set()
    for commit in commits:
        bad = (bad - set(commit.ids)) | commit.quarantined
    return bad
